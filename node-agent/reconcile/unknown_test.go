// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/source"
)

const unsureID = "default_x_01234567"

// TestStartIsUnknown loses requests to the supervisor, or their answers: a container that may run
// is not undone, and the program is started once.
func TestStartIsUnknown(t *testing.T) {
	for name, unsure := range map[string]map[string][]string{
		"answer to create lost":        {"create": {"lose"}},
		"create lost":                  {"create": {"drop"}},
		"create lost, then its answer": {"create": {"drop", "lose"}},
		"answer to start lost":         {"start": {"lose"}},
		"start lost":                   {"start": {"drop", "drop"}},
		"all of it":                    {"create": {"drop", "lose"}, "start": {"drop", "lose"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newUnsureBench(t, unsure, func(b *v1alpha1.OCIBundle) {
				b.Spec.RestartPolicy = corev1.RestartPolicyNever
				b.Spec.Volumes = []v1alpha1.Volume{{Name: "data", EmptyDir: &corev1.EmptyDirVolumeSource{}}}
			})
			volume := b.bundles.Dir(unsureID).File("volumes/data")
			b.until("it runs", func() bool {
				if b.waiting() {
					b.clock.Step(time.Second)
				}
				return b.source.last().PID != 0
			})
			b.super.mu.Lock()
			if b.super.creates != 1 || b.super.starts != 1 {
				t.Errorf("created %d times, started %d times; want once each", b.super.creates, b.super.starts)
			}
			b.super.mu.Unlock()
			if _, err := os.Stat(volume); err != nil {
				t.Errorf("the volume of the running container: %v", err)
			}
			b.exit(0)
			b.until("it has succeeded", func() bool {
				return b.source.last().Phase == v1alpha1.ContainerSucceeded
			})
			if got := b.source.last(); got.RestartCount != 0 || b.super.starts != 1 {
				t.Errorf("started %d times; found %+v", b.super.starts, got)
			}
		})
	}
}

// TestAgentEndsWhileItStarts ends the agent while the supervisor works on a request. The next agent
// continues from the actual state.
func TestAgentEndsWhileItStarts(t *testing.T) {
	for _, request := range []string{"create", "start"} {
		t.Run(request, func(t *testing.T) {
			b := newUnsureBench(t, map[string][]string{request: {"lose"}}, func(b *v1alpha1.OCIBundle) {
				b.Spec.RestartPolicy = corev1.RestartPolicyNever
			})
			b.until("the request", func() bool {
				b.super.mu.Lock()
				defer b.super.mu.Unlock()
				return len(b.super.unsure[request]) == 0
			})
			b.stop()
			b.super.mu.Lock()
			if b.super.all[unsureID] == nil {
				t.Error("the container was deleted")
			}
			b.super.mu.Unlock()
			b.run()
			b.until("it runs", func() bool { return b.source.last().PID != 0 })
			if b.super.creates != 1 || b.super.starts != 1 {
				t.Errorf("created %d times, started %d times; want once each", b.super.creates, b.super.starts)
			}
		})
	}
}

// TestStopSignalIsNotLost loses the stop signal: it is sent again, and SIGKILL comes only after a
// whole grace period since.
func TestStopSignalIsNotLost(t *testing.T) {
	b := newUnsureBench(t, map[string][]string{"kill TERM": {"drop", "drop", "drop"}})
	b.runs(1)
	b.delete()
	// The grace period is over before the signal can be sent.
	b.until("the signal", func() bool {
		// A step after the signal would be one of the grace period.
		if b.waiting() && len(b.kills()) == 0 {
			b.clock.Step(11 * time.Second)
		}
		return len(b.kills()) > 0
	})
	if got := b.kills(); !slices.Equal(got, []string{"TERM"}) {
		t.Fatalf("found the signals %v; want TERM alone", got)
	}
	b.until("the signal is noted", func() bool {
		r, err := readRecord(b.bundles.Dir(unsureID), b.clock.Now(), b.clock.sinceBoot())
		return err == nil && r != nil && r.Stop != nil && r.Stop.Sent
	})
	b.clock.Step(29 * time.Second)
	b.look()
	if got := b.kills(); len(got) != 1 {
		t.Errorf("found the signals %v within the grace period", got)
	}
	b.until("SIGKILL", func() bool {
		b.clock.Step(time.Second)
		return slices.Contains(b.kills(), "KILL")
	})
}

// TestStatusSaysWhatFailsAgainAndAgain: a stop that the supervisor refuses is not passed over in
// silence, and once it is done no more is said of it.
func TestStatusSaysWhatFailsAgainAndAgain(t *testing.T) {
	b := newUnsureBench(t, map[string][]string{"kill TERM": slices.Repeat([]string{"drop"}, 6)})
	b.runs(1)
	b.delete()
	message := func() string {
		c := meta.FindStatusCondition(b.source.last().Conditions, v1alpha1.ConditionRunning)
		if c != nil {
			return string(c.Status) + " " + c.Reason + ": " + c.Message
		}
		return ""
	}
	b.until("the status says so", func() bool {
		if b.waiting() {
			b.clock.Step(30 * time.Second)
		}
		return strings.HasPrefix(message(), "True Started: ") && strings.Contains(message(),
			"has failed (Stop): the test loses it")
	})
	b.until("the stop signal", func() bool {
		if b.waiting() && len(b.kills()) == 0 {
			b.clock.Step(30 * time.Second)
		}
		return len(b.kills()) > 0
	})
	b.until("the status says no more of it", func() bool {
		return strings.Contains(message(), "it has been told to stop") && !strings.Contains(message(),
			"has failed")
	})
}

// failingSource fails a few times before it works.
type failingSource struct {
	memorySource
	failures atomic.Int32
}

func (f *failingSource) Run(ctx context.Context, e source.Events) error {
	if f.failures.Add(-1) >= 0 {
		return errors.New("too many open files")
	}
	return f.memorySource.Run(ctx, e)
}

// TestSourceFails has a source that cannot be followed at first: that is said, and it is tried
// again until it works.
func TestSourceFails(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	b.stop()
	src := &failingSource{}
	src.bundle = b.source.bundle
	src.failures.Store(3)
	s, err := New(Config{
		Source: src, Images: noImages{}, Supervisor: b.super, Bundles: b.bundles, LogDir: b.dir + "/logs",
		CgroupParent: "/berth", Handlers: func() []string {
			return []string{v1alpha1.HandlerNative}
		}, Clock: b.clock, BootClock: b.clock.sinceBoot,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	b.until("it is said", func() bool { return s.Following() != nil })
	b.until("it works", func() bool {
		b.clock.Step(10 * time.Second)
		return src.failures.Load() < 0 && s.Following() == nil
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
