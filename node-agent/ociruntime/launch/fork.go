// SPDX-License-Identifier: Apache-2.0

package launch

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The Go runtime's own preparations for a fork, which package syscall uses: all signals are blocked
// in the parent until the child is made. They are kept for outside users (see the comments in
// runtime/proc.go).

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

// cloneArgs is struct clone_args of clone3(2).
type cloneArgs struct {
	flags, pidfd, childTID       uint64
	_                            uint64 // parent_tid
	exitSignal, stack, stackSize uint64
	_                            [3]uint64 // tls, set_tid, set_tid_size
	cgroup                       uint64
}

// clone3 calls clone3(2) with a stack for the child, which calls the code at child with prog there
// and never returns.
//
//go:noescape
func clone3(args *cloneArgs, size uintptr, prog *program, child uintptr) (pid, errno uintptr)

// cloning is a child about to be made.
type cloning struct {
	args *cloneArgs
	prog *program
	// needed is the memory that the child has to have.
	needed []mapping
}

// fork creates the child, which runs the program in its own memory.
//
//go:norace
func (c *cloning) fork() (pid, errno uintptr) {
	run := child
	code := **(**uintptr)(unsafe.Pointer(&run)) // a function's value points to the address of its code
	beforeFork()
	pid, errno = clone3(c.args, unsafe.Sizeof(*c.args), c.prog, code)
	afterFork()
	return pid, errno
}

// clone forks under the lock that keeps other forks of this process from inheriting descriptors not
// yet marked close-on-exec.
func (c *cloning) clone() (int, error) {
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	return c.cloneLocked()
}

// cloneHidden creates a child that others see at once, in a pid namespace that exists already. The
// first step of its plan would be too late to keep them out of it (CVE-2016-9962): it inherits the
// flag from this process.
func (c *cloning) cloneHidden() (int, error) {
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	dumpable, _, errno := syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_GET_DUMPABLE, 0, 0, 0, 0, 0)
	if errno == 0 && dumpable == 1 {
		if _, _, errno = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0,
			0); errno == 0 {
			defer func() {
				_, _, _ = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1, 0, 0, 0, 0)
			}()
		}
	}
	if errno != 0 {
		return 0, errno
	}
	return c.cloneLocked()
}

func (c *cloning) cloneLocked() (int, error) {
	var pid, errno uintptr
	withoutParentMemory(c.needed, func() { pid, errno = c.fork() })
	if errno != 0 {
		return 0, syscall.Errno(errno)
	}
	return int(pid), nil
}
