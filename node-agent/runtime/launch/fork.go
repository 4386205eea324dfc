// SPDX-License-Identifier: Apache-2.0

package launch

import (
	"fmt"
	"runtime"
	"sort"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/runtime/plan"
)

// The Go runtime's own preparations for a fork, which package syscall uses: all signals are blocked in the parent
// until the child is made. They are kept for outside users (see the comments in runtime/proc.go).

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

// cloneArgs is struct clone_args of clone3(2).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// op is a step with its arguments resolved to numbers.
type op struct {
	call    uintptr
	args    [6]uintptr
	regs    [6]uint16 // where not 0, the argument is this register
	out     uint16
	ok, err int32     // where to go on
	allowed [3]uint64 // errnos after which to go on, a bit each
	must    uintptr   // the errno that has to come, and
	mustErr uintptr   // what to report where it does not
}

// program is a plan ready to run. It keeps alive all memory that its numbers point to.
type program struct {
	ops  []op
	regs []uintptr
	// plan has the memory of the arguments, keep their arrays of strings.
	plan *plan.Plan
	keep [][]*byte
	// texts are the strings of all arguments, each with the zero byte at its end.
	texts []byte
	// first are the calls before the plan's own steps, which cannot fail: close_range(2) of what is not the child's.
	first []gap
	// pidfd is where clone3 puts the child's pidfd. It lies here since a program is on the heap: the kernel gets its address
	// as a number, and a variable on a goroutine's stack moves when the stack grows.
	pidfd int32
	// noSignals is an empty sigset_t.
	noSignals uint64
	// ignored are the signals that this process ignores, which stay so over clone3 and execve (signal(7)): a container is not
	// to learn that its runtime was started by nohup. defaultAction is what they get.
	ignored []uintptr
	// progress is where the child writes the number of its step to: memory that it shares with its parent.
	progress      *int64
	defaultAction [sigactionSize]byte
}

// sigactionSize is more than struct sigaction of the kernel takes on any architecture; its first field is the handler.
const sigactionSize = 64

// sigsetSize is sizeof(sigset_t) of the kernel.
const sigsetSize = 8

// ignoredSignals are the signals that this process ignores.
func ignoredSignals() []uintptr {
	const ignore = 1 // SIG_IGN
	var out []uintptr
	action := new([sigactionSize / 8]uint64)
	for sig := uintptr(1); sig <= 64; sig++ {
		_, _, errno := syscall.RawSyscall6(unix.SYS_RT_SIGACTION, sig, 0, uintptr(unsafe.Pointer(action)), sigsetSize, 0, 0)
		if errno == 0 && action[0] == ignore {
			out = append(out, sig)
		}
	}
	return out
}

const sigSetmask = 2 // SIG_SETMASK

// gap is a range of descriptors, both ends included.
type gap struct{ from, to uintptr }

// closeOthers has the child close all descriptors but those below reserved and those to keep. All that this process has
// open is marked close-on-exec, but a created container may wait for days before its execve: until then it would hold other
// containers' pipes open, whose readers wait for their end, and the locks of other calls (flock(2) goes with the open file
// description), and would show the host's files to whoever can look into /proc/PID/fd (CVE-2016-9962).
func (prog *program) closeOthers(reserved int, keep []int) {
	sort.Ints(keep)
	from := reserved
	for _, fd := range keep {
		if fd > from {
			prog.first = append(prog.first, gap{uintptr(from), uintptr(fd - 1)})
		}
		if fd >= from {
			from = fd + 1
		}
	}
	prog.first = append(prog.first, gap{uintptr(from), uintptr(^uint32(0))})
}

// compile resolves a plan's arguments. Inputs have their final descriptor numbers by now.
func compile(p *plan.Plan, inputs map[plan.Input]int) (*program, error) {
	prog := &program{plan: p, ops: make([]op, len(p.Steps)), regs: make([]uintptr, p.Regs), ignored: ignoredSignals()}
	size := 0
	for i := range p.Steps {
		for j := range p.Steps[i].Args {
			if s, ok := p.Steps[i].Args[j].Text(); ok {
				size += len(s) + 1
			}
		}
	}
	// As large as it has to be: it must not move once there are addresses in it.
	prog.texts = make([]byte, 0, size)
	for i := range p.Steps {
		s := &p.Steps[i]
		o := &prog.ops[i]
		o.call, o.out, o.ok, o.err = uintptr(s.Call), uint16(s.Out), int32(i+1), int32(i+1)
		if s.IfOK != 0 {
			o.ok = int32(p.Labels[s.IfOK])
		}
		if s.IfErr != 0 {
			o.err = int32(p.Labels[s.IfErr])
		}
		for _, e := range s.Tolerate {
			o.allowed[e/64] |= 1 << (e % 64)
		}
		o.must, o.mustErr = uintptr(s.Must), uintptr(s.MustErr)
		for j := range s.Args {
			if err := prog.argument(o, j, s.Args[j], inputs); err != nil {
				return nil, fmt.Errorf("step %d, %s: %w", i, s, err)
			}
		}
	}
	return prog, nil
}

func (prog *program) argument(o *op, j int, a plan.Arg, inputs map[plan.Input]int) error {
	if v, ok := a.Const(); ok {
		o.args[j] = v
		return nil
	}
	if r, ok := a.Reg(); ok {
		if o.call == uintptr(plan.OpSet) && j == 0 {
			return nil // the register that OpSet names is its result
		}
		o.regs[j] = uint16(r)
		return nil
	}
	if in, ok := a.Input(); ok {
		fd, ok := inputs[in]
		if !ok {
			return fmt.Errorf("input %s has no descriptor", in)
		}
		o.args[j] = uintptr(fd)
		return nil
	}
	if s, ok := a.Text(); ok {
		if strings.IndexByte(s, 0) >= 0 {
			return fmt.Errorf("%q holds a NUL byte", s)
		}
		at := len(prog.texts)
		prog.texts = append(append(prog.texts, s...), 0)
		o.args[j] = uintptr(unsafe.Pointer(&prog.texts[at]))
		return nil
	}
	if list, ok := a.Strings(); ok {
		array, err := syscall.SlicePtrFromStrings(list)
		if err != nil {
			return fmt.Errorf("a string of %q holds a NUL byte", list)
		}
		prog.keep = append(prog.keep, array)
		o.args[j] = uintptr(unsafe.Pointer(&array[0]))
		return nil
	}
	if b, ok := a.Bytes(); ok {
		o.args[j] = uintptr(unsafe.Pointer(unsafe.SliceData(b)))
		return nil
	}
	return fmt.Errorf("argument %d is of no known kind", j)
}

// message is what the child writes to its report pipe: a step, in its upper half what a synchronization point carries, and, if it
// failed, its errno.
type message struct {
	step  uint64
	errno uint64
}

const (
	messageSize = 16
	valueShift  = 32
)

// childFailed is the exit code of a child that ended before execve. The parent knows more from the report.
const childFailed = 127

// fork makes the child. In the parent it returns the child's pid; in the child it never returns.
//
//go:norace
//go:noinline
//go:nocheckptr
func fork(args *cloneArgs, prog *program, report, sync uintptr) (pid uintptr, errno syscall.Errno) {
	var (
		i    int32
		r    uintptr
		e    syscall.Errno
		msg  message
		wait byte
		null *byte
		o    *op
		a    [6]uintptr
		ops  = prog.ops
		regs = prog.regs
	)
	beforeFork()
	r, _, e = syscall.RawSyscall6(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0, 0, 0, 0)
	if e != 0 || r != 0 {
		afterFork()
		return r, e
	}
	// From here on this is the child, with one thread and a copy of the parent's memory. Its signals are those of a new
	// process: CLONE_CLEAR_SIGHAND has taken the handlers, those ignored are reset, and none is blocked, whatever the parent had blocked. That is why
	// syscall.runtime_AfterForkInChild, which resets the handlers by a hundred calls, is not called.
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, sigSetmask, uintptr(unsafe.Pointer(&prog.noSignals)), 0, sigsetSize, 0, 0)
	for k := range prog.ignored {
		_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGACTION, prog.ignored[k], uintptr(unsafe.Pointer(&prog.defaultAction)), 0, sigsetSize, 0, 0)
	}
	for k := range prog.first {
		_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE_RANGE, prog.first[k].from, prog.first[k].to, 0)
	}
	for i >= 0 && int(i) < len(ops) {
		*prog.progress = int64(i)
		o = &ops[i]
		a = o.args
		for k := range a {
			if o.regs[k] != 0 {
				a[k] = regs[o.regs[k]]
			}
		}
		r, e = 0, 0
		switch o.call {
		case uintptr(plan.OpGoto):
		case uintptr(plan.OpSet):
			r = a[1]
		case uintptr(plan.OpReport):
			report = a[0]
		case uintptr(plan.OpExpect):
			// The addresses are of memory that the program keeps.
			if **(**uint32)(unsafe.Pointer(&a[0]))&uint32(a[1]) != uint32(a[2]) {
				e = syscall.Errno(a[3])
			}
		case uintptr(plan.OpLoad):
			r = uintptr(**(**uint16)(unsafe.Pointer(&a[0]))) & a[1] // of memory that the program keeps
		case uintptr(plan.OpStore):
			**(**uint32)(unsafe.Pointer(&a[0])) = uint32(a[1]) // the address is of memory that the program keeps
		case uintptr(plan.OpFork):
			r, _, e = syscall.RawSyscall(unix.SYS_CLONE3, a[0], a[1], 0)
			if e == 0 && r != 0 {
				msg.step, msg.errno = uint64(i)|uint64(r)<<valueShift, 0
				_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, report, uintptr(unsafe.Pointer(&msg)), messageSize)
				_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
			}
		case uintptr(plan.OpSync):
			msg.step, msg.errno = uint64(i)|uint64(a[2])<<valueShift, 0
			_, _, e = syscall.RawSyscall(unix.SYS_WRITE, report, uintptr(unsafe.Pointer(&msg)), messageSize)
			if e == 0 && a[1] != 0 {
				r, _, e = syscall.RawSyscall(unix.SYS_READ, sync, uintptr(unsafe.Pointer(&wait)), 1)
				if e == 0 && r != 1 {
					goto end // the parent is gone or has given up
				}
			}
		default:
			r, _, e = syscall.RawSyscall6(o.call, a[0], a[1], a[2], a[3], a[4], a[5])
			if o.call == unix.SYS_READ && e == 0 && r == 0 {
				goto end // the writer of a pipe that is waited on is gone
			}
		}
		if o.must != 0 {
			if uintptr(e) == o.must {
				i = o.ok
				continue
			}
			if e == 0 {
				e = syscall.Errno(o.mustErr)
			}
		}
		if e == 0 {
			if o.out != 0 {
				regs[o.out] = r
			}
			i = o.ok
			continue
		}
		if e < 192 && o.must == 0 && o.allowed[e/64]>>(e%64)&1 == 1 {
			i = o.err
			continue
		}
		msg.step, msg.errno = uint64(i), uint64(e)
		_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, report, uintptr(unsafe.Pointer(&msg)), messageSize)
		break
	}
end:
	_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, childFailed, 0, 0)
	// A seccomp filter may refuse even that. No handler is left, so that a fault ends the process.
	for {
		*null = 0
	}
}

// clone forks under the lock that keeps other forks of this process from inheriting descriptors not yet marked
// close-on-exec.
func clone(args *cloneArgs, prog *program, report, sync int) (int, error) {
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	return cloneLocked(args, prog, report, sync)
}

// cloneHidden does so for a child that others see at once, in a pid namespace that is there already. The first step of its plan would
// be too late to keep them out of it (CVE-2016-9962): it takes the flag over from this process.
func cloneHidden(args *cloneArgs, prog *program, report, sync int) (int, error) {
	syscall.ForkLock.Lock()
	defer syscall.ForkLock.Unlock()
	dumpable, _, errno := syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_GET_DUMPABLE, 0, 0, 0, 0, 0)
	if errno == 0 && dumpable == 1 {
		if _, _, errno = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0, 0); errno == 0 {
			defer func() { _, _, _ = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1, 0, 0, 0, 0) }()
		}
	}
	if errno != 0 {
		return 0, errno
	}
	return cloneLocked(args, prog, report, sync)
}

func cloneLocked(args *cloneArgs, prog *program, report, sync int) (int, error) {
	pid, errno := fork(args, prog, uintptr(report), uintptr(sync))
	runtime.KeepAlive(prog)
	if errno != 0 {
		return 0, errno
	}
	return int(pid), nil
}
