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

	"github.com/berth-run/berth/internal/cgrouplayout"
)

// delegate returns the user of the host that may divide the container's cgroup further, or -1 if
// nobody may. It is the user of process.user if the container gets a cgroup namespace of its own
// and its hierarchy writable (config-linux.md, Cgroup ownership), and if the mappings of its user
// namespace are known.
func delegate(spec *specs.Spec) int {
	var user, cgroup bool
	for _, n := range spec.Linux.Namespaces {
		user = user || n.Type == specs.UserNamespace
		cgroup = cgroup || n.Type == specs.CgroupNamespace && n.Path == ""
	}
	writable := slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool {
		return (m.Type == "cgroup" || m.Type == "cgroup2") &&
			filepath.Clean(m.Destination) == cgrouplayout.Root && !slices.Contains(m.Options, "ro")
	})
	if !cgroup || !writable || spec.Process == nil {
		return -1
	}
	uid := spec.Process.User.UID
	if !user {
		return int(uid)
	}
	for _, m := range spec.Linux.UIDMappings {
		if uid >= m.ContainerID && uid-m.ContainerID < m.Size {
			return int(m.HostID + (uid - m.ContainerID))
		}
	}
	return -1
}

// Delegate gives a cgroup that is there to whom the document has it delegated to, once the mappings
// of the container's user namespace are known.
func (g *Group) Delegate(spec *specs.Spec) error {
	g.owner = delegate(spec)
	return g.giveAway()
}

// delegated are the files that a delegate gets where the kernel does not say (config-linux.md,
// Cgroup ownership).
const delegated = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n"

// giveAway makes the delegate the owner of the directory of version 2 and the files that
// /sys/kernel/cgroup/delegate names (cgroups(7), Cgroup delegation). Cgroups of version 1 are never
// handed to a container.
func (g *Group) giveAway() error {
	if g.owner < 0 || !g.unified() {
		return nil
	}
	dir := g.paths[""]
	list, err := os.ReadFile("/sys/kernel/cgroup/delegate")
	if errors.Is(err, os.ErrNotExist) {
		list, err = []byte(delegated), nil
	}
	if err != nil {
		return fmt.Errorf("linux.cgroupsPath: %w", err)
	}
	for _, file := range append(strings.Fields(string(list)), ".") {
		if err := unix.Fchownat(unix.AT_FDCWD, filepath.Join(dir, file), g.owner, -1,
			unix.AT_SYMLINK_NOFOLLOW); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("linux.cgroupsPath: give %s/%s to the user %d: %w", dir, file, g.owner, err)
		}
	}
	return nil
}
