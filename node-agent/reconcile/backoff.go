// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"time"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/boottime"
)

// backOffReset is the kubelet's (pkg/kubelet/kubelet.go): a container that has run for so long has
// no back-off.
const backOffReset = 10 * time.Minute

// backOffLimits are the first wait of a back-off and the longest.
type backOffLimits struct{ first, most time.Duration }

// defaultBackOff returns the kubelet's limits.
func defaultBackOff() backOffLimits {
	return backOffLimits{
		v1alpha1.DefaultBackOffInitialSeconds * time.Second,
		v1alpha1.DefaultBackOffMaxSeconds * time.Second,
	}
}

// restartBackOff returns the limits for restarts of a bundle, which may be nil.
func restartBackOff(b *v1alpha1.OCIBundle) backOffLimits {
	l := defaultBackOff()
	if b == nil || b.Spec.RestartBackOff == nil {
		return l
	}
	if s := b.Spec.RestartBackOff.MaxSeconds; s != nil {
		l.most = time.Duration(*s) * time.Second
	}
	if s := b.Spec.RestartBackOff.InitialSeconds; s != nil {
		l.first = time.Duration(*s) * time.Second
	}
	l.first = min(l.first, l.most)
	return l
}

// backOffLimits returns the limits of the wait for the next start. Those of the bundle are for
// restarts: no registry is asked more often because of them.
func (r *Record) backOffLimits(b *v1alpha1.OCIBundle) backOffLimits {
	if r.Failure != nil && r.Failure.Reason == v1alpha1.ReasonImagePullFailed {
		return defaultBackOff()
	}
	return restartBackOff(b)
}

// backOff computes the wait before the next start. The zero value does not wait.
type backOff struct {
	// Until is the earliest time of the next start, and Waits the length of the wait, by the limits
	// that held when it began. Records of agents that knew one pair of limits also have the length
	// of the next wait.
	Until boottime.Instant `json:"until,omitzero"`
	Waits time.Duration    `json:"waits,omitempty"`
}

// next returns the length of the wait after this one: none at first, then l.first, then twice as
// long each time, up to l.most.
func (b backOff) next(l backOffLimits) time.Duration {
	if b.Until.IsZero() {
		return 0
	}
	return min(max(2*b.Waits, l.first), l.most)
}

// afterExit returns the back-off after a run of the given length. After one of 10 min it begins
// afresh.
func (b backOff) afterExit(l backOffLimits, ran time.Duration, end boottime.Instant) backOff {
	wait := b.next(l)
	if ran >= backOffReset {
		wait = 0
	}
	return backOff{Until: end.Add(wait), Waits: wait}
}

// afterFailure returns the back-off after a start that failed: at least l.first.
func (b backOff) afterFailure(l backOffLimits, now boottime.Instant) backOff {
	wait := max(b.next(l), l.first)
	return backOff{Until: now.Add(wait), Waits: wait}
}

// length returns the length of the wait: what it was when it began, or l.most if that has become
// less.
func (b backOff) length(l backOffLimits) time.Duration { return min(b.Waits, l.most) }

// left returns how long the wait still is. A wait that began before a boot of the machine is over.
func (b backOff) left(l backOffLimits, now boottime.Instant) time.Duration {
	return remaining(b.Until.Add(b.length(l)-b.Waits), now)
}

// remaining returns the time until end, and 0 if that is past or of another boot.
func remaining(end, now boottime.Instant) time.Duration {
	d, ok := end.Sub(now)
	if !ok {
		return 0
	}
	return max(d, 0)
}
