// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"path"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// errNone is returned for an operation that needs a cgroup, if the container has none.
var errNone = errors.New(
	"the container has no cgroup: its user may not make any (on cgroup v2, systemd delegates one to a unit with Delegate=yes)")

// besideOwn returns the directory of cgroup v2 that contains the caller's own cgroup. That has
// processes, at least the caller, and so cannot hand controllers down (cgroups(7), "no internal
// processes").
func besideOwn() string {
	own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		return "/"
	}
	return path.Dir(path.Clean("/" + own[""]))
}

// denied reports whether the caller lacks the right to make a cgroup.
func denied(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS)
}

// doWithout lets a container run without a cgroup, unless the document sets limits. Rules for
// devices do not count as limits: a user namespace can create no device nodes, and the host decides
// who may open the existing ones.
func (g *Group) doWithout(cause error) error {
	if fields := knobs(g.resources); len(fields) > 0 {
		return fmt.Errorf(
			"%s: rootless needs no limits + no cgrouppath when no permission is granted for cgroups: remove the limits, or on cgroup v2 have systemd delegate a cgroup (Delegate=yes): %w", fields[0].field, cause)
	}
	g.paths = nil
	return nil
}
