// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/node-agent/boottime"
	"github.com/berth-run/berth/node-agent/handler"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// start lets a created container run, and returns its status. For one that runs already it does
// nothing else.
func (s *server) start(ctx context.Context, id string) (st protocol.Status, err error) {
	err = s.with(ctx, id, func(ctx context.Context, c *container, h handler.Handler) error {
		c.life.Lock()
		defer c.life.Unlock()
		switch st = c.status(); st.State {
		case protocol.Running:
			return nil
		case protocol.Created:
		default:
			return fmt.Errorf("start %s: it is %s: %w", id, st.State, protocol.ErrNotCreated)
		}
		if err := s.startProgram(ctx, c, h, !st.StartedAt.IsZero()); err != nil {
			return err
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

// startProgram has the handler start the program of a created container. begun is whether an
// earlier start may have let the program go, such as that of a supervisor that was killed right
// after it.
func (s *server) startProgram(
	ctx context.Context, c *container, h handler.Handler, begun bool,
) error {
	// The time of the start is on disk before the program can run: a supervisor that is killed
	// right after that must not leave a record of a container that never ran, for it would be run a
	// second time. If an earlier start let the program go, the time of that one stays.
	at, instant := time.Now().UTC(), boottime.Now()
	startedNow := func(st *protocol.Status) { st.StartedAt, st.StartedInstant = at, instant }
	if !begun {
		if err := s.record(c, startedNow); err != nil {
			_ = s.record(c, neverStarted)
			return fmt.Errorf("start %s: %w", c.id, err)
		}
	}
	s.step("start recorded")
	err := h.Start(ctx, c.id)
	if err == nil {
		if begun { // an earlier start did not let it go
			_ = s.record(c, startedNow)
		}
		return nil
	}
	// The program may run although the handler says that it failed.
	hs, herr := look(ctx, h, c.id)
	switch {
	case herr != nil:
		return fmt.Errorf("start %s: %w: %w", c.id, protocol.ErrUnknownOutcome, errors.Join(err, herr))
	case hs.Status == specs.StateRunning:
		return nil
	case begun || ctx.Err() != nil || errors.Is(err, handler.ErrCutOff):
		// A process that has been let go is still called created until it comes to its program.
		return fmt.Errorf("start %s: it may have run already: %w: %w", c.id,
			protocol.ErrUnknownOutcome, err)
	case hs.Status == specs.StateCreated:
		_ = s.record(c, neverStarted)
	}
	return err
}

// look asks a handler for the state of a container, also in an operation that is interrupted.
func look(ctx context.Context, h handler.Handler, id string) (*specs.State, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
	defer cancel()
	return h.State(ctx, id)
}

// neverStarted takes back that the container is being started.
func neverStarted(st *protocol.Status) {
	st.StartedAt, st.StartedInstant = time.Time{}, boottime.Instant{}
}

// settleStart finds out whether a container that is recorded as created runs: its start may have
// been cut off. One that its handler calls created keeps the time of that start: its process may
// have been let go, and not have come to its program yet.
func (s *server) settleStart(ctx context.Context, c *container) {
	var hs *specs.State
	h, err := s.handlers.Get(c.rec.Status.Handler)
	if err == nil {
		hs, err = look(ctx, h, c.id)
	}
	if err != nil {
		// A client that starts it finds out.
		s.log.Warn("it is not known whether an adopted container runs", "id", c.id, "error", err)
		return
	}
	if hs.Status == specs.StateRunning {
		_ = s.update(c, func(st *protocol.Status) {
			st.State = protocol.Running
			if st.StartedAt.IsZero() { // recorded by an older version
				st.StartedAt, st.StartedInstant = time.Now().UTC(), boottime.Now()
			}
		})
	}
}
