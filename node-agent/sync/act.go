// SPDX-License-Identifier: Apache-2.0

package sync

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/supervisor"
)

// act does what was decided. An error is the node's or the supervisor's, and the same is tried again soon; what is wrong with the
// container itself goes into the record.
func (s *Syncer) act(ctx context.Context, w *worker, in Input, d Decision) error {
	switch d.Verb {
	case Nothing:
		return nil
	case Make:
		return s.make(ctx, w, in)
	case NoteRunning:
		return s.update(in.Record, func(r *Record) { noteRunning(r, in.Actual) })
	case NoteExit:
		return s.update(in.Record, func(r *Record) { noteEnd(r, terminated(in.Actual, s.Clock.Now())) })
	case NoteLost:
		return s.update(in.Record, func(r *Record) {
			noteEnd(r, &corev1.ContainerStateTerminated{
				ExitCode: exitUnknown, Reason: "ContainerStatusUnknown", Message: d.Why,
				StartedAt: metav1.NewTime(r.StartedAt), FinishedAt: metav1.NewTime(s.Clock.Now()),
			})
		})
	case Discard:
		if err := s.discard(ctx, in.Record); err != nil {
			return err
		}
		if in.Record.State == stateStarting {
			return s.update(in.Record, (*Record).interrupted)
		}
		return nil
	case Stop:
		return s.stop(ctx, in, d)
	case Kill:
		return ignoreGone(s.Supervisor.Kill(ctx, in.Record.ID, "KILL", true))
	case Remove:
		return s.remove(ctx, w, in)
	}
	return fmt.Errorf("unknown verb %q", d.Verb)
}

// update changes a record on disk and, once that is done, in memory.
func (s *Syncer) update(r *Record, change func(*Record)) error {
	next := *r
	change(&next)
	dir := s.Bundles.Dir(r.ID)
	if err := dir.Make(); err != nil {
		return err
	}
	if err := next.write(dir); err != nil {
		return err
	}
	*r = next
	return nil
}

func noteRunning(r *Record, st *supervisor.Status) {
	r.State, r.PID, r.StartedAt = stateRunning, st.PID, st.StartedAt
	r.Before, r.Failure, r.Exit = nil, nil, nil
}

func noteEnd(r *Record, end *corev1.ContainerStateTerminated) {
	end.ContainerID = containerURL(r.ID)
	r.State, r.PID, r.Exit, r.Before, r.Failure = stateEnded, 0, end, nil, nil
	if r.Stop != nil {
		return // it was told to end: that is no crash
	}
	r.BackOff = r.BackOff.afterExit(end.FinishedAt.Sub(end.StartedAt.Time), end.FinishedAt.Time)
}

// exitUnknown is the exit code that stands for one that nobody can know any more, as the kubelet has it.
const exitUnknown = 137

func terminated(st *supervisor.Status, now time.Time) *corev1.ContainerStateTerminated {
	t := &corev1.ContainerStateTerminated{
		StartedAt: metav1.NewTime(st.StartedAt), FinishedAt: metav1.NewTime(st.FinishedAt), Signal: int32(st.Signal), Message: st.Reason,
	}
	if st.FinishedAt.IsZero() {
		t.FinishedAt = metav1.NewTime(now)
	}
	switch {
	case st.ExitCode == nil:
		t.ExitCode, t.Reason = exitUnknown, "ContainerStatusUnknown"
	case st.OOMKilled:
		t.ExitCode, t.Reason = int32(*st.ExitCode), v1alpha1.ReasonOOMKilled
	case *st.ExitCode == 0:
		t.Reason = v1alpha1.ReasonCompleted
	default:
		t.ExitCode, t.Reason = int32(*st.ExitCode), "Error"
	}
	return t
}

func containerURL(id string) string { return "berth://" + id }

// discard removes the container and its root filesystem. The supervisor forgets it last, so that a discard which was cut off is found
// to be undone.
func (s *Syncer) discard(ctx context.Context, r *Record) error {
	// With force: what has not been started, or has ended, has nothing to lose.
	if err := ignoreGone(s.Supervisor.Delete(ctx, r.ID, true)); err != nil {
		return fmt.Errorf("delete container: %w", err)
	}
	return s.Bundles.Dir(r.ID).UnmountRootfs()
}

func ignoreGone(err error) error {
	if errors.Is(err, supervisor.ErrNotExist) || errors.Is(err, supervisor.ErrNotRunning) {
		return nil
	}
	return err
}

func (s *Syncer) stop(ctx context.Context, in Input, d Decision) error {
	grace := time.Duration(in.Record.GraceSeconds) * time.Second
	if in.Desired != nil {
		grace = time.Duration(in.Desired.Spec.TerminationGracePeriodSeconds) * time.Second
		if g := in.Desired.DeletionGracePeriodSeconds; g != nil && in.Desired.DeletionTimestamp != nil && *g > 0 {
			grace = min(grace, time.Duration(*g)*time.Second)
		}
	}
	// The deadline is written first: an agent that dies after the signal must not begin the grace period afresh.
	if err := s.update(in.Record, func(r *Record) { r.Stop = &stop{Deadline: s.Clock.Now().Add(grace), Why: d.Why} }); err != nil {
		return err
	}
	signal := in.Record.StopSignal
	if signal == "" {
		signal = "TERM"
	}
	return ignoreGone(s.Supervisor.Kill(ctx, in.Record.ID, signal, false))
}

// remove removes everything of a container whose process is gone, and then says so. Each step may be repeated.
func (s *Syncer) remove(ctx context.Context, w *worker, in Input) error {
	if r := in.Record; r != nil {
		if err := s.discard(ctx, r); err != nil {
			return err
		}
		if r.UID != "" {
			if err := os.RemoveAll(s.logDir(r)); err != nil {
				return fmt.Errorf("remove logs: %w", err)
			}
		}
		// The record goes with the folder, last.
		if err := s.Bundles.Dir(r.ID).Remove(); err != nil {
			return err
		}
		if r.UID == "" {
			return nil
		}
		if err := s.Source.Release(ctx, w.key, r.UID); err != nil {
			return fmt.Errorf("release: %w", err)
		}
		w.told = nil
	} else if in.Desired != nil {
		if err := s.Source.Release(ctx, w.key, in.Desired.UID); err != nil {
			return fmt.Errorf("release: %w", err)
		}
		w.told = nil
	}
	return nil
}

func (s *Syncer) logDir(r *Record) string { return filepath.Join(s.LogDir, LogDirName(r.Key, r.UID)) }

// keptLogs is how many runs' log files are kept: this one's and the last one's, as the kubelet keeps them.
const keptLogs = 2

// dropLogs removes the log files of all runs before the last one. N.log and its rotated N.log.1, N.log.2 … are one run's.
func (s *Syncer) dropLogs(r *Record) error {
	entries, err := os.ReadDir(s.logDir(r))
	if err != nil {
		return err
	}
	for _, e := range entries {
		number, _, ok := strings.Cut(e.Name(), ".log")
		n, err := strconv.ParseInt(number, 10, 32)
		if ok && err == nil && int32(n) <= r.Restarts-keptLogs {
			if err := os.Remove(filepath.Join(s.logDir(r), e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
