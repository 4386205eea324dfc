// SPDX-License-Identifier: Apache-2.0

// Package clients has tests only: podman, buildah, containerd (ctr and its CRI service) and docker,
// as Debian ships them, with bin/berth in place of runc. They assert what a user of those programs
// sees.
//
// The programs keep state in fixed directories, make cgroups at fixed places and start daemons. So
// the tests run in namespaces of their own (see enter in sandbox_test.go), which hide those
// directories and the machine's cgroups, and which end every process that a test has forgotten. The
// configuration that the tests give to the programs is that of docs/clients.md.
//
// The package is a module of its own: what it takes to speak CRI is no dependency of Berth.
package clients
