// SPDX-License-Identifier: Apache-2.0

// Package plan turns a runtime-spec document into the list of system calls that makes the
// container.
//
// A Plan is a value: Build does no I/O and needs no privilege, so that `berth plan` can print for
// any bundle what would be done, and tests can hold it. What differs from host to host (the
// kernel's last capability, the layout of the cgroup hierarchies) comes in as a Host; what exists
// only at launch time (file descriptors) is an Input, named in the plan and given its number by
// package launch.
//
// One file a concern: namespaces, mounts, devices, paths, process, seccomp; each adds its steps to
// a builder in the order that build.go spells out. Nothing here may know how a plan is run.
package plan
