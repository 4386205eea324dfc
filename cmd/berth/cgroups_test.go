// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestCgroupManager: the flag is taken by every command, as containerd passes it, and counts where
// a container is made.
func TestCgroupManager(t *testing.T) {
	root, id := host(t)
	berth(t, "--cgroup-manager", "bogus", "list").is(t, 1, "",
		`--cgroup-manager: found "bogus"; allowed are cgroupfs, systemd, disabled`)
	berth(t, "--systemd-cgroup", "--cgroup-manager", "cgroupfs", "list").is(t, 1, "",
		"they contradict each other")
	berth(t, "--root", root, "--systemd-cgroup", "list").is(t, 0, "", "")
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		berth(t, "--root", root, "--systemd-cgroup", "run", "--bundle", bundle(t, args("true")), id).is(t,
			1, "", "systemd support for managing cgroups is not available")
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	must(t, err)
	dir := bundle(t, func(s *specs.Spec) {
		s.Process.Args, s.Linux.Namespaces = []string{"cat", "/proc/self/cgroup"}, s.Linux.Namespaces[:5]
	})
	berth(t, "--root", root, "--cgroup-manager", "disabled", "run", "--bundle", dir, id).is(t, 0,
		string(own), "linux.resources.devices: without a cgroup")
	berth(t, "--root", root, "--cgroup-manager=cgroupfs", "run", "--bundle", dir, id).is(t, 0, "/"+id+
		"\n", "")
}
