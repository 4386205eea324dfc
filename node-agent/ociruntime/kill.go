// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/procfs"
)

// Kill sends a signal to a container's first process or, with all, to every process in its cgroup.
// If the container has no process it returns ErrNotRunning. The signal goes through a pidfd, never
// to another process that has the pid now.
func (r *Runtime) Kill(_ context.Context, id string, sig unix.Signal, all bool) error {
	rec, unlock, err := r.loadLocked(id)
	if err != nil {
		return err
	}
	defer unlock()
	r.debugf("container %s: send signal %d to its first process, pid %d; to all others: %t", id, sig,
		rec.PID, all)
	if all && len(rec.Cgroups) == 0 {
		return rec.signalAll(sig)
	}
	if all {
		g, err := rec.cgroup()
		if err != nil {
			return err
		}
		pids, err := g.Pids()
		if err != nil {
			return fmt.Errorf("processes of container %s: %w", id, err)
		}
		if err := g.Signal(sig); err != nil || slices.Contains(pids, rec.PID) {
			return err
		}
		// It has left its cgroup, or has ended.
		if err := rec.signalFirst(sig); err != nil && !errors.Is(err, ErrNotRunning) {
			return err
		}
		return nil
	}
	if sig == unix.SIGKILL && !rec.OwnPIDs && len(rec.Cgroups) > 0 {
		// No kernel ends the others with the first process, which may be gone already, or in
		// another cgroup.
		err, first := rec.killAll(), rec.signalFirst(sig)
		if errors.Is(err, ErrNotRunning) {
			err = first
		}
		return err
	}
	return rec.signalFirst(sig)
}

// signalFirst sends a signal to the container's first process. If that has ended the error is
// ErrNotRunning.
func (rec *record) signalFirst(sig unix.Signal) error {
	if !rec.alive() {
		return ErrNotRunning
	}
	fd := rec.pidfd()
	if fd < 0 {
		return ErrNotRunning
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return ErrNotRunning
		}
		return fmt.Errorf("signal container %s: %w", rec.ID, err)
	}
	if sig == unix.SIGKILL {
		// A process that the freezer holds does not die until it thaws.
		if g, err := rec.cgroup(); err == nil && g.Frozen() {
			return g.Freeze(false)
		}
	}
	return nil
}

// killAll kills every process in the container's cgroup. It fails with ErrNotRunning if all have
// ended.
func (rec *record) killAll() error {
	g, err := rec.cgroup()
	if err != nil {
		return err
	}
	pids, err := g.Pids()
	if err != nil {
		return fmt.Errorf("processes of container %s: %w", rec.ID, err)
	}
	ended := func(pid int) bool {
		st, err := procfs.ReadStat(pid)
		return err != nil || st.Ended()
	}
	if len(slices.DeleteFunc(pids, ended)) == 0 {
		return ErrNotRunning
	}
	return g.Kill()
}
