// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/cgrouplayout"
)

// Kill sends SIGKILL to every process in the cgroup and below it.
func (g *Group) Kill() error { return g.Signal(unix.SIGKILL) }

// Signal sends a signal to every process in the cgroup and below it. It is meant for a container
// that has no pid namespace of its own: with one, the end of its first process ends the others.
func (g *Group) Signal(sig unix.Signal) error {
	if len(g.paths) == 0 {
		return nil
	}
	if sig == unix.SIGKILL && g.unified() {
		// cgroup.kill ends even processes that fork at the same time (cgroups(7), Linux 5.14).
		err := writeFile(g.paths[""], "cgroup.kill", "1")
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("kill the cgroup: %w", err)
	}
	// Without cgroup.kill a process may fork between the list and the signal: freeze first. What
	// was paused before stays so, unless it is to die, which a frozen process of version 1 does
	// only once it thaws.
	thaw := sig == unix.SIGKILL || !g.Frozen()
	_ = g.Freeze(true)
	pids, err := g.Pids()
	for _, pid := range pids {
		if e := unix.Kill(pid, sig); e != nil && !errors.Is(e, unix.ESRCH) {
			err = errors.Join(err, fmt.Errorf("kill %d: %w", pid, e))
		}
	}
	if thaw {
		if e := g.Freeze(false); !errors.Is(e, os.ErrNotExist) && !errors.Is(e, errNoFreezer) {
			err = errors.Join(err, e)
		}
	}
	if sig == unix.SIGKILL {
		err = errors.Join(err, g.ThawBelow())
	}
	return err
}

// Pids returns the processes in the cgroup and below it, as the host numbers them.
func (g *Group) Pids() ([]int, error) {
	// Any hierarchy has them all; devices is that which the library takes too.
	dir, ok := g.paths["devices"]
	if !ok {
		dir, ok = g.paths[""]
	}
	if !ok {
		return nil, nil
	}
	pids, err := cgroups.GetAllPids(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return pids, err
}

var errNoFreezer = errors.New(
	"the host has no cgroup hierarchy of the controller freezer: the container cannot be paused")

// Freeze stops (true) or continues all processes of the cgroup.
func (g *Group) Freeze(frozen bool) error {
	if len(g.paths) == 0 {
		return errNone
	}
	state := cgroups.Thawed
	if frozen {
		state = cgroups.Frozen
	}
	if g.unified() {
		m, err := g.manager()
		if err != nil {
			return err
		}
		return m.Freeze(state)
	}
	dir, ok := g.paths["freezer"]
	if !ok {
		return errNoFreezer
	}
	var err error
	for range freezeTries {
		if err = (&fs.FreezerGroup{}).Set(dir, &cgroups.Resources{Freezer: state}); err == nil ||
			errors.Is(err, os.ErrNotExist) {
			return err
		}
		time.Sleep(freezePause)
	}
	return err
}

// On a busy machine a process can be where it cannot be frozen for longer than the library waits,
// which is less than half a second.
const (
	freezeTries = 8
	freezePause = 50 * time.Millisecond
)

// Frozen reports whether the processes are stopped by the freezer, or about to be.
func (g *Group) Frozen() bool {
	dir, file := g.paths["freezer"], "freezer.self_freezing"
	if g.unified() {
		dir, file = g.paths[""], "cgroup.freeze"
	}
	if dir == "" {
		return false
	}
	state, err := readFile(dir, file)
	return err == nil && state == "1"
}

// ThawElsewhere continues a process that a freezer of version 1 holds in another cgroup than the
// container's, with all that are in there. Until then it does not die of SIGKILL; version 2 lets a
// frozen process die.
func (g *Group) ThawElsewhere(pid int) error {
	ours, ok := g.paths["freezer"]
	if !ok {
		return nil
	}
	theirs, err := cgroups.ParseCgroupFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return fmt.Errorf("the cgroups of process %d: %w", pid, err)
	}
	path := theirs["freezer"]
	if path == "" || path == "/" || !filepath.IsLocal("."+path) {
		return nil // "/.." is outside of this process's cgroup namespace, and not mounted here
	}
	dir := filepath.Join(cgrouplayout.Root, hierarchy(ours), path)
	if dir == ours {
		return nil
	}
	return thawV1(dir)
}

// ThawBelow continues the processes that a freezer of version 1 holds in cgroups below the
// container's, which a container that may write its cgroup can create and freeze. Freeze does not
// reach them.
func (g *Group) ThawBelow() error {
	ours, ok := g.paths["freezer"]
	if !ok {
		return nil
	}
	return filepath.WalkDir(ours, func(dir string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && dir != ours {
			err = thawV1(dir)
		}
		if errors.Is(err, os.ErrNotExist) { // removed since
			return nil
		}
		return err
	})
}

// thawV1 continues the processes of a cgroup of version 1, if it is frozen itself.
func thawV1(dir string) error {
	frozen, err := readFile(dir, "freezer.self_freezing")
	if err != nil || frozen != "1" {
		return err
	}
	return writeFile(dir, "freezer.state", string(cgroups.Thawed))
}

// OOMKills returns the number of processes of the cgroup that the out-of-memory killer has ended; 0
// if the kernel does not count them.
func (g *Group) OOMKills() uint64 {
	if g.unified() {
		return OOMKills(g.paths[""])
	}
	return OOMKills(g.paths["memory"])
}

// OOMKills returns the number of processes that the out-of-memory killer has ended in the cgroup of
// a directory, which is of version 2 or of the controller memory: "oom_kill" of memory.events or
// memory.oom_control (Linux 4.13). It is 0 if dir is empty, or cannot be read.
func OOMKills(dir string) uint64 {
	if dir == "" {
		return 0
	}
	for _, file := range []string{"memory.events", "memory.oom_control"} {
		text, err := readFile(dir, file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(text) {
			if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
				kills, _ := strconv.ParseUint(strings.TrimSpace(n), 10, 64)
				return kills
			}
		}
	}
	return 0
}
