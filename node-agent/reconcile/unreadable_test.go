// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// damage has ways to corrupt the content of a record.
var damage = map[string]func(string) string{
	"empty":   func(string) string { return "" },
	"cut off": func(s string) string { return s[:len(s)/2] },
	"no JSON": func(string) string { return "\x00\x00\x00\x00" },
	"another container's id": func(s string) string {
		return strings.Replace(s, unsureID, "default_other_76543210", 1)
	},
	"of a newer version": func(s string) string {
		return strings.Replace(s, `"version":1`, `"version":1000`, 1)
	},
}

func policy(p corev1.RestartPolicy) func(*v1alpha1.OCIBundle) {
	return func(b *v1alpha1.OCIBundle) { b.Spec.RestartPolicy = p }
}

func (b *bench) degraded() bool {
	last := b.source.last()
	return meta.IsStatusConditionTrue(last.Conditions, v1alpha1.ConditionDegraded)
}

// starts returns the number of times that a program was started.
func (b *bench) starts() int {
	b.super.mu.Lock()
	defer b.super.mu.Unlock()
	return b.super.starts
}

// spoil ends the agent, changes the content of desired.json and record.json, and returns the record
// as it was.
func (b *bench) spoil(t *testing.T, change func(string) string, desired bool) []byte {
	t.Helper()
	b.stop()
	file := b.bundles.Dir(unsureID).File(recordFile)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	bad := change(string(good))
	if bad == string(good) {
		t.Fatalf("nothing is wrong with the record %s", good)
	}
	if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	if desired {
		if err := os.WriteFile(b.bundles.Dir(unsureID).File(desiredFile), []byte(change("{}")),
			0o600); err != nil {
			t.Fatal(err)
		}
	}
	return good
}

// TestUnreadableRecordLeavesProcessRunning starts an agent that cannot read the record of a running
// container: it runs on and is Degraded, until the record can be read again, or nobody wants it:
// then it is stopped with its grace period and removed.
func TestUnreadableRecordLeavesProcessRunning(t *testing.T) {
	for name, change := range damage {
		for _, desired := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", desired.json too"}[desired], func(t *testing.T) {
				b := newBench(t)
				b.runs(1)
				good := b.spoil(t, change, desired)
				b.run()
				b.until("Degraded", b.degraded)
				if got := b.source.last(); got.PID != 4242 || got.Phase != v1alpha1.ContainerRunning ||
					len(b.kills()) > 0 || b.starts() != 1 {
					t.Fatalf("found %+v, the signals %v and %d starts", got, b.kills(), b.starts())
				}
				b.stop()
				if err := os.WriteFile(b.bundles.Dir(unsureID).File(recordFile), good, 0o600); err != nil {
					t.Fatal(err)
				}
				b.run()
				b.until("not Degraded", func() bool { return !b.degraded() && b.source.last().PID == 4242 })

				b.spoil(t, change, desired)
				b.run()
				b.until("Degraded", b.degraded)
				b.delete()
				b.until("the stop signal", func() bool { return slices.Equal(b.kills(), []string{"TERM"}) })
				b.exit(0)
				b.until("it is released", func() bool {
					b.source.mu.Lock()
					defer b.source.mu.Unlock()
					return len(b.source.released) == 1
				})
				if left, _ := filepath.Glob(filepath.Join(b.dir, "bundles", "[^.]*")); len(left) > 0 {
					t.Errorf("left over: %v", left)
				}
			})
		}
	}
}

// TestUnreadableRecordRunsNothingTwice starts an agent that cannot read the record of a container
// that is gone: a job is not run again, and a service is, unless a newer agent wrote the record.
func TestUnreadableRecordRunsNothingTwice(t *testing.T) {
	for name, change := range damage {
		for _, p := range []corev1.RestartPolicy{
			corev1.RestartPolicyAlways,
			corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever,
		} {
			t.Run(name+", "+string(p), func(t *testing.T) {
				b := newBench(t, policy(p))
				b.runs(1)
				b.spoil(t, change, false)
				b.super.mu.Lock()
				b.super.all = map[string]*protocol.Status{} // as after a start of the machine
				b.super.mu.Unlock()
				b.run()
				if p == corev1.RestartPolicyAlways && name != "of a newer version" {
					b.until("it runs again", func() bool {
						return b.starts() == 2 && !b.degraded() && b.source.last().PID != 0
					})
					return
				}
				b.until("Degraded", b.degraded)
				b.clock.Step(time.Minute)
				b.look()
				if got := b.source.last(); b.starts() != 1 || got.Phase != v1alpha1.ContainerUnknown {
					t.Errorf("started %d times; found %+v", b.starts(), got)
				}
			})
		}
	}
}

// TestOrphans has the supervisor know containers that no record speaks of. That of a wanted bundle
// is left alone; another of this agent's is stopped and removed; one of another bundles directory
// is none of its business.
func TestOrphans(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	b.stop()
	if err := os.RemoveAll(b.bundles.Dir(unsureID).Path()); err != nil {
		t.Fatal(err)
	}
	b.super.mu.Lock()
	b.super.all["default_gone_76543210"] = &protocol.Status{
		ID:     "default_gone_76543210",
		Bundle: b.bundles.Dir("default_gone_76543210").Path(), State: protocol.Running, StartedAt: now,
	}
	b.super.all["other"] = &protocol.Status{
		ID: "other", Bundle: "/elsewhere/other",
		State: protocol.Running, StartedAt: now,
	}
	var all []protocol.Status
	for _, st := range b.super.all {
		all = append(all, *st)
	}
	b.super.mu.Unlock()
	// or the wanted one would be created before the supervisor has listed its containers
	b.super.away.Store(true)
	b.run()
	b.until("the agent has read its records", func() bool {
		b.syncer.mu.Lock()
		defer b.syncer.mu.Unlock()
		return b.syncer.ctx != nil
	})
	b.syncer.adoptOrphans(all)
	b.super.away.Store(false)
	state := func(id string) protocol.State {
		b.super.mu.Lock()
		defer b.super.mu.Unlock()
		if st := b.super.all[id]; st != nil {
			return st.State
		}
		return ""
	}
	b.until("the orphan is killed", func() bool {
		b.syncer.all()
		b.clock.Step(time.Second)
		return state("default_gone_76543210") == ""
	})
	b.until("the wanted one is Degraded", b.degraded)
	if got := b.kills(); !slices.Equal(got, []string{"TERM", "KILL"}) {
		t.Errorf("found the signals %v; want those to the orphan alone", got)
	}
	if state(unsureID) != protocol.Running || state("other") != protocol.Running || b.starts() != 1 {
		t.Errorf("found the wanted one %q, the other agent's %q and %d starts", state(unsureID),
			state("other"), b.starts())
	}
}
