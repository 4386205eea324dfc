// SPDX-License-Identifier: Apache-2.0

package launch

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/plan"
	"github.com/berth-run/berth/node-agent/scoped"
)

// childFailed is the exit code of a child that ended before execve. The parent knows more from the
// report.
const childFailed = 127

// child walks the steps of a program, as a child or as a thread of this process (see Thread). It
// has one thread, its own memory, and of the parent's what was not kept from it (see memory): no Go
// heap, no goroutine. Its signals are those of a new process: CLONE_CLEAR_SIGHAND has taken the
// handlers, those ignored are reset, and none is blocked, whatever the parent had blocked. That is
// why syscall.runtime_AfterForkInChild, which resets the handlers by a hundred calls, is not
// called.
//
// child and the functions of this file stay on its small stack (go:nosplit: the linker refuses a
// chain of calls that needs more than 800 bytes), call no race detector (go:norace), and besides
// one another only the raw calls of package syscall.
//
//go:norace
//go:nosplit
//go:noinline
//go:nocheckptr
func child(prog *program) {
	resetInherited(prog)
	for i := int32(0); i >= 0 && int(i) < len(prog.ops); {
		*prog.progress = int64(i)
		r, e, ok := perform(prog, i)
		if !ok {
			break
		}
		i = follow(prog, i, r, e)
	}
	exit(childFailed) // of a thread, that alone
}

// resetInherited resets the signals and closes the descriptors that are not the child's.
//
//go:norace
//go:nosplit
//go:nocheckptr
func resetInherited(prog *program) {
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, sigSetmask,
		uintptr(unsafe.Pointer(&prog.blocked)), 0, sigsetSize, 0, 0)
	for k := range prog.ignored {
		_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGACTION, prog.ignored[k],
			uintptr(unsafe.Pointer(&prog.defaultAction)), 0, sigsetSize, 0, 0)
	}
	for k := range prog.first {
		_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE_RANGE, prog.first[k].from, prog.first[k].to, 0)
	}
}

// perform performs step i and returns its result and errno. It returns false if the child has to
// end because its peer is gone or has given up.
//
//go:norace
//go:nosplit
//go:nocheckptr
func perform(prog *program, i int32) (r uintptr, e syscall.Errno, ok bool) {
	o := &prog.ops[i]
	a := o.args
	for k := range a {
		if o.regs[k] != 0 {
			a[k] = prog.regs[o.regs[k]]
		}
	}
	switch o.call {
	case uintptr(plan.OpGoto):
	case uintptr(plan.OpSet):
		r = a[1]
	case uintptr(plan.OpReport):
		prog.report = a[0]
	case uintptr(plan.OpExpect):
		// The addresses are of memory that the program keeps.
		if **(**uint32)(unsafe.Pointer(&a[0]))&uint32(a[1]) != uint32(a[2]) {
			e = syscall.Errno(a[3])
		}
	case uintptr(plan.OpLoad):
		r = uintptr(**(**uint32)(unsafe.Pointer(&a[0]))) & a[1] // of memory that the program keeps
	case uintptr(plan.OpStore):
		// the address is of memory that the program keeps
		**(**uint32)(unsafe.Pointer(&a[0])) = uint32(a[1])
	case uintptr(plan.OpFork):
		r, _, e = syscall.RawSyscall(unix.SYS_CLONE3, a[0], a[1], 0)
		if e == 0 && r != 0 {
			_ = report(prog, i, r, 0)
			exit(0)
		}
	case uintptr(plan.OpSync):
		if e = report(prog, i, a[2], 0); e == 0 && a[1] != 0 {
			return await(prog)
		}
	default:
		r, _, e = syscall.RawSyscall6(o.call, a[0], a[1], a[2], a[3], a[4], a[5])
		// It is no failure of a step if others rename or mount at the same time.
		for tries := 1; o.call == unix.SYS_OPENAT2 && e == unix.EAGAIN && tries < scoped.Tries; tries++ {
			r, _, e = syscall.RawSyscall6(o.call, a[0], a[1], a[2], a[3], a[4], a[5])
		}
		if (o.call == unix.SYS_READ || o.call == unix.SYS_RECVMSG) && e == 0 && r == 0 {
			return 0, 0, false // the writer of a pipe or a socket that is waited on is gone
		}
	}
	return r, e, true
}

// await waits at a synchronization point until the parent lets the child go on. It returns false if
// the parent is gone or has given up.
//
//go:norace
//go:nosplit
//go:nocheckptr
func await(prog *program) (r uintptr, e syscall.Errno, ok bool) {
	var wait byte
	r, _, e = syscall.RawSyscall(unix.SYS_READ, prog.sync, uintptr(unsafe.Pointer(&wait)), 1)
	return r, e, e != 0 || r == 1
}

// follow returns the step after step i, whose result and errno are given, and keeps the result. It
// reports a step that has failed, and returns -1.
//
//go:norace
//go:nosplit
//go:nocheckptr
func follow(prog *program, i int32, r uintptr, e syscall.Errno) int32 {
	o := &prog.ops[i]
	if o.must != 0 {
		if uintptr(e) == o.must {
			return o.ok
		}
		if e == 0 {
			e = syscall.Errno(o.mustErr)
		}
	}
	if e == 0 {
		if o.out != 0 {
			prog.regs[o.out] = r
		}
		return o.ok
	}
	if e < 192 && o.allowed[e/64]>>(e%64)&1 == 1 {
		return o.err
	}
	_ = report(prog, i, 0, e)
	return -1
}

// report writes a message about step i to the parent.
//
//go:norace
//go:nosplit
//go:nocheckptr
func report(prog *program, i int32, value uintptr, failure syscall.Errno) syscall.Errno {
	msg := message{uint64(i) | uint64(value)<<valueShift, uint64(failure)}
	_, _, e := syscall.RawSyscall(unix.SYS_WRITE, prog.report, uintptr(unsafe.Pointer(&msg)),
		messageSize)
	return e
}

// exit ends the child.
//
//go:norace
//go:nosplit
//go:nocheckptr
func exit(code uintptr) {
	_, _, _ = syscall.RawSyscall(unix.SYS_EXIT, code, 0, 0)
	// A seccomp filter may refuse even that. No handler is left, so that a fault ends the process.
	var null *byte
	for {
		*null = 0
	}
}
