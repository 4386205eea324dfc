// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-run/berth/api/v1alpha1"
)

func TestRestartsBackOffByTheClock(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	b.exit(1) // at once
	b.runs(2)
	for n, wait := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second} {
		b.exit(1)
		b.until("CrashLoopBackOff", func() bool {
			w := b.source.last().State.Waiting
			return w != nil && w.Reason == v1alpha1.ReasonCrashLoopBackOff && b.waiting()
		})
		b.clock.Step(wait - time.Second)
		b.look()
		b.wantStarts(n + 2) // the back-off is not over
		b.clock.Step(time.Second)
		b.runs(n + 3)
	}
	logs, _ := filepath.Glob(filepath.Join(b.dir, "logs", "*", "*.log"))
	for i := range logs {
		logs[i] = filepath.Base(logs[i])
	}
	if !slices.Equal(logs, []string{"3.log", "4.log"}) {
		t.Errorf("found logs %v; want those of the last two runs", logs)
	}
}

// untilBackOff waits until the container waits for its next start, and returns the length of the
// wait from the status.
func (b *bench) untilBackOff(length time.Duration) {
	b.Helper()
	b.until("CrashLoopBackOff of "+length.String(), func() bool {
		w := b.source.last().State.Waiting
		return w != nil && w.Reason == v1alpha1.ReasonCrashLoopBackOff && strings.HasSuffix(w.Message,
			"a back-off of "+length.String()) && b.waiting()
	})
}

// setBackOff gives the container another back-off, in a new generation; 0 is an absent field.
func (b *bench) setBackOff(first, most int32) {
	b.set(func(o *v1alpha1.OCIBundle) {
		o.Generation++
		o.Spec.RestartBackOff = &v1alpha1.RestartBackOff{}
		if first > 0 {
			o.Spec.RestartBackOff.InitialSeconds = &first
		}
		if most > 0 {
			o.Spec.RestartBackOff.MaxSeconds = &most
		}
	})
	b.syncer.Changed(keyNamed("x"))
}

// TestBackOffOfTheBundle: the waits are those of the bundle. An edit counts from the moment at
// which the wait began: a shorter maximum shortens the wait that is under way, also if the agent
// was away as it was made, and a longer one does not lengthen it.
func TestBackOffOfTheBundle(t *testing.T) {
	b := newBench(t, func(o *v1alpha1.OCIBundle) {
		o.Spec.RestartBackOff = &v1alpha1.RestartBackOff{
			InitialSeconds: new(int32(100)),
			MaxSeconds:     new(int32(3000)),
		}
	})
	b.runs(1)
	b.exit(1) // at once
	b.runs(2)
	b.exit(1)
	b.untilBackOff(100 * time.Second)
	b.clock.Step(20 * time.Second)
	b.setBackOff(0, 40)
	b.untilBackOff(40 * time.Second)
	b.clock.Step(19 * time.Second)
	b.look()
	b.wantStarts(2)
	b.clock.Step(time.Second)
	b.runs(3)

	b.setBackOff(50, 3000)
	b.look() // else the end may be noted first, and wait as long as the earlier edit says
	b.exit(1)
	b.untilBackOff(200 * time.Second)
	b.clock.Step(60 * time.Second)
	b.stop()
	b.setBackOff(0, 60)
	b.run()
	b.runs(4) // at once
	b.setBackOff(0, 3)
	b.look()
	b.exit(1)
	b.untilBackOff(3 * time.Second)
	b.setBackOff(0, 0)
	b.look()
	b.clock.Step(3 * time.Second)
	b.runs(5)
	b.exit(1)
	b.untilBackOff(10 * time.Second)
}

// TestBackOffOfFailedStarts: starts that fail wait as restarts do. A pull that fails waits as long
// as any other, so that no Container has a registry asked again and again.
func TestBackOffOfFailedStarts(t *testing.T) {
	for reason, want := range map[string]time.Duration{
		v1alpha1.ReasonCreateFailed:    time.Second,
		v1alpha1.ReasonImagePullFailed: 10 * time.Second,
	} {
		t.Run(reason, func(t *testing.T) {
			b := newBench(t, func(o *v1alpha1.OCIBundle) {
				o.Spec.RestartBackOff = &v1alpha1.RestartBackOff{MaxSeconds: new(int32(1))}
				o.Spec.Config.Raw = []byte(
					`{"ociVersion":"1.3.0","root":{"path":"/nonexistent"},"process":{"cwd":"/"},"linux":{"namespaces":[{"type":"mount"}]}}`)
				if reason == v1alpha1.ReasonImagePullFailed {
					o.Spec.Image = &v1alpha1.BundleImage{Reference: "busybox"}
				}
			})
			b.until("the failure", func() bool {
				w := b.source.last().State.Waiting
				return w != nil && w.Reason == reason && strings.HasSuffix(w.Message, "(next try after "+
					want.String()+")")
			})
			r := b.record()
			if left := r.BackOff.left(r.backOffLimits(b.source.bundle), instant); left != want {
				t.Errorf("found a wait of %s; want %s", left, want)
			}
		})
	}
}

// TestInterruptedStartKeepsTheBackOff interrupts a start of a crash loop: it is tried again at
// once, and the wait after its next end is twice the one before, unless another spec was started.
func TestInterruptedStartKeepsTheBackOff(t *testing.T) {
	for name, edited := range map[string]bool{"same spec": false, "another spec": true} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.runs(1)
			b.exit(1) // at once
			b.runs(2)
			b.exit(1) // after 10 s
			b.until("CrashLoopBackOff", func() bool {
				w := b.source.last().State.Waiting
				return w != nil && w.Reason == v1alpha1.ReasonCrashLoopBackOff && b.waiting()
			})
			b.super.mu.Lock()
			b.super.unsure = map[string][]string{"create": {"drop"}}
			b.super.mu.Unlock()
			b.clock.Step(10 * time.Second)
			b.until("the start is lost", func() bool {
				b.super.mu.Lock()
				defer b.super.mu.Unlock()
				return len(b.super.unsure["create"]) == 0
			})
			if edited {
				b.set(func(o *v1alpha1.OCIBundle) {
					o.Generation++
					o.Spec.Process.Command = []string{"/y"}
				})
			}
			b.look()
			b.runs(3)
			b.exit(1)
			if edited {
				b.runs(4) // at once, as after the first end
				return
			}
			b.look()
			b.wantStarts(3) // not at once
			b.clock.Step(19 * time.Second)
			b.look()
			b.wantStarts(3) // the back-off is not over
			b.clock.Step(time.Second)
			b.runs(4)
		})
	}
}

// Whoever sets the clock back by an hour adds nothing to a back-off of 10 s.
func TestBackOffWithTheClockSetBack(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	b.exit(1) // at once
	b.runs(2)
	b.exit(1)
	b.until("the back-off", func() bool {
		return b.source.last().State.Waiting != nil && b.waiting()
	})
	b.clock.set(-time.Hour)
	b.stop()
	b.run() // the wait goes on across a restart of the agent
	b.until("the back-off of the next agent", b.waiting)
	b.clock.Step(10 * time.Second)
	b.runs(3)
}

// A run counts as long by the time that has passed, not by what the clock shows.
func TestBackOffResetWithTheClockSet(t *testing.T) {
	for name, tc := range map[string]struct {
		set, ran time.Duration
		waits    bool
	}{
		"forward in a short run": {set: time.Hour, ran: time.Second, waits: true},
		"back in a long run":     {set: -time.Hour, ran: backOffReset, waits: false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.runs(1)
			b.exit(1) // at once
			b.runs(2)
			b.clock.Step(tc.ran)
			b.clock.set(tc.set)
			b.exit(1)
			if !tc.waits {
				b.runs(3)
				return
			}
			b.until("the back-off", func() bool {
				w := b.source.last().State.Waiting
				return w != nil && w.Reason == v1alpha1.ReasonCrashLoopBackOff && b.waiting()
			})
		})
	}
}
