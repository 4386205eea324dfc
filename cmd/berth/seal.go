// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/runtime/nofile"
)

// seal executes this program anew from a read-only mount that nobody can reach, and returns only where that has been done.
//
// Until execve a container's first process is a copy of this one, and its /proc/self/exe is this program's file. A program
// or an interpreter named /proc/self/exe in an image is that file, run by the container's root, who may then open it by
// /proc/PID/exe and, as soon as it has ended, write to it: the next container would be made by what was written
// (CVE-2019-5736). Through a read-only mount there is no writing (EROFS), and none may be remounted that is in no mount
// namespace of its own.
//
// A program linked with `-E main.entry` has done so before the Go runtime began, and pays for one start and not for two.
func seal() error {
	if os.Geteuid() != 0 {
		return nil // who cannot write to the program cannot let its containers do so
	}
	argv, err := syscall.SlicePtrFromStrings(os.Args)
	if err != nil {
		return err
	}
	env, err := syscall.SlicePtrFromStrings(os.Environ())
	if err != nil {
		return err
	}
	var sealed unix.Statfs_t
	if err := unix.Statfs(selfExe[:len(selfExe)-1], &sealed); err == nil && sealed.Flags&unix.ST_RDONLY == 0 {
		// Package syscall has raised the soft limit of open files; the next program is to find the one that this was called with.
		if soft, hard, ok := nofile.Original(); ok {
			_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: soft, Max: hard})
		}
	}
	call, errno := execSealed(unsafe.Pointer(&argv[0]), unsafe.Pointer(&env[0]))
	runtime.KeepAlive(argv)
	runtime.KeepAlive(env)
	if call != 0 {
		names := map[uintptr]string{unix.SYS_STATFS: "statfs", unix.SYS_OPEN_TREE: "open_tree", unix.SYS_MOUNT_SETATTR: "mount_setattr", unix.SYS_EXECVEAT: "execveat"}
		return fmt.Errorf("execute berth's own program from a read-only mount: %s: %w", names[call], syscall.Errno(errno))
	}
	// execveat names the process after the descriptor before Linux 6.14.
	if err := unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(unsafe.StringData("berth\x00"))), 0, 0, 0); err != nil {
		return errors.Join(errors.New("name the process"), err)
	}
	return nil
}

const selfExe = "/proc/self/exe\x00"

// rawSyscall6 is of no use to the Go scheduler or the race detector: it needs neither a goroutine nor a stack to grow.
//
//go:linkname rawSyscall6 syscall.RawSyscall6
func rawSyscall6(trap, a1, a2, a3, a4, a5, a6 uintptr) (r1, r2, errno uintptr)

// sealEarly is called by entry, before the Go runtime has begun: with no goroutine, no heap and no stack that could grow. It
// gets the stack as the kernel has made it: argc, the pointers of argv up to a null, those of the environment up to a null
// (the System V ABI, Process Initialization). Where it fails, seal comes upon the same and reports it.
//
//go:nosplit
//go:norace
//go:nocheckptr
func sealEarly(stack unsafe.Pointer) {
	const word = unsafe.Sizeof(uintptr(0))
	argc := *(*uintptr)(stack)
	argv := unsafe.Add(stack, word)
	for i := uintptr(1); i < argc; i++ {
		// That a word is an argument and no command does no harm.
		if launches(*(*unsafe.Pointer)(unsafe.Add(argv, i*word))) {
			if uid, _, _ := rawSyscall6(unix.SYS_GETEUID, 0, 0, 0, 0, 0, 0); uid == 0 {
				execSealed(argv, unsafe.Add(argv, (argc+1)*word))
			}
			return
		}
	}
}

// launches is whether a word of the command line, ended by a zero byte, is a command that makes processes of containers.
//
//go:nosplit
//go:norace
//go:nocheckptr
func launches(arg unsafe.Pointer) bool {
	return same(arg, "run\x00") || same(arg, "create\x00") || same(arg, "exec\x00") || same(arg, "restore\x00") || same(arg, "supervise\x00")
}

//go:nosplit
//go:norace
//go:nocheckptr
func same(arg unsafe.Pointer, word string) bool {
	for i := range len(word) {
		if *(*byte)(unsafe.Add(arg, i)) != word[i] {
			return false
		}
	}
	return true
}

// execSealed executes this program from a read-only mount. It returns without an error, call 0, where this is one already.
//
//go:nosplit
//go:norace
//go:nocheckptr
func execSealed(argv, env unsafe.Pointer) (call, errno uintptr) {
	const at = ^uintptr(99) // AT_FDCWD
	self := uintptr(unsafe.Pointer(unsafe.StringData(selfExe)))
	empty := self + uintptr(len(selfExe)-1)
	var st unix.Statfs_t
	if _, _, errno = rawSyscall6(unix.SYS_STATFS, self, uintptr(unsafe.Pointer(&st)), 0, 0, 0, 0); errno != 0 {
		return unix.SYS_STATFS, errno
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return 0, 0
	}
	fd, _, errno := rawSyscall6(unix.SYS_OPEN_TREE, at, self, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC, 0, 0, 0)
	if errno != 0 {
		return unix.SYS_OPEN_TREE, errno
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	_, _, errno = rawSyscall6(unix.SYS_MOUNT_SETATTR, fd, empty, unix.AT_EMPTY_PATH, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	call = unix.SYS_MOUNT_SETATTR
	if errno == 0 {
		_, _, errno = rawSyscall6(unix.SYS_EXECVEAT, fd, empty, uintptr(argv), uintptr(env), unix.AT_EMPTY_PATH, 0)
		call = unix.SYS_EXECVEAT
	}
	_, _, _ = rawSyscall6(unix.SYS_CLOSE, fd, 0, 0, 0, 0, 0)
	return call, errno
}

// early is sealEarly for entry: assembly can call Go only through a wrapper, which needs a goroutine, or by a function value.
var early = sealEarly

// entry is where a program linked with `-E main.entry` begins.
func entry()

var _ = entry // it is the linker that uses it
