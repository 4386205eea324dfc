// SPDX-License-Identifier: Apache-2.0

// Package nofile knows the limit of open files that this process was started with.
//
// Package syscall raises the soft limit to the hard one when it is initialized, and gives the old
// one back only to children that it starts itself. A container's process is not one of them, and
// would show a program that uses select(2) more descriptors than that can take. So the limit is
// read before: a package that imports nothing is initialized before syscall, since packages are
// initialized in the order of their import paths as soon as all that they import is (Go 1.21
// release notes).
package nofile

import "unsafe"

//go:linkname rawSyscall6 syscall.RawSyscall6
func rawSyscall6(trap, a1, a2, a3, a4, a5, a6 uintptr) (r1, r2, errno uintptr)

const rlimitNoFile = 7 // RLIMIT_NOFILE of asm-generic/resource.h

type limits struct{ soft, hard uint64 }

var original, known = read()

func read() (limits, bool) {
	var l limits
	_, _, errno := rawSyscall6(sysPrlimit64, 0, rlimitNoFile, 0, uintptr(unsafe.Pointer(&l)), 0, 0)
	return l, errno == 0
}

// Original returns the soft and hard limit of open files from before the Go runtime changed it; ok
// is false where it could not be read.
func Original() (soft, hard uint64, ok bool) { return original.soft, original.hard, known }
