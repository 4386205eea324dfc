// SPDX-License-Identifier: Apache-2.0

package sync

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/source"
)

// setPids gives the container another limit of pids, in a new generation; "" removes it.
func (b *bench) setPids(limit string, more ...func(*v1alpha1.OCIBundle)) {
	b.set(func(o *v1alpha1.OCIBundle) {
		resources := `{}`
		if limit != "" {
			resources = `{"pids":{"limit":` + limit + `}}`
		}
		var config map[string]json.RawMessage
		if err := json.Unmarshal(o.Spec.Config.Raw, &config); err != nil {
			b.Fatal(err)
		}
		config["linux"] = json.RawMessage(`{"namespaces":[{"type":"mount"},{"type":"pid"}],"resources":` + resources + `}`)
		o.Spec.Config.Raw, _ = json.Marshal(config)
		o.Generation++
		o.Spec.CompiledGeneration = o.Generation
		for _, f := range more {
			f(o)
		}
	})
	b.syncer.Changed(keyNamed("x"))
}

// updates are the limits of pids that the supervisor was told to set, each with that of before.
func (b *bench) updates() []string {
	b.super.mu.Lock()
	defer b.super.mu.Unlock()
	var out []string
	for _, u := range b.super.updates {
		to, _ := json.Marshal(u.To.Pids.Limit)
		before, _ := json.Marshal(u.Before.Pids.Limit)
		out = append(out, string(before)+">"+string(to))
	}
	return out
}

func (b *bench) untilUpdates(want ...string) {
	b.Helper()
	b.until("updates "+strings.Join(want, " "), func() bool {
		got := b.updates()
		b.source.mu.Lock()
		generation := b.source.bundle.Generation
		b.source.mu.Unlock()
		return strings.Join(got, " ") == strings.Join(want, " ") && b.source.last().ObservedGeneration == generation
	})
}

// assertOneRun asserts that the container was started once and never told to stop, and is reported as accepted or not.
func (b *bench) assertOneRun(accepted bool) {
	b.Helper()
	if kills := b.kills(); len(kills) > 0 || b.super.starts > 1 {
		b.Errorf("found %d starts and the signals %v", b.super.starts, kills)
	}
	s := b.source.last()
	found := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionAccepted)
	if s.Phase != v1alpha1.ContainerRunning || accepted != (found == nil) {
		b.Errorf("found the phase %s, Accepted is %+v", s.Phase, found)
	}
}

func (b *bench) record() Record {
	b.Helper()
	r, err := readRecord(b.bundles.Dir(oldID), now, instant)
	if err != nil || r == nil {
		b.Fatal(r, err)
	}
	return *r
}

// TestLiveChanges: limits of a running container are changed without a restart, once.
func TestLiveChanges(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	b.setPids("20")
	b.untilUpdates("-1>20")
	b.setPids("30", func(o *v1alpha1.OCIBundle) { o.Spec.TerminationGracePeriodSeconds = 7 })
	b.untilUpdates("-1>20", "20>30")
	b.assertOneRun(true)
	if r := b.record(); r.Made != 3 || r.Generation != 3 || r.Compiled != 3 || len(r.Updating) > 0 || r.Refusal != nil {
		t.Errorf("the record is %+v", r)
	}
	if _, err := os.Stat(b.bundles.Dir(oldID).File(runningFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("running.json is there: %v", err)
	}
	// The next agent has nothing to do, and an edit of the grace period alone is no update.
	b.stop()
	b.run()
	b.set(func(o *v1alpha1.OCIBundle) { o.Spec.TerminationGracePeriodSeconds = 8; o.Generation++ })
	b.syncer.Changed(keyNamed("x"))
	b.untilUpdates("-1>20", "20>30")
	b.setPids("")
	b.untilUpdates("-1>20", "20>30", "30>-1")
	b.assertOneRun(true)

	// What a running container cannot be given replaces it, with the limits that it then has.
	b.setPids("40", func(o *v1alpha1.OCIBundle) { o.Spec.Process.Command = []string{"/y"} })
	b.until("the stop signal", func() bool { return len(b.kills()) == 1 })
	b.exit(0)
	b.runs(2)
	if got := b.updates(); len(got) != 3 {
		t.Errorf("found the updates %v", got)
	}
}

// TestRefusedLiveChange: the container goes on as it was, in all that the refused generation says, and the agent tries again.
func TestRefusedLiveChange(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	refuse := func(words string) {
		b.super.mu.Lock()
		defer b.super.mu.Unlock()
		b.super.refuses = words
	}
	refuse("update x: update container x: linux.resources.pids.limit: the test refuses it")
	b.setPids("20", func(o *v1alpha1.OCIBundle) { o.Spec.TerminationGracePeriodSeconds = 99 })
	b.untilUpdates("-1>20")
	b.assertOneRun(false)
	accepted := meta.FindStatusCondition(b.source.last().Conditions, v1alpha1.ConditionAccepted)
	if accepted.Reason != v1alpha1.ReasonUpdateRefused || !strings.HasPrefix(accepted.Message, "config.linux.resources.pids.limit: the test refuses it") {
		t.Errorf("Accepted is %+v", accepted)
	}
	// Neither looking nor another agent tries again before the time.
	b.syncer.Changed(keyNamed("x"))
	b.stop()
	b.source.mu.Lock()
	b.source.reports = nil
	b.source.bundle = b.source.bundle.DeepCopy()
	b.source.bundle.Status = v1alpha1.OCIBundleStatus{} // as a folder knows it after a start
	b.source.mu.Unlock()
	b.run()
	b.untilUpdates("-1>20")
	b.assertOneRun(false)
	b.until("the timer", b.clock.HasWaiters)
	b.clock.Step(backOffFirst)
	b.untilUpdates("-1>20", "-1>20")
	// The refused part is not there for a stop, either.
	if r := b.record(); r.Refusal == nil || r.Refusal.BackOff.Waits != 2*backOffFirst || len(r.Updating) > 0 || r.Made != 1 {
		t.Errorf("the record is %+v", r)
	}
	refuse("")
	b.until("the timer", b.clock.HasWaiters)
	b.clock.Step(2 * backOffFirst)
	b.untilUpdates("-1>20", "-1>20", "-1>20")
	b.until("nothing is refused", func() bool {
		return meta.FindStatusCondition(b.source.last().Conditions, v1alpha1.ConditionAccepted) == nil
	})
	b.assertOneRun(true)
	if r := b.record(); r.Made != 2 || r.Refusal != nil {
		t.Errorf("the record is %+v", r)
	}
}

// TestRefusedLiveChangeOfAJob: a job that ends with the limits of before is not run again for those that were refused. One that
// runs always is started again with them.
func TestRefusedLiveChangeOfAJob(t *testing.T) {
	for policy, starts := range map[corev1.RestartPolicy]int{corev1.RestartPolicyNever: 1, corev1.RestartPolicyAlways: 2} {
		t.Run(string(policy), func(t *testing.T) {
			b := newBench(t, func(o *v1alpha1.OCIBundle) { o.Spec.RestartPolicy = policy; o.Spec.CompiledGeneration = 1 })
			b.runs(1)
			b.super.mu.Lock()
			b.super.refuses = "no"
			b.super.mu.Unlock()
			b.setPids("20")
			b.untilUpdates("-1>20")
			b.exit(0)
			if starts == 2 {
				b.runs(2)
				return
			}
			b.until("its end", func() bool { return b.source.last().Phase == v1alpha1.ContainerSucceeded })
			b.stop()
			b.run()
			time.Sleep(20 * time.Millisecond)
			if b.super.starts != 1 {
				t.Errorf("it was started %d times", b.super.starts)
			}
		})
	}
}

// TestLiveChangeCutOff: an update whose outcome is not known is done again, by the same agent or the next, and is set back if that is
// what is desired by then.
func TestLiveChangeCutOff(t *testing.T) {
	for _, tc := range []struct {
		name, lost string
		killed     bool   // the agent, after the update
		then       string // the limit that is desired by then
		want       []string
	}{
		{name: "the request is lost", lost: "drop", want: []string{"-1>20"}},
		{name: "the answer is lost", lost: "lose", want: []string{"-1>20", "-1>20"}},
		{name: "the agent is killed", lost: "lose", killed: true, want: []string{"-1>20", "-1>20"}},
		{name: "it is taken back", lost: "lose", killed: true, then: "none", want: []string{"-1>20", "-1>-1"}},
		{name: "it is another one by then", lost: "lose", killed: true, then: "30", want: []string{"-1>20", "-1>30"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newUnsureBench(t, map[string][]string{"update": {tc.lost}})
			b.runs(1)
			b.setPids("20")
			b.until("the update that is lost", func() bool {
				b.super.mu.Lock()
				defer b.super.mu.Unlock()
				return len(b.super.unsure["update"]) == 0
			})
			if tc.killed {
				b.stop()
				if r := b.record(); len(r.Updating) != 1 || r.Made != 1 || r.Generation != 2 {
					t.Errorf("the record is %+v", r)
				}
				b.run()
			}
			if tc.then != "" {
				b.stop()
				b.setPids(strings.TrimPrefix(tc.then, "none"))
				b.run()
			}
			b.until("the updates "+strings.Join(tc.want, " "), func() bool {
				b.clock.Step(time.Second)
				return strings.Join(b.updates(), " ") == strings.Join(tc.want, " ")
			})
			b.until("the record", func() bool {
				r := b.record()
				return len(r.Updating) == 0 && r.Made == r.Generation
			})
			b.assertOneRun(true)
		})
	}
}

// TestLiveChangeAfterAnUpgrade: a container of the first version, whose record has a hash and no more, is updated as any other.
func TestLiveChangeAfterAnUpgrade(t *testing.T) {
	b := newOldBench(t, "running")
	b.run()
	b.set(func(o *v1alpha1.OCIBundle) {
		resources := []byte(`"resources":{`)
		if !bytes.Contains(o.Spec.Config.Raw, resources) {
			t.Fatalf("found no resources in %s", o.Spec.Config.Raw)
		}
		o.Spec.Config.Raw = bytes.Replace(o.Spec.Config.Raw, resources, append(resources, []byte(`"pids":{"limit":20},`)...), 1)
		o.Generation++
	})
	b.syncer.Changed(keyNamed("x"))
	b.untilUpdates("-1>20")
	b.assertOneRun(true)
	b.stop()
	b.run()
	b.untilUpdates("-1>20")
	b.assertOneRun(true)
}

// TestEditOfLimitsTakesNoNewerDefaults: an agent whose compiler has other defaults takes no more of an edit of the resources than a
// running container can be given.
func TestEditOfLimitsTakesNoNewerDefaults(t *testing.T) {
	digests := func(run, fixed string) func(*v1alpha1.OCIBundle) {
		return func(o *v1alpha1.OCIBundle) {
			o.Annotations = map[string]string{source.AnnotationRun: run, source.AnnotationFixed: fixed}
		}
	}
	b := newBench(t, digests("1", "program"))
	b.runs(1)
	b.stop()
	b.setPids("20", digests("2", "program"), recompile)
	b.run()
	b.untilUpdates("-1>20")
	b.assertOneRun(true)
	b.until("the offer", func() bool {
		return meta.IsStatusConditionTrue(b.source.last().Conditions, v1alpha1.ConditionRecompileAvailable)
	})
	if accepted := readDesired(b.bundles.Dir(oldID)); bytes.Contains(accepted.Spec.Config.Raw, []byte("the next version")) {
		t.Errorf("accepted %s", accepted.Spec.Config.Raw)
	}
	// Another program is compiled by this version.
	b.setPids("20", digests("3", "another program"), recompile)
	b.until("the stop signal", func() bool { return len(b.kills()) == 1 })
}

// TestNewerDefaultsAreOffered: what the source compiles otherwise for the same generation is shown.
func TestNewerDefaultsAreOffered(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	b.stop()
	b.set(recompile)
	b.run()
	b.until("the offer", func() bool {
		c := meta.FindStatusCondition(b.source.last().Conditions, v1alpha1.ConditionRecompileAvailable)
		return c != nil && c.Status == "True" && strings.Contains(c.Message, "config.annotations.compiled-by")
	})
	b.assertOneRun(true)
	b.set(func(o *v1alpha1.OCIBundle) { o.Generation++ })
	b.syncer.Changed(keyNamed("x"))
	b.until("the stop signal", func() bool { return len(b.kills()) == 1 })
	b.exit(0)
	b.until("nothing is offered", func() bool {
		s := b.source.last()
		return s.PID != 0 && meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionRecompileAvailable) == nil
	})
}
