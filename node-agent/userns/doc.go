// SPDX-License-Identifier: Apache-2.0

// Package userns gives containers ranges of the node's user and group ids, and creates the user
// namespaces that map them.
//
//	ranges, err := userns.Open("/var/lib/berth/userns", 1879048192, 2147352575)
//	first, err := ranges.Ensure("default_web_1a2b3c4d") // the same until Release
//	err = userns.Create(first, unix.CLONE_NEWNET, func(pid int) error { ... })
//
// It must not know containers, networks and mounts.
package userns
