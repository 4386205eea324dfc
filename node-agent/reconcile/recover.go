// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"fmt"

	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// recover reads the records of all bundles that are there.
func (s *Syncer) recover() error {
	ids, err := s.Bundles.List()
	if err != nil {
		return err
	}
	known := map[string]bool{}
	add := func(r *Record) {
		known[r.ID] = true
		if s.Networks != nil {
			s.Networks.Recover(r.ID, s.Bundles.Dir(r.ID))
		}
		w := s.workers[r.Key]
		if w == nil {
			w = &worker{key: r.Key}
			s.workers[r.Key] = w
		}
		w.records = append(w.records, r)
		s.byID[r.ID] = r.Key
	}
	for _, id := range ids {
		r, err := readRecord(s.Bundles.Dir(id), s.Clock.Now(), s.BootClock())
		switch {
		case err == nil && r != nil && r.ID != id:
			err = fmt.Errorf("found the id %q", r.ID)
			fallthrough
		case err != nil:
			s.Log.Error("a bundle's record cannot be read; its container is left alone", "id", id,
				"error", err)
			r = unreadable(s.Bundles.Dir(id), id, err)
		// killed before the first record was written, and so before the container was created
		case r == nil:
			r = orphan(id)
			if b := readDesired(s.Bundles.Dir(id)); b != nil && b.Name != "" {
				r.Key, r.UID = source.Key{Namespace: b.Namespace, Name: b.Name}, b.UID
			}
		}
		add(r)
	}
	if len(s.workers) > 0 {
		s.Log.Info("found containers of an earlier agent", "count", len(known))
	}
	return nil
}

// orphan returns the record of something of ours that nobody can want: it has no name.
func orphan(id string) *Record {
	return &Record{Key: source.Key{Name: id}, ID: id, GraceSeconds: 30}
}

// adoptOrphans starts a worker for each container of ours that has none: an agent that died has
// left them, or their records are gone. It is called whenever the supervisor lists its containers,
// since it may not have answered before.
func (s *Syncer) adoptOrphans(all []protocol.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range all {
		if _, known := s.byID[st.ID]; known || !s.Bundles.Holds(st.Bundle) {
			continue
		}
		s.Log.Warn("found a container that no record speaks of", "id", st.ID)
		r := orphan(st.ID)
		r.unreadable = errNoRecord // if a wanted bundle has this id, it is left alone
		if s.workers[r.Key] == nil {
			s.workers[r.Key] = &worker{key: r.Key, records: []*Record{r}}
			s.byID[st.ID] = r.Key
		}
	}
}
