// SPDX-License-Identifier: Apache-2.0

// Package scoped opens paths that the kernel holds below a directory, such as the root filesystem
// of an image, which is hostile, and removes trees that containers made. It knows nothing of their
// content.
package scoped

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Tries is the number of attempts to open a path before the failure is an error. With
// RESOLVE_IN_ROOT or RESOLVE_BENEATH a ".." on the way, which the target of a symbolic link may
// have, fails with EAGAIN where a rename or a mount anywhere on the machine comes between
// (openat2(2)), and other containers make mounts at any time. Who renames without end has one try
// in some fifty fail; so many are never all.
const Tries = 1 << 10

// Open calls openat2(2), close-on-exec, with the flags of open(2) and the resolve flags of
// openat2(2).
func Open(dir int, path string, flags, resolve uint64) (fd int, err error) {
	how := &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve}
	for range Tries {
		fd, err = unix.Openat2(dir, path, how)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return fd, err
}
