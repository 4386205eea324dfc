// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Delete removes a container and all that was made for it. Only a stopped one is (runtime.md,
// Delete); with force any other is killed first, and one that does not exist is no error.
func (r *Runtime) Delete(ctx context.Context, id string, force bool) error {
	unlock, err := r.lock(id)
	if errors.Is(err, ErrNotExist) && force {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := r.load(id)
	if errors.Is(err, ErrNotExist) {
		return r.removeUnrecorded(id, force)
	}
	if errors.Is(err, errCorruptRecord) && force {
		r.warn(fmt.Sprintf("%v; it is removed", err))
		return r.removeDir(id)
	}
	if err != nil {
		return err
	}
	status := r.status(rec)
	if !force && status != specs.StateStopped {
		return fmt.Errorf(
			"cannot delete container %s that is not stopped: %s (kill it first, or use --force)", id, status)
	}
	return r.destroy(ctx, rec)
}

// destroy ends the remaining processes of a container and removes its cgroup and its record.
// Poststop hooks run last.
func (r *Runtime) destroy(ctx context.Context, rec *record) error {
	g, err := rec.cgroup()
	if err != nil {
		return err
	}
	if fd := rec.pidfd(); fd >= 0 {
		r.debugf("container %s: kill its first process, pid %d", rec.ID, rec.PID)
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		if g.Frozen() {
			_ = g.Freeze(false)
		}
		var elsewhere error
		if !endsWithin(fd, 100*time.Millisecond) {
			elsewhere = errors.Join(g.ThawElsewhere(rec.PID), g.ThawBelow())
		}
		err := waitEnd(ctx, fd)
		unix.Close(fd)
		if err != nil {
			err = errors.Join(err, elsewhere)
			return fmt.Errorf("container %s: its first process (pid %d) does not end: %w", rec.ID,
				rec.PID, err)
		}
	}
	if !rec.OwnPIDs || rec.PID == 0 {
		if err := g.Kill(); err != nil {
			return fmt.Errorf("container %s: %w", rec.ID, err)
		}
	}
	r.debugf("container %s: remove its cgroups %v", rec.ID, rec.Cgroups)
	err = g.Destroy()
	if err != nil && rec.PID == 0 {
		// Its maker was killed before it could record the first process, which on cgroup v1 moves
		// into the cgroup by itself: it may have come after Kill.
		_ = g.Kill()
		err = g.Destroy()
	}
	if err != nil {
		return fmt.Errorf("container %s: %w", rec.ID, err)
	}
	if err := errors.Join(r.removeResctrl(rec), rec.unmountRoot()); err != nil {
		return fmt.Errorf("container %s: %w", rec.ID, err)
	}
	if err := r.removeDir(rec.ID); err != nil {
		return err
	}
	r.debugf("container %s: removed", rec.ID)
	if rec.Hooks != nil {
		r.runHooksLogged(ctx, "poststop", rec.Hooks.Poststop, rec, specs.StateStopped)
	}
	return nil
}

// removeUnrecorded removes a directory without a record: its maker was killed before it had made
// anything else. A directory that holds more than that is no container, such as that of a
// supervisor whose --run-dir is our root.
func (r *Runtime) removeUnrecorded(id string, force bool) error {
	_ = os.Remove(filepath.Join(r.dir(id), stateFile+".new"))
	err := unix.Rmdir(r.dir(id))
	switch {
	case err == nil, force && errors.Is(err, unix.ENOTEMPTY):
		return nil
	case errors.Is(err, unix.ENOTEMPTY):
		return ErrNotExist
	}
	return fmt.Errorf("remove the state of container %s: %w", id, err)
}

// removeDir removes the directory of a container, the record last, so that an interrupted removal
// can be repeated. It opens no descriptor for our own files, since the process may have used up all
// that it can have.
func (r *Runtime) removeDir(id string) error {
	dir := r.dir(id)
	for _, name := range []string{
		configFile, newFIFO, startFIFO, resultFIFO, notifyFolder,
		restoreRoot, stateFile + ".new",
	} {
		_ = os.RemoveAll(filepath.Join(dir, name))
	}
	_ = unix.Unlink(filepath.Join(dir, stateFile))
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove the state of container %s: %w", id, err)
	}
	return nil
}

// waitEnd waits until the process of a pidfd has ended; a zombie has.
func waitEnd(ctx context.Context, pidfd int) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 100)
		switch {
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("poll: %w", err)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case time.Now().After(deadline):
			return errors.New("it still runs 10 s after SIGKILL")
		}
	}
}

// endsWithin reports whether the process of a pidfd ends within d.
func endsWithin(pidfd int, d time.Duration) bool {
	n, _ := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(d.Milliseconds()))
	return n > 0
}
