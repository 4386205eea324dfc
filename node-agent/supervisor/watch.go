// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"io"
	"net"
	"sync"

	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// watch is one client's stream. What waits to be sent is a set of ids, not of events: a client that
// does not read costs at most one entry a container, holds nobody up, and when it reads again gets
// each one's latest state.
type watch struct {
	mu    sync.Mutex
	dirty map[string]struct{}
	order []string      // the ids of dirty, oldest first
	wake  chan struct{} // holds one token when there is something in dirty
}

func (w *watch) add(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.dirty[id]; ok {
		return
	}
	w.dirty[id] = struct{}{}
	w.order = append(w.order, id)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// take empties the set.
func (w *watch) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids := w.order
	w.order = nil
	clear(w.dirty)
	return ids
}

// publish notifies watchers that the container's status has changed.
func (s *server) publish(id string) {
	s.watchMu.Lock()
	defer s.watchMu.Unlock()
	for w := range s.watchers {
		w.add(id)
	}
}

// watch serves a stream of changes until the client goes or ctx ends.
func (s *server) watch(ctx context.Context, c net.Conn, r io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &watch{dirty: map[string]struct{}{}, wake: make(chan struct{}, 1)}
	// Known as a watcher before the list is made: a change in between is sent again, and none is
	// missed.
	s.watchMu.Lock()
	s.watchers[w] = struct{}{}
	s.watchMu.Unlock()
	defer func() {
		s.watchMu.Lock()
		delete(s.watchers, w)
		s.watchMu.Unlock()
	}()
	// The client says nothing more; that it has gone is seen by reading. The reader is ours until
	// it has seen that.
	left := make(chan struct{})
	go func() {
		defer close(left)
		_, _ = io.Copy(io.Discard, r)
		cancel()
	}()
	defer func() { <-left }()
	defer c.Close()
	// A write to a client that does not read is ended by closing the connection.
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()

	// No time limit: a client that does not read holds up this goroutine and nobody else.
	out := newReplier(c, 0)
	defer out.stop()
	all := s.list()
	for i := range all {
		if err := out.send(protocol.Reply{Status: &all[i], More: true}); err != nil {
			return err
		}
	}
	if err := out.send(protocol.Reply{Synced: true, More: true}); err != nil {
		return err
	}
	for {
		select {
		case <-w.wake:
		case <-ctx.Done():
			return nil
		}
		for _, id := range w.take() {
			ev := protocol.Reply{Status: &protocol.Status{ID: id}, Deleted: true, More: true}
			if cn, err := s.find(id); err == nil {
				st := cn.status()
				ev = protocol.Reply{Status: &st, More: true}
			}
			if err := out.send(ev); err != nil {
				return err
			}
		}
	}
}
