// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/berth-run/berth/api/v1alpha1"
)

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
		if b == nil || !ours(b, s.container) {
			return false, r.removeFinalizer(ctx, s)
		}
	}
	return false, r.deleteBundle(ctx, s)
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
