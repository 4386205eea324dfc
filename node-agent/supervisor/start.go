// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/berth-run/berth/node-agent/boottime"
	"github.com/berth-run/berth/node-agent/handler"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// start lets a created container run, and returns its status. For one that runs already it does
// nothing else.
func (s *server) start(ctx context.Context, id string) (st protocol.Status, err error) {
	err = s.with(id, func(c *container, h handler.Handler) error {
		c.life.Lock()
		defer c.life.Unlock()
		switch st = c.status(); st.State {
		case protocol.Running:
			return nil
		case protocol.Created:
		default:
			return fmt.Errorf("start %s: it is %s: %w", id, st.State, protocol.ErrNotCreated)
		}
		// An earlier supervisor may have let the program go right before it was killed.
		begun := !st.StartedAt.IsZero()
		// The time of the start is on disk before the program can run: a supervisor that is killed
		// right after that must not leave a record of a container that never ran, for it would be
		// run a second time.
		at, instant := time.Now().UTC(), boottime.Now()
		if err := s.record(c, func(st *protocol.Status) { st.StartedAt, st.StartedInstant = at, instant }); err != nil {
			if !begun {
				_ = s.record(c, neverStarted)
			}
			return fmt.Errorf("start %s: %w", id, err)
		}
		s.step("start recorded")
		if err := h.Start(ctx, id); err != nil {
			// Its outcome may be unknown: the program may run although the handler says that it
			// failed.
			switch hs, herr := h.State(context.WithoutCancel(ctx), id); {
			case herr != nil:
				return fmt.Errorf("start %s: %w: %w", id, protocol.ErrUnknownOutcome, errors.Join(err, herr))
			case hs.Status == "created" && !begun:
				_ = s.record(c, neverStarted)
				return err
			case hs.Status != "running" && begun:
				return fmt.Errorf("start %s: it may have run already: %w: %w", id, protocol.ErrUnknownOutcome, err)
			case hs.Status != "running":
				return err
			}
		}
		s.step("started")
		err := s.update(c, func(st *protocol.Status) { st.State = protocol.Running })
		if err != nil {
			s.log.Warn("a running container's record says that it is starting", "id", id)
		}
		st = c.status()
		return nil
	})
	return st, err
}

// neverStarted takes back that the container is being started.
func neverStarted(st *protocol.Status) {
	st.StartedAt, st.StartedInstant = time.Time{}, boottime.Instant{}
}

// settleStart finds out whether a container that is recorded as created runs: its start may have
// been cut off. One that its handler calls created keeps the time of that start: its process may
// have been let go, and not have come to its program yet.
func (s *server) settleStart(ctx context.Context, c *container) {
	h, err := s.handlers.Get(c.rec.Status.Handler)
	if err != nil {
		return
	}
	if hs, err := h.State(ctx, c.id); err == nil && hs.Status == "running" {
		_ = s.update(c, func(st *protocol.Status) {
			st.State = protocol.Running
			if st.StartedAt.IsZero() { // recorded by an older version
				st.StartedAt, st.StartedInstant = time.Now().UTC(), boottime.Now()
			}
		})
	}
}
