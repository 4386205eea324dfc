// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"

	"github.com/berth-run/berth/node-agent/handler"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// limit changes limits: those of the log once the handler has taken the others. The handler knows
// its own, and those of the log are in the record. Whoever asked asks again if there is no answer.
func (s *server) limit(ctx context.Context, id string, r *protocol.UpdateRequest) error {
	if err := r.Validate(); err != nil {
		return fmt.Errorf("%w: %w", protocol.ErrInvalid, err)
	}
	return s.with(ctx, id, func(ctx context.Context, c *container, h handler.Handler) error {
		if st := c.status(); st.State != protocol.Created && st.State != protocol.Running {
			return fmt.Errorf("update %s: it is %s: %w", id, st.State, protocol.ErrNotRunning)
		}
		s.step("update begins")
		if r.To != nil {
			if err := h.Update(ctx, id, r.To, r.Before); err != nil {
				return err
			}
		}
		s.step("updated")
		if r.Log == nil {
			return nil
		}
		err := s.limitLog(c, *r.Log)
		if err != nil && r.Before != nil {
			if uerr := h.Update(ctx, id, r.Before, r.To); uerr != nil {
				err = errors.Join(err, fmt.Errorf("set it back: %w", uerr))
			}
		}
		return err
	})
}

// limitLog changes the limits of a container's log. If they cannot be recorded, they stay as they
// were.
func (s *server) limitLog(c *container, l protocol.LogLimits) error {
	if c.rec.Log.Path == "" {
		return nil // no log is kept
	}
	was := c.rec.Log.LogLimits // which operations alone change
	if err := s.record(c, func(*protocol.Status) { c.rec.Log.LogLimits = l }); err != nil {
		_ = s.record(c, func(*protocol.Status) { c.rec.Log.LogLimits = was })
		return fmt.Errorf("log: %w", err)
	}
	s.step("limits of the log recorded")
	c.log.limit(l)
	return nil
}
