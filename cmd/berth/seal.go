// SPDX-License-Identifier: Apache-2.0

package main

import (
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
func seal() error {
	if os.Geteuid() != 0 {
		return nil // who cannot write to the program cannot let its containers do so
	}
	const self = "/proc/self/exe"
	var st unix.Statfs_t
	if err := unix.Statfs(self, &st); err != nil {
		return fmt.Errorf("statfs %s: %w", self, err)
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		// execveat names the process after the descriptor before Linux 6.14.
		return unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(unsafe.StringData("berth\x00"))), 0, 0, 0)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, self, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make a read-only mount of berth's own program: open_tree: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return fmt.Errorf("make a read-only mount of berth's own program: mount_setattr: %w", err)
	}
	argv, err := syscall.SlicePtrFromStrings(os.Args)
	if err != nil {
		return err
	}
	env, err := syscall.SlicePtrFromStrings(os.Environ())
	if err != nil {
		return err
	}
	// Package syscall has raised the soft limit of open files; the next program is to find the one that this was called with.
	if soft, hard, ok := nofile.Original(); ok {
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: soft, Max: hard})
	}
	empty := [1]byte{}
	_, _, errno := unix.Syscall6(unix.SYS_EXECVEAT, uintptr(fd), uintptr(unsafe.Pointer(&empty[0])), uintptr(unsafe.Pointer(&argv[0])),
		uintptr(unsafe.Pointer(&env[0])), unix.AT_EMPTY_PATH, 0)
	runtime.KeepAlive(argv)
	runtime.KeepAlive(env)
	return fmt.Errorf("execute berth's own program from a read-only mount: execveat: %w", errno)
}
