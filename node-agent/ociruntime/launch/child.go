// SPDX-License-Identifier: Apache-2.0

package launch

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// Child is a process that has been launched. It is a child of this process, which has to reap it.
type Child struct {
	// PID in this process's pid namespace.
	PID int
	// PIDFD is the child's pidfd (pidfd_open(2)), closed by Wait, Kill, Abandon and ClosePIDFD; -1
	// then.
	PIDFD int
	// Value is the number that the last synchronization point carried.
	Value int

	plan     *plan.Plan
	report   int // read end
	sync     int // write end, -1 without
	start    int // write end, -1 where the caller holds the child
	deferred int // our end of plan.InputDeferred, -1 without
	onSync   func(plan.Sync, int) error

	// early are reports of a process created by an OpFork that arrived before the report of the
	// OpFork itself.
	early []*message

	deadline time.Duration
	progress progress
}

// KilledError is a child that ended without a report, before it became its program.
type KilledError struct{ Status unix.WaitStatus }

func (e *KilledError) Error() string {
	if e.Status.Signaled() {
		return fmt.Sprintf("the container's first process was ended by %s before execve",
			unix.SignalName(e.Status.Signal()))
	}
	return fmt.Sprintf("the container's first process ended with code %d before execve",
		e.Status.ExitStatus())
}

// Adopt returns the Child of a process that another program has created as a child of this process,
// and that has executed its program already.
func Adopt(pid int) (*Child, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd_open %d: %w", pid, err)
	}
	return &Child{PID: pid, PIDFD: fd, report: -1, sync: -1, start: -1, deferred: -1}, nil
}

// SendDeferred sends the child the inputs of Plan.Deferred, which it waits for. The descriptors
// stay the caller's.
func (c *Child) SendDeferred(inputs map[plan.Input]int) error {
	if c.deferred < 0 {
		return nil
	}
	fds := make([]int, len(c.plan.Deferred))
	for i, in := range c.plan.Deferred {
		fd, ok := inputs[in]
		if !ok {
			return fmt.Errorf("input %s has no descriptor", in)
		}
		fds[i] = fd
	}
	err := error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		err = unix.Sendmsg(c.deferred, []byte{0}, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
	}
	unix.Close(c.deferred)
	c.deferred = -1
	// a child that is gone says so in its report
	if err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		return fmt.Errorf("send the container's first process what it joins: sendmsg: %w", err)
	}
	return nil
}

// Release lets a held child go on to execve.
func (c *Child) Release() {
	if c.start >= 0 {
		_, _ = unix.Write(c.start, []byte{0}) // a child that is gone says so in its report
		unix.Close(c.start)
		c.start = -1
	}
}

// Follow reads what the child reports and answers it, until the synchronization point until is
// reached or, where that is empty, until the child has become its program. On an error the child
// has been ended and reaped.
func (c *Child) Follow(ctx context.Context, until plan.Sync) error {
	pidfd, killed := c.PIDFD, make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		close(killed)
	})
	err := c.follow(until)
	if !stop() {
		<-killed // nobody may use the pidfd's number once it is closed
		if err == nil {
			c.Kill() // it had come as far as it was to be followed, and has been killed all the same
			return context.Cause(ctx)
		}
	}
	if err == nil {
		return nil
	}
	var hung *HungError
	if errors.As(err, &hung) {
		c.endHung(hung)
		return err
	}
	status := c.Kill()
	var ended *KilledError
	if errors.As(err, &ended) {
		ended.Status = status
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return err
}

func (c *Child) follow(until plan.Sync) error {
	defer c.closePipes()
	for {
		m, err := c.nextReport()
		if err != nil {
			return err
		}
		if m == nil {
			// A report of it would wake this process on the child's processor, where it would wait
			// for the program to give way.
			if c.executes() {
				return nil
			}
			return &KilledError{}
		}
		if m.errno != 0 {
			return newStepError(c.plan, *m)
		}
		c.Value = int(m.step >> valueShift)
		switch s := c.plan.Syncs[int(m.step&(1<<valueShift-1))]; s {
		case until:
			return nil
		case plan.SyncReady, plan.SyncExec:
		default:
			if err := c.answer(s); err != nil {
				return err
			}
		}
	}
}

// executes reports whether the last step that the child has begun is execve(2), which closes its
// end of the pipe.
func (c *Child) executes() bool {
	i := c.progress.step()
	return i >= 0 && i < len(c.plan.Steps) && (c.plan.Steps[i].Call == unix.SYS_EXECVE ||
		c.plan.Steps[i].Call == unix.SYS_EXECVEAT)
}

// answer does the parent's work at a synchronization point, and lets the child go on.
func (c *Child) answer(s plan.Sync) error {
	if c.onSync != nil {
		if err := c.onSync(s, c.PID); err != nil {
			return err
		}
	}
	if _, err := unix.Write(c.sync, []byte{0}); err != nil {
		return fmt.Errorf("answer the container's first process at %s: %w", s, err)
	}
	return nil
}

// nextReport returns the next report of the child, nil once it has closed its end.
func (c *Child) nextReport() (*message, error) {
	if len(c.early) > 0 {
		m := c.early[0]
		c.early = c.early[1:]
		return m, nil
	}
	if err := awaitReport(c.report, c.deadline); errors.Is(err, errLate) {
		return nil, c.hung()
	} else if err != nil {
		return nil, err
	}
	return readMessage(c.report)
}

// Abandon ends and reaps a child that is not to be followed.
func (c *Child) Abandon() {
	c.Kill()
	c.closePipes()
}

func (c *Child) closePipes() {
	for _, fd := range []*int{&c.report, &c.sync, &c.deferred} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
	c.progress.close()
}

// Kill ends the child, if it still runs, and reaps it.
func (c *Child) Kill() unix.WaitStatus {
	_ = unix.PidfdSendSignal(c.PIDFD, unix.SIGKILL, nil, 0)
	return c.Wait()
}

// Wait reaps the child and returns how it ended.
func (c *Child) Wait() unix.WaitStatus {
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(c.PID, &status, 0, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if c.start >= 0 {
		unix.Close(c.start)
		c.start = -1
	}
	c.ClosePIDFD()
	return status
}

// ClosePIDFD closes PIDFD, for a caller who leaves the reaping to another; Wait does it as well.
func (c *Child) ClosePIDFD() {
	if c.PIDFD >= 0 {
		unix.Close(c.PIDFD)
		c.PIDFD = -1
	}
}

// Ended reports whether the child has ended, though it may not be reaped yet, and by which signal.
func (c *Child) Ended() (sig unix.Signal, ended bool) { return endedBy(c.PID) }

// endedBy looks at a child of this process without reaping it.
func endedBy(pid int) (sig unix.Signal, ended bool) {
	// siginfo_t of a SIGCHLD: si_code is its third int, si_status its seventh (sigaction(2),
	// linux/signal.h).
	var info [32]int32
	_, _, errno := unix.Syscall6(unix.SYS_WAITID, unix.P_PID, uintptr(pid),
		uintptr(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, 0, 0)
	if errno != 0 || info[0] != int32(unix.SIGCHLD) {
		return 0, false
	}
	const exited = 1 // CLD_EXITED
	if info[2] == exited {
		return 0, true
	}
	return unix.Signal(info[6]), true
}
