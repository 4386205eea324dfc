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

	"github.com/berth-run/berth/node-agent/runtime/plan"
)

// Thread is a thread of this process that walks a plan: it shares the memory and the descriptors of all others, and nothing else of it is
// theirs once it has left it (unshare(2)). It runs no Go but the loop of a child, and all signals are blocked in it. The Go
// runtime does not know of it, nor have to start it: what the runtime starts for a goroutine that is to have a thread for itself costs
// more, and often begins only when the others rest.
type Thread struct {
	plan   *plan.Plan
	prog   *program
	memory *memory
	id     int
	// report and write are the ends of a pipe.
	report, write int
}

// StartThread makes one. The last step of its plan reports. Inputs are descriptors that the plan names. Afterwards the caller calls Wait.
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
	t.prog.progress, t.prog.report, t.prog.blocked, t.prog.thread.alive = &t.prog.thread.step, uintptr(t.write), math.MaxUint64, 1
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
	return t, nil
}

// Wait waits for the thread's end, as long as deadline, or DefaultDeadline where that is 0. A step that fails is a *StepError. With any
// other error the thread stays, and may still do what its plan says: one that hangs is a *HungError.
func (t *Thread) Wait(deadline time.Duration) error {
	if deadline == 0 {
		deadline = DefaultDeadline
	}
	if err := awaitReport(t.report, deadline); errors.Is(err, errLate) {
		hung := newHungError(t.id, deadline)
		hung.Step, hung.Stays = *stepAt(t.plan, int(atomic.LoadInt64(&t.prog.thread.step))), true
		return hung // the memory and the pipe are the thread's for as long as it is there
	} else if err != nil {
		return err
	}
	m, err := readMessage(t.report)
	// It makes no use of its memory any more when the kernel has written to it that it ends (set_tid_address(2)).
	for alive := &t.prog.thread.alive; atomic.LoadUint32(alive) != 0; {
		const wait = 0 // FUTEX_WAIT
		_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(alive)), wait, 1, 0, 0, 0)
	}
	t.memory.free()
	t.closePipe()
	switch {
	case err != nil:
		return err
	case m.errno != 0:
		return newStepError(t.plan, *m)
	}
	return nil
}

func (t *Thread) closePipe() {
	unix.Close(t.report)
	unix.Close(t.write)
}
