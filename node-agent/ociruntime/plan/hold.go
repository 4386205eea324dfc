// SPDX-License-Identifier: Apache-2.0

package plan

// Hold returns the plan of a process that does nothing until it is ended, or its maker ends: it
// stands in a cgroup for one that is to come.
func Hold() *Plan {
	b := newBuilder(64)
	b.at("linux.cgroupsPath")
	b.sync(SyncHold)
	return &b.plan
}
