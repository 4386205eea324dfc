// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/handler"
	"github.com/berth-run/berth/node-agent/ociruntime/cgroup"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// killWait is the time for which the exit of a process is waited for after its handler has reported
// it killed or deleted.
const killWait = 10 * time.Second

// remove deletes a container.
func (s *server) remove(ctx context.Context, id string, force bool) error {
	if force {
		return s.withForce(ctx, id, func(ctx context.Context, c *container, h handler.Handler,
			_ bool,
		) error {
			return s.removeContainer(ctx, c, h, true)
		})
	}
	return s.with(ctx, id, func(ctx context.Context, c *container, h handler.Handler) error {
		if st := c.status(); st.State != protocol.Stopped {
			return fmt.Errorf("delete %s: it is %s: %w", id, st.State, protocol.ErrRunning)
		}
		return s.removeContainer(ctx, c, h, false)
	})
}

// removeContainer deletes a container in an operation. With force it ends its processes first.
func (s *server) removeContainer(ctx context.Context, c *container, h handler.Handler,
	force bool,
) error {
	id, st := c.id, c.status()
	// A handler that does not know it (any more) has nothing left to delete.
	if st.State != protocol.Stopped {
		_ = s.record(c, func(*protocol.Status) { c.rec.Killed = true })
	}
	left := s.findStrays(c)
	if left.err != nil { // its descendants cannot be recognised later
		left.close()
		return fmt.Errorf("delete %s: %w", id, left.err)
	}
	if err := h.Delete(ctx, id, force); err != nil && !errors.Is(err, handler.ErrNotExist) {
		left.close()
		return err
	}
	if force {
		c.signalFirst(unix.SIGKILL)
	}
	if err := left.kill(); err != nil {
		return fmt.Errorf("delete %s: %w", id, err)
	}
	if !s.awaitEnd(c) {
		return fmt.Errorf("delete %s: process %d lives on %v after its handler has deleted it", id,
			st.PID, killWait)
	}
	if c.rec.Cgroup != "" {
		cgroup.RemoveEmpty(s.cgroups.Layout, c.rec.Cgroup)
	}
	s.forget(c)
	return nil
}

// awaitEnd waits for the end of a process that has been killed, and returns false if it lives on.
func (s *server) awaitEnd(c *container) bool {
	deadline := time.After(killWait)
	for {
		var look <-chan time.Time
		if c.unwatched {
			s.reap(c)
			look = time.After(10 * time.Millisecond)
		}
		select {
		case <-c.ended:
			return true
		case <-look:
		case <-deadline:
			return false
		}
	}
}

// forget lets go of everything that c holds and removes it from the table, in an operation.
func (s *server) forget(c *container) {
	for _, st := range c.streams {
		if st != nil {
			st.close(s.logs)
		}
	}
	if c.log != nil {
		c.log.close()
	}
	c.closePidfd(s.exits)
	c.unwatchMemory()
	c.mu.Lock()
	id := c.id
	c.gone = true
	err := s.records.remove(id)
	c.mu.Unlock()
	s.bury(c)
	if err != nil {
		s.log.Error("container's record cannot be removed", "id", id, "error", err)
	}
	s.passOn(c, true) // before another container can have the id
	s.mu.Lock()
	delete(s.containers, id)
	s.mu.Unlock()
	s.publish(id)
}
