// SPDX-License-Identifier: Apache-2.0

package supervision

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

// Config describes the supervisor that a Keeper keeps.
type Config struct {
	// Berth is the path of the program berth, which is the supervisor.
	Berth string
	// RunDir is the supervisor's run directory.
	RunDir string
	// CgroupParent is the cgroup of the node's containers. The supervisor's is made in it.
	CgroupParent string
	// Handlers are the runtimes besides the native one, each as NAME=PATH.
	Handlers []string
	// Client speaks to the supervisor of RunDir.
	Client *protocol.Client
	// Claim makes sure that RunDir is this agent's.
	Claim func(context.Context) error
	// Version is this agent's.
	Version string
	Log     *slog.Logger
}

// Keeper keeps a supervisor running, and holds its descriptors.
type Keeper struct {
	config Config
	holder *protocol.Holder

	mu   sync.Mutex
	info protocol.Info // of the supervisor that was met last
	old  bool          // it passes no descriptors on
}

// New returns a Keeper. Under systemd it takes over the descriptors that the service manager has
// kept.
func New(c Config) *Keeper {
	holder := &protocol.Holder{Log: c.Log}
	// Under systemd what the agent holds outlives the agent, too.
	if store, err := fdstore.Open(); err != nil {
		c.Log.Warn("the service manager keeps no descriptors", "error", err)
	} else if store != nil {
		holder.Store = store
		if err := holder.Adopt(fdstore.Take()); err != nil {
			c.Log.Warn("descriptors that the service manager has kept cannot be held", "error", err)
		}
	}
	return &Keeper{config: c, holder: holder}
}

// Start starts the supervisor unless it runs, and reads its version and handlers.
func (k *Keeper) Start(ctx context.Context) error {
	if err := k.ensure(ctx); err != nil {
		return err
	}
	return k.meet(ctx)
}

// startTimeout is the time that a supervisor may take to answer after it was started.
const startTimeout = 30 * time.Second

// ensure starts the supervisor unless it runs.
func (k *Keeper) ensure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	socket := protocol.Socket(k.config.RunDir)
	args := []string{
		"supervise", "--run-dir", k.config.RunDir, "--socket", socket, "--cgroup-parent",
		path.Join(k.config.CgroupParent, "supervisor"),
	}
	for _, h := range k.config.Handlers {
		args = append(args, "--handler", h)
	}
	return protocol.EnsureRunning(ctx, k.config.Berth, args, socket, k.holder)
}

// wanted returns the names of the handlers that the agent's flags ask for.
func (k *Keeper) wanted() []string {
	names := []string{v1alpha1.HandlerNative}
	for _, h := range k.config.Handlers {
		name, _, _ := strings.Cut(h, "=")
		names = append(names, name)
	}
	return names
}

// meet claims the run directory and reads the supervisor's version and handlers: it may be another
// program than the agent's flags name, since it outlives agents. It reports what differs each time
// that it meets another one.
func (k *Keeper) meet(ctx context.Context) error {
	info, err := k.config.Client.Info(ctx)
	old := errors.Is(err, protocol.ErrInvalid)
	if old {
		for _, name := range k.wanted() {
			info.Handlers = append(info.Handlers, protocol.HandlerInfo{Name: name})
		}
	} else if err != nil {
		return err
	}
	if err := k.config.Claim(ctx); err != nil {
		return err
	}
	k.mu.Lock()
	known := k.info.Run == info.Run
	k.info = info
	k.mu.Unlock()
	if known {
		return nil
	}
	if old {
		k.config.Log.Warn(
			"the supervisor is older than this agent and does not say what its handlers can do",
			"supervisor", info.Program)
	}
	if ours := "berth " + k.config.Version; info.Program != ours {
		k.config.Log.Info(
			"the supervisor is of another version than this agent; `berth supervise --upgrade` replaces it, and containers go on",
			"supervisor", info.Program, "agent", ours, "protocol", info.Version)
	}
	have := k.HandlerNames()
	for _, name := range k.wanted() {
		if !slices.Contains(have, name) {
			k.config.Log.Warn(
				"--handler: the supervisor that runs does not have it, and gets it when it is started anew",
				"handler", name)
		}
	}
	for _, h := range info.Handlers {
		if h.Error != "" {
			k.config.Log.Warn("a handler does not say what it can do", "handler", h.Name, "error", h.Error)
		}
	}
	return nil
}

// Handlers returns the handlers of the supervisor.
func (k *Keeper) Handlers() []v1alpha1.NodeHandler {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []v1alpha1.NodeHandler
	for _, h := range k.info.Handlers {
		out = append(out, registration.Handler(h.Name, h.Features))
	}
	return out
}

// HandlerNames returns the names of the handlers of the supervisor.
func (k *Keeper) HandlerNames() []string {
	var names []string
	for _, h := range k.Handlers() {
		names = append(names, h.Name)
	}
	return names
}

// Run holds the supervisor's descriptors, and starts another supervisor at once when it is gone,
// until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	defer k.holder.Close()
	for wait := time.Duration(0); ; {
		begin := time.Now()
		err := k.meet(ctx)
		if err == nil {
			err = k.hold(ctx)
		}
		if ctx.Err() != nil {
			return nil
		}
		k.notePassesNothing(errors.Is(err, protocol.ErrInvalid))
		if k.passesNothing() {
			// It is older than this agent, and passes nothing on. It is replaced when it ends.
			k.config.Log.Warn(
				"the supervisor is older than this agent: output and exit codes are lost if it is killed",
				"error", err)
			err = k.await(ctx)
			if ctx.Err() != nil {
				return nil
			}
			k.notePassesNothing(false)
		}
		k.config.Log.Warn("the supervisor is gone, or does not answer", "error", err)
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
		if err := k.ensure(ctx); err != nil && ctx.Err() == nil {
			k.config.Log.Error("cannot start the supervisor; trying again", "error", err)
		}
	}
}

// passesNothing reports whether the supervisor is too old to pass descriptors on.
func (k *Keeper) passesNothing() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.old
}

func (k *Keeper) notePassesNothing(old bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.old = old
}

// hold holds the supervisor's descriptors until it is gone or does not answer. The end of the
// connection alone does not always say so: a child between fork and execve may keep it open.
func (k *Keeper) hold(ctx context.Context) error {
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
			if _, err := k.config.Client.Ping(ctx); err != nil {
				cancel(err)
				return
			}
			// Both go on with the connection that they have if somebody removes the directory.
			if err := k.config.Claim(ctx); err != nil {
				cancel(err)
				return
			}
		}
	})
	err := k.config.Client.Hold(ctx, k.holder)
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// await waits until the supervisor ends, and returns why its connection did.
func (k *Keeper) await(ctx context.Context) error {
	w, err := k.config.Client.Watch(ctx)
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
