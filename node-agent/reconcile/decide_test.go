// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"encoding/json"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/oci/change"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/containerid"
	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/boottime"
	"github.com/berth-run/berth/node-agent/lifecycle"
	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

var (
	now     = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	instant = boottime.Instant{Boot: "this", Since: time.Hour}
)

func desired(policy corev1.RestartPolicy) *v1alpha1.OCIBundle {
	b := &v1alpha1.OCIBundle{}
	b.Name, b.UID, b.Generation = "x", "u", 1
	b.Spec.RestartPolicy = policy
	return b
}

func deleted() *v1alpha1.OCIBundle {
	b := desired(corev1.RestartPolicyAlways)
	b.DeletionTimestamp = &metav1.Time{Time: now}
	return b
}

func record(state runState, change ...func(*Record)) *Record {
	r := &Record{ID: "x", Hash: "same", State: state}
	for _, c := range change {
		c(r)
	}
	return r
}

func launched(boot string) func(*Record) {
	return func(r *Record) { r.Launch = boottime.Instant{Boot: boot, Since: time.Minute} }
}

func exited(code int32) func(*Record) {
	return func(r *Record) { r.Exit = &corev1.ContainerStateTerminated{ExitCode: code} }
}

func actual(state protocol.State) *protocol.Status {
	st := &protocol.Status{ID: "x", State: state}
	if state == protocol.Running || state == protocol.Stopped {
		st.StartedAt = now.Add(-time.Minute)
	}
	return st
}

func kills(st *protocol.Status, n uint64) *protocol.Status {
	st.OOMKills = n
	return st
}

func TestDecide(t *testing.T) {
	leaktest.Check(t)
	always, never, onFailure := desired(corev1.RestartPolicyAlways),
		desired(corev1.RestartPolicyNever), desired(corev1.RestartPolicyOnFailure)
	waiting := func(d time.Duration) func(*Record) {
		return func(r *Record) { r.BackOff = backOff{Until: instant.Add(d), Waits: d} }
	}
	told := func(d time.Duration) func(*Record) {
		return func(r *Record) { r.Stop = &stop{Deadline: instant.Add(d), Sent: true} }
	}
	unsent := func(r *Record) { r.Stop.Sent = false }
	otherBoot := func(r *Record) {
		r.BackOff.Until.Boot = "another"
		if r.Stop != nil {
			r.Stop.Deadline.Boot = "another"
		}
	}
	other := func(r *Record) { r.Hash = "other" }
	restarted := func(r *Record) { r.Restart = "x" }
	annotated := func(name string) *v1alpha1.OCIBundle {
		b := desired(corev1.RestartPolicyAlways)
		b.Annotations = map[string]string{name: "x"}
		return b
	}
	failed := func(r *Record) { r.Failure = &failure{} }
	for name, tc := range map[string]struct {
		in     Input
		verb   Verb
		policy string
		after  time.Duration
	}{
		"source not read, nothing known": {in: Input{
			Record: record(stateRunning),
			Actual: actual(protocol.Running),
		}, verb: Nothing, policy: "NotKnownWhetherWanted"},
		"new": {
			in: Input{Desired: always}, verb: Make,
			policy: "MakeFirst",
		},
		"runs as it shall": {
			in: Input{
				Synced: true, Desired: always,
				Record: record(stateRunning), Actual: actual(protocol.Running),
			}, verb: Nothing,
			policy: "LeaveRunning",
		},
		"runs, and its program is to be told of new files": {
			in: Input{
				Synced: true, Desired: always, Stale: true, Untold: "sha256:x",
				Record: record(stateRunning), Actual: actual(protocol.Running),
			}, verb: Refresh,
			policy: "RefreshStale",
		},
		"runs, has new files, and its program is to be told of them": {
			in: Input{
				Synced: true, Desired: always, Untold: "sha256:x",
				Record: record(stateRunning), Actual: actual(protocol.Running),
			}, verb: Signal,
			policy: "SignalOutdated",
		},
		"is stopped, and is told of nothing more": {
			in: Input{
				Synced: true, Desired: always, Untold: "sha256:x",
				Record: record(stateRunning, told(time.Second)), Actual: actual(protocol.Running),
			}, verb: Nothing, policy: "FinishStopping", after: time.Second,
		},
		"runs with files of a source that has changed": {
			in: Input{
				Synced: true, Desired: always, Stale: true,
				Record: record(stateRunning), Actual: actual(protocol.Running),
			}, verb: Refresh,
			policy: "RefreshStale",
		},
		"runs, and is to be restarted for an object that has changed": {
			in: Input{
				Synced: true, Desired: always, Stale: true, Outdated: "a ConfigMap has changed",
				Record: record(stateRunning), Actual: actual(protocol.Running),
			}, verb: Stop,
			policy: "StopOutdated",
		},
		"is stopped, with files of a source that has changed": {
			in: Input{
				Synced: true, Desired: deleted(), Stale: true,
				Record: record(stateRunning), Actual: actual(protocol.Running),
			}, verb: Stop,
			policy: "StopUnwanted",
		},
		"runs, while the source is not read": {
			in: Input{
				Desired: always,
				Record:  record(stateRunning), Actual: actual(protocol.Running),
			}, verb: Nothing,
			policy: "LeaveRunning",
		},
		"started by an agent that was killed": {
			in: Input{
				Desired: always,
				Record:  record(stateStarting), Actual: actual(protocol.Running),
			}, verb: NoteRunning,
			policy: "AdoptRunning",
		},
		"created by an agent that was killed": {
			in: Input{
				Desired: always,
				Record:  record(stateStarting), Actual: actual(protocol.Created),
			}, verb: Start,
			policy: "StartMade",
		},
		"created for a spec that has changed": {
			in: Input{
				Desired: always,
				Record:  record(stateStarting, other), Actual: actual(protocol.Created),
			}, verb: Discard,
			policy: "DiscardHalfMade",
		},
		"created, and told to stop": {
			in: Input{
				Desired: annotated(source.AnnotationStopped), Record: record(stateStarting),
				Actual: actual(protocol.Created),
			}, verb: Discard, policy: "DiscardHalfMade",
		},
		"created, and nobody wants it": {in: Input{
			Synced: true, Record: record(stateStarting),
			Actual: actual(protocol.Created),
		}, verb: Discard, policy: "DiscardHalfMade"},
		"a new supervisor does not know that it runs": {in: Input{
			Desired: never, Record: record(stateRunning), Actual: actual(protocol.Created),
		}, verb: Start, policy: "StartMade"},
		"a new supervisor does not know that it runs, and it is deleted": {in: Input{
			Desired: deleted(), Record: record(stateRunning), Actual: actual(protocol.Created),
		}, verb: Stop, policy: "StopUnwanted"},
		"a new supervisor does not know that it runs, and it has changed": {in: Input{
			Desired: never, Record: record(stateRunning, other), Actual: actual(protocol.Created),
		}, verb: Stop, policy: "StopChanged"},
		"a new supervisor does not know that it runs, and it is being stopped": {in: Input{
			Desired: never, Record: record(stateRunning, told(time.Second)),
			Actual: actual(protocol.Created),
		}, verb: Nothing, after: time.Second, policy: "FinishStopping"},
		"a new supervisor does not know that it runs, and it was told to stop": {in: Input{
			Desired: annotated(source.AnnotationStopped), Record: record(stateRunning),
			Actual: actual(protocol.Created),
		}, verb: Stop, policy: "StopTold"},
		"a new supervisor does not know that it runs, and it was told to restart": {in: Input{
			Desired: annotated(source.AnnotationRestart), Record: record(stateRunning),
			Actual: actual(protocol.Created),
		}, verb: Stop, policy: "StopToRestart"},
		"a new supervisor does not know that it runs, and it is refused": {in: Input{
			Desired: never, Refused: "no", Record: record(stateRunning, other),
			Actual: actual(protocol.Created),
		}, verb: Nothing, policy: "LeaveRefused"},
		"stop signal not sent, time is over": {
			in: Input{
				Desired: deleted(),
				Record:  record(stateRunning, told(0), unsent), Actual: actual(protocol.Running),
			}, verb: Stop,
			policy: "StopUnwanted",
		},
		"forgotten, its root filesystem stays": {in: Input{Desired: never, Record: record(stateEnded,
			exited(0)), RootfsLeft: true}, verb: Discard, policy: "DiscardEnded"},
		"an agent was killed before it created": {in: Input{
			Desired: always,
			Record:  record(stateStarting),
		}, verb: Discard, policy: "DiscardHalfMade"},
		"power was lost before it could run": {in: Input{
			Desired: never,
			Record:  record(stateStarting),
		}, verb: Discard, policy: "DiscardHalfMade"},
		"power was lost when it may have run": {in: Input{
			Desired: never,
			Record:  record(stateStarting, launched("other")),
		}, verb: NoteLost, policy: "NoteLost"},
		"the agent was killed before the start": {in: Input{
			Desired: never,
			Record:  record(stateStarting, launched("this")),
		}, verb: Discard, policy: "DiscardHalfMade"},
		"ended while no agent ran": {
			in: Input{
				Desired: always,
				Record:  record(stateRunning), Actual: actual(protocol.Stopped),
			}, verb: NoteExit,
			policy: "NoteExit",
		},
		"started and ended while no agent looked": {
			in: Input{
				Desired: always,
				Record:  record(stateStarting), Actual: actual(protocol.Stopped),
			}, verb: NoteExit,
			policy: "NoteExit",
		},
		"a child was killed for lack of memory": {
			in: Input{
				Desired: always,
				Record:  record(stateRunning), Actual: kills(actual(protocol.Running), 2),
			}, verb: NoteKills,
			policy: "NoteKills",
		},
		"that is noted": {in: Input{Desired: always, Record: record(stateRunning, func(r *Record) {
			r.OOMKills = 2
		}), Actual: kills(actual(protocol.Running), 2)}, verb: Nothing, policy: "LeaveRunning"},
		"the node was booted": {in: Input{
			Desired: always,
			Record:  record(stateRunning),
		}, verb: NoteLost, policy: "NoteLost"},
		"its end is noted": {in: Input{Desired: always, Record: record(stateEnded,
			exited(1)), Actual: actual(protocol.Stopped)}, verb: Discard, policy: "DiscardEnded"},
		"Always restarts after 0": {in: Input{Desired: always, Record: record(stateEnded,
			exited(0))}, verb: Make, policy: "MakeAgain"},
		"Never does not restart after 1": {in: Input{Desired: never, Record: record(stateEnded,
			exited(1))}, verb: Nothing, policy: "LeaveFinished"},
		"OnFailure does not restart after 0": {in: Input{
			Desired: onFailure,
			Record:  record(stateEnded, exited(0)),
		}, verb: Nothing, policy: "LeaveFinished"},
		"OnFailure restarts after 1": {in: Input{
			Desired: onFailure,
			Record:  record(stateEnded, exited(1)),
		}, verb: Make, policy: "MakeAgain"},
		"back-off": {in: Input{Desired: always, Record: record(stateEnded,
			exited(1), waiting(time.Second))}, verb: Nothing, policy: "WaitBackOff", after: time.Second},
		"back-off is over": {in: Input{Desired: always, Record: record(stateEnded,
			exited(1), waiting(0))}, verb: Make, policy: "MakeAgain"},
		"back-off of another boot": {in: Input{Desired: always, Record: record(stateEnded,
			exited(1), waiting(time.Hour), otherBoot)}, verb: Make, policy: "MakeAgain"},
		"grace period of another boot": {
			in: Input{
				Desired: deleted(),
				Record:  record(stateRunning, told(time.Hour), otherBoot), Actual: actual(protocol.Running),
			},
			verb: Kill, policy: "StopUnwanted", after: killAgain,
		},
		"could not be made, whatever the policy": {in: Input{Desired: never, Record: record(stateNone,
			failed)}, verb: Make, policy: "MakeAgain"},
		"could not be made again after an end": {
			in: Input{Desired: never, Record: record(stateEnded,
				exited(1), failed, waiting(time.Second))}, verb: Nothing, policy: "WaitBackOff",
			after: time.Second,
		},
		"changed, runs": {in: Input{Desired: always, Record: record(stateRunning,
			other), Actual: actual(protocol.Running)}, verb: Stop, policy: "StopChanged"},
		"changed, told to stop": {
			in: Input{Desired: always, Record: record(stateRunning,
				other, told(time.Second)), Actual: actual(protocol.Running)}, verb: Nothing,
			policy: "FinishStopping", after: time.Second,
		},
		"changed, does not stop": {
			in: Input{Desired: always, Record: record(stateRunning,
				other, told(0)), Actual: actual(protocol.Running)}, verb: Kill, policy: "FinishStopping",
			after: killAgain,
		},
		"changed, has stopped": {in: Input{Desired: never, Record: record(stateEnded,
			other, told(0), exited(143))}, verb: Make, policy: "MakeChanged"},
		"changed and changed back, runs": {
			in: Input{Desired: always, Record: record(stateRunning,
				told(time.Second)), Actual: actual(protocol.Running)}, verb: Nothing, policy: "FinishStopping",
			after: time.Second,
		},
		"changed and changed back, has stopped": {in: Input{Desired: never, Record: record(stateEnded,
			told(0), exited(143))}, verb: Make, policy: "MakeAfterOwnStop"},
		"changed while it backs off": {in: Input{Desired: always, Record: record(stateNone,
			other, failed, waiting(time.Hour))}, verb: Make, policy: "MakeChanged"},
		"told to stop, runs": {in: Input{
			Desired: annotated(source.AnnotationStopped),
			Record:  record(stateRunning), Actual: actual(protocol.Running),
		}, verb: Stop, policy: "StopTold"},
		"told to stop, has been signalled": {
			in: Input{
				Desired: annotated(source.AnnotationStopped),
				Record:  record(stateRunning, told(time.Second)), Actual: actual(protocol.Running),
			},
			verb: Nothing, policy: "FinishStopping", after: time.Second,
		},
		"told to stop, has ended": {in: Input{
			Desired: annotated(source.AnnotationStopped),
			Record:  record(stateEnded, told(0), exited(143)),
		}, verb: Nothing, policy: "LeaveStopped"},
		"told to stop, changed": {in: Input{
			Desired: annotated(source.AnnotationStopped),
			Record:  record(stateEnded, told(0), exited(143), other),
		}, verb: Nothing, policy: "LeaveStopped"},
		"told to stop, never made": {
			in:   Input{Desired: annotated(source.AnnotationStopped)},
			verb: Nothing, policy: "LeaveStopped",
		},
		"told to stop while it backs off": {in: Input{
			Desired: annotated(source.AnnotationStopped),
			Record:  record(stateEnded, exited(1), waiting(0)),
		}, verb: Nothing, policy: "LeaveStopped"},
		"told to restart, runs": {
			in: Input{
				Desired: annotated(source.AnnotationRestart),
				Record:  record(stateRunning), Actual: actual(protocol.Running),
			}, verb: Stop,
			policy: "StopToRestart",
		},
		"told to restart, has stopped": {
			in: Input{
				Desired: annotated(source.AnnotationRestart),
				Record:  record(stateEnded, told(0), exited(143), waiting(time.Hour)),
			}, verb: Make,
			policy: "MakeTold",
		},
		"told to restart, was": {
			in: Input{
				Desired: annotated(source.AnnotationRestart),
				Record:  record(stateRunning, restarted), Actual: actual(protocol.Running),
			}, verb: Nothing,
			policy: "LeaveRunning",
		},
		"told to start while it backs off": {in: Input{
			Desired: annotated(source.AnnotationRestart),
			Record:  record(stateEnded, exited(1), waiting(time.Hour)),
		}, verb: Make, policy: "MakeTold"},
		"told to start, failed and backs off": {
			in: Input{
				Desired: annotated(source.AnnotationRestart),
				Record:  record(stateNone, failed, restarted, waiting(time.Second)),
			}, verb: Nothing,
			policy: "WaitBackOff", after: time.Second,
		},
		"told to start, deleted": {in: Input{Desired: func() *v1alpha1.OCIBundle {
			b := deleted()
			b.Annotations = annotated(source.AnnotationRestart).Annotations
			return b
		}(), Record: record(stateEnded, exited(0))}, verb: Remove, policy: "RemoveUnwanted"},
		"nobody wants it, runs": {in: Input{
			Synced: true, Record: record(stateRunning),
			Actual: actual(protocol.Running),
		}, verb: Stop, policy: "StopUnwanted"},
		"deleted, runs": {in: Input{
			Desired: deleted(), Record: record(stateRunning),
			Actual: actual(protocol.Running),
		}, verb: Stop, policy: "StopUnwanted"},
		"deleted, told to stop": {
			in: Input{Desired: deleted(), Record: record(stateRunning,
				told(time.Second)), Actual: actual(protocol.Running)}, verb: Nothing, policy: "StopUnwanted",
			after: time.Second,
		},
		"deleted, does not stop": {
			in: Input{Desired: deleted(), Record: record(stateRunning,
				told(0)), Actual: actual(protocol.Running)}, verb: Kill, policy: "StopUnwanted",
			after: killAgain,
		},
		"deleted, has ended": {in: Input{Desired: deleted(), Record: record(stateEnded,
			exited(0)), Actual: actual(protocol.Stopped)}, verb: Remove, policy: "RemoveUnwanted"},
		"deleted before it was made": {
			in: Input{Desired: deleted()}, verb: Remove,
			policy: "RemoveUnwanted",
		},
	} {
		t.Run(name, func(t *testing.T) {
			tc.in.Now, tc.in.Instant, tc.in.Hash = now, instant, "same"
			d := Policies().Decide(tc.in)
			if d.Verb != tc.verb || d.Policy != tc.policy || d.After != tc.after {
				t.Errorf("found %s by %s after %v; want %s by %s after %v", d.Verb, d.Policy, d.After, tc.verb,
					tc.policy, tc.after)
			}
		})
	}
}

func TestBackOff(t *testing.T) {
	leaktest.Check(t)
	var b backOff
	end := instant
	for i, want := range []time.Duration{0, 10, 20, 40, 80, 160, 300, 300} {
		b = b.afterExit(defaultBackOff(), time.Second, end)
		if got := b.left(defaultBackOff(), end); got != want*time.Second {
			t.Fatalf("restart %d: found %s; want %d s", i, got, want)
		}
		end = b.Until.Add(time.Second)
	}
	if b = b.afterExit(defaultBackOff(), 10*time.Minute, end); b.left(defaultBackOff(), end) != 0 {
		t.Errorf("after 10 min of running: found %s; want none", b.left(defaultBackOff(), end))
	}
	// A record of an agent that knew one pair of limits goes on where it was.
	err := json.Unmarshal([]byte(
		`{"delay":40000000000,"until":{"boot":"b","since":1},"waits":20000000000}`), &b)
	if err != nil || b.next(defaultBackOff()) != 40*time.Second {
		t.Errorf("after a recorded wait of 20 s: found %s (%v); want 40 s", b.next(defaultBackOff()), err)
	}
	b = backOff{}
	for i, want := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
		b = b.afterFailure(defaultBackOff(), end)
		if got := b.left(defaultBackOff(), end); got != want*time.Second {
			t.Fatalf("failure %d: found %s; want %d s", i, got, want)
		}
	}
}

func TestContainerID(t *testing.T) {
	leaktest.Check(t)
	long := ""
	for range 253 {
		long += "a"
	}
	for _, name := range []string{"x", "a.b-c", long, long[:252] + "b"} {
		id := lifecycle.ContainerID(keyNamed(name), "0123456789abcdef")
		if err := containerid.CheckSupervised(id); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		n := len(lifecycle.LogDirName(keyNamed(name), "01234567-0123-0123-0123-0123456789ab"))
		if n > 255 {
			t.Errorf("%s: found %d bytes of name of the logs' directory", name, n)
		}
	}
	if got := lifecycle.ContainerID(keyNamed("x"), "0123456789abcdef"); got != "default_x_01234567" {
		t.Errorf("found %q", got)
	}
	if lifecycle.ContainerID(keyNamed(long), "u") == lifecycle.ContainerID(keyNamed(long[:252]+
		"b"), "u") {
		t.Error("two names have one id")
	}
}

// TestTakesDefaults: a container has the agent's defaults of the time when it was first started with
// its spec. New limits alone do not give it those of today, whether it runs or not.
func TestTakesDefaults(t *testing.T) {
	leaktest.Check(t)
	const limit = "config.linux.resources.memory.limit"
	bundle := desired(corev1.RestartPolicyAlways)
	interrupted := func(r *Record) { r.Hash, r.Interrupted = "", "new" }
	for name, tc := range map[string]struct {
		in   Input
		want bool
	}{
		"first":                      {Input{}, true},
		"a restart":                  {Input{Record: record(stateEnded), Hash: "same"}, false},
		"another spec":               {Input{Record: record(stateEnded), Hash: "new", Running: bundle, Change: change.Set{Kind: change.Replace}}, true},
		"another spec than is known": {Input{Record: record(stateEnded), Hash: "new"}, true},
		"an interrupted start":       {Input{Record: record(stateEnded, interrupted), Hash: "new"}, false},
		"limits": {Input{
			Record: record(stateEnded), Hash: "new", Running: bundle,
			Change: change.Set{Kind: change.Live, Fields: []change.Field{{Path: limit, Kind: change.Live}}},
		}, false},
	} {
		tc.in.Desired = bundle
		if got := tc.in.takesDefaults(); got != tc.want {
			t.Errorf("%s: found %v; want %v", name, got, tc.want)
		}
		if name == "limits" && !tc.in.changed() {
			t.Errorf("%s: the container is not made anew", name)
		}
	}
}
