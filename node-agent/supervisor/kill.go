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

// kill sends a signal. SIGKILL to all processes of a container whose first one has ended returns
// once the others have, too: what they use may be removed then.
func (s *server) kill(ctx context.Context, id, signal string, all bool) error {
	sig, err := unixsignal.Parse(signal)
	if err != nil {
		return fmt.Errorf("%w: %w", protocol.ErrInvalid, err)
	}
	return s.with(id, func(c *container, h handler.Handler) error {
		st := c.status()
		if st.State == protocol.Stopped && !all {
			return fmt.Errorf("kill %s: %w", id, protocol.ErrNotRunning)
		}
		if sig != unix.SIGKILL {
			err := h.Kill(ctx, id, sig, all)
			if errors.Is(err, handler.ErrNotExist) && c.signalFirst(sig) {
				err = nil // somebody has removed the handler's record of it
			}
			return err
		}
		_ = s.record(c, func(*protocol.Status) { c.rec.Killed = true })
		left := s.findStrays(c) // before the first process has ended: its descendants cannot be recognised later
		err := h.Kill(ctx, id, sig, all)
		if c.signalFirst(sig) && (errors.Is(err, handler.ErrNotRunning) || errors.Is(err, handler.ErrNotExist)) {
			err = nil // it is not in its cgroup, where the handler looks, or the handler's record was removed
		}
		err = errors.Join(err, left.kill())
		if all && st.State == protocol.Stopped {
			if lives := c.awaitEmpty(); lives != nil {
				return lives
			}
		}
		return err
	})
}

// awaitEmpty returns once no process is left in the container's cgroup. They have been killed.
func (c *container) awaitEmpty() error {
	for end := time.Now().Add(killWait); ; time.Sleep(5 * time.Millisecond) {
		pids := processesBelow(c.rec.Cgroup)
		if len(pids) == 0 {
			return nil
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
