// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups/systemd"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/internal/cgrouplayout"
)

// FuzzCgroupsPath: whatever linux.cgroupsPath is, the cgroup lies below the root of its hierarchy,
// and is not the root.
func FuzzCgroupsPath(f *testing.F) {
	for _, s := range []string{"", "/a/b", "a", "../../x", "/..", "/a/../../b", "system.slice:berth:a", "::", "-1", "/./", "a\x00b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		g, err := New(&specs.Spec{Linux: &specs.Linux{CgroupsPath: path}}, "id", layout(t), false)
		if err != nil {
			return
		}
		for controller, dir := range g.Paths() {
			if dir == "" {
				continue
			}
			rest, below := strings.CutPrefix(dir, cgrouplayout.Root+"/")
			if !below || filepath.Clean(dir) != dir {
				t.Fatalf("%q became %q", path, dir)
			}
			// Below the hierarchy's own directory, which on a host with version 1 is one level
			// deeper.
			if !layout(t).Unified {
				_, rest, below = strings.Cut(rest, "/")
			}
			if !below || rest == "" {
				t.Fatalf("%q became the root of the hierarchy %q: %q", path, controller, dir)
			}
		}
	})
}

// FuzzUnit: the same of a path for systemd: where there is a directory for it, it is below the
// slice's.
func FuzzUnit(f *testing.F) {
	for _, s := range []string{"", "system.slice:berth:a", "::", "..:..:..", "a/../..:b:c", "-.slice::x", "a-b-c.slice:p:n.slice", ":../x:n", "user.slice:p:-1", "..slice:a:..slice"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		unit, err := parseUnit(path, "id")
		if err != nil {
			return
		}
		slice := unit.Slice
		if slice == "" {
			slice = "system.slice"
		}
		dir, err := systemd.ExpandSlice(slice)
		if err != nil {
			return
		}
		// The name of the unit as the library makes it.
		name := unit.Name
		if !strings.HasSuffix(name, ".slice") {
			name = unit.Prefix + "-" + name + ".scope"
		}
		for _, component := range strings.Split(dir+"/"+name, "/") {
			if component == ".." || component == "." {
				t.Fatalf("%q became the directory %s/%s", path, dir, name)
			}
		}
	})
}

// FuzzBelow: whatever `exec --cgroup` says, the process is put in the container's cgroup or below
// it.
func FuzzBelow(f *testing.F) {
	for _, s := range []string{"sub", "/sub/../..", "../x", "-1", "pids:/sub", "pids,memory:a", "pids:../../x", ":x", "a:b:c", "./.", "..", "sub/..", "pids:a/./../..", "\x00"} {
		f.Add(s, "")
		f.Add(s, s)
		f.Add(s, "memory:b")
	}
	own := map[string]string{"pids": cgrouplayout.Root + "/pids/a", "memory": cgrouplayout.Root + "/memory/b/a", "cpu": cgrouplayout.Root + "/cpu,cpuacct/a", "cpuacct": cgrouplayout.Root + "/cpu,cpuacct/a", "": cgrouplayout.Root + "/unified/a"}
	f.Fuzz(func(t *testing.T, first, second string) {
		list := []string{first}
		if second != "" {
			list = append(list, second)
		}
		paths, err := Below(own, list)
		if err != nil {
			return
		}
		if len(paths) != len(own) {
			t.Fatalf("%q: found the hierarchies %v", list, paths)
		}
		for name, dir := range paths {
			if filepath.Clean(dir) != dir || dir != own[name] && !strings.HasPrefix(dir, own[name]+"/") {
				t.Fatalf("%q leads from %s to %s", list, own[name], dir)
			}
		}
	})
}
