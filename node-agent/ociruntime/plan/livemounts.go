// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"path"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// BuildMounts builds the plan of a process that adds mounts to a running container, reports
// SyncReady and ends. The child needs InputContainer. The indices of fields are those of mounts.
func BuildMounts(spec *specs.Spec, mounts []specs.Mount, host Host, o Options) (*Plan, error) {
	own := *spec
	own.Mounts = mounts
	c := &container{builder: newBuilder(64), spec: &own, host: host, opts: o, live: true}
	return c.build(c.undumpable, c.joinContainer, c.mounts, c.readonlyMounts, c.end)
}

// BuildUnmounts builds the plan of a process that removes mounts from a running container, the last
// one first, reports SyncReady and ends. Of each only the destination counts. A mount in use
// disappears after its last use (umount2(2), MNT_DETACH).
func BuildUnmounts(spec *specs.Spec, mounts []specs.Mount, o Options) (*Plan, error) {
	c := &container{builder: newBuilder(64), spec: spec, opts: o, live: true}
	return c.build(c.undumpable, c.joinContainer, func() error {
		for i := len(mounts) - 1; i >= 0; i-- {
			c.atIndex("mounts", i, mounts[i].Destination)
			dir, base := path.Split(path.Clean("/" + mounts[i].Destination))
			if base == "" {
				return c.fieldError(fmt.Sprintf("mounts[%d].destination", i), mounts[i].Destination,
					"the container's root stays")
			}
			// umount2 takes a path: one name below the working directory, which is not followed.
			at := c.inRoot(c.rootFD, dir, unix.O_DIRECTORY).out()
			c.call(unix.SYS_FCHDIR, regArg(at))
			c.call(unix.SYS_UMOUNT2, text(base), flags(unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW, umountNames))
			c.close(at)
		}
		return nil
	}, c.end)
}

// end ends the plan of a process that executes no program.
func (c *container) end() error {
	c.report(SyncReady)
	c.call(unix.SYS_EXIT_GROUP, num(0))
	return nil
}
