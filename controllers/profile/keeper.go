// SPDX-License-Identifier: Apache-2.0

// Package profile keeps SeccompProfiles, which OCIBundles refer to by their digest: it creates one
// before the first OCIBundle that refers to it, creates it again if somebody deletes it while one
// does, and deletes it some time after the last.
//
// A profile is never changed, so it outlives the version of Berth that compiled it.
package profile

import (
	"context"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/oci/seccompref"
	"github.com/berth-run/berth/api/v1alpha1"
)

// +kubebuilder:rbac:groups=berth.run,resources=seccompprofiles,verbs=get;list;watch;create;delete

// DefaultDelay is the time for which a profile is kept after the last OCIBundle that refers to it.
const DefaultDelay = time.Hour

// Keeper keeps SeccompProfiles.
type Keeper struct {
	client client.Client
	live   client.Reader
	clock  clock.PassiveClock
	delay  time.Duration

	mu sync.Mutex
	// used has, by its digest, the time of the last use of each profile that is known to exist:
	// returned by Ensure, or referred to by an OCIBundle.
	used map[string]time.Time
	// contents are the profiles by their digest, to create one again that was deleted.
	contents map[string]string
}

// New returns a Keeper. c reads from the informer cache and writes to the API server, live reads
// from the API server itself, and delay is how long a profile is kept after the last OCIBundle that
// refers to it.
func New(c client.Client, live client.Reader, clock clock.PassiveClock,
	delay time.Duration,
) *Keeper {
	return &Keeper{
		client: c, live: live, clock: clock, delay: delay, used: map[string]time.Time{},
		contents: map[string]string{},
	}
}

// SetupWithManager adds the Keeper to a manager.
func (k *Keeper) SetupWithManager(ctx context.Context, mgr ctrl.Manager) error {
	refersTo := func(o client.Object) []string {
		if digest := o.(*v1alpha1.OCIBundle).Spec.SeccompProfile; digest != "" {
			return []string{digest}
		}
		return nil
	}
	err := mgr.GetFieldIndexer().IndexField(ctx, &v1alpha1.OCIBundle{},
		v1alpha1.OCIBundleSeccompProfileField, refersTo)
	if err != nil {
		return fmt.Errorf("index OCIBundles: %w", err)
	}
	return ctrl.NewControllerManagedBy(mgr).Named(
		"seccompprofile").For(&v1alpha1.SeccompProfile{}).Complete(k)
}

// Ensure returns once the SeccompProfile of that content exists. It is not deleted within the delay
// from now on, so that the caller can create an OCIBundle that refers to it.
func (k *Keeper) Ensure(ctx context.Context, profile string) error {
	digest := seccompref.Digest(profile)
	if k.use(digest) {
		return nil
	}
	return k.create(ctx, digest, profile)
}

// use notes that a profile is used now, and returns whether it is known to exist.
func (k *Keeper) use(digest string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, known := k.used[digest]
	if known {
		k.used[digest] = k.clock.Now()
	}
	return known
}

// learn records that a profile exists. One that is new to this process counts as used now, since an
// earlier process may have used it.
func (k *Keeper) learn(digest, profile string, used bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.contents[digest] = profile
	if _, known := k.used[digest]; !known || used {
		k.used[digest] = k.clock.Now()
	}
}

// create creates a SeccompProfile, or finds it.
func (k *Keeper) create(ctx context.Context, digest, profile string) error {
	p := &v1alpha1.SeccompProfile{
		ObjectMeta: metav1.ObjectMeta{Name: seccompref.Name(digest)},
		Spec:       v1alpha1.SeccompProfileSpec{Profile: profile},
	}
	err := k.client.Create(ctx, p)
	if apierrors.IsAlreadyExists(err) {
		if err = k.live.Get(ctx, client.ObjectKeyFromObject(p), p); err == nil &&
			p.Spec.Profile != profile {
			return fmt.Errorf(
				"SeccompProfile %s: found a content of digest %s; allowed: the one of its name: it is deleted, and created again", p.Name, seccompref.Digest(p.Spec.Profile))
		}
	}
	if err != nil {
		return fmt.Errorf("create SeccompProfile %s: %w", p.Name, err)
	}
	k.learn(digest, profile, true)
	return nil
}

// Reconcile implements reconcile.Reconciler.
func (k *Keeper) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	digest := seccompref.OfName(req.Name)
	referred, err := refers(ctx, k.client, digest)
	if err != nil {
		return ctrl.Result{}, err
	}
	p := &v1alpha1.SeccompProfile{}
	if err := k.client.Get(ctx, req.NamespacedName, p); apierrors.IsNotFound(err) {
		return ctrl.Result{}, k.restore(ctx, digest, referred)
	} else if err != nil {
		return ctrl.Result{}, fmt.Errorf("read SeccompProfile %s: %w", req.Name, err)
	}
	if seccompref.Digest(p.Spec.Profile) != digest {
		// Agents refuse a content that is not that of the name. Once it is gone, the profile can be
		// created.
		return ctrl.Result{}, k.remove(ctx, p)
	}
	k.learn(digest, p.Spec.Profile, referred)
	return k.collect(ctx, p, digest)
}

// restore creates a profile again that somebody has deleted although an OCIBundle refers to it.
func (k *Keeper) restore(ctx context.Context, digest string, referred bool) error {
	k.mu.Lock()
	delete(k.used, digest)
	profile, known := k.contents[digest]
	if !referred {
		delete(k.contents, digest)
	}
	k.mu.Unlock()
	if referred && known {
		return k.create(ctx, digest, profile)
	}
	return nil
}

// collect deletes a profile that has not been used for the delay.
func (k *Keeper) collect(ctx context.Context, p *v1alpha1.SeccompProfile,
	digest string,
) (ctrl.Result, error) {
	// The lock keeps Ensure from relying on a profile while it is deleted.
	k.mu.Lock()
	defer k.mu.Unlock()
	if rest := k.delay - k.clock.Since(k.used[digest]); rest > 0 {
		return ctrl.Result{RequeueAfter: rest}, nil
	}
	// The cache may lag behind what another controller has done.
	referred, err := refers(ctx, k.live, digest)
	if err != nil || referred {
		return ctrl.Result{RequeueAfter: k.delay}, err
	}
	if err := k.remove(ctx, p); err != nil {
		return ctrl.Result{}, err
	}
	delete(k.used, digest)
	return ctrl.Result{}, nil
}

func (k *Keeper) remove(ctx context.Context, p *v1alpha1.SeccompProfile) error {
	err := k.client.Delete(ctx, p, client.Preconditions{UID: &p.UID})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete SeccompProfile %s: %w", p.Name, err)
	}
	return nil
}

// refers reports whether an OCIBundle refers to the profile.
func refers(ctx context.Context, reader client.Reader, digest string) (bool, error) {
	list := &v1alpha1.OCIBundleList{}
	err := reader.List(ctx, list, client.MatchingFields{v1alpha1.OCIBundleSeccompProfileField: digest},
		client.Limit(1))
	if err != nil {
		return false, fmt.Errorf("list the OCIBundles that refer to the seccomp profile %s: %w",
			digest, err)
	}
	return len(list.Items) > 0, nil
}
