// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// answerTime is how long the first status of a Container waits for the agent's answer. Most answers come within a moment, and
// "dispatched" before "running" is a write that nobody reads: writes are what the API server has least of in a burst.
const answerTime = 10 * time.Second

// awaitsAnswer returns how long the first status of the Container may still wait for the agent; 0 if it is to be written.
func (r *Reconciler) awaitsAnswer(s *scope) time.Duration {
	if len(s.before.Status.Conditions) > 0 || s.bundle == nil || !s.found.inSync || current(s.found, s.bundle) || s.found.deleting || s.found.lost != "" {
		return 0
	}
	return min(answerTime-r.Clock.Now().Sub(s.bundle.CreationTimestamp.Time), answerTime)
}

// report writes the status, if it has changed, and sends the events of what has. It is the one place that does either.
// failure is the error that ended the phases early, or nil.
func (r *Reconciler) report(ctx context.Context, s *scope, failure error) error {
	r.send(s.container, s.facts)
	if s.gone || onlyConflicts(failure) {
		// A conflict says that what was read is old: a status computed from it would be, too.
		return nil
	}
	if failure == nil && r.awaitsAnswer(s) > 0 {
		return nil
	}
	if failure != nil && s.found.failure == "" {
		// A read or a write beside the dispatch failed. What was found is not all there is: the status stays, the queue tries again.
		return nil
	}
	if err := r.show(ctx, s); err != nil {
		return err
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
