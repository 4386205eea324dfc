// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/containerid"
	"github.com/berth-run/berth/internal/procfs"
	"github.com/berth-run/berth/node-agent/runtime/cgroup"
	"github.com/berth-run/berth/node-agent/runtime/plan"
	"github.com/berth-run/berth/node-agent/runtime/resctrl"
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

// State holds the spec's state of a container (runtime.md, State) and what clients of runc read
// besides.
type State struct {
	OCIVersion  string               `json:"ociVersion"`
	ID          string               `json:"id"`
	PID         int                  `json:"pid"`
	Status      specs.ContainerState `json:"status"`
	Bundle      string               `json:"bundle"`
	Rootfs      string               `json:"rootfs"`
	Created     time.Time            `json:"created"`
	Annotations map[string]string    `json:"annotations,omitempty"`
	Owner       string               `json:"owner"`
	// Cgroups are the container's cgroup directories by controller, "" for the unified hierarchy.
	Cgroups map[string]string `json:"-"`
	// OOMKills is the number of its processes that the out-of-memory killer has ended so far.
	OOMKills uint64 `json:"-"`
}

// status works out where a container stands.
func (r *Runtime) status(rec *record) specs.ContainerState {
	switch {
	case rec.PID == 0:
		return specs.StateCreating
	case !rec.alive():
		return specs.StateStopped
	}
	// As in runc, paused goes before created: Start would wait for a process that cannot move.
	if g, err := rec.cgroup(); err == nil && g.Frozen() {
		return StatusPaused
	}
	// The first process waits for Start while it reads the fifo. One that is left without a reader
	// is of a Start that was killed after it had let the process go.
	fifo, err := unix.Open(filepath.Join(r.dir(rec.ID), startFIFO), unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err == nil {
		unix.Close(fifo)
		return specs.StateCreated
	}
	if _, err := os.Lstat(filepath.Join(r.dir(rec.ID), newFIFO)); err == nil {
		return specs.StateCreating
	}
	return specs.StateRunning
}

func (r *Runtime) state(rec *record) *State {
	s := &State{
		OCIVersion: rec.OCIVersion, ID: rec.ID, PID: rec.PID, Status: r.status(rec), Bundle: rec.Bundle, Rootfs: rec.Rootfs,
		Created: rec.Created, Annotations: rec.Annotations, Cgroups: rec.Cgroups,
	}
	if s.Status == specs.StateStopped || s.Status == specs.StateCreating {
		s.PID = 0
	}
	return s
}

// State returns the state of a container, or ErrNotExist.
func (r *Runtime) State(_ context.Context, id string) (*State, error) {
	rec, err := r.load(id)
	if err != nil {
		return nil, err
	}
	s := r.state(rec)
	if g, err := rec.cgroup(); err == nil {
		s.OOMKills = g.OOMKills()
	}
	return s, nil
}

// List returns all containers below the root, by id. An unreadable record causes a warning.
func (r *Runtime) List(context.Context) ([]*State, error) {
	entries, err := os.ReadDir(r.root)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var out []*State
	for _, e := range entries {
		if !e.IsDir() || containerid.Check(e.Name()) != nil {
			continue
		}
		rec, err := r.load(e.Name())
		if errors.Is(err, ErrNotExist) {
			continue // being made or removed, or no container at all
		}
		if err != nil {
			r.warn(err.Error())
			continue
		}
		s := r.state(rec)
		s.Owner = ownerName(rec.Owner)
		out = append(out, s)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out, nil
}

func ownerName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return "#" + strconv.Itoa(uid)
}

// loadLocked locks a container and reads its record.
func (r *Runtime) loadLocked(id string) (rec *record, unlock func(), err error) {
	if unlock, err = r.lock(id); err != nil {
		return nil, nil, err
	}
	if rec, err = r.load(id); err != nil {
		unlock()
		return nil, nil, err
	}
	return rec, unlock, nil
}

// lock keeps other processes from changing a container until unlock is called. The lock is on the
// directory of the container and is released with the descriptor.
func (r *Runtime) lock(id string) (unlock func(), err error) {
	if err := containerid.Check(id); err != nil {
		return nil, err
	}
	for {
		fd, err := unix.Open(r.dir(id), unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if errors.Is(err, unix.ENOENT) {
			return nil, ErrNotExist
		}
		if err != nil {
			return nil, fmt.Errorf("container %s: %w", id, err)
		}
		for {
			if err = unix.Flock(fd, unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
				break
			}
		}
		// The holder of the lock may have removed the container: then this is the lock of a
		// directory that is gone, and another container may have the id.
		var st unix.Stat_t
		if err == nil {
			err = unix.Fstat(fd, &st)
		}
		if err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("lock container %s: %w", id, err)
		}
		if st.Nlink > 0 {
			return func() { unix.Close(fd) }, nil
		}
		unix.Close(fd)
	}
}

// Kill sends a signal to a container's first process or, with all, to every process in its cgroup.
// If the container has no process it returns ErrNotRunning. The signal goes through a pidfd, never
// to another process that has the pid now.
func (r *Runtime) Kill(_ context.Context, id string, sig unix.Signal, all bool) error {
	rec, unlock, err := r.loadLocked(id)
	if err != nil {
		return err
	}
	defer unlock()
	r.debugf("container %s: send signal %d to its first process, pid %d; to all others: %t", id, sig, rec.PID, all)
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
		return fmt.Errorf("cannot delete container %s that is not stopped: %s (kill it first, or use --force)", id, status)
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
			return fmt.Errorf("container %s: its first process (pid %d) does not end: %w", rec.ID, rec.PID, err)
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

// removeDir removes the directory of a container, the record last: where this is cut short the
// container is still there to be deleted. It needs no descriptor for what is of ours, since there
// may be none left.
func (r *Runtime) removeDir(id string) error {
	dir := r.dir(id)
	for _, name := range []string{configFile, newFIFO, startFIFO, resultFIFO, notifyFolder, restoreRoot, stateFile + ".new"} {
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

// ociState returns the state (runtime.md, State) for hooks and seccomp agents.
func (rec *record) ociState(status specs.ContainerState) specs.State {
	s := specs.State{Version: rec.OCIVersion, ID: rec.ID, Status: status, Bundle: rec.Bundle, Annotations: rec.Annotations}
	if status != specs.StateStopped { // whose pid may be another's by now
		s.Pid = rec.PID
	}
	return s
}
