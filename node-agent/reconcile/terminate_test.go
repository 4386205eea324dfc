// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/berth-run/berth/api/v1alpha1"
)

// TestGracePeriodIsMadeShorterWhileItStops: as with a Pod, the deletion goes on at once, and
// nothing makes it longer again.
func TestGracePeriodIsMadeShorterWhileItStops(t *testing.T) {
	for name, again := range map[string]bool{"by the same agent": false, "by the next agent": true} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.runs(1)
			b.delete()
			b.until("the stop signal", func() bool {
				return slices.Equal(b.kills(), []string{"TERM"}) && b.waiting()
			})
			if again {
				b.stop()
			}
			shorten := func(seconds int64) {
				b.set(func(b *v1alpha1.OCIBundle) {
					b.Spec.TerminationGracePeriodSeconds = seconds
					b.Generation++
				})
			}
			shorten(5)
			if again {
				b.run()
			}
			b.syncer.Changed(keyNamed("x"))
			grace := func() (seconds int64) {
				r, err := readRecord(b.bundles.Dir(oldID), b.clock.Now(), b.clock.sinceBoot())
				if err == nil && r != nil && r.Stop != nil {
					seconds = r.Stop.GraceSeconds
				}
				return seconds
			}
			b.until("the shorter grace period on disk", func() bool { return grace() == 5 })
			b.clock.Step(4 * time.Second)
			shorten(300)
			b.look()
			if k := b.kills(); !slices.Equal(k, []string{"TERM"}) {
				t.Fatalf("found %v before the shorter grace period was over", k)
			}
			b.clock.Step(time.Second)
			b.until("SIGKILL", func() bool { return slices.Contains(b.kills(), "KILL") })
		})
	}
}

// TestGracePeriodWithoutEnd: a grace period of more seconds than a duration holds does not wrap
// around to one that is over.
func TestGracePeriodWithoutEnd(t *testing.T) {
	b := newBench(t, func(o *v1alpha1.OCIBundle) {
		o.Spec.TerminationGracePeriodSeconds = math.MaxInt64
	})
	b.runs(1)
	b.delete()
	b.until("the stop signal", func() bool {
		return slices.Equal(b.kills(), []string{"TERM"}) && b.waiting()
	})
	b.clock.Step(1000 * time.Hour)
	b.look()
	if k := b.kills(); !slices.Equal(k, []string{"TERM"}) {
		t.Fatalf("found %v; want TERM alone", k)
	}
	b.set(func(o *v1alpha1.OCIBundle) {
		o.Spec.TerminationGracePeriodSeconds = 0
		o.Generation++
	})
	b.look()
	b.until("SIGKILL", func() bool { return slices.Contains(b.kills(), "KILL") })
}
