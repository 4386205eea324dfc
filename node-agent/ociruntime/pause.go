// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"context"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Pause stops all processes of a created or running container with the freezer. One that is paused
// already or has no process fails with ErrNotRunning, as in runc.
func (r *Runtime) Pause(_ context.Context, id string) error {
	return r.freeze(id, true, func(s specs.ContainerState) error {
		if s != specs.StateRunning && s != specs.StateCreated {
			return ErrNotRunning
		}
		return nil
	})
}

// Resume lets a paused container continue; another fails with ErrNotPaused.
func (r *Runtime) Resume(_ context.Context, id string) error {
	return r.freeze(id, false, func(s specs.ContainerState) error {
		if s != StatusPaused {
			return ErrNotPaused
		}
		return nil
	})
}

func (r *Runtime) freeze(id string, frozen bool, check func(specs.ContainerState) error) error {
	rec, unlock, err := r.loadLocked(id)
	if err != nil {
		return err
	}
	defer unlock()
	if err := check(r.status(rec)); err != nil {
		return err
	}
	g, err := rec.cgroup()
	if err != nil {
		return err
	}
	if err := g.Freeze(frozen); err != nil {
		return fmt.Errorf("container %s: %w", id, err)
	}
	return nil
}

// Processes returns the processes in the container's cgroup and below it, or of its pid namespace
// where it has no cgroup, as the host numbers them: nil if none is left.
func (r *Runtime) Processes(_ context.Context, id string) ([]int, error) {
	rec, err := r.load(id)
	if err != nil {
		return nil, err
	}
	pids, err := rec.pids()
	if err != nil {
		return nil, fmt.Errorf("processes of container %s: %w", id, err)
	}
	return pids, nil
}
