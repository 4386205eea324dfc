// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/unixsignal"
	"github.com/berth-run/berth/node-agent/handler"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// kill sends a signal.
func (s *server) kill(ctx context.Context, id, signal string, all bool) error {
	sig, err := unixsignal.Parse(signal)
	if err != nil {
		return fmt.Errorf("%w: %w", protocol.ErrInvalid, err)
	}
	if sig == unix.SIGKILL {
		return s.withForce(ctx, id, func(ctx context.Context, c *container, h handler.Handler,
			killed bool,
		) error {
			return s.killContainer(ctx, c, h, all, killed)
		})
	}
	return s.with(ctx, id, func(ctx context.Context, c *container, h handler.Handler) error {
		if c.status().State == protocol.Stopped && !all {
			return fmt.Errorf("kill %s: %w", id, protocol.ErrNotRunning)
		}
		err := h.Kill(ctx, id, sig, all)
		if errors.Is(err, handler.ErrNotExist) && c.signalFirst(sig) {
			err = nil // somebody has removed the handler's record of it
		}
		return err
	})
}

// killContainer sends SIGKILL in an operation; killed is whether the first process has got it
// already. SIGKILL to all processes of a container whose first one has ended returns once the
// others have, too: what they use may be removed then.
func (s *server) killContainer(
	ctx context.Context, c *container, h handler.Handler, all, killed bool,
) error {
	st := c.status()
	if st.State == protocol.Stopped && !all {
		if killed {
			return nil
		}
		return fmt.Errorf("kill %s: %w", c.id, protocol.ErrNotRunning)
	}
	_ = s.record(c, func(*protocol.Status) { c.rec.Killed = true })
	// before the first process has ended: its descendants cannot be recognised later
	left := s.findStrays(c)
	hctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	err := h.Kill(hctx, c.id, unix.SIGKILL, all)
	killed = c.signalFirst(unix.SIGKILL) || killed
	if killed && (errors.Is(err, handler.ErrNotRunning) || errors.Is(err, handler.ErrNotExist)) {
		err = nil // it is not in its cgroup, where the handler looks, or the handler's record was removed
	}
	if killed && !all && hctx.Err() != nil {
		err = nil // the handler hangs
	}
	err = errors.Join(err, left.kill())
	if all && st.State == protocol.Stopped {
		err = errors.Join(err, c.awaitEmpty())
	}
	return err
}

// awaitEmpty returns once no process is left in the container's cgroup. They have been killed.
func (c *container) awaitEmpty() error {
	for end := time.Now().Add(killWait); ; time.Sleep(5 * time.Millisecond) {
		pids, err := processesBelow(c.rec.Cgroup)
		if err == nil && len(pids) == 0 {
			return nil
		}
		if time.Now().After(end) && err != nil {
			return fmt.Errorf("container %s: processes after SIGKILL: %w", c.id, err)
		}
		if time.Now().After(end) {
			return fmt.Errorf("container %s: processes %v live on %v after SIGKILL", c.id, pids, killWait)
		}
	}
}

// signalFirst sends a signal to the container's first process wherever it is, and returns false if
// that has been reaped.
func (c *container) signalFirst(sig unix.Signal) bool {
	c.pidMu.Lock()
	defer c.pidMu.Unlock()
	return c.pidfd >= 0 && unix.PidfdSendSignal(c.pidfd, sig, nil, 0) == nil
}
