// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// everyInput calls f with each combination of the source's answers, of records that a dead agent
// may have left, and of the supervisor's answers.
func everyInput(bundles []*v1alpha1.OCIBundle, f func(in Input)) {
	var records []*Record
	for _, state := range []runState{stateNone, stateStarting, stateRunning, stateEnded} {
		for _, hash := range []string{"same", "other"} {
			for _, st := range []*stop{
				nil,
				{},
				{Deadline: instant.Add(time.Minute), Sent: true},
				{Deadline: instant, Sent: true},
			} {
				for _, exit := range []*corev1.ContainerStateTerminated{nil, {}, {ExitCode: 1}} {
					for _, err := range []error{nil, errors.New("cut off")} {
						records = append(records, &Record{
							ID: "x", Hash: hash, State: state, Stop: st,
							run: run{Exit: exit}, unreadable: err,
						})
					}
				}
			}
		}
	}
	failedStart := actual(protocol.Stopped)
	failedStart.StartedAt = time.Time{}
	states := []*protocol.Status{
		nil, actual(protocol.Creating), actual(protocol.Created), actual(protocol.Running),
		kills(actual(protocol.Running), 1), actual(protocol.Stopped), failedStart,
	}
	for _, b := range bundles {
		for _, synced := range []bool{false, true} {
			in := Input{Now: now, Instant: instant, Synced: synced, Desired: b, Hash: "same"}
			f(in)
			for _, r := range records {
				for _, st := range states {
					one := *r
					in.Record, in.Actual = &one, nil
					if st != nil {
						known := *st
						in.Actual = &known
					}
					f(in)
				}
			}
		}
	}
}

func describe(in Input) string {
	s := fmt.Sprintf("synced %v, wanted %v", in.Synced, in.wanted())
	if r := in.Record; r != nil {
		s += fmt.Sprintf(", record %s of %s, stop %+v, exit %+v, unreadable %v", r.State, r.Hash, r.Stop,
			r.Exit, r.unreadable)
	}
	if in.Actual != nil {
		s += ", the supervisor has it " + string(in.Actual.State)
	}
	return s
}

// TestUnwantedIsRemoved follows the decisions for a container that nobody wants, from every state:
// they end in its removal, start nothing, and kill nothing before the grace period is over.
func TestUnwantedIsRemoved(t *testing.T) {
	leaktest.Check(t)
	everyInput([]*v1alpha1.OCIBundle{deleted(), nil}, func(in Input) {
		if in.Desired == nil && !in.Synced {
			if d := Policies().Decide(in); d.Verb != Nothing {
				t.Fatalf("%s: found %s; want nothing while the source is not read", describe(in), d.Verb)
			}
			return
		}
		from, way := describe(in), []string{}
		for range 12 {
			d := Policies().Decide(in)
			way = append(way, d.Policy+":"+string(d.Verb))
			switch d.Verb {
			case Remove:
				if in.alive() {
					t.Fatalf("%s: removed while there is a process: %v", from, way)
				}
				return
			case NoteRunning:
				in.Record.State = stateRunning
			case NoteKills:
				in.Record.OOMKills = in.Actual.OOMKills
			case NoteExit, NoteLost:
				in.Record.State, in.Record.Exit = stateEnded, &corev1.ContainerStateTerminated{}
			case Discard:
				in.Record.State, in.Actual, in.RootfsLeft = stateNone, nil, false
			case Stop:
				in.Record.Stop = &stop{Deadline: in.Instant.Add(time.Minute), Sent: true}
			case Kill:
				if remaining(in.Record.Stop.Deadline, in.Instant) > 0 {
					t.Fatalf("%s: killed before the grace period was over: %v", from, way)
				}
				in.Actual.State = protocol.Stopped
			case Nothing:
				if d.After == 0 {
					t.Fatalf("%s: waits for ever: %v", from, way)
				}
				in.Instant = in.Instant.Add(d.After)
			default:
				t.Fatalf("%s: found %v", from, way)
			}
		}
		t.Fatalf("%s: never removed: %v", from, way)
	})
}

// TestRunningIsNotLost has a container that is wanted and runs: whatever else is known, no decision
// makes another beside it, or removes it without a stop signal. A policy decides in every state.
func TestRunningIsNotLost(t *testing.T) {
	leaktest.Check(t)
	told := desired(corev1.RestartPolicyAlways)
	told.Annotations = map[string]string{source.AnnotationStopped: "x"}
	again := desired(corev1.RestartPolicyAlways)
	again.Annotations = map[string]string{source.AnnotationRestart: "x"}
	everyInput([]*v1alpha1.OCIBundle{
		desired(corev1.RestartPolicyAlways), desired(corev1.RestartPolicyOnFailure),
		desired(corev1.RestartPolicyNever), told, again,
	}, func(in Input) {
		d := Policies().Decide(in)
		if d.Policy == "" {
			t.Errorf("%s: no policy decides", describe(in))
		}
		mistaken := in.Actual != nil && in.Actual.State == protocol.Created && in.Record != nil &&
			in.Record.State == stateRunning // a new supervisor whose handler did not answer
		if in.Actual == nil || in.Actual.State != protocol.Running && !mistaken {
			return
		}
		if mistaken && d.Verb == Start {
			return
		}
		switch d.Verb {
		case Make, Start, Discard, Remove, NoteLost, NoteExit:
			t.Errorf("%s: found %s by %s", describe(in), d.Verb, d.Policy)
		case Kill:
			if s := in.Record.Stop; s == nil || !s.Sent || remaining(s.Deadline, in.Instant) > 0 {
				t.Errorf("%s: killed before a grace period was over", describe(in))
			}
		}
	})
}
