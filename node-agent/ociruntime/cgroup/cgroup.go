// SPDX-License-Identifier: Apache-2.0

// Package cgroup makes, limits, reads and removes the cgroups of one container, on cgroup v1,
// hybrid and v2 hosts. The limits are written by opencontainers/cgroups; what is here is the way
// from the runtime-spec to that library, what is to be done before and after it, and how a process
// gets in without its parent waiting for it.
package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // lets the library set device rules
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/cgrouplayout"
)

// Group is the cgroup of one container, in every hierarchy of the host.
type Group struct {
	// paths are the directories by controller, "" for a hierarchy of version 2.
	paths     map[string]string
	resources *specs.LinuxResources
	// owner gets the directory of version 2, where the container may divide its cgroup further; -1
	// is nobody.
	owner int
	// rootless reports whether its creator may be a plain user, optional whether the container can
	// run without it.
	rootless, optional bool
	// begun reports whether CreateUnified has been called.
	begun bool
	// unit is the scope where systemd makes the cgroup, with properties besides its limits.
	unit       *Unit
	properties []property
}

// New prepares the cgroup that a document asks for, without creating it. The path is relative to
// the mount of each hierarchy. An empty linux.cgroupsPath becomes /ID.
//
// With rootless, the caller may be a plain user: an empty path is then beside the caller's own
// cgroup, and a container for which neither a path nor limits are asked for goes without a cgroup
// where none can be made.
func New(spec *specs.Spec, id string, layout cgrouplayout.Layout, rootless bool) (*Group, error) {
	path := spec.Linux.CgroupsPath
	optional := rootless && path == ""
	switch {
	case optional:
		path = filepath.Join(besideOwn(), id)
	case path == "":
		path = "/" + id
	}
	// A relative path is the runtime's to place (config-linux.md, Cgroups Path); below the root it
	// cannot depend on where the caller happens to stand.
	path = filepath.Clean("/" + path)
	if path == "/" {
		return nil, fmt.Errorf("linux.cgroupsPath: found %q; the root cgroup cannot be a container's",
			spec.Linux.CgroupsPath)
	}
	g := &Group{
		paths: layout.Paths(path), resources: spec.Linux.Resources, owner: delegate(spec),
		rootless: rootless, optional: optional,
	}
	if _, ok := g.paths["devices"]; optional && !ok && !layout.Unified {
		return g, g.doWithout(os.ErrNotExist)
	}
	if len(g.paths) == 0 {
		return nil, fmt.Errorf("linux.cgroupsPath: found no cgroup hierarchy below %s of the host",
			cgrouplayout.Root)
	}
	if _, ok := g.paths["devices"]; !ok && !layout.Unified {
		return nil, errors.New(
			"linux.resources.devices: the host has no cgroup hierarchy of the controller devices: the rules would not hold")
	}
	return g, nil
}

// Open returns the cgroup of a container by the paths that Paths returned when it was created.
func Open(paths map[string]string) (*Group, error) { return &Group{paths: paths, owner: -1}, nil }

// unified reports whether the host has cgroup v2 alone.
func (g *Group) unified() bool {
	_, ok := g.paths[""]
	return ok && len(g.paths) == 1
}

// manager returns the library's manager, which works in the directories that exist.
func (g *Group) manager() (cgroups.Manager, error) {
	config := &cgroups.Cgroup{
		Path: "/unused", Resources: &cgroups.Resources{SkipDevices: true},
		Rootless: g.rootless,
	}
	if g.unified() {
		return fs2.NewManager(config, g.paths[""])
	}
	return fs.NewManager(config, g.paths)
}

// CreateUnified begins to create the cgroup: it creates the directory of version 2, if there is one
// beside those of version 1, for a process to be created in it before Create creates the others.
func (g *Group) CreateUnified() error {
	if err := g.refuseFrozenV1(); err != nil {
		return err
	}
	g.begun = true
	if g.paths[""] == "" {
		return nil
	}
	return g.makeFolders([]string{""})
}

// RemoveUnified removes the directory of CreateUnified, whose process must have ended.
func (g *Group) RemoveUnified() error {
	if g.paths[""] == "" {
		return nil
	}
	return remove(g.paths[""])
}

// Create creates the cgroup in every hierarchy and sets its limits. On an error nothing is left but
// the directory of CreateUnified.
func (g *Group) Create() (err error) {
	if len(g.paths) == 0 {
		return nil
	}
	made := false
	defer func() {
		if err != nil && made {
			_ = g.removeAll(g.toCreate())
		}
	}()
	if g.unified() {
		made, err = g.makeUnified()
	} else {
		err = g.makeV1()
		made = err == nil
	}
	if g.optional && denied(err) {
		if made {
			_ = g.Destroy()
		}
		made = false
		return g.doWithout(err)
	}
	if err != nil {
		return err
	}
	if err := g.set(g.resources, true); err != nil {
		return err
	}
	return g.giveAway()
}

// errTaken returns the error for a cgroup that has processes already: a container that shares one
// by mistake would be killed with the other.
func errTaken(dir string) error {
	return fmt.Errorf(
		"linux.cgroupsPath: found %s, which has processes of another container; each container needs its own: container's cgroup is not empty", dir)
}

// refuseFrozen fails where a cgroup is frozen that a container is to be put in, or where it is not
// there, the first above it that is: the container's first process would stop before it has begun.
func refuseFrozen(dir string, frozen func(dir string) (bool, error)) error {
	for ; ; dir = filepath.Dir(dir) {
		stopped, err := frozen(dir)
		if errors.Is(err, os.ErrNotExist) && filepath.Dir(dir) != cgrouplayout.Root {
			continue
		}
		if err == nil && stopped {
			return fmt.Errorf(
				"linux.cgroupsPath: found %s, which is frozen: container's cgroup unexpectedly frozen; thaw or remove it", dir)
		}
		return nil
	}
}

func populated(dir string) bool {
	pids, err := cgroups.GetPids(dir)
	return err == nil && len(pids) > 0
}

// makeUnified creates the directory in a host's only hierarchy, with all controllers that its
// parents have.
func (g *Group) makeUnified() (made bool, err error) {
	dir := g.paths[""]
	if populated(dir) {
		return false, errTaken(dir)
	}
	for above := dir; above != cgrouplayout.Root; above = filepath.Dir(above) {
		if err := refuseFrozen(above, func(dir string) (bool, error) {
			state, err := readFile(dir, "cgroup.freeze")
			return state == "1", err
		}); err != nil {
			return false, err
		}
	}
	resources, err := Resources(g.resources, true)
	if err != nil {
		return false, err
	}
	if err := fs2.CreateCgroupPath(dir, &cgroups.Cgroup{Resources: resources}); err != nil {
		return true, fmt.Errorf("linux.cgroupsPath: unable to apply cgroup configuration: create %s: %w",
			dir, err)
	}
	return true, nil
}

// Paths returns the directories of the cgroup by controller, "" for the unified hierarchy. Open
// takes them.
func (g *Group) Paths() map[string]string { return g.paths }

// Hierarchies returns the names of the hierarchies of version 1, in a fixed order.
func (g *Group) Hierarchies() []string {
	return slices.DeleteFunc(g.folders(), func(name string) bool { return name == "" })
}

// directories returns the controllers with a directory of their own, in a fixed order: several
// controllers may share one.
func (g *Group) folders() (names []string) {
	seen := map[string]bool{"": true}
	for name := range g.paths {
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.DeleteFunc(names, func(name string) bool {
		dir := g.paths[name]
		again := seen[dir]
		seen[dir] = true
		return again
	})
}

// Add moves a process into the cgroup, in every hierarchy.
func (g *Group) Add(pid int) error {
	for _, dir := range g.Paths() {
		if dir == "" {
			continue
		}
		if err := cgroups.WriteCgroupProc(dir, pid); err != nil {
			return fmt.Errorf("linux.cgroupsPath: move process %d to %s: %w", pid, dir, err)
		}
	}
	return nil
}

// Tasks opens the tasks file of each cgroup v1 hierarchy once, for a process with one thread to
// write itself into. It is not cgroup.procs: a write there waits for an RCU grace period, some 10
// ms, to keep other threads from forking, while a thread that moves itself alone does not
// (cgroup_procs_write_start in kernel/cgroup/cgroup.c). They are in the order of Hierarchies. The
// caller closes the descriptors.
func (g *Group) Tasks() (fds []int, err error) {
	for _, name := range g.Hierarchies() {
		dir := g.paths[name]
		fd, err := unix.Open(filepath.Join(dir, "tasks"), unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			for _, fd := range fds {
				unix.Close(fd)
			}
			return nil, fmt.Errorf("linux.cgroupsPath: open %s/tasks: %w", dir, err)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

// Unified opens the cgroup's directory in the hierarchy of version 2, so that clone3 creates a
// child in it (CLONE_INTO_CGROUP). It returns nil if the host has none. The caller closes it.
func (g *Group) Unified() (*os.File, error) {
	dir := g.paths[""]
	if dir == "" {
		return nil, nil
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("linux.cgroupsPath: open %s: %w", dir, err)
	}
	return os.NewFile(uintptr(fd), dir), nil
}

// HostPaths returns the directories by the name of the hierarchy's directory, as a cgroup mount
// shows them.
func (g *Group) HostPaths() map[string]string {
	out := map[string]string{}
	for name, dir := range g.paths {
		if name == "" {
			out[""] = dir
			continue
		}
		out[hierarchy(dir)] = dir
	}
	return out
}

// hierarchy returns the name of the hierarchy's directory that a directory is below.
func hierarchy(dir string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(dir, cgrouplayout.Root+"/"), "/")
	return name
}

// Destroy removes the cgroup in every hierarchy. It waits a moment for processes that are ending.
func (g *Group) Destroy() error {
	var err error
	if g.unit != nil {
		m, e := g.systemd(g.unified())
		if e != nil {
			return fmt.Errorf("remove the scope: %w", e)
		}
		if err := m.Destroy(); err != nil {
			return fmt.Errorf("remove the scope: %w", err)
		}
	}
	return errors.Join(err, g.removeAll(g.folders()))
}

// removeAll removes directories, by controller.
func (g *Group) removeAll(names []string) (err error) {
	for _, name := range names {
		err = errors.Join(err, remove(g.paths[name]))
	}
	return err
}

// remove removes a cgroup and those that the container made below it. A process that has just ended
// holds its cgroup for a moment more.
func remove(dir string) error {
	delay := 100 * time.Microsecond
	for {
		err := unix.Rmdir(dir)
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EBUSY) || delay > time.Second:
			return fmt.Errorf("remove the cgroup %s: %w", dir, err)
		}
		if delay > 400*time.Microsecond {
			entries, err := os.ReadDir(dir)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("remove the cgroup %s: %w", dir, err)
			}
			for _, e := range entries {
				if e.IsDir() {
					if err := remove(filepath.Join(dir, e.Name())); err != nil {
						return err
					}
				}
			}
		}
		time.Sleep(delay)
		delay *= 2
	}
}
