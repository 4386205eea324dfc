// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/lifecycle"
	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// worker is the state of one key. All but the fields under "guarded" belong to its goroutine, of
// which there is at most one.
type worker struct {
	key     source.Key
	records []*Record // more than one while a container gives way to another of the same name
	told    *v1alpha1.OCIBundleStatus
	toldFor types.UID // of the bundle
	toldAt  string    // the resourceVersion that the source showed then
	retries int       // of things that failed in a row
	unseen  time.Time // since when the container cannot be looked at; zero if it can
	hash    lastHash
	offer   lastOffer
	// started is the status with which the container was started, for the look that follows at
	// once. What has happened since is an event, after which the worker looks again.
	started *protocol.Status

	// guarded by Syncer.mu
	active bool
	again  bool
	// endReport ends a report that is under way soon; nil if there is none.
	endReport func()
	timer     clock.Timer
}

// Changed is part of source.Events: it makes the key's worker look.
func (s *Syncer) Changed(key source.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || s.ctx == nil {
		return
	}
	w := s.workers[key]
	if w == nil {
		w = &worker{key: key}
		s.workers[key] = w
	}
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	if w.active {
		w.again = true
		if w.endReport != nil {
			w.endReport()
		}
		return
	}
	w.active = true
	s.wg.Add(1)
	go s.work(w)
}

// work runs in a worker's goroutine. It ends when there is nothing to do, so that a container at
// rest costs none.
func (s *Syncer) work(w *worker) {
	defer s.wg.Done()
	for {
		after := s.reconcile(s.ctx, w)
		s.mu.Lock()
		if w.again && s.ctx.Err() == nil {
			w.again = false
			s.mu.Unlock()
			continue
		}
		w.active = false
		switch {
		case s.ctx.Err() != nil:
		case after > 0:
			// a clock may call it under a lock of its own
			w.timer = s.Clock.AfterFunc(after, func() { go s.Changed(w.key) })
		case len(w.records) == 0 && w.told == nil:
			delete(s.workers, w.key)
		}
		s.mu.Unlock()
		return
	}
}

// reconcile works on one key until there is nothing more to do now, and returns the time after
// which to look again; zero is never.
func (s *Syncer) reconcile(ctx context.Context, w *worker) (again time.Duration) {
	log := s.Log.With("container", w.key.String())
	for ctx.Err() == nil {
		began := s.Clock.Now()
		in, err := s.gather(ctx, w)
		if err != nil {
			s.noteUnseen(ctx, w, in, began, err, log)
			return s.retry(w)
		}
		w.unseen = time.Time{}
		d := s.policies.Decide(in)
		if d.Verb != Nothing && d.Policy != "GoOnMaking" {
			log.Info(string(d.Verb), "policy", d.Policy, "why", d.Why, "id", idOf(in))
		}
		if err := s.act(ctx, w, &in, d); err != nil {
			var pending *lifecycle.Pending
			if errors.As(err, &pending) {
				w.retries = 0
				return s.await(ctx, w, in, pending)
			}
			if ctx.Err() == nil {
				s.noteTrouble(ctx, w, in, d.Verb, err, log)
				return s.retry(w)
			}
			continue
		}
		if d.Verb == Remove {
			w.retries = 0
			s.forget(w, in)
			if len(w.records) == 0 && in.Desired == nil && s.Source.Get(w.key) == nil {
				return 0
			}
			if in.Desired != nil { // it has been released; the source says when it is gone
				return 0
			}
			continue
		}
		if d.Verb != Nothing && d.After == 0 {
			continue
		}
		if in.Record != nil && lifecycle.StorageFailed(in.Record.unwritten) {
			in.StorageFailed, in.Trouble = true, storageTrouble(in.Record.unwritten)
		}
		began = s.Clock.Now()
		if err = s.awaitFlush(ctx, in.Record); err == nil {
			err = s.report(ctx, w, in, nil, d.After)
		}
		if d.After > 0 {
			d.After = max(d.After-s.Clock.Since(began), time.Millisecond)
		}
		if err != nil && ctx.Err() == nil {
			log.Warn("cannot report the status; trying again", "error", err)
		}
		if err != nil || in.Record != nil && in.Record.unwritten != nil {
			// Not later than what was decided: a grace period ends when it does.
			return sooner(s.retry(w), d.After)
		}
		w.retries = 0
		return d.After
	}
	return 0
}

func idOf(in Input) string {
	if in.Record != nil {
		return in.Record.ID
	}
	return ""
}

// noteUnseen notes that a look which began at that time has failed, and reports it once looks have
// failed for a while.
func (s *Syncer) noteUnseen(ctx context.Context, w *worker, in Input, began time.Time, err error,
	log *slog.Logger,
) {
	log.Error("cannot look at the container; trying again", "error", err)
	if w.unseen.IsZero() {
		w.unseen = began
	}
	if in.Now = s.Clock.Now(); in.Now.Sub(w.unseen) >= unseenAfter {
		in.Unseen, in.UnseenSince = err.Error(), w.unseen
		if err := s.report(ctx, w, in, nil, 0); err != nil {
			log.Warn("cannot report the status", "error", err)
		}
	}
}

// unseenAfter is the time for which looks must have failed before a container is reported as not
// known. A supervisor that is replaced is back before.
const unseenAfter = 3 * time.Second

// noteTrouble notes that an act has failed, and reports it if it is worth reporting.
func (s *Syncer) noteTrouble(ctx context.Context, w *worker, in Input, verb Verb, err error,
	log *slog.Logger,
) {
	log.Error("failed; trying again", "verb", verb, "error", err)
	if in.StorageFailed, in.Trouble = w.trouble(verb, err); in.Trouble != "" {
		if err := s.report(ctx, w, in, nil, 0); err != nil {
			log.Warn("cannot report the status", "error", err)
		}
	}
}

// reportedTries is the number of failed tries in a row after which the status says so, which takes
// some seconds: until then, another supervisor may be about to take over, or a process about to
// end.
const reportedTries = 3

// trouble returns the status message for an act that has failed, or "" if it is too early for one,
// and reports whether the agent's own files cannot be written.
func (w *worker) trouble(verb Verb, err error) (storage bool, text string) {
	switch {
	case lifecycle.StorageFailed(err):
		return true, storageTrouble(err)
	case w.retries >= reportedTries:
		return false, fmt.Sprintf("the agent tries again what has failed (%s): %v", verb, err)
	}
	return false, ""
}

func storageTrouble(err error) string { return "the agent cannot write its files: " + err.Error() }

// retry returns the time after which to try again, when the node or the API failed and not the
// container.
func (s *Syncer) retry(w *worker) time.Duration {
	wait := min(time.Second<<min(w.retries, 5), 30*time.Second)
	w.retries++
	return wait
}

// sooner returns the shorter of two times to wait, of which b may be 0: never.
func sooner(a, b time.Duration) time.Duration {
	if b > 0 {
		return min(a, b)
	}
	return a
}

// forget takes a removed record out of the books.
func (s *Syncer) forget(w *worker, in Input) {
	if in.Record == nil {
		return
	}
	w.records = slices.DeleteFunc(w.records, func(r *Record) bool { return r == in.Record })
	s.mu.Lock()
	delete(s.byID, in.Record.ID)
	s.mu.Unlock()
}
