// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"sort"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// newTimeNamespace creates a time namespace, sets its clocks and enters it. Unlike others it cannot
// come from clone3: its offsets can be written only while no process is in it (time_namespaces(7)),
// and clone3 puts the child into it at once. unshare(2) makes it for children alone, and setns(2)
// then takes this process there.
//
// In a new user namespace it comes before the mapping: the files of /proc/self belong to the host's
// root, whom the child still is until it takes on the mapped ids.
func (c *container) newTimeNamespace(i int) error {
	c.atIndex("linux.namespaces", i, string(specs.TimeNamespace))
	c.call(unix.SYS_UNSHARE, flags(uint64(unix.CLONE_NEWTIME), cloneNames))
	if offsets := c.spec.Linux.TimeOffsets; len(offsets) > 0 {
		clocks := make([]string, 0, len(offsets))
		for clock, o := range offsets {
			switch {
			case clock != "monotonic" && clock != "boottime":
				return c.fieldError("linux.timeOffsets."+clock, "the clock "+clock,
					"allowed are monotonic and boottime")
			case o.Nanosecs >= 1e9:
				return c.fieldError("linux.timeOffsets."+clock+".nanosecs", fmt.Sprint(o.Nanosecs),
					"allowed are 0 to 999999999")
			}
			clocks = append(clocks, clock)
		}
		sort.Strings(clocks)
		var lines strings.Builder
		for _, clock := range clocks {
			fmt.Fprintf(&lines, "%s %d %d\n", clock, offsets[clock].Secs, offsets[clock].Nanosecs)
		}
		c.at("linux.timeOffsets")
		// In a user namespace that a plain user joins, the files of a process that is not dumpable
		// are nobody's.
		opened := c.host.PlainUser && !c.mapped
		if opened {
			c.prctl(unix.PR_SET_DUMPABLE, num(1))
		}
		c.writeFile(cwd(), "/proc/self/timens_offsets", lines.String(), 0)
		if opened {
			c.prctl(unix.PR_SET_DUMPABLE, num(0))
		}
		c.atIndex("linux.namespaces", i, string(specs.TimeNamespace))
	}
	fd := c.openat2(cwd(), "/proc/self/ns/time_for_children", unix.O_RDONLY, 0).out()
	c.call(unix.SYS_SETNS, regArg(fd), flags(uint64(unix.CLONE_NEWTIME), cloneNames))
	c.close(fd)
	return nil
}
