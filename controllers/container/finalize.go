// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/berth-run/berth/api/v1alpha1"
)

// hold puts back what keeps a Container and its OCIBundle together: the finalizers of both, and the owner reference. It runs at every
// look, before anything that can fail: a client that replaces the whole object drops the finalizer, and without it the Container would
// be gone before its process.
func (r *Reconciler) hold(ctx context.Context, s *scope) (bool, error) {
	if s.bundle == nil || !ours(s.bundle, s.container) {
		return true, nil
	}
	if !s.found.deleting { // the API server takes no new finalizer from then on
		if err := r.addFinalizer(ctx, s); err != nil {
			return false, err
		}
	}
	err := r.holdBundle(ctx, s)
	return err == nil, err
}

// holdBundle puts finalizer and owner reference of the OCIBundle back.
func (r *Reconciler) holdBundle(ctx context.Context, s *scope) error {
	have, owner := s.bundle, s.ownerReference()
	if have.DeletionTimestamp != nil || controllerutil.ContainsFinalizer(have, v1alpha1.OCIBundleFinalizer) && ownedAs(have, owner) {
		return nil
	}
	held := have.DeepCopy()
	controllerutil.AddFinalizer(held, v1alpha1.OCIBundleFinalizer)
	// Only one owner reference may be a controller's. Another one was put there by somebody else: the bundle is ours by its spec.
	held.OwnerReferences = slices.DeleteFunc(held.OwnerReferences, func(o metav1.OwnerReference) bool {
		return o.UID == owner.UID || ptr.Deref(o.Controller, false)
	})
	held.OwnerReferences = append(held.OwnerReferences, owner)
	patch := client.MergeFromWithOptions(have, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Patch(ctx, held, patch, client.FieldOwner(FieldOwner)); err != nil {
		return fmt.Errorf("put finalizer and owner reference of the OCIBundle back: %w", err)
	}
	digestConfig(held)
	s.bundle = held
	return nil
}

// collect deletes the OCIBundle that a Container has left behind, whose finalizer was taken off before the controller could
// put it back. The cluster's garbage collector does the same, but goes by the owner reference, which others can edit.
func (r *Reconciler) collect(ctx context.Context, key client.ObjectKey) error {
	b, err := r.readBundle(ctx, key)
	if err != nil || b == nil || b.DeletionTimestamp != nil {
		return err
	}
	owner := b.Owner()
	if owner.UID == "" || owner.Name != key.Name {
		return nil
	}
	// Not by the word of a cache: that of Containers may lag behind that of OCIBundles.
	c := &v1alpha1.Container{}
	err = r.Live.Get(ctx, key, c)
	if err == nil && c.UID == owner.UID {
		return nil
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("read the Container: %w", err)
	}
	ctrl.LoggerFrom(ctx).Info("deleting the OCIBundle of a Container that does not exist any more", "uid", owner.UID)
	if err := r.Client.Delete(ctx, b, client.Preconditions{UID: &b.UID}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete the OCIBundle: %w", err)
	}
	return nil
}

// finalize takes a Container down: its OCIBundle is deleted, the agent stops the container within its grace period,
// removes all of it and lets the OCIBundle go, and then the Container goes too. One that was never dispatched has no
// finalizer and is gone already.
func (r *Reconciler) finalize(ctx context.Context, s *scope) (bool, error) {
	if !controllerutil.ContainsFinalizer(s.container, v1alpha1.ContainerFinalizer) {
		// Somebody else's finalizer holds it.
		return false, nil
	}
	if s.bundle == nil || s.found.foreign != "" {
		// Not by the word of a cache: it may not have seen yet what was dispatched a moment ago.
		b, err := r.readLiveBundle(ctx, s.key())
		if err != nil {
			return false, err
		}
		s.bundle, s.found.foreign = b, ""
		if b == nil || !mayBeOurs(b, s.container) {
			return false, r.removeFinalizer(ctx, s)
		}
	}
	// First, so that the agent has it with the deletion.
	if err := r.passGrace(ctx, s); err != nil {
		return false, err
	}
	return false, r.deleteBundle(ctx, s)
}

// passGrace passes the Container's grace period on to its OCIBundle; while that is being deleted, only a shorter one. An edit
// ends a container at once in this way, and so does `kubectl delete --now`, which package deletion makes an edit.
func (r *Reconciler) passGrace(ctx context.Context, s *scope) error {
	want, have := s.container.Spec.TerminationGracePeriodSeconds, s.bundle.Spec.TerminationGracePeriodSeconds
	if want == nil || *want == have || s.bundle.DeletionTimestamp != nil && *want > have {
		return nil
	}
	before := s.bundle.DeepCopy()
	s.bundle.Spec.TerminationGracePeriodSeconds = *want
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Patch(ctx, s.bundle, patch, client.FieldOwner(FieldOwner)); err != nil {
		return client.IgnoreNotFound(fmt.Errorf("pass the grace period on to the OCIBundle: %w", err))
	}
	digestConfig(s.bundle)
	return nil
}

// mayBeOurs reports whether a process of this Container may run under the OCIBundle. One that says whose it is, and names another, runs
// none of ours: our own had to be gone before its name was free. One that says nothing, but carries our label, is from a controller that did
// not know spec.containerRef, and has lost its owner reference since.
func mayBeOurs(b *v1alpha1.OCIBundle, c *v1alpha1.Container) bool {
	return ours(b, c) || b.Owner().UID == "" && b.Labels[LabelContainer] == label(c.Name)
}

func (r *Reconciler) removeFinalizer(ctx context.Context, s *scope) error {
	base := s.container.DeepCopy()
	controllerutil.RemoveFinalizer(s.container, v1alpha1.ContainerFinalizer)
	patch := client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Patch(ctx, s.container, patch, client.FieldOwner(FieldOwner)); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove the Container's finalizer: %w", err)
	}
	r.Ledger.Withdraw(s.key())
	s.gone = true
	return nil
}
