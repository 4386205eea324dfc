// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/boottime"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/lifecycle"
	"github.com/berth-run/berth/node-agent/network"
	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// act does what was decided. An error is the node's or the supervisor's, and the same is tried
// again soon, or it is a *lifecycle.Pending; what is wrong with the container itself goes into the
// record.
func (s *Syncer) act(ctx context.Context, w *worker, in *Input, d Decision) error {
	if r := in.Record; r != nil {
		s.take(w, r)
		if r.unwritten != nil && r.unreadable == nil {
			s.save(r)
		}
		if in.Elsewhere != (source.Key{}) {
			go s.Changed(in.Elsewhere) // takes it over once this worker is at rest
		}
	}
	switch d.Verb {
	case Nothing:
		return nil
	case TakeOver:
		s.takeOver(w, lifecycle.ContainerID(w.key, in.Desired.UID), in.Desired.UID)
		return nil
	case NoteDesired:
		s.note(in.Record, func(r *Record) { *r = *in.Next })
		return nil
	case Make:
		return s.make(ctx, w, in)
	case Update:
		return s.updateRunning(ctx, in)
	case Refresh:
		c := s.container(in.Record)
		c.Bundle = in.Desired
		return s.stages.Refresh(ctx, c)
	case Signal:
		return s.signal(ctx, in)
	case Start:
		return s.start(ctx, in)
	case NoteRunning:
		ips, dns := s.ips(in.Record), s.dnsNotice(in.Record)
		s.note(in.Record, func(r *Record) { noteRunning(r, in.Actual, ips, dns) })
		return nil
	case NoteKills:
		s.note(in.Record, func(r *Record) { r.OOMKills = in.Actual.OOMKills })
		return nil
	case NoteExit:
		ips := s.ips(in.Record) // that it runs may not have been noted
		s.note(in.Record, func(r *Record) {
			r.IPs = ips
			noteEnd(r, in, terminated(in.Actual, in.Now))
		})
		in.Record.flushed = s.Bundles.Journal().BeginFlush()
		return nil
	case NoteLost:
		s.note(in.Record, func(r *Record) {
			r.IPs = nil
			noteEnd(r, in, &corev1.ContainerStateTerminated{
				ExitCode: exitUnknown, Reason: "ContainerStatusUnknown", Message: d.Why,
				StartedAt: metav1.NewTime(r.StartedAt), FinishedAt: metav1.NewTime(in.Now),
			})
		})
		in.Record.flushed = s.Bundles.Journal().BeginFlush()
		return nil
	case Discard:
		if err := s.keepExit(ctx, in.Record); err != nil {
			return err
		}
		if err := s.stages.Release(ctx, s.container(in.Record), lifecycle.PerRun); err != nil {
			return err
		}
		if in.Record.State == stateStarting {
			s.note(in.Record, (*Record).interrupted)
		}
		return nil
	case Stop:
		return s.stop(ctx, *in, d)
	case Kill:
		return ignoreGone(s.Supervisor.Kill(ctx, in.Record.ID, "KILL", true))
	case Remove:
		return s.remove(ctx, w, *in)
	}
	return fmt.Errorf("unknown verb %q", d.Verb)
}

// update changes a record on disk and, once that is done, in memory. It is for what must not be
// begun without a record of it.
func (s *Syncer) update(r *Record, change func(*Record)) error {
	next := *r
	change(&next)
	if err := s.write(&next, bundle.Dir.Replace); err != nil {
		return err
	}
	*r = next
	return nil
}

// note changes a record in memory, and on disk if that can be written. It is for events, and for
// work that must be done even if it cannot be recorded: stopping and removing a container is what
// makes room on a full disk. What could not be written is tried again at each look.
func (s *Syncer) note(r *Record, change func(*Record)) {
	change(r)
	s.save(r)
}

// save writes a record that was changed in memory.
func (s *Syncer) save(r *Record) {
	before := r.unwritten
	r.unwritten = s.write(r, bundle.Dir.ReplaceReserved)
	if r.unwritten != nil && before == nil {
		s.Log.Error("cannot write down the state of a container; going on without", "id", r.ID, "error",
			r.unwritten)
	}
}

func (s *Syncer) write(r *Record, how replace) error {
	dir := s.Bundles.Dir(r.ID)
	if err := dir.Make(); err != nil {
		return err
	}
	// That a program runs is no more than Launch says, which was flushed before.
	soon := r.State != stateRunning || r.Stop != nil || r.unwrittenDesired != nil
	if r.unwrittenDesired != nil {
		if err := r.keepMade(dir); err != nil {
			return err
		}
		if err := writeDesired(dir, r.unwrittenDesired, how); err != nil {
			return err
		}
		r.unwrittenDesired = nil
	}
	if err := r.write(dir, how); err != nil {
		return err
	}
	r.unwritten, r.unreadable = nil, nil
	if soon {
		s.Bundles.Journal().FlushSoon()
	}
	return nil
}

// awaitFlush returns once the last end of the process survives a loss of power, so that it may be
// reported.
func (s *Syncer) awaitFlush(ctx context.Context, r *Record) error {
	if r == nil || r.flushed == nil {
		return nil
	}
	if err := r.flushed(ctx); err != nil {
		r.flushed = s.Bundles.Journal().BeginFlush() // tried again
		return err
	}
	r.flushed = nil
	return nil
}

// ips returns the addresses that the container has in its network.
func (s *Syncer) ips(r *Record) []corev1.PodIP {
	addresses, err := network.Addresses(s.Bundles.Dir(r.ID))
	if err != nil {
		s.Log.Error("cannot read the addresses of a container", "container", r.Key.String(), "error", err)
	}
	var out []corev1.PodIP
	for _, a := range addresses {
		out = append(out, corev1.PodIP{IP: a.String()})
	}
	return out
}

// dnsNotice returns the notice about resolv.conf that was written for the start of the container.
func (s *Syncer) dnsNotice(r *Record) *bundle.DNSNotice {
	notice, err := s.Bundles.Dir(r.ID).DNSNotice()
	if err != nil {
		s.Log.Error("cannot read a notice about resolv.conf", "container", r.Key.String(), "error", err)
	}
	return notice
}

func noteRunning(r *Record, st *protocol.Status, ips []corev1.PodIP, dns *bundle.DNSNotice) {
	r.IPs, r.DNS = ips, dns
	r.State, r.PID, r.StartedAt, r.Launch = stateRunning, st.PID, st.StartedAt, boottime.Instant{}
	r.Before, r.Failure, r.Exit = nil, nil, nil
}

// noteEnd notes the end of the process.
func noteEnd(r *Record, in *Input, end *corev1.ContainerStateTerminated) {
	st := in.Actual
	end.ContainerID = containerURL(r.ID)
	r.State, r.PID, r.Exit, r.Before, r.Failure, r.Launch = stateEnded, 0, end, nil, nil,
		boottime.Instant{}
	if st != nil {
		r.OOMKills = max(r.OOMKills, st.OOMKills)
	}
	if r.Stop != nil && r.Stop.Volume == "" {
		return // it was stopped: that is no crash
	}
	if r.Stop != nil {
		end.Reason, end.Message, r.Evicted = v1alpha1.ReasonEvicted, r.Stop.Why, r.Stop.Volume
	}
	ended, ran := in.Instant, end.FinishedAt.Sub(end.StartedAt.Time)
	if st != nil && !st.FinishedInstant.IsZero() {
		ended = st.FinishedInstant
		// A supervisor of an older version reports only times of the node's clock.
		if d, ok := st.FinishedInstant.Sub(st.StartedInstant); ok {
			ran = d
		}
	}
	r.BackOff = r.BackOff.afterExit(r.backOffLimits(in.Desired), ran, ended)
}

// exitUnknown is the exit code that stands for one that nobody can know any more, as the kubelet
// has it.
const exitUnknown = 137

func terminated(st *protocol.Status, now time.Time) *corev1.ContainerStateTerminated {
	t := &corev1.ContainerStateTerminated{
		StartedAt: metav1.NewTime(st.StartedAt), FinishedAt: metav1.NewTime(st.FinishedAt),
		Signal: int32(st.Signal), Message: st.Reason,
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

// keepExit returns once the end of the process is on disk, so that the supervisor may forget it. If
// the disk is full, it makes room first: the writable layer of a container that has ended serves
// nobody, and may be what fills the disk.
func (s *Syncer) keepExit(ctx context.Context, r *Record) error {
	if r.unwritten == nil || r.State != stateEnded {
		return nil
	}
	// Without a pid namespace of its own, the container may have processes left that write. The
	// supervisor waits for their end.
	if err := ignoreGone(s.Supervisor.Kill(ctx, r.ID, "KILL", true)); err != nil {
		return fmt.Errorf("kill what is left: %w", err)
	}
	if err := s.Bundles.Dir(r.ID).UnmountRootfs(); err != nil {
		return err
	}
	s.save(r)
	return r.unwritten
}

func ignoreGone(err error) error {
	if errors.Is(err, protocol.ErrNotExist) || errors.Is(err, protocol.ErrNotRunning) {
		return nil
	}
	return err
}

// evictionSeconds is the longest grace period of a container whose volume holds too much, as in an
// eviction by the kubelet: the volume grows on.
const evictionSeconds = 1

func (s *Syncer) stop(ctx context.Context, in Input, d Decision) error {
	seconds := in.Record.GraceSeconds
	if in.Desired != nil {
		seconds = in.Desired.Spec.TerminationGracePeriodSeconds
	}
	var volume string
	if d.Evict != nil {
		volume, seconds = d.Evict.Volume, min(seconds, evictionSeconds)
	}
	grace := boottime.Seconds(seconds)
	first := in.Record.Stop == nil
	if first {
		// The deadline is written first: an agent that dies after the signal must not begin the
		// grace period afresh.
		s.note(in.Record, func(r *Record) {
			r.Stop = &stop{
				Deadline: in.Instant.Add(grace), GraceSeconds: seconds, Why: d.Why, Volume: volume,
			}
		})
	}
	signal := in.Record.StopSignal
	if signal == "" {
		signal = "TERM"
	}
	if err := ignoreGone(s.Supervisor.Kill(ctx, in.Record.ID, signal, false)); err != nil {
		return err
	}
	s.note(in.Record, func(r *Record) {
		sent := *r.Stop
		sent.Sent = true
		if !first {
			// The time in which the signal could not be sent is not the program's.
			sent.Deadline = s.BootClock().Add(boottime.Seconds(sent.GraceSeconds))
		}
		r.Stop = &sent
	})
	return nil
}

// remove removes everything of a container whose process is gone, and then says so. Each step may
// be repeated.
func (s *Syncer) remove(ctx context.Context, w *worker, in Input) error {
	var uid types.UID
	if in.Desired != nil {
		uid = in.Desired.UID
	}
	if r := in.Record; r != nil {
		if err := s.stages.Release(ctx, s.container(r), lifecycle.PerContainer); err != nil {
			return err
		}
		// The record goes with the directory, last.
		if err := s.Bundles.Dir(r.ID).Remove(); err != nil {
			return err
		}
		uid = r.UID
	}
	if uid == "" {
		return nil
	}
	if err := s.Source.Release(ctx, w.key, uid); err != nil {
		return fmt.Errorf("release: %w", err)
	}
	w.told = nil
	return nil
}

// take adds a record to the worker's, unless it has it already.
func (s *Syncer) take(w *worker, r *Record) {
	if slices.Contains(w.records, r) {
		return
	}
	w.records = append(w.records, r)
	s.mu.Lock()
	s.byID[r.ID] = w.key
	s.mu.Unlock()
}

// takeOver gives a worker the unreadable record of its own container, unless another worker is busy
// with it by now.
func (s *Syncer) takeOver(w *worker, id string, uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	holder := s.holderAtRest(w.key, id)
	if holder == nil {
		return
	}
	delete(s.workers, holder.key)
	if holder.timer != nil {
		holder.timer.Stop()
	}
	r := holder.records[0]
	r.Key, r.UID = w.key, uid
	w.records = append(w.records, r)
	s.byID[id] = w.key
}
