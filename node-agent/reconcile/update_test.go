// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
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
		config["linux"] = json.RawMessage(`{"namespaces":[{"type":"mount"},{"type":"pid"}],"resources":` +
			resources + `}`)
		o.Spec.Config.Raw, _ = json.Marshal(config)
		o.Generation++
		o.Spec.CompiledGeneration = o.Generation
		for _, f := range more {
			f(o)
		}
	})
	b.syncer.Changed(keyNamed("x"))
}

// keepLogs returns an edit that limits the container's log to a number of files; 0 removes the
// limits.
func keepLogs(files int32) func(*v1alpha1.OCIBundle) {
	return func(o *v1alpha1.OCIBundle) {
		o.Spec.Logging = nil
		if files > 0 {
			o.Spec.Logging = &v1alpha1.Logging{MaxSize: new(resource.MustParse("64Ki")), MaxFiles: &files}
		}
	}
}

// setLogs is keepLogs in a new generation.
func (b *bench) setLogs(files int32) {
	b.set(func(o *v1alpha1.OCIBundle) {
		keepLogs(files)(o)
		o.Generation++
		o.Spec.CompiledGeneration = o.Generation
	})
	b.syncer.Changed(keyNamed("x"))
}

// updates returns the limits that the supervisor was asked to set: that of pids with the one
// before, and those of the log as files*bytes.
func (b *bench) updates() []string {
	b.super.mu.Lock()
	defer b.super.mu.Unlock()
	var out []string
	for _, u := range b.super.updates {
		var words []string
		if u.To != nil {
			to, _ := json.Marshal(u.To.Pids.Limit)
			before, _ := json.Marshal(u.Before.Pids.Limit)
			words = append(words, string(before)+">"+string(to))
		}
		if u.Log != nil {
			words = append(words, fmt.Sprintf("%d*%d", u.Log.MaxFiles, u.Log.MaxBytes))
		}
		out = append(out, strings.Join(words, ","))
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
		return strings.Join(got, " ") == strings.Join(want, " ") &&
			b.source.last().ObservedGeneration == generation
	})
}

// assertOneRun asserts that the container was started once and never stopped, and is reported as
// accepted or not.
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
	if r := b.record(); r.Made != 3 || r.Generation != 3 || r.Compiled != 3 || len(r.Updating) > 0 ||
		r.Refusal != nil {
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

// TestLiveChangesOfTheLog: the limits of the log of a running container are changed without a
// restart, alone or with others, and back to the node's. If one of the others is refused, neither
// they nor the back-off of the same edit hold.
func TestLiveChangesOfTheLog(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	b.setLogs(3)
	b.untilUpdates("3*65536")
	b.setPids("20", keepLogs(4))
	b.untilUpdates("3*65536", "-1>20,4*65536")
	b.stop()
	b.run() // the next agent has nothing to do
	b.look()
	b.setLogs(0)
	b.untilUpdates("3*65536", "-1>20,4*65536", "5*10485760")
	b.assertOneRun(true)

	b.super.mu.Lock()
	b.super.refuses = "update x: linux.resources.pids.limit: the test refuses it"
	b.super.mu.Unlock()
	b.setPids("30", keepLogs(2), func(o *v1alpha1.OCIBundle) {
		o.Spec.RestartBackOff = &v1alpha1.RestartBackOff{
			InitialSeconds: new(int32(1)),
			MaxSeconds:     new(int32(1)),
		}
	})
	b.untilUpdates("3*65536", "-1>20,4*65536", "5*10485760", "20>30,2*65536")
	b.assertOneRun(false)
	if running := readBundle(b.bundles.Dir(oldID), runningFile); running == nil ||
		running.Spec.Logging != nil || running.Spec.RestartBackOff != nil {
		t.Errorf("it goes on as %+v", running)
	}
	b.super.mu.Lock()
	b.super.refuses = ""
	b.super.mu.Unlock()
	b.setPids("20", keepLogs(0))
	b.look()
	b.assertOneRun(true)
	if got := b.updates(); len(got) != 4 {
		t.Errorf("found the updates %v after the edit was taken back", got)
	}
}

// TestLogOfACrashLoop: an edit of the limits of the log neither ends the wait for the next start
// nor makes the one after it shorter.
func TestLogOfACrashLoop(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	b.exit(1) // at once
	b.runs(2)
	b.exit(1)
	b.untilBackOff(10 * time.Second)
	b.setLogs(3)
	b.look()
	b.clock.Step(9 * time.Second)
	b.look()
	b.wantStarts(2)
	b.clock.Step(time.Second)
	b.runs(3)
	if got := b.super.log; got != (protocol.LogLimits{MaxBytes: 64 << 10, MaxFiles: 3}) {
		t.Errorf("it was created with %+v", got)
	}
	if got := b.updates(); len(got) > 0 {
		t.Errorf("found the updates %v", got)
	}
	b.exit(1)
	b.untilBackOff(20 * time.Second)
}

// TestLogOfAFinishedJob: an edit of the limits of its log does not run a job again, nor does the
// next agent.
func TestLogOfAFinishedJob(t *testing.T) {
	b := newBench(t, func(o *v1alpha1.OCIBundle) {
		o.Spec.RestartPolicy = corev1.RestartPolicyNever
		o.Spec.CompiledGeneration = 1
	})
	b.runs(1)
	b.exit(1)
	b.until("its end", func() bool { return b.source.last().Phase == v1alpha1.ContainerFailed })
	b.setLogs(3)
	b.look()
	b.stop()
	b.run()
	b.look()
	b.wantStarts(1)
	if s := b.source.last(); s.Phase != v1alpha1.ContainerFailed || s.ObservedGeneration != 2 {
		t.Errorf("found the phase %s at generation %d", s.Phase, s.ObservedGeneration)
	}
}

// TestRefusedLiveChange: the container goes on as it was, in all that the refused generation says,
// and the agent tries again.
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
	if accepted.Reason != v1alpha1.ReasonUpdateRefused || !strings.HasPrefix(accepted.Message,
		"config.linux.resources.pids.limit: the test refuses it") {
		t.Errorf("Accepted is %+v", accepted)
	}
	// Neither looking nor another agent tries again before the time.
	b.look()
	b.stop()
	b.source.mu.Lock()
	b.source.reports = nil
	b.source.bundle = b.source.bundle.DeepCopy()
	b.source.bundle.Status = v1alpha1.OCIBundleStatus{} // as a directory knows it after a start
	b.source.mu.Unlock()
	b.run()
	b.look()
	b.untilUpdates("-1>20")
	b.assertOneRun(false)
	b.clock.Step(defaultBackOff().first)
	b.untilUpdates("-1>20", "-1>20")
	// The refused part is not there for a stop, either.
	b.until("the record of that", func() bool {
		r := b.record()
		return r.Refusal != nil && r.Refusal.BackOff.Waits == 2*defaultBackOff().first &&
			len(r.Updating) == 0 && r.Made == 1
	})
	refuse("")
	b.until("the timer", b.waiting)
	b.clock.Step(2 * defaultBackOff().first)
	b.untilUpdates("-1>20", "-1>20", "-1>20")
	b.until("nothing is refused", func() bool {
		return meta.FindStatusCondition(b.source.last().Conditions, v1alpha1.ConditionAccepted) == nil
	})
	b.assertOneRun(true)
	if r := b.record(); r.Made != 2 || r.Refusal != nil {
		t.Errorf("the record is %+v", r)
	}
}

// TestRefusedLiveChangeOfAJob: a job that ends with the limits of before is not run again for those
// that were refused. One that runs always is started again with them.
func TestRefusedLiveChangeOfAJob(t *testing.T) {
	for policy, starts := range map[corev1.RestartPolicy]int{
		corev1.RestartPolicyNever:  1,
		corev1.RestartPolicyAlways: 2,
	} {
		t.Run(string(policy), func(t *testing.T) {
			b := newBench(t, func(o *v1alpha1.OCIBundle) {
				o.Spec.RestartPolicy = policy
				o.Spec.CompiledGeneration = 1
			})
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
			b.look()
			b.wantStarts(1)
		})
	}
}

// always has each update lost until hear is called: the answer, or with "drop" the request.
func always(what string) map[string][]string {
	return map[string][]string{"update": slices.Repeat([]string{what}, 1000)}
}

func (b *bench) hear() {
	b.super.mu.Lock()
	defer b.super.mu.Unlock()
	b.super.unsure = nil
}

// untilLost waits until an update was lost.
func (b *bench) untilLost() {
	b.Helper()
	b.until("an update that is lost", func() bool {
		b.super.mu.Lock()
		defer b.super.mu.Unlock()
		return len(b.super.unsure["update"]) < 1000
	})
}

// TestLiveChangeCutOff: an update whose outcome is not known is done again, by the same agent or
// the next, and is set back if the spec has been set back by then.
func TestLiveChangeCutOff(t *testing.T) {
	for _, tc := range []struct {
		name, lost string
		killed     bool   // the agent, after the update
		then       string // the limit that is desired by then
		last       string // update
	}{
		{name: "the request is lost", lost: "drop", last: "-1>20"},
		{name: "the answer is lost", lost: "lose", last: "-1>20"},
		{name: "the agent is killed", lost: "lose", killed: true, last: "-1>20"},
		{name: "it is taken back", lost: "lose", killed: true, then: "none", last: "-1>-1"},
		{name: "it is another one by then", lost: "lose", killed: true, then: "30", last: "-1>30"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newUnsureBench(t, always(tc.lost))
			b.runs(1)
			b.setPids("20")
			b.untilLost()
			if tc.killed {
				b.stop()
				if r := b.record(); len(r.Updating) != 1 || r.Made != 1 || r.Generation != 2 {
					t.Errorf("the record is %+v", r)
				}
				if tc.then != "" {
					b.setPids(strings.TrimPrefix(tc.then, "none"))
				}
			}
			lost := len(b.updates())
			b.hear()
			if tc.killed {
				b.run()
			}
			b.until("the record of an update", func() bool {
				b.clock.Step(time.Second)
				r := b.record()
				return len(r.Updating) == 0 && r.Made == r.Generation
			})
			got := b.updates()
			for i, u := range got {
				if want := map[bool]string{true: "-1>20", false: tc.last}[i < len(got)-1]; u != want {
					t.Errorf("update %d is %s; want %s", i, u, want)
				}
			}
			if tc.killed && len(got) != lost+1 {
				t.Errorf("found %d updates after %d that were lost; want 1", len(got)-lost, lost)
			}
			b.assertOneRun(true)
		})
	}
}

// TestLiveChangeKilledAtEachStep starts an agent on what another one has left that was killed
// between two writes of an update. The container and its log have their new limits in the end, and
// runs on; running.json never stands for what it is not.
func TestLiveChangeKilledAtEachStep(t *testing.T) {
	b := newUnsureBench(t, always("lose"))
	b.runs(1)
	dir := b.bundles.Dir(oldID)
	read := func(name string) []byte {
		data, err := os.ReadFile(dir.File(name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return data
	}
	type files struct{ running, desired, record []byte }
	now := func() files { return files{read(runningFile), read(desiredFile), read(recordFile)} }
	b.stop()
	made := now()
	b.run()
	b.setPids("20", keepLogs(3))
	b.untilLost()
	b.stop()
	begun := now()
	var r map[string]json.RawMessage
	if err := json.Unmarshal(begun.record, &r); err != nil || r["updating"] == nil ||
		begun.running == nil {
		t.Fatalf("the record is %s (%v)", begun.record, err)
	}
	delete(r, "updating")
	accepted := begun
	accepted.record, _ = json.Marshal(r)
	b.hear()
	b.run()
	b.until("the update", func() bool { return b.record().Made == 2 })
	b.stop()
	done := now()
	if done.running != nil {
		t.Error("running.json is left")
	}

	for _, tc := range []struct {
		name    string
		left    files
		updates bool
	}{
		{"nothing is written", made, true},
		{"running.json is written", files{made.desired, made.desired, made.record}, true},
		{"desired.json is written", files{made.desired, begun.desired, made.record}, true},
		{"it is accepted", accepted, true},
		{"it has begun", begun, true},
		{"it is done", files{begun.running, done.desired, done.record}, false},
		{"running.json is removed", done, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b.T = t
			for name, data := range map[string][]byte{
				runningFile: tc.left.running,
				desiredFile: tc.left.desired, recordFile: tc.left.record,
			} {
				var err error
				if data == nil {
					if err = os.Remove(dir.File(name)); errors.Is(err, fs.ErrNotExist) {
						err = nil
					}
				} else {
					err = os.WriteFile(dir.File(name), data, 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			b.super.mu.Lock()
			b.super.updates = nil
			b.super.mu.Unlock()
			b.source.mu.Lock()
			b.source.reports = nil
			b.source.mu.Unlock()
			b.run()
			b.until("a report", func() bool { return b.source.last().ObservedGeneration == 2 })
			var want string
			if tc.updates {
				want = "-1>20,3*65536"
			}
			if got := strings.Join(b.updates(), " "); got != want {
				t.Errorf("found the updates %s; want %s", got, want)
			}
			b.assertOneRun(true)
			if r := b.record(); r.Made != 2 || r.Generation != 2 || len(r.Updating) > 0 {
				t.Errorf("the record is %+v", r)
			}
			// The next edit starts from what the container has.
			b.stop()
			b.setPids("30", keepLogs(4))
			b.run()
			b.untilUpdates(strings.TrimSpace(want + " 20>30,4*65536"))
			b.assertOneRun(true)
			b.stop()
			b.set(func(o *v1alpha1.OCIBundle) { o.Generation = 1 })
			b.setPids("20", keepLogs(3)) // in generation 2, as the files have it
		})
	}
}

// TestLiveChangeAfterAnUpgrade: a container of the first version, whose record has a hash and no
// more, is updated as any other.
func TestLiveChangeAfterAnUpgrade(t *testing.T) {
	leaktest.Check(t)
	b := newOldBench(t, "running")
	b.run()
	b.set(func(o *v1alpha1.OCIBundle) {
		resources := []byte(`"resources":{`)
		if !bytes.Contains(o.Spec.Config.Raw, resources) {
			t.Fatalf("found no resources in %s", o.Spec.Config.Raw)
		}
		o.Spec.Config.Raw = bytes.Replace(o.Spec.Config.Raw, resources,
			append(resources, []byte(`"pids":{"limit":20},`)...), 1)
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

// TestEditOfLimitsTakesNoNewerDefaults: an agent whose compiler has other defaults takes no more of
// an edit of the resources than a running container can be given.
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
		return meta.IsStatusConditionTrue(b.source.last().Conditions,
			v1alpha1.ConditionRecompileAvailable)
	})
	accepted := readDesired(b.bundles.Dir(oldID))
	if bytes.Contains(accepted.Spec.Config.Raw, []byte("the next version")) {
		t.Errorf("accepted %s", accepted.Spec.Config.Raw)
	}
	// Another program is compiled by this version.
	b.setPids("20", digests("3", "another program"), recompile)
	b.until("the stop signal", func() bool { return len(b.kills()) == 1 })
}

// TestNewerDefaultsAreOffered: the status names fields that the source compiles differently for the
// same generation.
func TestNewerDefaultsAreOffered(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	b.stop()
	b.set(recompile)
	b.run()
	b.until("the offer", func() bool {
		c := meta.FindStatusCondition(b.source.last().Conditions, v1alpha1.ConditionRecompileAvailable)
		return c != nil && c.Status == "True" && strings.Contains(c.Message,
			"config.annotations.compiled-by")
	})
	b.assertOneRun(true)
	b.set(func(o *v1alpha1.OCIBundle) { o.Generation++ })
	b.syncer.Changed(keyNamed("x"))
	b.until("the stop signal", func() bool { return len(b.kills()) == 1 })
	b.exit(0)
	b.until("nothing is offered", func() bool {
		s := b.source.last()
		return s.PID != 0 && meta.FindStatusCondition(s.Conditions,
			v1alpha1.ConditionRecompileAvailable) == nil
	})
}
