// SPDX-License-Identifier: Apache-2.0

// Package devnode lists the devices that every container has: the plan creates their nodes, and the
// cgroup allows their use.
package devnode

import (
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Default returns the devices that every container has (runtime-spec, config-linux.md, Default
// Devices), but for the console and ptmx, which are no nodes of their own.
func Default() []specs.LinuxDevice {
	mode := os.FileMode(0o666)
	device := func(path string, major, minor int64) specs.LinuxDevice {
		return specs.LinuxDevice{Path: path, Type: "c", Major: major, Minor: minor, FileMode: &mode}
	}
	return []specs.LinuxDevice{
		device("/dev/null", 1, 3), device("/dev/zero", 1, 5), device("/dev/full", 1, 7),
		device("/dev/random", 1, 8), device("/dev/urandom", 1, 9), device("/dev/tty", 5, 0),
	}
}
