// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/containerid"
	"github.com/berth-run/berth/node-agent/handler"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// operations lets the operations on a container take place one after the other, as handlers want
// it, and can interrupt the one that is under way.
type operations struct {
	turn chan struct{} // holds a value while an operation is under way

	mu     sync.Mutex
	cancel context.CancelCauseFunc // of the operation under way; nil if there is none
}

func newOperations() *operations { return &operations{turn: make(chan struct{}, 1)} }

// begin waits until no other operation is under way, and returns the context of this one. The
// caller calls end.
func (o *operations) begin(ctx context.Context) (_ context.Context, end func(), err error) {
	select {
	case o.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	return o.begun(ctx)
}

// errBusy is returned if another operation is still under way.
var errBusy = errors.New("another operation is under way")

// beginWithin is begin that waits for a time at most.
func (o *operations) beginWithin(
	ctx context.Context, wait time.Duration,
) (_ context.Context, end func(), err error) {
	select {
	case o.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	case <-time.After(wait):
		return nil, nil, errBusy
	}
	return o.begun(ctx)
}

func (o *operations) begun(ctx context.Context) (_ context.Context, end func(), err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.cancel = cancel
	return ctx, func() {
		o.mu.Lock()
		o.cancel = nil
		o.mu.Unlock()
		cancel(nil)
		<-o.turn
	}, nil
}

// interrupt ends the context of the operation under way.
func (o *operations) interrupt(cause error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.cancel != nil {
		o.cancel(cause)
	}
}

// with runs an operation on the container of that id, alone.
func (s *server) with(
	ctx context.Context, id string, f func(context.Context, *container, handler.Handler) error,
) error {
	c, err := s.findValid(id)
	if err != nil {
		return err
	}
	ctx, end, err := c.op.begin(ctx)
	if err != nil {
		return fmt.Errorf("container %s: %w", id, err)
	}
	defer end()
	h, err := s.handlerOf(c)
	if err != nil {
		return err
	}
	return f(ctx, c, h)
}

// patience is the time for which a kill waits for an operation under way, and for its handler.
const patience = 10 * time.Second

// errKilled is the cause of an interrupted operation.
var errKilled = errors.New("interrupted, since the container is killed")

// withForce is with for an operation that ends the processes of a container. An operation under way
// that takes too long, since its handler hangs, holds it up no further: the processes are killed
// without the handler, which killed reports, and that operation is interrupted.
func (s *server) withForce(
	ctx context.Context, id string,
	f func(_ context.Context, _ *container, _ handler.Handler, killed bool) error,
) error {
	c, err := s.findValid(id)
	if err != nil {
		return err
	}
	killed := false
	opctx, end, err := c.op.beginWithin(ctx, s.patience)
	if errors.Is(err, errBusy) {
		s.log.Warn("an operation hangs, and is interrupted by a kill", "id", id)
		killed = s.killDirectly(c)
		c.op.interrupt(errKilled)
		opctx, end, err = c.op.beginWithin(ctx, s.patience)
	}
	if errors.Is(err, errBusy) && killed {
		err = fmt.Errorf("its first process is killed; its handler hangs: %w", err)
	}
	if err != nil {
		return fmt.Errorf("container %s: %w", id, err)
	}
	defer end()
	h, err := s.handlerOf(c)
	if err != nil {
		return err
	}
	return f(opctx, c, h, killed)
}

// killDirectly sends SIGKILL to the first process of a container, and to those that do not end with
// it, without the handler. It reports whether the first process has got the signal.
func (s *server) killDirectly(c *container) bool {
	if c.status().State == protocol.Creating { // its process is not known yet
		return false
	}
	_ = s.record(c, func(*protocol.Status) { c.rec.Killed = true })
	left := s.findStrays(c)
	killed := c.signalFirst(unix.SIGKILL)
	if err := left.kill(); err != nil {
		s.log.Warn("a process is not killed", "id", c.id, "error", err)
	}
	return killed
}

// findValid is find that refuses an id which no container can have.
func (s *server) findValid(id string) (*container, error) {
	if err := containerid.CheckSupervised(id); err != nil {
		return nil, fmt.Errorf("%w: %w", protocol.ErrInvalid, err)
	}
	return s.find(id)
}

// handlerOf returns the handler of a container, for an operation that has begun.
func (s *server) handlerOf(c *container) (handler.Handler, error) {
	c.mu.Lock()
	gone := c.gone
	c.mu.Unlock()
	if gone { // while the operation waited for another
		return nil, fmt.Errorf("container %s: %w", c.id, protocol.ErrNotExist)
	}
	h, err := s.handlers.Get(c.rec.Status.Handler)
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", c.id, err)
	}
	return h, nil
}
