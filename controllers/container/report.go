// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// answerTime is the time for which the first status of a Container waits for the agent's answer.
// Most answers come within a moment, and "dispatched" before "running" is a write that nobody
// reads, and in a burst the API server's writes are scarce.
const answerTime = 10 * time.Second

// busyTime is the time for which it waits if the agent answers others in between: of a burst on one
// node, most wait for their turn.
const busyTime = time.Minute

// awaitsAnswer returns the time for which the first status of the Container may still wait for the
// agent; 0 if it is to be written.
func (r *Reconciler) awaitsAnswer(s *scope) time.Duration {
	if len(s.before.Status.Conditions) > 0 || s.bundle == nil || !s.found.inSync ||
		current(s.found, s.bundle) || s.found.deleting || s.found.lost != "" {
		return 0
	}
	asked, now := s.bundle.CreationTimestamp.Time, r.Clock.Now()
	until := asked.Add(answerTime)
	if answered := r.answers.last(s.bundle.Spec.NodeName).Add(answerTime); answered.After(until) {
		until = answered
	}
	if latest := asked.Add(busyTime); until.After(latest) {
		until = latest
	}
	return max(min(until.Sub(now), answerTime), 0)
}

// answers are the last times at which this process has seen the agent of each node report on an
// OCIBundle.
type answers struct {
	mu     sync.Mutex
	byNode map[string]time.Time
}

func (a *answers) note(node string, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byNode == nil {
		a.byNode = map[string]time.Time{}
	}
	a.byNode[node] = at
}

func (a *answers) last(node string) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.byNode[node]
}

func (a *answers) forget(node string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.byNode, node)
}

// report writes the status, if it has changed, and sends the events of the changes. Only this
// function does that. failure is the error that ended the phases early, or nil.
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
		// A read or a write beside the dispatch failed. What was found is not all there is: the
		// status stays, the queue tries again.
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
	// The lock makes one transition one event: a status that was computed from an old one is not
	// written, and the events that would follow from the difference have been sent already.
	patch := client.MergeFromWithOptions(s.before, client.MergeFromWithOptimisticLock{})
	err := r.Client.Status().Patch(ctx, s.container, patch, client.FieldOwner(FieldOwner))
	if err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("write the status: %w", err)
	}
	r.send(after, transitions(s.before, after))
	return nil
}
