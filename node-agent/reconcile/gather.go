// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/boottime"
	"github.com/berth-run/berth/node-agent/lifecycle"
	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// parallelLooks is the number of workers that gather concurrently. After a start of the agent all
// of them do, and each holds a document and a connection to the supervisor: without a bound, the
// memory of agent and supervisor is that of all of these at once.
const parallelLooks = 32

// gather reads all data that a decision needs. It changes nothing; act does that. While there are
// containers of an older UID, it speaks of those.
func (s *Syncer) gather(ctx context.Context, w *worker) (Input, error) {
	s.looking <- struct{}{}
	defer func() { <-s.looking }()
	in := s.readWanted(w)
	if in.Record == nil && in.wanted() && in.Refused == "" && !in.Claim {
		// Nothing is made over a container that runs although no record speaks of it.
		id := lifecycle.ContainerID(w.key, in.Desired.UID)
		switch _, err := s.Supervisor.Get(ctx, id); {
		case err == nil:
			in.Record = orphan(id)
			in.Record.Key, in.Record.UID, in.Record.unreadable = w.key, in.Desired.UID, errNoRecord
		case !errors.Is(err, protocol.ErrNotExist):
			return in, err
		}
	}
	if in.Record != nil {
		st, err := s.status(ctx, w, in.Record.ID)
		switch {
		case err == nil:
			in.Actual = &st
		case !errors.Is(err, protocol.ErrNotExist):
			return in, err
		default:
			dir := s.Bundles.Dir(in.Record.ID)
			in.RootfsLeft = in.Record.State == stateEnded && (dir.ImagesLeft() || dir.SharesLeft())
		}
	}
	in.Now, in.Instant = s.Clock.Now(), s.BootClock()
	s.compareSources(&in)
	if in.Record != nil {
		in.Overfull = s.measurer.look(&in, s.Bundles.Dir(in.Record.ID))
	}
	return in, nil
}

// compareSources compares the files of a running container, and the objects that it was started
// with, with their sources. It does nothing while another spec is in force than the desired one.
func (s *Syncer) compareSources(in *Input) {
	if in.Desired == nil || in.Record == nil || in.Record.Hash != in.Hash || !in.alive() {
		return
	}
	c := s.container(in.Record)
	c.Bundle = in.Desired
	var notRestarted, notTold, notRefreshed error
	in.Outdated, notRestarted = s.stages.Outdated(c)
	// Before the files are compared: a change that comes in between is told of at the next look.
	in.Untold, notTold = s.stages.Untold(c)
	in.Stale, notRefreshed = s.stages.Stale(c)
	var troubles []string
	for _, err := range []error{notRestarted, notTold, notRefreshed} {
		if err != nil {
			troubles = append(troubles, err.Error())
		}
	}
	in.Trouble = strings.Join(troubles, "; ")
}

// status returns the status of the worker's container.
func (s *Syncer) status(ctx context.Context, w *worker, id string) (protocol.Status, error) {
	st := w.started
	w.started = nil
	if st != nil && st.ID == id {
		return *st, nil
	}
	return s.Supervisor.Get(ctx, id)
}

// readWanted reads the desired bundle and the record.
func (s *Syncer) readWanted(w *worker) Input {
	// Synced is asked first: if it is true, what Get says is the truth.
	in := Input{Synced: s.Source.Synced()}
	in.Desired = s.Source.Get(w.key)
	for _, r := range w.records {
		in.Record = r
		if in.Desired != nil && r.UID != in.Desired.UID {
			in.Desired, in.Synced = nil, true // of another UID: nobody wants it
			break
		}
	}
	in.Hash = w.hash.of(in.Desired)
	in.refuse()
	if in.Record != nil && in.Record.unreadable != nil {
		s.readAgain(in.Record)
		if in.Record.UID == "" && in.Synced {
			in.Elsewhere = s.wantedByID(in.Record.ID)
		}
	}
	if in.Record == nil && in.Desired != nil {
		s.mu.Lock()
		in.Claim = s.holderAtRest(w.key, lifecycle.ContainerID(w.key, in.Desired.UID)) != nil
		s.mu.Unlock()
	}
	if in.Record != nil && in.Record.unreadable == nil {
		s.readAccepted(w, &in)
	}
	return in
}

// readAccepted reads the spec that was accepted earlier, and computes the values that the record
// does not have yet.
func (s *Syncer) readAccepted(w *worker, in *Input) {
	dir, next := s.Bundles.Dir(in.Record.ID), *in.Record
	changed := false
	if b := in.Desired; b != nil && b.Annotations[source.AnnotationStopped] != next.Stopped {
		next.Stopped, changed = b.Annotations[source.AnnotationStopped], true
	}
	switch {
	case in.Desired == nil && !in.Synced:
		if in.Desired = readDesired(dir); in.Desired != nil {
			delete(in.Desired.Annotations, source.AnnotationStopped)
			if next.Stopped != "" {
				metav1.SetMetaDataAnnotation(&in.Desired.ObjectMeta, source.AnnotationStopped, next.Stopped)
			}
		}
		in.rehash()
		in.refuse()
	case in.Refused != "":
		in.goOn(dir)
	case in.Desired != nil && in.Desired.Generation != next.Generation:
		in.keepRun(dir)
		next.unwrittenDesired, changed = in.Desired, true
		next.Generation = in.Desired.Generation
		next.GraceSeconds = in.Desired.Spec.TerminationGracePeriodSeconds
		if next.Hash == in.Hash {
			next.Made = in.Desired.Generation
			if next.Compiled == 0 {
				// The controller did not record the generation yet, and has been upgraded.
				next.Compiled = in.Desired.Spec.CompiledGeneration
			}
		}
	}
	if in.keepAccepted(dir, &w.offer) {
		next.unwrittenDesired, changed = in.Desired, true
	}
	in.compareRunning(dir, s.BootClock())
	if hurry(&next, in.Desired, s.BootClock()) {
		changed = true
	}
	if changed {
		in.Next = &next
	}
}

// readAgain reads a record that could not be read.
func (s *Syncer) readAgain(r *Record) {
	again, err := readRecord(s.Bundles.Dir(r.ID), s.Clock.Now(), s.BootClock())
	switch {
	case err != nil:
		r.unreadable = err
	case again != nil && again.ID == r.ID && again.Key == r.Key:
		*r = *again
	}
}

// wantedByID returns the key of the wanted bundle whose container has this id.
func (s *Syncer) wantedByID(id string) source.Key {
	for _, b := range s.Source.List() {
		key := source.Key{Namespace: b.Namespace, Name: b.Name}
		if lifecycle.ContainerID(key, b.UID) == id {
			return key
		}
	}
	return source.Key{}
}

// holderAtRest returns the worker that has the unreadable record of a container of another key:
// neither that nor desired.json says whose it is, but its id does. It returns nil if there is none,
// or if that worker is busy with it. s.mu is held.
func (s *Syncer) holderAtRest(owner source.Key, id string) *worker {
	key, ok := s.byID[id]
	holder := s.workers[key]
	if !ok || key == owner || holder == nil || holder.active || len(holder.records) != 1 ||
		holder.records[0].unreadable == nil {
		return nil
	}
	return holder
}

// hurry moves the deadline of a stop forward if its grace period was made shorter since: what is
// left is at most the new one. It returns whether it has changed the record.
func hurry(r *Record, b *v1alpha1.OCIBundle, now boottime.Instant) bool {
	if b == nil || r.Stop == nil || b.Spec.TerminationGracePeriodSeconds >= r.Stop.GraceSeconds {
		return false
	}
	shorter := *r.Stop
	shorter.GraceSeconds = b.Spec.TerminationGracePeriodSeconds
	grace := boottime.Seconds(shorter.GraceSeconds)
	shorter.Deadline = now.Add(min(grace, remaining(shorter.Deadline, now)))
	r.Stop = &shorter
	return true
}
