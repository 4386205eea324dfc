// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/berth-run/berth/api/v1alpha1"
)

// Kubernetes keeps a PersistentVolumeClaim that is being deleted while a Pod uses it, and then
// removes the claim, the volume and perhaps the data. A Container is no Pod, so the controller has
// a finalizer of its own on each claim in an OCIBundle. It sets it before it applies the OCIBundle,
// and removes it from a claim that is being deleted once no OCIBundle names the claim. It leaves it
// on other claims, where it has no effect.

// inUseDelay is the time after which a Container looks again whether a claim has come free.
const inUseDelay = 30 * time.Second

var claimResource = schema.GroupResource{Resource: "persistentvolumeclaims"}

// lockClaims delays releases of claims until the OCIBundle is applied. For a claim that one
// Container may have at a time it also excludes other dispatches: the Container that used the claim
// last may be edited, and so name it no more, while its OCIBundle with the claim is being applied.
func (r *Reconciler) lockClaims(s *scope) (unlock func()) {
	if slices.ContainsFunc(s.volumes, func(c claimed) bool { return exclusive(c.claim) }) {
		r.releasing.Lock()
		return r.releasing.Unlock
	}
	r.releasing.RLock()
	return r.releasing.RUnlock
}

// acquireClaims puts the finalizer on the claims of an OCIBundle that is about to be applied, and
// the Container's name on those that one Container may have at a time. It returns the reason to
// wait, or nil. The caller has called lockClaims.
func (r *Reconciler) acquireClaims(ctx context.Context, s *scope) (*verdict, error) {
	// All Containers take claims in the same order. Otherwise two of them that name the same two
	// would wait for each other, each with one, also after a controller was killed between the two.
	var byName []*claimed
	for i := range s.volumes {
		byName = append(byName, &s.volumes[i])
	}
	slices.SortFunc(byName, func(a, b *claimed) int {
		return strings.Compare(a.claim.Name, b.claim.Name)
	})
	for _, c := range byName {
		if c.bound == nil {
			continue
		}
		now := &corev1.PersistentVolumeClaim{}
		err := r.Live.Get(ctx, client.ObjectKeyFromObject(c.claim), now)
		if client.IgnoreNotFound(err) != nil {
			return nil, fmt.Errorf("read PersistentVolumeClaim %s: %w", c.claim.Name, err)
		}
		if err != nil || now.UID != c.claim.UID || now.Spec.VolumeName != c.bound.VolumeName {
			return nil, apierrors.NewConflict(claimResource, c.claim.Name, errClaimChanged)
		}
		c.claim = now
		if wait := c.unusable(s); wait != nil {
			return wait, nil
		}
		next := now.DeepCopy()
		if now.DeletionTimestamp == nil { // the API server takes no new finalizer from then on
			controllerutil.AddFinalizer(next, v1alpha1.ClaimFinalizer)
		}
		if exclusive(now) {
			other, err := r.otherUser(ctx, s, now, true)
			if err != nil {
				return nil, err
			}
			if other != "" {
				return c.inUse(s, other), nil
			}
			metav1.SetMetaDataAnnotation(&next.ObjectMeta, v1alpha1.AnnotationClaimUser, s.claimUser())
		}
		if equality.Semantic.DeepEqual(now.ObjectMeta, next.ObjectMeta) {
			continue
		}
		if err := r.patchClaim(ctx, now, next); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// claimUser is the value of AnnotationClaimUser for the Container.
func (s *scope) claimUser() string {
	return s.container.Name + "/" + string(s.container.UID)
}

// otherUser returns the name of another Container that uses a claim of one user, or "". It reads
// from the API server if live is set, else from the cache.
func (r *Reconciler) otherUser(ctx context.Context, s *scope, claim *corev1.PersistentVolumeClaim,
	live bool,
) (string, error) {
	user := claim.Annotations[v1alpha1.AnnotationClaimUser]
	name, uid, _ := strings.Cut(user, "/")
	// Everyone who may edit the claim may have written the annotation.
	if user == s.claimUser() {
		if !live {
			return "", nil
		}
	} else if len(validation.IsDNS1123Subdomain(name)) == 0 {
		last := client.ObjectKey{Namespace: claim.Namespace, Name: name}
		if live && r.unsettled(only(last)) > 0 {
			return name, nil
		}
		var reader client.Reader = r.Client
		if live {
			reader = r.Live
		}
		c := &v1alpha1.Container{}
		err := reader.Get(ctx, last, c)
		if client.IgnoreNotFound(err) != nil {
			return "", fmt.Errorf("read Container %s: %w", name, err)
		}
		if err == nil && string(c.UID) == uid && slices.Contains(claimNames(c), claim.Name) {
			return name, nil
		}
	}
	users, err := r.claimUsers(ctx, client.ObjectKeyFromObject(claim), live)
	if err != nil {
		return "", err
	}
	for _, user := range users {
		if user != s.key() {
			return user.Name, nil
		}
	}
	return "", nil
}

// claimUsers returns the Containers whose OCIBundles name a claim. It reads from the API server if
// live is set, else from the cache.
func (r *Reconciler) claimUsers(ctx context.Context, claim client.ObjectKey, live bool) (
	[]client.ObjectKey, error,
) {
	list := &v1alpha1.OCIBundleList{}
	var err error
	if live {
		err = r.Live.List(ctx, list, client.MatchingLabels{v1alpha1.LabelNamespace: claim.Namespace})
	} else {
		err = r.Client.List(ctx, list, client.MatchingFields{indexClaim: claim.String()},
			client.UnsafeDisableDeepCopy)
	}
	if err != nil {
		return nil, fmt.Errorf("list the OCIBundles with PersistentVolumeClaim %s: %w", claim, err)
	}
	var out []client.ObjectKey
	for i := range list.Items {
		if b := &list.Items[i]; slices.Contains(bundleClaims(b), claim.String()) {
			out = append(out, containerKey(b))
		}
	}
	return out, nil
}

// bundleClaims returns the claims of an OCIBundle as NAMESPACE/NAME.
func bundleClaims(b *v1alpha1.OCIBundle) []string {
	var out []string
	namespace := containerKey(b).Namespace
	for _, c := range b.Spec.Claims {
		out = append(out, client.ObjectKey{Namespace: namespace, Name: c.Name}.String())
	}
	return out
}

// reviewClaims puts back the finalizer of the claims in the OCIBundle, and finds a claim that was
// created again or bound to another volume since the container was created.
func (r *Reconciler) reviewClaims(ctx context.Context, s *scope) error {
	if s.bundle == nil {
		return nil
	}
	var failed error
	for _, b := range s.bundle.Spec.Claims {
		c := &corev1.PersistentVolumeClaim{}
		key := client.ObjectKey{Namespace: s.container.Namespace, Name: b.Name}
		err := r.Client.Get(ctx, key, c)
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("read PersistentVolumeClaim %s: %w", b.Name, err)
		}
		if err != nil || c.UID != b.UID || c.Spec.VolumeName != b.VolumeName {
			s.found.rebound = fmt.Sprintf("PersistentVolumeClaim %s is not bound to the volume %s any more, "+
				"which the container goes on using: to have its present volume, set the annotation %s to a "+
				"new value, which replaces the container", b.Name, b.VolumeName, v1alpha1.AnnotationRecompile)
			continue
		}
		next := c.DeepCopy()
		if c.DeletionTimestamp == nil && controllerutil.AddFinalizer(next, v1alpha1.ClaimFinalizer) {
			// The cache may still have a claim that does not exist any more.
			failed = errors.Join(failed, client.IgnoreNotFound(r.patchClaim(ctx, c, next)))
		}
	}
	return failed
}

// claimReleaser removes the finalizer of claims that are being deleted and not in use any more.
type claimReleaser struct{ containers *Reconciler }

// Reconcile implements reconcile.Reconciler.
func (c claimReleaser) Reconcile(ctx context.Context, req reconcile.Request) (ctrl.Result, error) {
	wait, err := c.containers.releaseClaim(ctx, req.NamespacedName)
	if onlyConflicts(err) {
		return ctrl.Result{RequeueAfter: conflictDelay}, nil
	}
	return ctrl.Result{RequeueAfter: wait}, err
}

// releaseClaim removes the finalizer of a claim that is being deleted, if nothing uses it. It
// returns the time after which to look again; 0 is the next event.
func (r *Reconciler) releaseClaim(ctx context.Context, key client.ObjectKey) (time.Duration,
	error,
) {
	cached := &corev1.PersistentVolumeClaim{}
	if err := r.Client.Get(ctx, key, cached); err != nil || !released(cached) {
		return 0, client.IgnoreNotFound(err)
	}
	if users, err := r.claimUsers(ctx, key, false); err != nil || len(users) > 0 {
		return 0, err
	}
	// The lock waits for dispatches that have read the claim and have yet to apply their OCIBundle.
	r.releasing.Lock()
	defer r.releasing.Unlock()
	if left := r.unsettled(func(container client.ObjectKey) bool {
		return container.Namespace == key.Namespace
	}); left > 0 {
		return left, nil
	}
	now := &corev1.PersistentVolumeClaim{}
	if err := r.Live.Get(ctx, key, now); err != nil || !released(now) {
		return 0, client.IgnoreNotFound(err)
	}
	if users, err := r.claimUsers(ctx, key, true); err != nil || len(users) > 0 {
		return conflictDelay, err
	}
	named := &v1alpha1.ContainerList{}
	if err := r.Client.List(ctx, named, client.InNamespace(key.Namespace),
		client.MatchingFields{indexClaim: key.Name}); err != nil {
		return 0, fmt.Errorf("list the Containers with PersistentVolumeClaim %s: %w", key, err)
	}
	for i := range named.Items {
		// Nobody knows what became of the attempt to create its OCIBundle.
		if _, assumed := r.Ledger.Assumed(client.ObjectKeyFromObject(&named.Items[i])); assumed {
			return conflictDelay, nil
		}
	}
	next := now.DeepCopy()
	controllerutil.RemoveFinalizer(next, v1alpha1.ClaimFinalizer)
	return 0, client.IgnoreNotFound(r.patchClaim(ctx, now, next))
}

// released reports whether a claim is being deleted and has the finalizer.
func released(c *corev1.PersistentVolumeClaim) bool {
	return c.DeletionTimestamp != nil && controllerutil.ContainsFinalizer(c, v1alpha1.ClaimFinalizer)
}
