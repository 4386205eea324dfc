// SPDX-License-Identifier: Apache-2.0

package sync

import (
	"time"

	"github.com/berth-run/berth/node-agent/boottime"
)

// The kubelet's numbers (pkg/kubelet/kubelet.go: MaxCrashLoopBackOff, initial backOff period; the entry is forgotten after
// twice the maximum).
const (
	backOffFirst = 10 * time.Second
	backOffMax   = 5 * time.Minute
	backOffReset = 10 * time.Minute
)

// backOff is how long to wait before the next start. The zero value waits for nothing.
type backOff struct {
	// Delay of the next wait.
	Delay time.Duration `json:"delay,omitempty"`
	// Until is when the next start may be.
	Until boottime.Instant `json:"until,omitzero"`
	// Waits is the delay that led to Until.
	Waits time.Duration `json:"waits,omitempty"`
}

// afterExit is the back-off after a run of the given length: the first restart is at once, the next ones 10 s, 20 s and so on after the
// end, up to 5 min; after a run of 10 min it begins afresh.
func (b backOff) afterExit(ran time.Duration, end boottime.Instant) backOff {
	if ran >= backOffReset {
		b.Delay = 0
	}
	return backOff{Delay: following(b.Delay), Until: end.Add(b.Delay), Waits: b.Delay}
}

// afterFailure is the back-off after a container that could not be made: 10 s, then doubled.
func (b backOff) afterFailure(now boottime.Instant) backOff {
	d := max(b.Delay, backOffFirst)
	return backOff{Delay: following(d), Until: now.Add(d), Waits: d}
}

// left returns how long the wait still is. A wait that began before a boot of the machine is over.
func (b backOff) left(now boottime.Instant) time.Duration { return remaining(b.Until, now) }

// remaining returns the time until end, and 0 if that is past or of another boot.
func remaining(end, now boottime.Instant) time.Duration {
	d, ok := end.Sub(now)
	if !ok {
		return 0
	}
	return max(d, 0)
}

func following(d time.Duration) time.Duration { return min(max(2*d, backOffFirst), backOffMax) }
