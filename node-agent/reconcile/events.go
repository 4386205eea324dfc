// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"time"

	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// watch receives the supervisor's events of containers.
func (s *Syncer) watch(ctx context.Context) {
	type seen struct {
		broken bool // the log cannot be written
		kills  uint64
	}
	last := map[string]seen{} // what is not the rule
	// since when there is no stream of events, and whether the workers looked since
	lost, told := time.Now(), false
	for wait := time.Duration(0); ; wait = min(wait*2+100*time.Millisecond, 5*time.Second) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		w, err := s.Supervisor.Watch(ctx)
		if err != nil {
			if ctx.Err() == nil {
				s.Log.Warn("the supervisor does not answer; trying again", "error", err)
			}
			// No event makes the workers see that nothing is known any more.
			if !told && time.Since(lost) > time.Second/2 {
				told = true
				s.all()
			}
			continue
		}
		told = false
		wait = 0
		s.adoptOrphans(w.List)
		s.all()
		for {
			ev, err := w.Next()
			if err != nil {
				if ctx.Err() == nil {
					s.Log.Warn("lost the supervisor; connecting again", "error", err)
				}
				lost = time.Now()
				break
			}
			id, now := ev.Status.ID, seen{ev.Status.LogError != "", ev.Status.OOMKills}
			turned := now != last[id]
			if now != (seen{}) {
				last[id] = now
			} else {
				delete(last, id)
			}
			if ev.Deleted || ev.Status.State == protocol.Stopped || turned {
				s.mu.Lock()
				key, ok := s.byID[ev.Status.ID]
				s.mu.Unlock()
				if ok {
					s.Changed(key)
				}
			}
		}
		w.Close()
	}
}

// all wakes every worker.
func (s *Syncer) all() {
	s.mu.Lock()
	keys := make([]source.Key, 0, len(s.workers))
	for key := range s.workers {
		keys = append(keys, key)
	}
	s.mu.Unlock()
	for _, b := range s.Source.List() {
		keys = append(keys, source.Key{Namespace: b.Namespace, Name: b.Name})
	}
	for _, key := range keys {
		s.Changed(key)
	}
}

// Synced is part of source.Events.
func (s *Syncer) Synced() { s.all() }
