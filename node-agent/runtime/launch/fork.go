// SPDX-License-Identifier: Apache-2.0

package launch

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/runtime/plan"
	"github.com/berth-run/berth/node-agent/scoped"
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

// program is a plan ready to run. It lies, with all that it points to, in the child's memory.
type program struct {
	ops  []op
	regs []uintptr
	// first are the calls before the plan's own steps, which cannot fail: close_range(2) of
	// descriptors that are not the child's.
	first []gap
	// report is the pipe that the child reports to, sync the one that it waits on.
	report, sync uintptr
	// pidfd is the variable into which clone3 writes the child's pidfd for the parent.
	pidfd int32
	// blocked is the sigset_t of the signals that are blocked.
	blocked uint64
	// ignored are the signals that this process ignores, which stay so over clone3 and execve
	// (signal(7)): a container is not to learn that its runtime was started by nohup. They are set
	// to defaultAction.
	ignored []uintptr
	// progress is memory that the child shares with its parent, into which it writes the number of
	// its step.
	progress      *int64
	defaultAction [sigactionSize]byte
	// thread is for a Thread.
	thread struct {
		step int64
		// alive is zero once the thread has ended.
		alive uint32
	}
}

// sigactionSize is more than struct sigaction of the kernel takes on any architecture; its first
// field is the handler.
const sigactionSize = 64

// sigsetSize is sizeof(sigset_t) of the kernel.
const sigsetSize = 8

// ignoredSignals returns the signals that this process ignores.
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

// closeOthers has the child close all descriptors but those below reserved and those to keep. All
// that this process has open is marked close-on-exec, but a created container may wait for days
// before its execve: until then it would hold other containers' pipes open, whose readers wait for
// their end, and the locks of other calls (flock(2) goes with the open file description), and would
// show the host's files to whoever can look into /proc/PID/fd (CVE-2016-9962).
func closeOthers(reserved int, keep []int) []gap {
	var gaps []gap
	slices.Sort(keep)
	from := reserved
	for _, fd := range keep {
		if fd > from {
			gaps = append(gaps, gap{uintptr(from), uintptr(fd - 1)})
		}
		if fd >= from {
			from = fd + 1
		}
	}
	return append(gaps, gap{uintptr(from), uintptr(^uint32(0))})
}

// block is memory of a plan: where it is here, and where the child has it.
type block struct{ from, to, child uintptr }

// compiler resolves a plan's arguments to numbers, and copies the data that they point to into the
// child's memory.
type compiler struct {
	inputs map[plan.Input]int
	memory *memory
	// texts is the unused part of the memory of strings.
	texts []byte
	// blocks are the plan's memory without overlaps, by address.
	blocks []block
}

// compile resolves a plan's arguments. Inputs have their final descriptor numbers by now.
func compile(p *plan.Plan, inputs map[plan.Input]int, first []gap, ignored []uintptr) (*program, *memory, error) {
	c := compiler{inputs: inputs, blocks: make([]block, 0, 64)}
	texts, size := c.measure(p)
	size += sizeOf[program](1) + sizeOf[op](len(p.Steps)) + sizeOf[uintptr](p.Regs+len(ignored)) + sizeOf[gap](len(first)) + sizeOf[byte](texts)
	var err error
	if c.memory, err = newMemory(size); err != nil {
		return nil, nil, err
	}
	prog := &carve[program](c.memory, 1)[0]
	prog.ops, prog.regs = carve[op](c.memory, len(p.Steps)), carve[uintptr](c.memory, p.Regs)
	prog.first, prog.ignored = carve[gap](c.memory, len(first)), carve[uintptr](c.memory, len(ignored))
	copy(prog.first, first)
	copy(prog.ignored, ignored)
	c.texts = carve[byte](c.memory, texts)
	for i := range c.blocks {
		b := &c.blocks[i]
		to := carve[byte](c.memory, int(b.to-b.from))
		b.child = uintptr(unsafe.Pointer(unsafe.SliceData(to)))
	}
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
			if err := c.argument(o, j, &s.Args[j]); err != nil {
				c.memory.free()
				return nil, nil, fmt.Errorf("step %d, %s: %w", i, s, err)
			}
		}
	}
	return prog, c.memory, nil
}

// measure finds the plan's memory. It returns the length of all strings with the zero bytes at
// their ends, and the size of all else.
func (c *compiler) measure(p *plan.Plan) (texts, size int) {
	var add func(a *plan.Arg)
	add = func(a *plan.Arg) {
		if b, ok := a.Bytes(); ok && len(b) > 0 {
			from := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
			// Most steps have memory that one of those just before has, too.
			if k := (block{from: from, to: from + uintptr(len(b))}); !slices.Contains(c.blocks[max(0, len(c.blocks)-8):], k) {
				c.blocks = append(c.blocks, k)
			}
		}
		for _, to := range a.Pointers() {
			add(&to.To)
		}
	}
	for i := range p.Steps {
		args := p.Steps[i].Args
		for j := range args {
			a := &args[j]
			if s, ok := a.Text(); ok {
				texts += len(s) + 1
			} else if list, ok := a.Strings(); ok {
				for _, s := range list {
					texts += len(s) + 1
				}
				size += sizeOf[uintptr](len(list) + 1)
			} else {
				add(a)
			}
		}
	}
	slices.SortFunc(c.blocks, func(a, b block) int { return cmp.Compare(a.from, b.from) })
	merged := c.blocks[:0]
	for _, b := range c.blocks {
		if n := len(merged); n > 0 && b.from < merged[n-1].to {
			merged[n-1].to = max(merged[n-1].to, b.to)
		} else {
			merged = append(merged, b)
		}
	}
	c.blocks = merged
	for _, b := range merged {
		size += sizeOf[byte](int(b.to - b.from))
	}
	return texts, size
}

func (c *compiler) argument(o *op, j int, a *plan.Arg) error {
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
		fd, ok := c.inputs[in]
		if !ok {
			return fmt.Errorf("input %s has no descriptor", in)
		}
		o.args[j] = uintptr(fd)
		return nil
	}
	if s, ok := a.Text(); ok {
		var err error
		o.args[j], err = c.text(s)
		return err
	}
	if list, ok := a.Strings(); ok {
		array := carve[uintptr](c.memory, len(list)+1)
		for i, s := range list {
			var err error
			if array[i], err = c.text(s); err != nil {
				return err
			}
		}
		o.args[j] = uintptr(unsafe.Pointer(unsafe.SliceData(array)))
		return nil
	}
	if _, ok := a.Bytes(); ok {
		o.args[j] = c.bytes(a)
		return nil
	}
	return fmt.Errorf("argument %d is of no known kind", j)
}

// text copies a string, and returns the address of the copy.
func (c *compiler) text(s string) (uintptr, error) {
	if strings.IndexByte(s, 0) >= 0 {
		return 0, fmt.Errorf("%q holds a NUL byte", s)
	}
	at := uintptr(unsafe.Pointer(unsafe.SliceData(c.texts)))
	c.texts = c.texts[copy(c.texts, s)+1:] // the memory is zero
	return at, nil
}

// bytes copies memory with all that it points to, and returns the address of the copy.
func (c *compiler) bytes(a *plan.Arg) uintptr {
	b, _ := a.Bytes()
	if len(b) == 0 {
		return 0 // of which there is nothing to point to
	}
	from := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	i, _ := slices.BinarySearchFunc(c.blocks, from, func(k block, at uintptr) int {
		if k.to <= at {
			return -1
		}
		return 1
	})
	at := c.blocks[i].child + from - c.blocks[i].from
	to := c.memory.at(at, len(b))
	copy(to, b)
	for _, p := range a.Pointers() {
		binary.NativeEndian.PutUint64(to[p.At:], uint64(c.bytes(&p.To)))
	}
	return at
}

// message is a report of the child on its pipe: a step, in its upper half the value of a
// synchronization point, and, if it failed, its errno.
type message struct {
	step  uint64
	errno uint64
}

const (
	messageSize = 16
	valueShift  = 32
)

// childFailed is the exit code of a child that ended before execve. The parent knows more from the
// report.
const childFailed = 127

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

// child walks the steps of a program, as a child or as a thread of this process (see Thread). It
// has one thread, its own memory, and of the parent's what was not kept from it (see memory): no Go
// heap, no goroutine. Its signals are those of a new process: CLONE_CLEAR_SIGHAND has taken the
// handlers, those ignored are reset, and none is blocked, whatever the parent had blocked. That is
// why syscall.runtime_AfterForkInChild, which resets the handlers by a hundred calls, is not
// called.
//
//go:norace
//go:nosplit
//go:noinline
//go:nocheckptr
func child(prog *program) {
	var (
		i     int32
		r     uintptr
		tries int
		e     syscall.Errno
		msg   message
		wait  byte
		null  *byte
		o     *op
		a     [6]uintptr
		ops   = prog.ops
		regs  = prog.regs
	)
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, sigSetmask, uintptr(unsafe.Pointer(&prog.blocked)), 0, sigsetSize, 0, 0)
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
			prog.report = a[0]
		case uintptr(plan.OpExpect):
			// The addresses are of memory that the program keeps.
			if **(**uint32)(unsafe.Pointer(&a[0]))&uint32(a[1]) != uint32(a[2]) {
				e = syscall.Errno(a[3])
			}
		case uintptr(plan.OpLoad):
			r = uintptr(**(**uint32)(unsafe.Pointer(&a[0]))) & a[1] // of memory that the program keeps
		case uintptr(plan.OpStore):
			**(**uint32)(unsafe.Pointer(&a[0])) = uint32(a[1]) // the address is of memory that the program keeps
		case uintptr(plan.OpFork):
			r, _, e = syscall.RawSyscall(unix.SYS_CLONE3, a[0], a[1], 0)
			if e == 0 && r != 0 {
				msg.step, msg.errno = uint64(i)|uint64(r)<<valueShift, 0
				_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, prog.report, uintptr(unsafe.Pointer(&msg)), messageSize)
				_, _, _ = syscall.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
			}
		case uintptr(plan.OpSync):
			msg.step, msg.errno = uint64(i)|uint64(a[2])<<valueShift, 0
			_, _, e = syscall.RawSyscall(unix.SYS_WRITE, prog.report, uintptr(unsafe.Pointer(&msg)), messageSize)
			if e == 0 && a[1] != 0 {
				r, _, e = syscall.RawSyscall(unix.SYS_READ, prog.sync, uintptr(unsafe.Pointer(&wait)), 1)
				if e == 0 && r != 1 {
					goto end // the parent is gone or has given up
				}
			}
		default:
			r, _, e = syscall.RawSyscall6(o.call, a[0], a[1], a[2], a[3], a[4], a[5])
			// It is no failure of a step if others rename or mount at the same time.
			for tries = 1; o.call == unix.SYS_OPENAT2 && e == unix.EAGAIN && tries < scoped.Tries; tries++ {
				r, _, e = syscall.RawSyscall6(o.call, a[0], a[1], a[2], a[3], a[4], a[5])
			}
			if (o.call == unix.SYS_READ || o.call == unix.SYS_RECVMSG) && e == 0 && r == 0 {
				goto end // the writer of a pipe or a socket that is waited on is gone
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
		if e < 192 && o.allowed[e/64]>>(e%64)&1 == 1 {
			i = o.err
			continue
		}
		msg.step, msg.errno = uint64(i), uint64(e)
		_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, prog.report, uintptr(unsafe.Pointer(&msg)), messageSize)
		break
	}
end:
	_, _, _ = syscall.RawSyscall(unix.SYS_EXIT, childFailed, 0, 0) // of a thread, that alone
	// A seccomp filter may refuse even that. No handler is left, so that a fault ends the process.
	for {
		*null = 0
	}
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
		if _, _, errno = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0, 0); errno == 0 {
			defer func() { _, _, _ = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1, 0, 0, 0, 0) }()
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
