// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

func TestEndIsSeenOnceByTheNextAgent(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	b.stop()
	if err := b.super.change("default_x_01234567", func(st *protocol.Status) {
		b.super.end(st, 5)
	}); err != nil {
		t.Fatal(err)
	}
	b.run()
	b.runs(2)
	if last := b.source.last().LastState.Terminated; last == nil || last.ExitCode != 5 {
		t.Fatalf("found last state %+v; want exit code 5", last)
	}
	b.stop()
	b.run() // and a third agent finds it running
	b.look()
	b.wantStarts(2)
	if last := b.source.last(); last.RestartCount != 1 || last.PID == 0 {
		t.Errorf("found %+v; want one restart, and a process", last)
	}
}

func TestDeletionWaitsForTheGracePeriodAndThenKills(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	b.delete()
	kills := b.kills
	b.until("the stop signal", func() bool {
		return slices.Equal(kills(), []string{"TERM"}) && b.waiting()
	})
	b.clock.Step(29 * time.Second)
	b.look()
	if k := kills(); !slices.Equal(k, []string{"TERM"}) {
		t.Fatalf("found %v before the grace period was over", k)
	}
	b.until("release", func() bool {
		b.clock.Step(time.Second)
		b.source.mu.Lock()
		defer b.source.mu.Unlock()
		return len(b.source.released) == 1
	})
	if k := kills(); !slices.Equal(k[:2], []string{"TERM", "KILL"}) {
		t.Errorf("found %v", k)
	}
	if left, _ := b.bundles.List(); len(left) != 0 {
		t.Errorf("found bundles %v left", left)
	}
}

// The grace period goes on across a restart of the agent, whatever the clock is set to.
func TestGracePeriodWithTheClockSetBack(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	b.delete()
	b.until("the stop signal", func() bool {
		return slices.Equal(b.kills(), []string{"TERM"}) && b.waiting()
	})
	b.stop()
	b.clock.set(-time.Hour)
	b.clock.Step(20 * time.Second)
	b.run()
	b.look()
	if k := b.kills(); !slices.Equal(k, []string{"TERM"}) {
		t.Fatalf("found %v; want no second signal within the grace period", k)
	}
	b.clock.Step(10 * time.Second)
	b.until("SIGKILL", func() bool { return slices.Equal(b.kills(), []string{"TERM", "KILL"}) })
}

// Records of a version that kept deadlines by the node's clock: none is further away than its own
// length.
func TestRecordWithDeadlinesByTheClock(t *testing.T) {
	b := newBench(t)
	b.stop()
	for name, tc := range map[string]struct {
		at   time.Duration // of the deadline, from now
		want time.Duration
	}{
		"past":                   {at: -time.Minute, want: 0},
		"to come":                {at: 7 * time.Second, want: 7 * time.Second},
		"the clock was set back": {at: time.Hour, want: 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			dir := b.bundles.Dir("old")
			if err := dir.Make(); err != nil {
				t.Fatal(err)
			}
			at := now.Add(tc.at).Format(time.RFC3339)
			old := `{"id":"old","graceSeconds":20,"backOff":{"delay":40000000000,"notBefore":"` + at +
				`","waits":20000000000},"stop":{"deadline":"` + at + `","why":"x"}}`
			if err := os.WriteFile(dir.File(recordFile), []byte(old), 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := readRecord(dir, now, instant)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.BackOff.left(defaultBackOff(), instant); got != tc.want {
				t.Errorf("found a back-off of %s; want %s", got, tc.want)
			}
			if got := remaining(r.Stop.Deadline, instant); got != tc.want {
				t.Errorf("found a grace period of %s; want %s", got, tc.want)
			}
		})
	}
}
