// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// delegate is the user of the host that may divide the container's cgroup further, -1 for none: the root of a container with a
// user namespace that gets a cgroup namespace and its hierarchy writable, as in runc.
func delegate(spec *specs.Spec) int {
	var user, cgroup, writable bool
	for _, n := range spec.Linux.Namespaces {
		user = user || n.Type == specs.UserNamespace
		cgroup = cgroup || n.Type == specs.CgroupNamespace
	}
	for _, m := range spec.Mounts {
		if m.Type != "cgroup" && m.Type != "cgroup2" {
			continue
		}
		writable = !slices.Contains(m.Options, "ro")
	}
	if !user || !cgroup || !writable {
		return -1
	}
	for _, m := range spec.Linux.UIDMappings {
		if m.ContainerID == 0 && m.Size > 0 {
			return int(m.HostID)
		}
	}
	return -1
}

// giveAway makes the delegate own the folder of version 2 and the files that /sys/kernel/cgroup/delegate names (cgroups(7), Cgroup
// delegation). Cgroups of version 1 are never handed to a container.
func (g *Group) giveAway() error {
	if g.owner < 0 || !g.unified() {
		return nil
	}
	dir := g.paths[""]
	list, err := os.ReadFile("/sys/kernel/cgroup/delegate")
	if err != nil {
		return fmt.Errorf("linux.cgroupsPath: %w", err)
	}
	for _, file := range append(strings.Fields(string(list)), ".") {
		if err := unix.Fchownat(unix.AT_FDCWD, filepath.Join(dir, file), g.owner, -1, unix.AT_SYMLINK_NOFOLLOW); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("linux.cgroupsPath: give %s/%s to the user %d: %w", dir, file, g.owner, err)
		}
	}
	return nil
}
