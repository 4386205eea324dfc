// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/registration"
	"github.com/berth-run/berth/node-agent/supervisor/fdstore"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// supervised keeps a supervisor running.
type supervised struct {
	client *protocol.Client
	ensure func(context.Context) error
	holder *protocol.Holder
	// claim makes sure that the run directory is this agent's.
	claim func(context.Context) error
	log   *slog.Logger
	// wanted are the names of the handlers that the agent's flags ask for.
	wanted []string

	mu   sync.Mutex
	info protocol.Info // of the supervisor that was met last
	old  bool          // it passes no descriptors on
}

func (o *options) supervisor(log *slog.Logger) *supervised {
	socket := protocol.Socket(o.runDir)
	args := []string{"supervise", "--run-dir", o.runDir, "--socket", socket, "--cgroup-parent", path.Join(o.cgroupParent, "supervisor")}
	wanted := []string{v1alpha1.HandlerNative}
	for _, h := range o.handlers {
		args = append(args, "--handler", h)
		name, _, _ := strings.Cut(h, "=")
		wanted = append(wanted, name)
	}
	holder := &protocol.Holder{Log: log}
	// Under systemd what the agent holds outlives the agent, too.
	if store, err := fdstore.Open(); err != nil {
		log.Warn("the service manager keeps no descriptors", "error", err)
	} else if store != nil {
		holder.Store = store
		if err := holder.Adopt(fdstore.Take()); err != nil {
			log.Warn("descriptors that the service manager has kept cannot be held", "error", err)
		}
	}
	return &supervised{
		client: protocol.NewClient(socket), log: log, holder: holder, wanted: wanted,
		ensure: func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
			defer cancel()
			return protocol.EnsureRunning(ctx, o.berth, args, socket, holder)
		},
	}
}

// meet claims the run directory and asks the supervisor what it is and which handlers it has: it
// may be another program than the agent's own flags name, since it outlives agents. It reports what
// differs each time that it meets another one.
func (s *supervised) meet(ctx context.Context) error {
	info, err := s.client.Info(ctx)
	old := errors.Is(err, protocol.ErrInvalid)
	if old {
		for _, name := range s.wanted {
			info.Handlers = append(info.Handlers, protocol.HandlerInfo{Name: name})
		}
	} else if err != nil {
		return err
	}
	if err := s.claim(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	known := s.info.Run == info.Run
	s.info = info
	s.mu.Unlock()
	if known {
		return nil
	}
	if old {
		s.log.Warn("the supervisor is older than this agent and does not say what its handlers can do", "supervisor", info.Program)
	}
	if ours := "berth " + buildVersion(); info.Program != ours {
		s.log.Info("the supervisor is of another version than this agent; `berth supervise --upgrade` replaces it, and containers go on",
			"supervisor", info.Program, "agent", ours, "protocol", info.Version)
	}
	have := s.handlerNames()
	for _, name := range s.wanted {
		if !slices.Contains(have, name) {
			s.log.Warn("--handler: the supervisor that runs does not have it, and gets it when it is started anew", "handler", name)
		}
	}
	for _, h := range info.Handlers {
		if h.Error != "" {
			s.log.Warn("a handler does not say what it can do", "handler", h.Name, "error", h.Error)
		}
	}
	return nil
}

// handlers returns the handlers of the supervisor.
func (s *supervised) handlers() []v1alpha1.NodeHandler {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []v1alpha1.NodeHandler
	for _, h := range s.info.Handlers {
		out = append(out, registration.Handler(h.Name, h.Features))
	}
	return out
}

func (s *supervised) handlerNames() []string {
	var names []string
	for _, h := range s.handlers() {
		names = append(names, h.Name)
	}
	return names
}

// keep holds what the supervisor has open, and starts another supervisor at once when it is gone.
func (s *supervised) keep(ctx context.Context) error {
	defer s.holder.Close()
	for wait := time.Duration(0); ; {
		begin := time.Now()
		err := s.meet(ctx)
		if err == nil {
			err = s.hold(ctx)
		}
		if ctx.Err() != nil {
			return nil
		}
		s.mu.Lock()
		s.old = errors.Is(err, protocol.ErrInvalid)
		s.mu.Unlock()
		if s.passesNothing() {
			// It is older than this agent, and passes nothing on. It is replaced when it ends.
			s.log.Warn("the supervisor is older than this agent: output and exit codes are lost if it is killed", "error", err)
			err = s.await(ctx)
			if ctx.Err() != nil {
				return nil
			}
			s.mu.Lock()
			s.old = false
			s.mu.Unlock()
		}
		s.log.Warn("the supervisor is gone, or does not answer", "error", err)
		// One that ends again and again is not started without a pause.
		if time.Since(begin) > 10*time.Second {
			wait = 0
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(max(2*wait, 100*time.Millisecond), 5*time.Second)
		if err := s.ensure(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("cannot start the supervisor; trying again", "error", err)
		}
	}
}

// heldClient is a client that starts a container once the agent holds its descriptors. Else its
// exit code and output would be lost if it ended after the supervisor was killed.
type heldClient struct {
	*protocol.Client
	s *supervised
}

// heldTimeout is how long a start waits: a supervisor that is older than this agent passes nothing
// on.
const heldTimeout = 5 * time.Second

func (c heldClient) Start(ctx context.Context, id string) (protocol.Status, error) {
	short, cancel := context.WithTimeout(ctx, heldTimeout)
	defer cancel()
	if !c.s.passesNothing() {
		if err := c.s.holder.Await(short, id); err != nil && ctx.Err() == nil {
			c.s.log.Warn("the supervisor does not pass on the descriptors of a container; it is started all the same", "id", id)
		}
	}
	return c.Client.Start(ctx, id)
}

// passesNothing reports whether the supervisor is too old to pass descriptors on.
func (s *supervised) passesNothing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.old
}

// hold holds what the supervisor has open until that is gone or does not answer. The end of the
// connection alone does not always say so: a child between fork and execve may keep it open.
func (s *supervised) hold(ctx context.Context) error {
	var checks sync.WaitGroup
	defer checks.Wait() // what follows claims the run directory itself
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	checks.Go(func() {
		tick := time.NewTicker(2 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if _, err := s.client.Ping(ctx); err != nil {
				cancel(err)
				return
			}
			// Both go on with the connection that they have if somebody removes the directory.
			if err := s.claim(ctx); err != nil {
				cancel(err)
				return
			}
		}
	})
	err := s.client.Hold(ctx, s.holder)
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// await waits until the supervisor ends, and returns why its connection did.
func (s *supervised) await(ctx context.Context) error {
	w, err := s.client.Watch(ctx)
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		if _, err := w.Next(); err != nil {
			return err
		}
	}
}
