// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/status"
	"github.com/berth-run/berth/api/v1alpha1"
)

// scope is one reconcile: what has been read before it, and what its phases have found.
type scope struct {
	// container is the object to work on; before is as it was read, for the patch of the status and for the events.
	container, before *v1alpha1.Container
	// bundle is the OCIBundle of the Container's name, nil where there is none. Its config is a digest: see digestConfig.
	bundle *v1alpha1.OCIBundle
	// runtimeClass is nil where the Container names none, or names one that does not exist.
	runtimeClass *nodev1.RuntimeClass

	// found is what the status is computed from.
	found findings
	// desired is the OCIBundle's spec, by compile and then schedule. If kept is true, it is the one that the OCIBundle has, with
	// the config's digest.
	desired *v1alpha1.OCIBundleSpec
	kept    bool
	// sameRun is whether desired has the config's digest, and the rest of what runs, from the OCIBundle: see keepRun. Then
	// edited is what was compiled, if the running container is to be given some of it.
	sameRun bool
	edited  *v1alpha1.OCIBundleSpec
	// profile is the seccomp profile that desired refers to, where it was compiled here.
	profile string
	// facts are events of what has been done, besides those that follow from the change of the status.
	facts []note
	// again is when to look again, if time alone can change something; 0 is never.
	again time.Duration
	// gone is whether the Container's last finalizer has been taken off, so that there is no status to write any more.
	gone bool
}

func (s *scope) key() client.ObjectKey { return client.ObjectKeyFromObject(s.container) }

// gather does the reading of a reconcile. The nodes, which only a Container without one needs, are read by schedule.
func (r *Reconciler) gather(ctx context.Context, c *v1alpha1.Container) (*scope, error) {
	s := &scope{container: c, before: c.DeepCopy()}
	s.found.generation = c.Generation
	s.found.deleting = c.DeletionTimestamp != nil
	s.found.pinned = c.Spec.NodeName
	s.found.once = c.Spec.RestartPolicy == corev1.RestartPolicyNever
	s.found.deadline = status.Deadline(c)

	var err error
	if s.bundle, err = r.readBundle(ctx, s.key()); err != nil {
		return nil, err
	}
	if s.bundle != nil && !ours(s.bundle, c) {
		s.found.foreign = fmt.Sprintf("an OCIBundle named %s exists that is not this Container's: delete it, or rename the Container", s.bundle.Name)
		if p := predecessor(s.bundle, c); p != "" {
			s.found.predecessor = p
		}
	}
	if s.bundle != nil {
		h, err := r.look(ctx, r.Client, s.bundle.Spec.NodeName)
		if err != nil {
			return nil, err
		}
		s.found.lost, s.found.gone, s.again = h.lost, h.gone, h.wait
	}
	if name := c.Spec.RuntimeClassName; name != nil && !s.found.deleting {
		rc := &nodev1.RuntimeClass{}
		switch err := r.Client.Get(ctx, client.ObjectKey{Name: *name}, rc); {
		case err == nil:
			s.runtimeClass = rc
		case !apierrors.IsNotFound(err):
			return nil, fmt.Errorf("read RuntimeClass %s: %w", *name, err)
		}
	}
	return s, nil
}

// readBundle reads from the cache, and from the API server where the cache cannot know yet what this process has done.
func (r *Reconciler) readBundle(ctx context.Context, key client.ObjectKey) (*v1alpha1.OCIBundle, error) {
	b := &v1alpha1.OCIBundle{}
	err := r.Client.Get(ctx, key, b)
	if apierrors.IsNotFound(err) && r.Ledger.Assumed(key) {
		return r.readLiveBundle(ctx, key)
	}
	return foundBundle(b, err)
}

// readLiveBundle reads from the API server.
func (r *Reconciler) readLiveBundle(ctx context.Context, key client.ObjectKey) (*v1alpha1.OCIBundle, error) {
	b := &v1alpha1.OCIBundle{}
	return foundBundle(b, r.Live.Get(ctx, key, b))
}

func foundBundle(b *v1alpha1.OCIBundle, err error) (*v1alpha1.OCIBundle, error) {
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the OCIBundle: %w", err)
	}
	digestConfig(b)
	return b, nil
}

// ours reports whether the OCIBundle was compiled from this very Container.
func ours(b *v1alpha1.OCIBundle, c *v1alpha1.Container) bool {
	return b.Owner().UID == c.UID
}

// predecessor is the uid of an earlier Container of the same name that the OCIBundle belonged to, or nothing. It outlives
// its owner where a Container's finalizer was taken off by hand.
func predecessor(b *v1alpha1.OCIBundle, c *v1alpha1.Container) string {
	if owner := b.Owner(); owner.Name == c.Name && owner.UID != c.UID {
		return string(owner.UID)
	}
	return ""
}
