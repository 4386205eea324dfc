// SPDX-License-Identifier: Apache-2.0

package launch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/runtime/plan"
)

// Request says what to launch.
type Request struct {
	Plan *plan.Plan
	// Inputs are the descriptors that the plan names. They stay the caller's.
	Inputs map[plan.Input]int
	// Cgroup is the descriptor of a cgroup v2 folder that the child is made in; 0 for none.
	Cgroup int
	// Reserved is how many descriptors, from 0 on, are the process's own: those that the launcher makes lie above them.
	Reserved int
	// Held keeps the child waiting before execve until Release; without it the child is released at once.
	// A plan whose InputStart the caller supplies is held by the caller.
	Held bool
	// Before, if there is one, is called when nothing is left to do but to make the child, and may say what Cgroup is. An error is that of Start.
	Before func(*Request) error
	// OnSync answers the child's synchronization points that wait. An error ends the child.
	OnSync func(s plan.Sync, pid int) error
	// Deadline is how long the child may take from one synchronization point to the next; 0 is DefaultDeadline. What OnSync takes
	// does not count.
	Deadline time.Duration
}

// Child is a process that has been launched. It is a child of this process, which has to reap it.
type Child struct {
	// PID in this process's pid namespace.
	PID int
	// PIDFD is the child's pidfd (pidfd_open(2)), closed by Wait, Kill, Abandon and ClosePIDFD; -1 then.
	PIDFD int
	// Value is what the last synchronization point carried.
	Value int

	plan   *plan.Plan
	report int // read end
	sync   int // write end, -1 without
	start  int // write end, -1 where the caller holds the child
	later  int // our end of the socket of Plan.Later, -1 without
	onSync func(plan.Sync, int) error

	// early are reports of a process that an OpFork has made, which came before that of the OpFork itself.
	early []*message

	deadline time.Duration
	progress progress
}

// KilledError is a child that ended without a report, before it became its program.
type KilledError struct{ Status unix.WaitStatus }

func (e *KilledError) Error() string {
	if e.Status.Signaled() {
		return fmt.Sprintf("the container's first process was ended by %s before execve", unix.SignalName(e.Status.Signal()))
	}
	return fmt.Sprintf("the container's first process ended with code %d before execve", e.Status.ExitStatus())
}

// Start makes the child. On an error there is none. Afterwards the caller calls Ready or Exec to follow it.
func Start(r Request) (_ *Child, err error) {
	var opened []int
	closeAll := func() {
		for _, fd := range opened {
			unix.Close(fd)
		}
	}
	pair := func(open func(*[2]int) error) (read, write int, err error) {
		var p [2]int
		if err := open(&p); err != nil {
			return 0, 0, err
		}
		for i := range p {
			if p[i], err = above(p[i], r.Reserved); err != nil {
				unix.Close(p[1-i]) // above has closed the other
				return 0, 0, err
			}
		}
		return p[0], p[1], nil
	}
	pipe := func() (read, write int, err error) {
		return pair(func(p *[2]int) error { return os.NewSyscallError("pipe2", unix.Pipe2(p[:], unix.O_CLOEXEC)) })
	}
	c := &Child{plan: r.Plan, sync: -1, start: -1, later: -1, onSync: r.OnSync, deadline: orDefault(r.Deadline)}
	inputs := make(map[plan.Input]int, len(r.Inputs)+2)
	defer func() {
		if err != nil {
			closeAll()
			c.progress.close()
		}
	}()
	for name, fd := range r.Inputs {
		if slices.Contains(r.Plan.Later, name) {
			continue
		}
		// dup3 of a descriptor onto itself fails, and onto one still needed loses it: keep all above those of the process.
		if fd < r.Reserved {
			if fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, r.Reserved); err != nil {
				return nil, fmt.Errorf("%s: fcntl F_DUPFD_CLOEXEC: %w", name, err)
			}
			defer unix.Close(fd)
		}
		inputs[name] = fd
	}
	var reportW, syncR, startR int
	if c.report, reportW, err = pipe(); err != nil {
		return nil, err
	}
	opened = append(opened, c.report)
	defer func() {
		if reportW >= 0 {
			unix.Close(reportW)
		}
	}()
	if r.Plan.Waits {
		if syncR, c.sync, err = pipe(); err != nil {
			return nil, err
		}
		opened = append(opened, c.sync)
		defer unix.Close(syncR)
	}
	if _, held := inputs[plan.InputStart]; !held {
		if startR, c.start, err = pipe(); err != nil {
			return nil, err
		}
		opened = append(opened, c.start)
		defer unix.Close(startR)
		inputs[plan.InputStart] = startR
	}
	if len(r.Plan.Later) > 0 {
		var theirs int
		if theirs, c.later, err = pair(func(p *[2]int) (err error) {
			*p, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			return os.NewSyscallError("socketpair", err)
		}); err != nil {
			return nil, err
		}
		opened = append(opened, c.later)
		defer unix.Close(theirs)
		inputs[plan.InputLater] = theirs
	}
	keep := []int{reportW}
	for _, fd := range inputs {
		keep = append(keep, fd)
	}
	if r.Plan.Waits {
		keep = append(keep, syncR)
	}
	prog, memory, err := compile(r.Plan, inputs, closeOthers(r.Reserved, keep), ignoredSignals())
	if err != nil {
		return nil, err
	}
	defer memory.free() // the child has its own by then
	if c.progress, err = newProgress(); err != nil {
		return nil, err
	}
	prog.progress, prog.report, prog.sync = c.progress.at(), uintptr(reportW), uintptr(syncR)
	args := &cloneArgs{
		flags:      r.Plan.CloneFlags | unix.CLONE_PIDFD | unix.CLONE_CLEAR_SIGHAND,
		pidfd:      uint64(uintptr(unsafe.Pointer(&prog.pidfd))),
		exitSignal: uint64(unix.SIGCHLD),
		stack:      memory.stack(), stackSize: stackSize,
	}
	if r.Before != nil {
		if err := r.Before(&r); err != nil {
			return nil, err
		}
	}
	if r.Cgroup > 0 {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(r.Cgroup)
	}
	c.PID, err = c.clone(&cloning{args, prog, []mapping{memory.mapping(), c.progress.mapping()}}, inputs[plan.InputContainer])
	if err != nil {
		return nil, err
	}
	c.PIDFD = int(prog.pidfd)
	if len(r.Plan.Later) > 0 {
		keepOff(c.PID) // which a plan with Later undoes, when it has come so far
	}
	if r.Plan.Forks {
		unix.Close(reportW) // or the end of the child would not be that of the pipe
		reportW = -1
		if err := c.followFork(); err != nil {
			return nil, err
		}
	}
	if c.start >= 0 && !r.Held {
		c.Release()
	}
	return c, nil
}

// followFork takes up the process that goes on in place of the first.
func (c *Child) followFork() error {
	fork := uint64(slices.IndexFunc(c.plan.Steps, func(s plan.Step) bool { return s.Call == plan.OpFork }))
	var m *message
	var err error
	// The one that was made may report before the one that has made it.
	for {
		if err = awaitReport(c.report, c.deadline); errors.Is(err, errLate) {
			err = c.hung()
		} else if err == nil {
			m, err = readMessage(c.report)
		}
		if err != nil || m == nil {
			break
		}
		at := m.step & (1<<valueShift - 1)
		if at > fork {
			c.early = append(c.early, m)
			continue
		}
		if at == fork || m.errno != 0 {
			break
		}
		if err = c.answer(c.plan.Syncs[int(at)]); err != nil {
			break
		}
	}
	if err != nil || m == nil || m.errno != 0 {
		_ = unix.PidfdSendSignal(c.PIDFD, unix.SIGKILL, nil, 0)
	}
	var status unix.WaitStatus
	for {
		if _, e := unix.Wait4(c.PID, &status, 0, nil); !errors.Is(e, unix.EINTR) {
			break
		}
	}
	c.ClosePIDFD()
	switch {
	case err != nil:
		return err
	case m == nil:
		return &KilledError{Status: status}
	case m.errno != 0:
		return newStepError(c.plan, *m)
	}
	c.PID = int(m.step >> valueShift)
	// It is a child of this process, and so has the pid until it is reaped.
	if c.PIDFD, err = unix.PidfdOpen(c.PID, 0); err != nil {
		c.PIDFD = -1
		if c.PID > 0 { // 0 would be this process's own group
			_ = unix.Kill(c.PID, unix.SIGKILL)
		}
		_, _ = unix.Wait4(c.PID, nil, 0, nil)
		return fmt.Errorf("pidfd_open %d: %w", c.PID, err)
	}
	return nil
}

// Adopt takes up a child of this process that another has made, and that is its program already.
func Adopt(pid int) (*Child, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd_open %d: %w", pid, err)
	}
	return &Child{PID: pid, PIDFD: fd, report: -1, sync: -1, start: -1, later: -1}, nil
}

// clone makes the child, with the thread that does so in the pid namespace to be joined and on the processors to be used, if the
// plan has any, for the length of the fork.
func (c *Child) clone(how *cloning, container int) (pid int, err error) {
	if c.plan.PIDNamespace == "" && !c.plan.JoinPIDs && c.plan.CPUs.Mask == nil {
		if pid, err = how.clone(); err != nil {
			return 0, fmt.Errorf("linux.namespaces: clone3: %w", err)
		}
		return pid, nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		var back []func() error
		pid, back, err = c.cloneElsewhere(how, container)
		var stays error
		for _, f := range back {
			stays = errors.Join(stays, f())
		}
		// Else the thread stays locked and so ends with this goroutine: no other code may use it. From a user namespace that does
		// not own its pid namespace, such as the one that podman makes for a plain user, no thread may go back.
		if stays == nil {
			runtime.UnlockOSThread()
		}
	}()
	<-done
	return pid, err
}

// cloneElsewhere makes the child from where it is to be, and returns how the thread comes back.
func (c *Child) cloneElsewhere(how *cloning, container int) (pid int, back []func() error, err error) {
	if mask := c.plan.CPUs.Mask; mask != nil {
		own := make([]byte, len(mask))
		if err := affinity(unix.SYS_SCHED_GETAFFINITY, 0, own); err != nil {
			return 0, back, fmt.Errorf("process.execCPUAffinity.initial: sched_getaffinity: %w", err)
		}
		if err := affinity(unix.SYS_SCHED_SETAFFINITY, 0, mask); err != nil {
			return 0, back, fmt.Errorf("process.execCPUAffinity.initial: found %s: sched_setaffinity: %w", c.plan.CPUs.List, err)
		}
		back = append(back, func() error { return affinity(unix.SYS_SCHED_SETAFFINITY, 0, own) })
	}
	if c.plan.PIDNamespace != "" || c.plan.JoinPIDs {
		fail := func(what string, err error) (int, []func() error, error) {
			where := c.plan.PIDNamespace
			if c.plan.JoinPIDs {
				where = "of the container"
			}
			return 0, back, fmt.Errorf("linux.namespaces (pid, %s): %s: %w", where, what, err)
		}
		target := container
		if !c.plan.JoinPIDs {
			if target, err = unix.Open(c.plan.PIDNamespace, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
				return fail("open", err)
			}
			defer unix.Close(target)
		}
		own, err := unix.Open("/proc/thread-self/ns/pid", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fail("open /proc/thread-self/ns/pid", err)
		}
		if err := unix.Setns(target, unix.CLONE_NEWPID); err != nil {
			unix.Close(own)
			return fail("setns", err)
		}
		back = append(back, func() error {
			defer unix.Close(own)
			return unix.Setns(own, unix.CLONE_NEWPID)
		})
	}
	if pid, err = how.cloneHidden(); err != nil {
		return 0, back, fmt.Errorf("linux.namespaces: clone3: %w", err)
	}
	return pid, back, nil
}

// keepOff keeps a new thread or process off the processor that its maker runs on, if there is another for it. The kernel queues it there where
// no other is idle at that moment, and it would begin only when its maker rests, long after the other has become idle again.
func keepOff(id int) {
	var cpu uint32
	own := make([]byte, plan.MaxCPUs/8)
	_, _, errno := unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0)
	if errno != 0 || cpu >= plan.MaxCPUs || affinity(unix.SYS_SCHED_GETAFFINITY, 0, own) != nil {
		return
	}
	own[cpu/8] &^= 1 << (cpu % 8)
	_ = affinity(unix.SYS_SCHED_SETAFFINITY, id, own) // not possible where there is no other
}

// affinity is sched_setaffinity(2) or sched_getaffinity(2) for a thread, 0 for the calling one, by a mask as long as may be.
func affinity(call uintptr, thread int, mask []byte) error {
	if _, _, errno := unix.RawSyscall(call, uintptr(thread), uintptr(len(mask)), uintptr(unsafe.Pointer(unsafe.SliceData(mask)))); errno != 0 {
		return errno
	}
	return nil
}

// above moves a new descriptor to at least low.
func above(fd, low int) (int, error) {
	if fd >= low {
		return fd, nil
	}
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, low)
	unix.Close(fd)
	if err != nil {
		return -1, fmt.Errorf("fcntl F_DUPFD_CLOEXEC: %w", err)
	}
	return n, nil
}

// Hand gives the child what it does not inherit: the descriptors of Plan.Later, which stay the caller's. Without them it waits.
func (c *Child) Hand(inputs map[plan.Input]int) error {
	if c.later < 0 {
		return nil
	}
	fds := make([]int, len(c.plan.Later))
	for i, in := range c.plan.Later {
		fd, ok := inputs[in]
		if !ok {
			return fmt.Errorf("input %s has no descriptor", in)
		}
		fds[i] = fd
	}
	err := error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		err = unix.Sendmsg(c.later, []byte{0}, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
	}
	unix.Close(c.later)
	c.later = -1
	if err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) { // a child that is gone says so in its report
		return fmt.Errorf("hand the container's first process what it joins: sendmsg: %w", err)
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

// Follow reads what the child reports and answers it, until the synchronization point until is reached or, where that is
// empty, until the child has become its program. On an error the child has been ended and reaped.
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
			// A report of it would wake this process on the child's processor, where it would wait for the program to give way.
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

// executes is whether the last step that the child has begun is execve(2), which closes its end of the pipe.
func (c *Child) executes() bool {
	i := c.progress.step()
	return i >= 0 && i < len(c.plan.Steps) && (c.plan.Steps[i].Call == unix.SYS_EXECVE || c.plan.Steps[i].Call == unix.SYS_EXECVEAT)
}

// answer does what a synchronization point asks for, and lets the child go on.
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

// nextReport is what the child reports next, nil once it has closed its end.
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
	for _, fd := range []*int{&c.report, &c.sync, &c.later} {
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

// Ended is whether the child has ended already, though it may not be reaped yet, and by which signal.
func (c *Child) Ended() (sig unix.Signal, ended bool) { return endedBy(c.PID) }

// endedBy looks at a child of this process without reaping it.
func endedBy(pid int) (sig unix.Signal, ended bool) {
	// siginfo_t of a SIGCHLD: si_code is its third int, si_status its seventh (sigaction(2), linux/signal.h).
	var info [32]int32
	_, _, errno := unix.Syscall6(unix.SYS_WAITID, unix.P_PID, uintptr(pid), uintptr(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, 0, 0)
	if errno != 0 || info[0] != int32(unix.SIGCHLD) {
		return 0, false
	}
	const exited = 1 // CLD_EXITED
	if info[2] == exited {
		return 0, true
	}
	return unix.Signal(info[6]), true
}

func readMessage(fd int) (*message, error) {
	var buf [messageSize]byte
	n := 0
	for n < messageSize {
		k, err := unix.Read(fd, buf[n:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, fmt.Errorf("read the report of the container's first process: %w", err)
		case k == 0:
			return nil, nil
		}
		n += k
	}
	return &message{step: binary.NativeEndian.Uint64(buf[:]), errno: binary.NativeEndian.Uint64(buf[8:])}, nil
}

// LateError is a step that failed after another process had started the child. Who reads it has no plan, only the step's index.
type LateError struct {
	Step  int
	Errno unix.Errno
}

func (e *LateError) Error() string { return fmt.Sprintf("step %d: %s", e.Step, e.Errno) }

// ReadResult reads the result fifo of a child that has just been started, a non-blocking descriptor, until the child has
// become its program or has failed with a *LateError.
func ReadResult(ctx context.Context, result int) error {
	execing := false
	for {
		var buf [messageSize]byte
		n, err := unix.Read(result, buf[:])
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(result), Events: unix.POLLIN}}, 100); err != nil && !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("poll: %w", err)
			}
		case err != nil:
			return fmt.Errorf("read the report of the container's first process: %w", err)
		case n == 0 && execing:
			return nil
		case n == 0:
			return &KilledError{}
		case n != messageSize:
			return fmt.Errorf("read the report of the container's first process: found %d bytes", n)
		default:
			m := message{step: binary.NativeEndian.Uint64(buf[:]), errno: binary.NativeEndian.Uint64(buf[8:])}
			if m.errno != 0 {
				return &LateError{Step: int(m.step), Errno: unix.Errno(m.errno)}
			}
			execing = true
		}
	}
}
