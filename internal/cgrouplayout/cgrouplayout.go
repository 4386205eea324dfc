// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/runtime/plan"
)

// Layout reads how the hierarchies of this host lie. A host without any is no error.
func Layout() (l plan.CgroupLayout, err error) {
	if cgroups.IsCgroup2UnifiedMode() {
		return plan.CgroupLayout{Unified: true}, nil
	}
	entries, err := os.ReadDir(Root)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return l, err
	}
	links := map[string][]string{}
	for _, e := range entries {
		if e.Type()&os.ModeSymlink != 0 {
			if target, err := os.Readlink(filepath.Join(Root, e.Name())); err == nil {
				links[target] = append(links[target], e.Name())
			}
			continue
		}
		var st unix.Statfs_t
		if unix.Statfs(filepath.Join(Root, e.Name()), &st) != nil {
			continue
		}
		switch st.Type {
		case unix.CGROUP_SUPER_MAGIC:
			options := e.Name()
			if e.Name() == "systemd" {
				options = "none,name=systemd"
			}
			l.V1 = append(l.V1, plan.Hierarchy{Dir: e.Name(), Options: options})
		case unix.CGROUP2_SUPER_MAGIC:
			l.Hybrid = e.Name()
		}
	}
	for i := range l.V1 {
		l.V1[i].Links = links[l.V1[i].Dir]
	}
	return l, nil
}

// controllers are those of cgroup v1 that a container gets a cgroup of; cgroups(7).
var controllers = []string{
	"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "misc", "net_cls", "net_prio", "perf_event", "pids", "rdma",
}

// paths returns the directories of a cgroup by controller. A hierarchy of version 1 is known by the
// name of its directory, which is that of its controllers.
func paths(layout plan.CgroupLayout, path string) map[string]string {
	if layout.Unified {
		return map[string]string{"": filepath.Join(Root, path)}
	}
	out := map[string]string{}
	for _, h := range layout.V1 {
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
	if layout.Hybrid != "" {
		out[""] = filepath.Join(Root, layout.Hybrid, path)
	}
	return out
}
