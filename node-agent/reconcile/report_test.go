// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

func TestStatusIsReportedUntilItIsTaken(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	b.source.mu.Lock()
	b.source.fail = 3
	b.source.bundle = b.source.bundle.DeepCopy()
	b.source.bundle.Spec.RestartPolicy = corev1.RestartPolicyNever
	b.source.bundle.Generation++
	b.source.mu.Unlock()
	b.exit(7)
	b.until("the report that is taken", func() bool {
		b.clock.Step(30 * time.Second)
		s := b.source.last()
		return s.Phase == v1alpha1.ContainerFailed && s.State.Terminated.ExitCode == 7 &&
			s.ObservedGeneration == 2
	})
	n := b.reports()
	for range 3 {
		b.look()
	}
	if got := b.reports(); got != n {
		t.Errorf("found %d reports of an unchanged status", got-n)
	}
}

// TestSourceThatDoesNotAnswer: containers are started again, and killed at the end of their grace
// periods, while the source takes no status; and it gets the last one once it answers.
func TestSourceThatDoesNotAnswer(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	b.look() // or a step of the clock ends the report of that start
	b.source.hangs.Store(true)
	step := func(what string, by, atMost time.Duration, ok func() bool) {
		t.Helper()
		passed := time.Duration(0)
		b.until(what, func() bool {
			if !ok() && passed < atMost && b.clock.HasWaiters() {
				b.clock.Step(by)
				passed += by
			}
			return ok()
		})
	}
	starts := func(n int) func() bool {
		return func() bool {
			b.super.mu.Lock()
			defer b.super.mu.Unlock()
			return b.super.starts == n
		}
	}
	b.exit(1)
	step("the second start", time.Second/10, reportPatience, starts(2))
	b.exit(1)
	step("the third start", time.Second, 12*time.Second, starts(3))
	b.delete()
	step("the stop signal", time.Second/10, reportPatience, func() bool {
		return slices.Equal(b.kills(), []string{"TERM"})
	})
	b.until("the report until the end of the grace period", b.clock.HasWaiters)
	b.clock.Step(28 * time.Second)
	if k := b.kills(); len(k) != 1 {
		t.Fatalf("found %v within the grace period", k)
	}
	step("SIGKILL", time.Second, 3*time.Second, func() bool {
		return slices.Contains(b.kills(), "KILL")
	})
	b.source.hangs.Store(false)
	b.until("its release", func() bool {
		if b.clock.HasWaiters() {
			b.clock.Step(time.Second)
		}
		b.source.mu.Lock()
		defer b.source.mu.Unlock()
		return len(b.source.released) == 1
	})
}

// TestForeignStatusIsCorrected: the syncer compares a status with the source's, not with its own
// last one.
func TestForeignStatusIsCorrected(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	for n := range 3 {
		b.source.mu.Lock()
		reports := len(b.source.reports)
		falsified := b.source.bundle.DeepCopy()
		falsified.ResourceVersion = strconv.Itoa(100 + n)
		right := b.source.reports[reports-1]
		switch n {
		case 0:
			falsified.Status = v1alpha1.OCIBundleStatus{
				ObservedGeneration: 1,
				Phase:              v1alpha1.ContainerSucceeded,
			}
		case 1:
			falsified.Status = *right.DeepCopy()
			falsified.Status.Conditions = append(falsified.Status.Conditions,
				metav1.Condition{Type: "Blessed", Status: "True"})
		case 2:
			falsified.Status = *right.DeepCopy()
			meta.FindStatusCondition(falsified.Status.Conditions,
				v1alpha1.ConditionRunning).LastTransitionTime = metav1.Unix(1, 0)
		}
		b.source.bundle = falsified
		b.source.mu.Unlock()
		b.syncer.Changed(keyNamed("x"))
		b.until("the correction", func() bool {
			b.source.mu.Lock()
			defer b.source.mu.Unlock()
			return len(b.source.reports) > reports &&
				equality.Semantic.DeepEqual(b.source.reports[len(b.source.reports)-1], right)
		})
	}
	// Also what was written while no agent was there.
	b.stop()
	b.source.mu.Lock()
	reports := len(b.source.reports)
	falsified := b.source.bundle.DeepCopy()
	falsified.ResourceVersion = "200"
	falsified.Status.Conditions = append(falsified.Status.Conditions, metav1.Condition{
		Type:   "Blessed",
		Status: "True",
	})
	b.source.bundle = falsified
	b.source.mu.Unlock()
	b.run()
	b.until("the correction by the next agent", func() bool {
		b.source.mu.Lock()
		defer b.source.mu.Unlock()
		return len(b.source.reports) > reports &&
			meta.FindStatusCondition(b.source.reports[len(b.source.reports)-1].Conditions, "Blessed") == nil
	})
	// Once is enough, while the source does not show it yet.
	n := b.reports()
	for range 3 {
		b.look()
	}
	if got := b.reports(); got != n {
		t.Errorf("found %d reports of a status that is right", got-n)
	}
}

func TestStatusSaysSinceWhenTheSupervisorIsAway(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	running := func(s v1alpha1.OCIBundleStatus) metav1.Condition {
		if c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionRunning); c != nil {
			return *c
		}
		return metav1.Condition{}
	}
	b.super.away.Store(true) // without an event
	looks := 0
	b.until("Unknown", func() bool {
		if b.waiting() {
			b.clock.Step(30 * time.Second)
			looks++
		}
		return b.source.last().Phase == v1alpha1.ContainerUnknown
	})
	first := b.source.last()
	c := running(first)
	since := "not known since " + c.LastTransitionTime.UTC().Format(time.RFC3339) +
		": the supervisor does not answer; before that: the process runs with pid 4242"
	// The first look that fails may come from the lost stream of events rather than from a step of
	// the clock.
	if looks < 1 || c.Status != metav1.ConditionUnknown ||
		c.Reason != v1alpha1.ReasonSupervisorUnreachable || c.Message != since {
		t.Errorf("found after %d looks %+v; want message %q", looks, c, since)
	}
	n := b.reports()
	for range 3 { // it stays the same, and is not written again
		b.clock.Step(30 * time.Second)
		b.look()
	}
	if got := b.reports(); got != n {
		t.Errorf("found %d more reports of the same", got-n)
	}
	b.super.away.Store(false)
	b.syncer.Changed(keyNamed("x"))
	b.until("Running", func() bool { return running(b.source.last()).Status == metav1.ConditionTrue })
	if last := b.source.last(); last.Phase != v1alpha1.ContainerRunning || last.RestartCount != 0 {
		t.Errorf("found %+v once the supervisor is back", last)
	}
}

// Kills for lack of memory of other processes than the first are reported while the container runs,
// and counted over all runs.
func TestKillsOfOthersAreReported(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	kill := func(n uint64) {
		if err := b.super.change("default_x_01234567", func(st *protocol.Status) {
			st.OOMKills = n
		}); err != nil {
			t.Fatal(err)
		}
		b.syncer.Changed(keyNamed("x"))
	}
	reported := func(n int64) func() bool {
		return func() bool {
			c := meta.FindStatusCondition(b.source.last().Conditions, v1alpha1.ConditionRunning)
			return b.source.last().OOMKills == n && c.Status == metav1.ConditionTrue &&
				strings.Contains(c.Message, "killed for lack of memory")
		}
	}
	kill(1)
	b.until("one kill", reported(1))
	b.stop()
	b.run() // another agent counts on
	kill(3)
	b.until("three kills", reported(3))
	b.exit(1)
	b.runs(2)
	if n := b.source.last().OOMKills; n != 3 {
		t.Errorf("found %d kills after the restart; want 3", n)
	}
	kill(2)
	b.until("five kills", reported(5))
}
