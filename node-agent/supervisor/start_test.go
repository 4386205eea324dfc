// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/handler"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// brokenStart is a handler whose Start fails, and which then reports the container's state as
// state.
type brokenStart struct {
	handler.Handler
	err   error
	state func() (*specs.State, error)
}

func (b brokenStart) Start(context.Context, string) error                 { return b.err }
func (b brokenStart) State(context.Context, string) (*specs.State, error) { return b.state() }

// TestStartThatNobodyKnows: if a handler fails to start a container and cannot say what became of
// it, the program may run. The caller is told so, since it would undo a start that has failed.
func TestStartThatNobodyKnows(t *testing.T) {
	leaktest.Check(t)
	is := func(status specs.ContainerState) func() (*specs.State, error) {
		return func() (*specs.State, error) { return &specs.State{Status: status}, nil }
	}
	for name, tc := range map[string]struct {
		state         func() (*specs.State, error)
		begun         bool // whether an earlier supervisor has begun to start it
		starts        bool // whether Start succeeds
		err           error
		unknown, ran  bool // ran reports whether the record says that the program may have run
		wantNoFailure bool
	}{
		"no state": {state: func() (*specs.State, error) {
			return nil, unix.EMFILE
		}, unknown: true, ran: true},
		"not started": {state: is(specs.StateCreated)},
		"ended":       {state: is(specs.StateStopped), ran: true},
		"runs":        {state: is(specs.StateRunning), ran: true, wantNoFailure: true},
		// The process of an earlier start can have its program's end behind it by the second one.
		"begun, not started": {begun: true, state: is(specs.StateCreated), unknown: true, ran: true},
		"begun, ended":       {begun: true, state: is(specs.StateStopped), unknown: true, ran: true},
		"begun, runs": {
			begun: true, state: is(specs.StateRunning), ran: true,
			wantNoFailure: true,
		},
		"begun, starts now": {begun: true, starts: true, ran: true, wantNoFailure: true},
		// A runtime that was killed may have let the process go, which is slow to come to its program.
		"cut off, not started": {
			err: handler.ErrCutOff, state: is(specs.StateCreated), unknown: true,
			ran: true,
		},
		"cut off, ended": {
			err: handler.ErrCutOff, state: is(specs.StateStopped), unknown: true,
			ran: true,
		},
		"cut off, runs": {
			err: handler.ErrCutOff, state: is(specs.StateRunning), ran: true,
			wantNoFailure: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := &container{id: "x", op: newOperations(), pidfd: -1, ended: make(chan struct{})}
			c.rec.Status = protocol.Status{ID: "x", Handler: "broken", State: protocol.Created}
			if tc.err == nil && !tc.starts {
				tc.err = unix.EMFILE
			}
			before := time.Now().Add(-time.Hour).UTC()
			if tc.begun {
				c.rec.Status.StartedAt = before
			}
			s := &server{
				log: slog.New(slog.DiscardHandler), handlers: handler.Set{"broken": brokenStart{
					err:   tc.err,
					state: tc.state,
				}},
				records: records{t.TempDir()}, containers: map[string]*container{"x": c}, step: func(string) {},
			}
			if err := s.records.save(&c.rec); err != nil {
				t.Fatal(err)
			}
			_, err := s.start(t.Context(), "x")
			if (err == nil) != tc.wantNoFailure {
				t.Fatalf("found %v", err)
			}
			if err != nil && errors.Is(wireError(err), protocol.ErrUnknownOutcome) != tc.unknown {
				t.Errorf("found %v", err)
			}
			rec, err := s.records.read("x")
			if err != nil {
				t.Fatal(err)
			}
			if ran := !rec.Status.StartedAt.IsZero(); ran != tc.ran {
				t.Errorf("the record says that it may have run: %v; want %v", ran, tc.ran)
			}
			if kept := rec.Status.StartedAt.Equal(before); kept != (tc.begun && !tc.starts) {
				t.Errorf("the record has the time of the earlier start: %v", kept)
			}
		})
	}
}

// hangingCreate is a handler whose Create takes until its context ends.
type hangingCreate struct {
	handler.Handler
	begun chan struct{}
}

func (h hangingCreate) Create(ctx context.Context, _, _ string, _ handler.Stdio) (int, error) {
	h.begun <- struct{}{}
	<-ctx.Done()
	return 0, ctx.Err()
}

// refusedCreate is a handler whose Create fails at once.
type refusedCreate struct{ handler.Handler }

func (refusedCreate) Create(context.Context, string, string, handler.Stdio) (int, error) {
	return 0, unix.ENOEXEC
}

// TestHandlerThatHangs: a handler that does not answer holds up no container of another.
func TestHandlerThatHangs(t *testing.T) {
	leaktest.Check(t)
	s := testServer(t)
	hangs := hangingCreate{begun: make(chan struct{})}
	s.handlers = handler.Set{"hangs": hangs, "refuses": refusedCreate{}}
	s.slots = slotsOf(s.handlers, 1)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	create := func(id, handler string) error {
		_, err := s.create(ctx, &protocol.CreateRequest{ID: id, Handler: handler, Bundle: "/bundle"})
		return err
	}
	all.Go(func() { _ = create("first", "hangs") })
	<-hangs.begun
	if err := create("other", "refuses"); !errors.Is(err, unix.ENOEXEC) {
		t.Errorf("found %v; want %v", err, unix.ENOEXEC)
	}
}
