// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/berth-run/berth/api/v1alpha1"
)

// hold restores the fields that tie a Container and its OCIBundle together: the finalizers of both,
// and the node that the Container names. It runs in every reconcile, before anything that can fail:
// a client that replaces the whole object drops the finalizer, and without it the Container would
// be gone before its process.
func (r *Reconciler) hold(ctx context.Context, s *scope) (bool, error) {
	if s.bundle == nil {
		return true, nil
	}
	node := s.bundle.Spec.NodeName
	if s.bundle.IsFormer() {
		node = "" // it is in no node's namespace
	}
	if err := r.claim(ctx, s, node); err != nil {
		return false, err
	}
	err := r.holdBundle(ctx, s)
	return err == nil, err
}

// holdBundle puts the finalizer of the OCIBundle back, and removes owner references.
func (r *Reconciler) holdBundle(ctx context.Context, s *scope) error {
	have := s.bundle
	if have.DeletionTimestamp != nil || held(have) {
		return nil
	}
	next := have.DeepCopy()
	controllerutil.AddFinalizer(next, v1alpha1.OCIBundleFinalizer)
	if !next.IsFormer() {
		next.OwnerReferences = nil
	}
	patch := client.MergeFromWithOptions(have, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Patch(ctx, next, patch, client.FieldOwner(FieldOwner)); err != nil {
		return fmt.Errorf("put the finalizer of the OCIBundle back: %w", err)
	}
	digestConfig(next)
	s.bundle = next
	return nil
}

// collect deletes the OCIBundles that a Container has left behind, whose finalizer was taken off
// before the controller could put it back.
func (r *Reconciler) collect(ctx context.Context, key client.ObjectKey) error {
	all, err := r.bundlesOf(ctx, key)
	if err != nil {
		return err
	}
	for _, b := range all {
		owner := b.Owner()
		if !b.IsFormer() && (owner.UID == "" || b.DeletionTimestamp != nil) {
			continue
		}
		// The cache of Containers may lag behind that of OCIBundles.
		c := &v1alpha1.Container{}
		err := r.Live.Get(ctx, key, c)
		if err == nil && c.UID == owner.UID {
			continue
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("read the Container: %w", err)
		}
		ctrl.LoggerFrom(ctx).Info("deleting the OCIBundle of a Container that does not exist any more",
			"uid", owner.UID, "node", b.Spec.NodeName)
		if err := r.remove(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// finalize takes a Container down: its OCIBundle is deleted, the agent stops the container within
// its grace period, removes all of it and lets the OCIBundle go, and then the Container goes too.
// One that was never dispatched has no finalizer and is gone already.
func (r *Reconciler) finalize(ctx context.Context, s *scope) (bool, error) {
	if !controllerutil.ContainsFinalizer(s.container, v1alpha1.ContainerFinalizer) {
		// Somebody else's finalizer holds it.
		return false, nil
	}
	if s.bundle == nil {
		// The OCIBundle of another Container does not hold this one: it could only be created after
		// ours was gone.
		s.found.foreign = ""
		return false, r.removeFinalizer(ctx, s)
	}
	// First, so that the agent has it with the deletion.
	if err := r.passGrace(ctx, s); err != nil {
		return false, err
	}
	return false, r.remove(ctx, s.bundle)
}

// passGrace passes the Container's grace period on to its OCIBundle; while that is being deleted,
// only a shorter one. An edit ends a container at once in this way, and so does `kubectl delete
// --now`, which package deletion makes an edit.
func (r *Reconciler) passGrace(ctx context.Context, s *scope) error {
	want, have := s.container.Spec.TerminationGracePeriodSeconds,
		s.bundle.Spec.TerminationGracePeriodSeconds
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

func (r *Reconciler) removeFinalizer(ctx context.Context, s *scope) error {
	base := s.container.DeepCopy()
	controllerutil.RemoveFinalizer(s.container, v1alpha1.ContainerFinalizer)
	patch := client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Patch(ctx, s.container, patch, client.FieldOwner(FieldOwner)); err != nil &&
		!apierrors.IsNotFound(err) {
		return fmt.Errorf("remove the Container's finalizer: %w", err)
	}
	r.Ledger.Withdraw(s.key())
	s.gone = true
	return nil
}
