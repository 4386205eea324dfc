// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// report writes the status, if it has changed, and sends the events of what has. It is the one place that does either.
// failure is what ended the phases early, nil where nothing did.
func (r *Reconciler) report(ctx context.Context, s *scope, failure error) error {
	r.send(s.container, s.facts)
	if s.gone || onlyConflicts(failure) {
		// A conflict says that what was read is old: a status computed from it would be, too.
		return nil
	}
	if failure != nil && s.found.failure == "" {
		// A read or a write beside the dispatch failed. What was found is not all there is: the status stays, the queue tries again.
		return nil
	}
	s.container.Status = computeStatus(s.before.Status, s.found, s.bundle, r.Clock.Now())
	if equality.Semantic.DeepEqual(s.container.Status, s.before.Status) {
		return nil
	}
	after := s.container.DeepCopy()
	// The lock makes one transition one event: a status that was computed from an old one is not written, and the events that
	// would follow from the difference have been sent already.
	patch := client.MergeFromWithOptions(s.before, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Status().Patch(ctx, s.container, patch, client.FieldOwner(FieldOwner)); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("write the status: %w", err)
	}
	r.send(after, transitions(s.before, after))
	return nil
}
