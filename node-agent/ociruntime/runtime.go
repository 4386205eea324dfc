// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/node-agent/ociruntime/cgroup"
	"github.com/berth-run/berth/node-agent/ociruntime/plan"
	"github.com/berth-run/berth/node-agent/ociruntime/resctrl"
)

// Errors that clients tell apart, with the words that they look for.
var (
	// ErrNotExist: no container has the id.
	ErrNotExist = errors.New("container does not exist")
	// ErrExist: the id is taken.
	ErrExist = errors.New("container with given ID already exists")
	// ErrNotRunning: the container has no process to signal.
	ErrNotRunning = errors.New("container not running")
	// ErrNotPaused: there is nothing to resume.
	ErrNotPaused = errors.New("container not paused")
)

// StatusPaused is a running container whose processes the freezer has stopped; the spec has no word
// for it.
const StatusPaused specs.ContainerState = "paused"

// DefaultRoot is the directory in which the system's containers are recorded.
const DefaultRoot = "/run/berth"

// Runtime creates and manages the containers recorded below one directory. Its methods may be
// called from several goroutines and processes at once.
type Runtime struct {
	// manager creates the cgroups of new containers.
	manager cgroup.Manager
	root    string
	warn    func(string)
	// debug receives a message for each step; nil if nobody wants them.
	debug func(string)
	host  hostCache

	deadline time.Duration
	// change is nil but in tests, which have steps of a plan fail.
	change func(*plan.Plan)
	// resctrl is nil where it has to be looked for.
	resctrl *resctrl.FS
	// rootless is nil where nobody has said.
	rootless *bool
	sticky   bool
	// ignoreMissingLSM is of WithoutMissingLSM.
	ignoreMissingLSM bool
}

// Option configures the Runtime that New returns.
type Option func(*Runtime)

// WithWarnings calls f for each request that was not granted but is no failure.
func WithWarnings(f func(string)) Option { return func(r *Runtime) { r.warn = f } }

// WithDebug calls f for each step.
func WithDebug(f func(string)) Option { return func(r *Runtime) { r.debug = f } }

// WithDeadline sets how long a phase of a launch may take (launch.Request.Deadline). Hooks have
// their own timeouts.
func WithDeadline(d time.Duration) Option { return func(r *Runtime) { r.deadline = d } }

// WithResctrl sets the resctrl filesystem for linux.intelRdt; by default the mounted one is used.
func WithResctrl(f *resctrl.FS) Option { return func(r *Runtime) { r.resctrl = f } }

func (r *Runtime) debugf(format string, args ...any) {
	if r.debug != nil {
		r.debug(fmt.Sprintf(format, args...))
	}
}

// New returns the runtime of a root directory, which is made, mode 0700, when the first container
// is.
func New(root string, options ...Option) (*Runtime, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("--root %s: %w", root, err)
	}
	r := &Runtime{root: abs, manager: cgroup.Cgroupfs, warn: func(string) {}}
	for _, o := range options {
		o(r)
	}
	return r, nil
}
