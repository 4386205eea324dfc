// SPDX-License-Identifier: Apache-2.0

package validate

import "github.com/opencontainers/runtime-spec/specs-go"

// timeOffsets checks linux.timeOffsets (config-linux.md, "Offset for Time
// Namespace").
func (c *checker) timeOffsets() {
	offsets := c.linux.TimeOffsets
	if len(offsets) == 0 {
		return
	}
	const path = "linux.timeOffsets"
	if !c.fresh.contains(specs.TimeNamespace) {
		// time_namespaces(7): the offsets can be written only before the first
		// process is in the namespace, so not in one that is joined.
		c.err(path, "offsets without a new time namespace",
			"nothing, unless linux.namespaces makes one of type time")
	}
	for _, clock := range sortedKeys(offsets) {
		if clock != "monotonic" && clock != "boottime" {
			c.err(in(path, clock), "the clock "+quote(clock), "monotonic or boottime")
		}
		if n := offsets[clock].Nanosecs; n > 999_999_999 {
			c.err(in(path, clock)+".nanosecs", unsigned(n), "0 to 999999999")
		}
	}
}
