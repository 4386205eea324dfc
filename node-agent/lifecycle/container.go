// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// Supervisor creates, starts, updates and deletes containers.
type Supervisor interface {
	Create(ctx context.Context, r protocol.CreateRequest) (protocol.Status, error)
	Start(ctx context.Context, id string) (protocol.Status, error)
	Update(ctx context.Context, id string, r protocol.UpdateRequest) error
	Delete(ctx context.Context, id string, force bool) error
	Get(ctx context.Context, id string) (protocol.Status, error)
}

// createStage has the supervisor create the container, which then waits for its start.
type createStage struct {
	supervisor  Supervisor
	logMaxBytes int64
	tokens      *tokens
}

// tokens bound how many containers are created at the same time, for each handler: one that hangs
// holds up no container of another.
type tokens struct {
	each int
	mu   sync.Mutex
	of   map[string]chan struct{}
}

// take returns once the handler may create one more container, and the function that says that this
// is done.
func (t *tokens) take(ctx context.Context, handler string) (done func(), err error) {
	t.mu.Lock()
	taken := t.of[handler]
	if taken == nil {
		taken = make(chan struct{}, t.each)
		t.of[handler] = taken
	}
	t.mu.Unlock()
	select {
	case taken <- struct{}{}:
		return func() { <-taken }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (createStage) Name() string { return "create" }
func (createStage) Scope() Scope { return PerRun }

func (s createStage) Ensure(ctx context.Context, c *Container) error {
	done, err := s.tokens.take(ctx, handlerOf(c))
	if err != nil {
		return err
	}
	defer done()
	// The supervisor keeps no container that it could not create, except with an unknown outcome.
	_, err = s.supervisor.Create(ctx, protocol.CreateRequest{
		ID: c.ID, Bundle: c.Dir.Path(), Handler: handlerOf(c),
		Log: protocol.Log{Path: c.LogPath, LogLimits: logLimits(c.Bundle, s.logMaxBytes)},
	})
	return err
}

// Release ends every process of the container and has the supervisor forget it. It is forced: a
// container that has not been started, or has ended, has nothing to lose.
func (s createStage) Release(ctx context.Context, c *Container) error {
	err := s.supervisor.Delete(ctx, c.ID, true)
	if errors.Is(err, protocol.ErrNotExist) || errors.Is(err, protocol.ErrNotRunning) {
		return nil
	}
	return err
}

// StartStage is the name of the last stage, which a created container still needs.
const StartStage = "start"

// startStage lets the created container run its program.
type startStage struct{ supervisor Supervisor }

func (startStage) Name() string { return StartStage }
func (startStage) Scope() Scope { return PerRun }

func (s startStage) Ensure(ctx context.Context, c *Container) error {
	// A program that must run once only has not run until it is on the disk that it may have.
	if err := c.Flushed(ctx); err != nil {
		return &StageError{Class: Unknown, Err: fmt.Errorf("flush the record: %w", err)}
	}
	st, err := s.supervisor.Start(ctx, c.ID)
	if errors.Is(err, protocol.ErrNotExist) || errors.Is(err, protocol.ErrNotCreated) {
		return &StageError{Class: Unknown, Err: err} // somebody else has deleted or started it
	}
	if err != nil {
		return err
	}
	c.Status = &st
	return nil
}

// Release does nothing: createStage deletes the container with its process.
func (startStage) Release(context.Context, *Container) error { return nil }
