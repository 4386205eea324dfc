// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/handler"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// brokenStart is a handler whose Start fails, and which says of the container afterwards what state says.
type brokenStart struct {
	handler.Handler
	state func() (*specs.State, error)
}

func (brokenStart) Start(context.Context, string) error                   { return unix.EMFILE }
func (b brokenStart) State(context.Context, string) (*specs.State, error) { return b.state() }

// TestStartThatNobodyKnows: if a handler fails to start a container and cannot say what became of it, the program may run. The
// caller is told so, since it would undo a start that has failed.
func TestStartThatNobodyKnows(t *testing.T) {
	is := func(status specs.ContainerState) func() (*specs.State, error) {
		return func() (*specs.State, error) { return &specs.State{Status: status}, nil }
	}
	for name, tc := range map[string]struct {
		state         func() (*specs.State, error)
		unknown, ran  bool // ran is whether the record says that the program may have run
		wantNoFailure bool
	}{
		"no state":    {state: func() (*specs.State, error) { return nil, unix.EMFILE }, unknown: true, ran: true},
		"not started": {state: is(specs.StateCreated)},
		"ended":       {state: is(specs.StateStopped), ran: true},
		"runs":        {state: is(specs.StateRunning), ran: true, wantNoFailure: true},
	} {
		t.Run(name, func(t *testing.T) {
			c := &container{id: "x", pidfd: -1, ended: make(chan struct{})}
			c.rec.Status = protocol.Status{ID: "x", Handler: "broken", State: protocol.Created}
			s := &server{
				log: slog.New(slog.DiscardHandler), handlers: handler.Set{"broken": brokenStart{state: tc.state}},
				records: records{t.TempDir()}, containers: map[string]*container{"x": c}, step: func(string) {},
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
		})
	}
}
