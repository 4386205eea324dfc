// SPDX-License-Identifier: Apache-2.0

package container

import (
	"sync"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
)

// attempts records the applies of OCIBundles with an unknown outcome, which the API server may
// still carry out: for example, the connection broke before the response came.
type attempts struct {
	mu sync.Mutex
	// leads is the time from which this process leads. An earlier leader may have been killed during
	// an apply.
	leads time.Time
	// unknown has the time of the last such apply of each Container.
	unknown map[client.ObjectKey]time.Time
}

// noteLeads records that this process leads from now on.
func (a *attempts) noteLeads(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.leads = now
}

// noteUnknown records that the outcome of an apply for a Container is unknown.
func (a *attempts) noteUnknown(container client.ObjectKey, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.unknown == nil {
		a.unknown = map[client.ObjectKey]time.Time{}
	}
	a.unknown[container] = now
}

// left returns the time for which the API server may still carry out an apply of this process for
// one of the selected Containers. It forgets applies that have timed out.
func (a *attempts) left(timeout time.Duration, now time.Time,
	selects func(client.ObjectKey) bool,
) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	var longest time.Duration
	for key, at := range a.unknown {
		left := at.Add(timeout).Sub(now)
		if left <= 0 {
			delete(a.unknown, key)
		} else if selects(key) {
			longest = max(longest, left)
		}
	}
	return longest
}

// only selects one Container.
func only(container client.ObjectKey) func(client.ObjectKey) bool {
	return func(key client.ObjectKey) bool { return key == container }
}

// leftOfEarlierLeader returns the time for which the API server may still carry out an apply of an
// earlier leader.
func (a *attempts) leftOfEarlierLeader(timeout time.Duration, now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.leads.IsZero() {
		return timeout
	}
	return max(0, a.leads.Add(timeout).Sub(now))
}

// unsettled returns the time for which the API server may still carry out an apply of this or an
// earlier leader for one of the selected Containers. Until then, no claim may be taken from them.
func (r *Reconciler) unsettled(selects func(client.ObjectKey) bool) time.Duration {
	now := r.Clock.Now()
	return max(r.attempts.left(r.RequestTimeout, now, selects),
		r.attempts.leftOfEarlierLeader(r.RequestTimeout, now))
}
