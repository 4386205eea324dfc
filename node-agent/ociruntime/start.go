// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/launch"
	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// Start makes a created container execute its program. It returns once that has happened, or
// failed.
func (r *Runtime) Start(ctx context.Context, id string) error {
	rec, unlock, err := r.loadLocked(id)
	if err != nil {
		return err
	}
	defer unlock()
	status := r.status(rec)
	if err := startable(status); err != nil {
		if status == specs.StateStopped {
			err = r.explainEnd(rec, err)
		}
		return err
	}
	if rec.NoProgram {
		return r.endWithoutProgram(ctx, rec)
	}
	if err := r.startHooks(ctx, rec); err != nil {
		// The end of the lifecycle follows (runtime.md, Lifecycle, 7).
		return errors.Join(err, r.destroy(context.WithoutCancel(ctx), rec))
	}
	if err := r.executeProgram(ctx, rec); err != nil {
		return err
	}
	r.debugf("container %s: started", id)
	if rec.Hooks != nil {
		if err := r.runHooks(ctx, "poststart", rec.Hooks.Poststart, rec, specs.StateRunning); err != nil {
			// The end of the lifecycle follows (runtime.md, Lifecycle, 9).
			return errors.Join(err, r.destroy(context.WithoutCancel(ctx), rec))
		}
	}
	return nil
}

// startable returns nil for a status from which a container can be started.
func startable(status specs.ContainerState) error {
	switch status {
	case specs.StateCreated:
		return nil
	case specs.StateStopped:
		return errors.New("cannot start a container that has stopped")
	case specs.StateCreating:
		return errors.New("cannot start a container that is being created")
	case StatusPaused:
		return errors.New("cannot start a container in the paused state")
	}
	return errors.New("cannot start an already running container")
}

// explainEnd adds to the error of Start that the first process was killed for want of memory while
// it waited for Start.
func (r *Runtime) explainEnd(rec *record, err error) error {
	if _, gone := os.Lstat(filepath.Join(r.dir(rec.ID), startFIFO)); gone == nil && outOfMemory(rec) {
		return fmt.Errorf("%w: %w", err, errOOM)
	}
	return err
}

// executeProgram lets the first process go on to execve and waits for the result.
func (r *Runtime) executeProgram(ctx context.Context, rec *record) error {
	dir := r.dir(rec.ID)
	result, err := unix.Open(filepath.Join(dir, resultFIFO), unix.O_RDONLY|unix.O_CLOEXEC|
		unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("start container %s: %w", rec.ID, err)
	}
	defer unix.Close(result)
	waiting := rec.command() // execve(2) gives it the program's name
	start := filepath.Join(dir, startFIFO)
	// Without a reader, that is when the child has ended, this fails with ENXIO.
	fifo, err := unix.Open(start, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		err = fmt.Errorf("start container %s: its first process has ended: %w", rec.ID, err)
		return r.explainEnd(rec, err)
	}
	_, err = unix.Write(fifo, []byte{0})
	unix.Close(fifo)
	if err != nil {
		return fmt.Errorf("start container %s: %w", rec.ID, err)
	}
	if err := os.Remove(start); err != nil {
		return fmt.Errorf("start container %s: %w", rec.ID, err)
	}
	if err := r.readResult(ctx, rec, result); err != nil {
		return r.explainStart(ctx, rec, err)
	}
	_ = os.Remove(filepath.Join(dir, resultFIFO))
	if rec.command() == waiting && rec.killed() && outOfMemory(rec) {
		return errOOM // the kernel had no memory to load the program
	}
	return nil
}

// explainStart explains why a container that was started did not execute its program.
func (r *Runtime) explainStart(ctx context.Context, rec *record, err error) error {
	// A caller that learns of the failure may look at the state next.
	if fd := rec.pidfd(); fd >= 0 && ctx.Err() == nil {
		_ = waitEnd(ctx, fd)
		unix.Close(fd)
	}
	var late *launch.LateError
	if errors.As(err, &late) {
		return r.explainLate(rec, late)
	}
	if !rec.alive() && outOfMemory(rec) {
		return errOOM
	}
	return fmt.Errorf("start container %s: %w", rec.ID, err)
}

// outOfMemory reports whether the kernel has ended a process of the container for lack of memory.
func outOfMemory(rec *record) bool {
	g, err := rec.cgroup()
	return err == nil && g.OOMKills() > 0
}

// lateSteps returns the steps after SyncReady, whose failure Start reports.
func lateSteps(p *plan.Plan, args []string) []lateStep {
	ready := -1
	for i, s := range p.Syncs {
		if s == plan.SyncReady {
			ready = i
		}
	}
	var out []lateStep
	for i := ready + 1; ready >= 0 && i < len(p.Steps); i++ {
		s := lateStep{Index: i, Field: p.Steps[i].Field.String(), Name: p.Steps[i].Name()}
		if s.Name == "execve" {
			s.Program = args[0]
		}
		out = append(out, s)
	}
	return out
}

// readResult waits for a container that has just been started to become its program, as long as a
// phase of a launch may take: a program on a filesystem that does not answer would have `start`
// wait for good. Then the first process is ended.
func (r *Runtime) readResult(ctx context.Context, rec *record, result int) error {
	deadline := r.deadline
	if deadline == 0 {
		deadline = launch.DefaultDeadline
	}
	limited, cancel := context.WithTimeoutCause(ctx, deadline, os.ErrDeadlineExceeded)
	defer cancel()
	err := launch.ReadResult(limited, result)
	if !errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil {
		return err
	}
	hung := launch.HungLate(rec.PID, deadline, "process.args", "execve")
	if fd := rec.pidfd(); fd >= 0 {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		hung.Unkillable = waitEnd(ctx, fd) != nil
		unix.Close(fd)
	}
	return hung
}
