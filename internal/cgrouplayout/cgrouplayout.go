// SPDX-License-Identifier: Apache-2.0

// Package cgrouplayout finds the cgroup hierarchies of a host: which there are, where they are
// mounted, and which directory the cgroup of a process is. It reads only; package cgroup of the
// runtime creates and changes cgroups. It stands apart from that one since the agent, which reports
// the layout, links nothing of the runtime.
package cgrouplayout

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Root is the directory in which the hierarchies are mounted.
const Root = "/sys/fs/cgroup"

// Layout describes the cgroup hierarchies of a host below Root.
type Layout struct {
	// Unified reports whether Root is the one hierarchy of cgroup v2.
	Unified bool
	// V1 are the hierarchies of version 1.
	V1 []Hierarchy
	// Hybrid is the directory below Root of a version 2 hierarchy beside those of version 1; empty
	// if there is none.
	Hybrid string
}

// Hierarchy is a cgroup v1 hierarchy: the name of its directory below Root and its mount options.
type Hierarchy struct {
	Dir, Options string
	// Links are symbolic links beside Dir, such as cpu for cpu,cpuacct.
	Links []string
}

// Has reports whether a controller belongs to the hierarchy, whose directory has the names of its
// controllers.
func (h Hierarchy) Has(controller string) bool {
	return slices.Contains(strings.Split(h.Dir, ","), controller)
}

// Read reads the layout of the host whose files are below root ("/" but in tests). A host without
// any hierarchy is no error.
func Read(root string) (l Layout, err error) {
	top := filepath.Join(root, Root)
	st, err := filesystem(top)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return l, err
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return Layout{Unified: true}, nil
	}
	entries, err := os.ReadDir(top)
	if err != nil {
		return l, err
	}
	links := map[string][]string{}
	for _, e := range entries {
		if e.Type()&os.ModeSymlink != 0 {
			if target, err := os.Readlink(filepath.Join(top, e.Name())); err == nil {
				links[target] = append(links[target], e.Name())
			}
			continue
		}
		st, err := filesystem(filepath.Join(top, e.Name()))
		if err != nil {
			continue
		}
		switch st.Type {
		case unix.CGROUP_SUPER_MAGIC:
			options := e.Name()
			if e.Name() == "systemd" {
				options = "none,name=systemd"
			}
			l.V1 = append(l.V1, Hierarchy{Dir: e.Name(), Options: options})
		case unix.CGROUP2_SUPER_MAGIC:
			l.Hybrid = e.Name()
		}
	}
	for i := range l.V1 {
		l.V1[i].Links = links[l.V1[i].Dir]
	}
	return l, nil
}

// filesystem describes the filesystem of a file (statfs(2)).
func filesystem(path string) (st unix.Statfs_t, err error) {
	if err := unix.Statfs(path, &st); err != nil {
		return st, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	return st, nil
}

// V2 returns the directory of the version 2 hierarchy, alone or beside those of version 1, and ""
// if the host has none.
func (l Layout) V2() string {
	switch {
	case l.Unified:
		return Root
	case l.Hybrid != "":
		return filepath.Join(Root, l.Hybrid)
	}
	return ""
}

// Dirs returns the directory of each hierarchy.
func (l Layout) Dirs() []string {
	var out []string
	for _, h := range l.V1 {
		out = append(out, filepath.Join(Root, h.Dir))
	}
	if v2 := l.V2(); v2 != "" {
		out = append(out, v2)
	}
	return out
}

// controllers are the controllers of cgroup v1 in which a container gets a cgroup; cgroups(7).
var controllers = []string{
	"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "misc", "net_cls",
	"net_prio", "perf_event", "pids", "rdma",
}

// Paths returns the directories of a cgroup by controller, "" for version 2. The path is counted
// from the top of each hierarchy.
func (l Layout) Paths(path string) map[string]string {
	out := map[string]string{}
	for _, h := range l.V1 {
		dir := filepath.Join(Root, h.Dir, path)
		if h.Dir == "systemd" {
			out["name=systemd"] = dir
		}
		for name := range strings.SplitSeq(h.Dir, ",") {
			if slices.Contains(controllers, name) {
				out[name] = dir
			}
		}
	}
	if v2 := l.V2(); v2 != "" {
		out[""] = filepath.Join(v2, path)
	}
	return out
}

// Membership is the cgroup of a process in one hierarchy.
type Membership struct {
	// Controllers are the controllers of a v1 hierarchy, or its name, as "name=systemd"; nil for
	// version 2.
	Controllers []string
	Path        string
}

// Memberships parses /proc/PID/cgroup, a line "4:memory:/path" for each hierarchy (cgroups(7)).
func Memberships(content string) (out []Membership) {
	for line := range strings.Lines(content) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		m := Membership{Path: parts[2]}
		if parts[1] != "" {
			m.Controllers = strings.Split(parts[1], ",")
		}
		out = append(out, m)
	}
	return out
}

// MembershipsOf reads the cgroups of a process.
func MembershipsOf(pid int) ([]Membership, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, err
	}
	return Memberships(string(data)), nil
}
