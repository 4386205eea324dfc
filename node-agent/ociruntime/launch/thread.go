// SPDX-License-Identifier: Apache-2.0

package launch

import (
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// Thread is a thread of this process that walks a plan: it shares the memory and the descriptors of
// all others, and nothing else of it is theirs once it has left it (unshare(2)). It runs no Go but
// the loop of a child, and all signals are blocked in it. The Go runtime does not know of it, nor
// have to start it: what the runtime starts for a goroutine that is to have a thread for itself
// costs more, and often begins only when the others rest.
type Thread struct {
	plan   *plan.Plan
	prog   *program
	memory *memory
	id     int
	// report and write are the ends of a pipe.
	report, write int
}

// StartThread creates a Thread. The last step of its plan reports. Inputs are descriptors that the
// plan names. Afterwards the caller calls Await for each of the plan's reports, as far as it is to
// know of them, and End.
func StartThread(p *plan.Plan, inputs map[plan.Input]int) (*Thread, error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("pipe2: %w", err)
	}
	t := &Thread{plan: p, report: pipe[0], write: pipe[1]}
	var err error
	if t.prog, t.memory, err = compile(p, inputs, nil, nil); err != nil {
		t.closePipe()
		return nil, err
	}
	t.prog.progress, t.prog.report, t.prog.blocked, t.prog.thread.alive = &t.prog.thread.step,
		uintptr(t.write), math.MaxUint64, 1
	how := &cloning{prog: t.prog, args: &cloneArgs{
		flags:    p.CloneFlags | unix.CLONE_CHILD_CLEARTID,
		childTID: uint64(uintptr(unsafe.Pointer(&t.prog.thread.alive))),
		stack:    t.memory.stack(), stackSize: stackSize,
	}}
	tid, errno := how.fork()
	if errno != 0 {
		t.closePipe()
		t.memory.free()
		return nil, fmt.Errorf("clone3: a thread: %w", unix.Errno(errno))
	}
	t.id = int(tid)
	excludeOwnCPU(t.id)
	return t, nil
}

// Await waits for the thread's next report for as long as deadline, or DefaultDeadline if that is
// 0. A step that fails is a *StepError, after which there are no more reports. One that hangs is a
// *HungError.
func (t *Thread) Await(deadline time.Duration) error {
	if err := awaitReport(t.report, orDefault(deadline)); errors.Is(err, errLate) {
		return t.hung(deadline)
	} else if err != nil {
		return err
	}
	m, err := readMessage(t.report)
	if err == nil && m.errno != 0 {
		err = newStepError(t.plan, *m)
	}
	return err
}

// End waits for the thread's end, and frees its memory and its pipe. On an error the thread stays,
// and may still walk its plan.
func (t *Thread) End(deadline time.Duration) error {
	const wait = 0 // FUTEX_WAIT
	limit := time.Now().Add(orDefault(deadline))
	// It makes no use of its memory any more when the kernel has written to it that it ends
	// (set_tid_address(2)).
	for alive := &t.prog.thread.alive; atomic.LoadUint32(alive) != 0; {
		left := time.Until(limit)
		if left <= 0 {
			return t.hung(deadline)
		}
		timeout := unix.NsecToTimespec(left.Nanoseconds())
		_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(alive)), wait, 1,
			uintptr(unsafe.Pointer(&timeout)), 0, 0)
	}
	t.memory.free()
	t.closePipe()
	return nil
}

// hung returns the error for a thread that has not reported in time, with its step. Memory and pipe
// belong to the thread as long as it lives.
func (t *Thread) hung(after time.Duration) error {
	e := newHungError(t.id, orDefault(after))
	e.Step, e.Unkillable = *stepAt(t.plan, int(atomic.LoadInt64(&t.prog.thread.step))), true
	return e
}

func (t *Thread) closePipe() {
	unix.Close(t.report)
	unix.Close(t.write)
}
