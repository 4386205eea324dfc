// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// FuzzCgroupsPath: whatever linux.cgroupsPath is, the cgroup lies below the root of its hierarchy, and is not the root.
func FuzzCgroupsPath(f *testing.F) {
	for _, s := range []string{"", "/a/b", "a", "../../x", "/..", "/a/../../b", "system.slice:berth:a", "::", "-1", "/./", "a\x00b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		g, err := New(&specs.Spec{Linux: &specs.Linux{CgroupsPath: path}}, "id", Layout(), false)
		if err != nil {
			return
		}
		for controller, dir := range g.Paths() {
			if dir == "" {
				continue
			}
			rest, below := strings.CutPrefix(dir, Root+"/")
			if !below || filepath.Clean(dir) != dir {
				t.Fatalf("%q became %q", path, dir)
			}
			// Below the hierarchy's own folder, which on a host with version 1 is one level deeper.
			if !Layout().Unified {
				_, rest, below = strings.Cut(rest, "/")
			}
			if !below || rest == "" {
				t.Fatalf("%q became the root of the hierarchy %q: %q", path, controller, dir)
			}
		}
	})
}
