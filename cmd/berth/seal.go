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

	"github.com/berth-run/berth/node-agent/ociruntime/nofile"
)

// seal executes this program anew from a read-only mount that nobody can reach, and returns only if
// that has already been done.
//
// Until execve a container's first process is a copy of this one, and its /proc/self/exe is this
// program's file. A program or an interpreter named /proc/self/exe in an image is that file, run by
// the container's root, who may then open it by /proc/PID/exe and, as soon as it has ended, write
// to it: the next container would be made by what was written (CVE-2019-5736). Through a read-only
// mount there is no writing (EROFS), and none may be remounted that is in no mount namespace of its
// own. A plain user who owns the program, or may write to it, is his containers' root, and takes
// the mount from a user namespace that lives no longer than it takes.
//
// A program linked with `-E main.entry` has done so before the Go runtime began, and pays for one
// start and not for two.
func seal() error {
	if !exposed() {
		return nil
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
	if err := unix.Statfs(selfExe[:len(selfExe)-1], &sealed); err == nil &&
		sealed.Flags&unix.ST_RDONLY == 0 {
		// Package syscall has raised the soft limit of open files; the next program is to find the
		// one that this was called with.
		if soft, hard, ok := nofile.Original(); ok {
			_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: soft, Max: hard})
		}
	}
	call, errno := execSealed(unsafe.Pointer(&argv[0]), unsafe.Pointer(&env[0]))
	runtime.KeepAlive(argv)
	runtime.KeepAlive(env)
	if call != 0 {
		names := map[uintptr]string{
			unix.SYS_STATFS: "statfs", unix.SYS_OPEN_TREE: "open_tree",
			unix.SYS_MOUNT_SETATTR: "mount_setattr", unix.SYS_EXECVEAT: "execveat", unix.SYS_CLONE: "clone",
		}
		return fmt.Errorf("execute berth's own program from a read-only mount: %s: %w", names[call],
			syscall.Errno(errno))
	}
	// execveat names the process after the descriptor before Linux 6.14.
	if err := unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(unsafe.StringData("berth\x00"))), 0,
		0, 0); err != nil {
		return errors.Join(errors.New("name the process"), err)
	}
	return nil
}

const selfExe = "/proc/self/exe\x00"

// rawSyscall6 makes a system call without a goroutine and without a stack that grows, so that it
// works before the Go runtime begins.
//
//go:linkname rawSyscall6 syscall.RawSyscall6
func rawSyscall6(trap, a1, a2, a3, a4, a5, a6 uintptr) (r1, r2, errno uintptr)

// sealEarly is called by entry, before the Go runtime has begun: with no goroutine, no heap and no
// stack that could grow. It gets the stack as the kernel has made it: argc, the pointers of argv up
// to a null, those of the environment up to a null (the System V ABI, Process Initialization).
// Where it fails, seal comes upon the same and reports it.
//
//go:nosplit
//go:norace
//go:nocheckptr
func sealEarly(stack unsafe.Pointer) { //nolint:unused // entry, in assembly, comes here through early
	const word = unsafe.Sizeof(uintptr(0))
	argc := *(*uintptr)(stack)
	argv := unsafe.Add(stack, word)
	for i := uintptr(1); i < argc; i++ {
		// That a word is an argument and no command does no harm.
		if launches(*(*unsafe.Pointer)(unsafe.Add(argv, i*word))) {
			if exposed() {
				execSealed(argv, unsafe.Add(argv, (argc+1)*word))
			}
			return
		}
	}
}

// launches reports whether a word of the command line, ended by a zero byte, is a command that
// creates processes of containers.
//
//go:nosplit
//go:norace
//go:nocheckptr
func launches(arg unsafe.Pointer) bool { //nolint:unused // entry, in assembly, comes here through early
	return same(arg, "run\x00") || same(arg, "create\x00") || same(arg, "exec\x00") ||
		same(arg, "restore\x00") || same(arg, "supervise\x00")
}

//go:nosplit
//go:norace
//go:nocheckptr
func same(arg unsafe.Pointer, word string) bool { //nolint:unused // entry, in assembly, comes here through early
	for i := range len(word) {
		if *(*byte)(unsafe.Add(arg, i)) != word[i] {
			return false
		}
	}
	return true
}

// exposed reports whether containers could write to this program. They can only if their user can.
//
//go:nosplit
//go:norace
//go:nocheckptr
func exposed() bool {
	uid, _, _ := rawSyscall6(unix.SYS_GETEUID, 0, 0, 0, 0, 0, 0)
	if uid == 0 {
		return true
	}
	self := uintptr(unsafe.Pointer(unsafe.StringData(selfExe)))
	var st unix.Statx_t
	if _, _, errno := rawSyscall6(unix.SYS_STATX, currentFolder, self, 0, unix.STATX_UID,
		uintptr(unsafe.Pointer(&st)), 0); errno != 0 || st.Uid == uint32(uid) {
		return true // an owner may give himself the right to write
	}
	_, _, errno := rawSyscall6(unix.SYS_FACCESSAT, currentFolder, self, unix.W_OK, 0, 0, 0)
	return errno == 0
}

// currentFolder is AT_FDCWD as an argument of a system call.
const currentFolder = ^uintptr(99)

// emptyPath returns the zero byte at the end of selfExe.
//
//go:nosplit
//go:norace
//go:nocheckptr
func emptyPath() uintptr {
	return uintptr(unsafe.Pointer(unsafe.StringData(selfExe))) + uintptr(len(selfExe)-1)
}

// execSealed executes this program from a read-only mount. It returns without an error, call 0,
// where this is one already.
//
//go:nosplit
//go:norace
//go:nocheckptr
func execSealed(argv, env unsafe.Pointer) (call, errno uintptr) {
	self := uintptr(unsafe.Pointer(unsafe.StringData(selfExe)))
	var st unix.Statfs_t
	if _, _, errno = rawSyscall6(unix.SYS_STATFS, self, uintptr(unsafe.Pointer(&st)), 0, 0, 0,
		0); errno != 0 {
		return unix.SYS_STATFS, errno
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return 0, 0
	}
	fd, call, errno := sealedMount(self)
	if call == unix.SYS_OPEN_TREE && errno == uintptr(unix.EPERM) {
		fd, call, errno = sealedMountApart()
	}
	if call != 0 {
		return call, errno
	}
	_, _, errno = rawSyscall6(unix.SYS_EXECVEAT, fd, emptyPath(), uintptr(argv), uintptr(env),
		unix.AT_EMPTY_PATH, 0)
	_, _, _ = rawSyscall6(unix.SYS_CLOSE, fd, 0, 0, 0, 0, 0)
	return unix.SYS_EXECVEAT, errno
}

// sealedMount opens a read-only mount of the file that a string ending with a zero byte names,
// which takes CAP_SYS_ADMIN over the mount namespace.
//
//go:nosplit
//go:norace
//go:nocheckptr
func sealedMount(path uintptr) (fd, call, errno uintptr) {
	fd, _, errno = rawSyscall6(unix.SYS_OPEN_TREE, currentFolder, path, unix.OPEN_TREE_CLONE|
		unix.OPEN_TREE_CLOEXEC, 0, 0, 0)
	if errno != 0 {
		return 0, unix.SYS_OPEN_TREE, errno
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	_, _, errno = rawSyscall6(unix.SYS_MOUNT_SETATTR, fd, emptyPath(), unix.AT_EMPTY_PATH,
		uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		_, _, _ = rawSyscall6(unix.SYS_CLOSE, fd, 0, 0, 0, 0, 0)
		return 0, unix.SYS_MOUNT_SETATTR, errno
	}
	return fd, 0, 0
}

// sealedMountApart opens the sealed program in a child with a user and a mount namespace of its
// own, which has that right there, and whose table of descriptors is this process's.
//
//go:nosplit
//go:norace
//go:nocheckptr
func sealedMountApart() (fd, call, errno uintptr) {
	self := uintptr(unsafe.Pointer(unsafe.StringData(selfExe)))
	// The descriptor that the child replaces.
	fd, _, errno = rawSyscall6(unix.SYS_OPENAT, currentFolder, self, unix.O_PATH|unix.O_CLOEXEC,
		0, 0, 0)
	if errno != 0 {
		return 0, unix.SYS_OPEN_TREE, errno
	}
	// Without a signal at its end (the lowest byte), so that none can arrive and no caller's
	// SIG_IGN reaps it.
	child, _, errno := rawSyscall6(unix.SYS_CLONE, unix.CLONE_NEWUSER|unix.CLONE_NEWNS|
		unix.CLONE_FILES|unix.CLONE_VFORK, 0, 0, 0, 0, 0)
	if errno != 0 {
		_, _, _ = rawSyscall6(unix.SYS_CLOSE, fd, 0, 0, 0, 0, 0)
		return 0, unix.SYS_CLONE, errno
	}
	if child == 0 {
		failed := replaceBySealed(fd)
		for {
			_, _, _ = rawSyscall6(unix.SYS_EXIT_GROUP, failed, 0, 0, 0, 0, 0)
		}
	}
	var status uint32
	for {
		if _, _, errno = rawSyscall6(unix.SYS_WAIT4, child, uintptr(unsafe.Pointer(&status)), unix.WALL,
			0, 0, 0); errno != uintptr(unix.EINTR) {
			break
		}
	}
	if errno == 0 && status != 0 {
		errno = uintptr(unix.EPERM)
		if failed := uintptr(status >> 8 & 0xff); status&0x7f == 0 {
			errno = failed
		}
	}
	if errno != 0 {
		_, _, _ = rawSyscall6(unix.SYS_CLOSE, fd, 0, 0, 0, 0, 0)
		return 0, unix.SYS_OPEN_TREE, errno
	}
	return fd, 0, 0
}

// apart is the buffer that replaceBySealed reads into: there is no heap yet, and the stack is
// small.
var apart struct {
	path  [unix.PathMax]byte
	files [2]unix.Statx_t
}

// replaceBySealed puts a read-only mount of this program in the place of a descriptor of its file.
// /proc/self/exe is a file in the mount namespace that the program was executed in, of which this
// one has a copy: it is by its path that the file is to be found in it, and identified by its
// inode.
//
//go:nosplit
//go:norace
//go:nocheckptr
func replaceBySealed(fd uintptr) (errno uintptr) {
	self, path := uintptr(unsafe.Pointer(unsafe.StringData(selfExe))),
		uintptr(unsafe.Pointer(&apart.path))
	if _, _, errno = rawSyscall6(unix.SYS_READLINKAT, currentFolder, self, path,
		uintptr(len(apart.path)-1), 0, 0); errno != 0 {
		return errno
	}
	mount, _, errno := sealedMount(path)
	if errno != 0 {
		return errno
	}
	if !sameFile(fd, mount) {
		return uintptr(unix.ESTALE)
	}
	_, _, errno = rawSyscall6(unix.SYS_DUP3, mount, fd, unix.O_CLOEXEC, 0, 0, 0)
	_, _, _ = rawSyscall6(unix.SYS_CLOSE, mount, 0, 0, 0, 0, 0)
	return errno
}

// sameFile reports whether two descriptors refer to the same file.
//
//go:nosplit
//go:norace
//go:nocheckptr
func sameFile(a, b uintptr) bool {
	for i, fd := range [2]uintptr{a, b} {
		st := uintptr(unsafe.Pointer(&apart.files[i]))
		_, _, errno := rawSyscall6(unix.SYS_STATX, fd, emptyPath(), unix.AT_EMPTY_PATH,
			unix.STATX_INO, st, 0)
		if errno != 0 {
			return false
		}
	}
	x, y := &apart.files[0], &apart.files[1]
	return x.Ino == y.Ino && x.Dev_major == y.Dev_major && x.Dev_minor == y.Dev_minor
}

// early is sealEarly for entry: assembly can call Go only through a wrapper, which needs a
// goroutine, or by a function value.
var early = sealEarly //nolint:unused // entry, in assembly, reads it

// entry begins a program linked with `-E main.entry`.
func entry()

var _ = entry // it is the linker that uses it
