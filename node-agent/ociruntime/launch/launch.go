// SPDX-License-Identifier: Apache-2.0

package launch

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// Request describes a child to launch.
type Request struct {
	Plan *plan.Plan
	// Inputs are the descriptors that the plan names. They stay the caller's.
	Inputs map[plan.Input]int
	// Cgroup is the descriptor of the cgroup v2 directory that the child is created in; 0 for none.
	Cgroup int
	// Reserved is the number of descriptors, from 0 on, that belong to the process: the launcher's
	// own lie above them.
	Reserved int
	// Held keeps the child waiting before execve until Release; without it the child is released at
	// once. A plan whose InputStart the caller supplies is held by the caller.
	Held bool
	// OnSync answers the child's synchronization points that wait. An error ends the child.
	OnSync func(s plan.Sync, pid int) error
	// Deadline is the time that the child may take from one synchronization point to the next; 0 is
	// DefaultDeadline. The time of OnSync does not count.
	Deadline time.Duration
}

// Start creates the child. On an error there is none. Afterwards the caller calls Follow or
// Abandon.
func Start(r Request) (_ *Child, err error) {
	s := &starting{r: &r, report: -1, inputs: make(map[plan.Input]int, len(r.Inputs)+2)}
	s.child = &Child{
		plan: r.Plan, sync: -1, start: -1, deferred: -1, onSync: r.OnSync,
		deadline: orDefault(r.Deadline),
	}
	defer func() { s.end(err) }()
	if err := s.moveInputs(); err != nil {
		return nil, err
	}
	if err := s.openPipes(); err != nil {
		return nil, err
	}
	if err := s.clone(); err != nil {
		return nil, err
	}
	c := s.child
	if len(r.Plan.Deferred) > 0 {
		excludeOwnCPU(c.PID) // until receiveDeferred, after which the plan allows all processors
	}
	if r.Plan.HasFork {
		s.closeReport() // or the end of the child would not be that of the pipe
		if err := c.followFork(); err != nil {
			return nil, err
		}
	}
	if c.start >= 0 && !r.Held {
		c.Release()
	}
	return c, nil
}

// starting is a child that is being created.
type starting struct {
	r     *Request
	child *Child
	// inputs are the descriptors that the child inherits by their names in the plan.
	inputs map[plan.Input]int
	// own are the parent's descriptors, closed on an error; theirs are the child's, closed in any
	// case.
	own, theirs []int
	// report and sync are the child's ends of its pipes.
	report, sync int
}

func (s *starting) end(err error) {
	s.closeReport()
	for _, fd := range s.theirs {
		unix.Close(fd)
	}
	if err == nil {
		return
	}
	for _, fd := range s.own {
		unix.Close(fd)
	}
	s.child.progress.close()
}

func (s *starting) closeReport() {
	if s.report >= 0 {
		unix.Close(s.report)
		s.report = -1
	}
}

// moveInputs moves the caller's descriptors above those of the process: dup3 of a descriptor onto
// itself fails, and onto one that is still needed loses it.
func (s *starting) moveInputs() error {
	for name, fd := range s.r.Inputs {
		if fd < s.r.Reserved {
			moved, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, s.r.Reserved)
			if err != nil {
				return fmt.Errorf("%s: fcntl F_DUPFD_CLOEXEC: %w", name, err)
			}
			s.theirs = append(s.theirs, moved)
			fd = moved
		}
		s.inputs[name] = fd
	}
	return nil
}

// openPipes opens the pipes between parent and child.
func (s *starting) openPipes() (err error) {
	c := s.child
	if c.report, s.report, err = s.pair(pipe); err != nil {
		return err
	}
	s.own = append(s.own, c.report)
	if s.r.Plan.Waits {
		if s.sync, c.sync, err = s.pair(pipe); err != nil {
			return err
		}
		s.own, s.theirs = append(s.own, c.sync), append(s.theirs, s.sync)
	}
	if _, held := s.inputs[plan.InputStart]; !held {
		var read int
		if read, c.start, err = s.pair(pipe); err != nil {
			return err
		}
		s.own, s.theirs = append(s.own, c.start), append(s.theirs, read)
		s.inputs[plan.InputStart] = read
	}
	if len(s.r.Plan.Deferred) > 0 {
		var read int
		if read, c.deferred, err = s.pair(socketpair); err != nil {
			return err
		}
		s.own, s.theirs = append(s.own, c.deferred), append(s.theirs, read)
		s.inputs[plan.InputDeferred] = read
	}
	return nil
}

// pair opens two descriptors above those of the process.
func (s *starting) pair(open func(*[2]int) error) (first, second int, err error) {
	p := [2]int{-1, -1}
	if err := open(&p); err != nil {
		return -1, -1, err
	}
	for i := range p {
		if p[i], err = above(p[i], s.r.Reserved); err != nil {
			unix.Close(p[1-i]) // above has closed the other
			return -1, -1, err
		}
	}
	return p[0], p[1], nil
}

func pipe(p *[2]int) error {
	return os.NewSyscallError("pipe2", unix.Pipe2(p[:], unix.O_CLOEXEC))
}

func socketpair(p *[2]int) (err error) {
	*p, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	return os.NewSyscallError("socketpair", err)
}

// clone compiles the plan and creates the child.
func (s *starting) clone() error {
	r, c := s.r, s.child
	keep := []int{s.report}
	for _, fd := range s.inputs {
		keep = append(keep, fd)
	}
	if r.Plan.Waits {
		keep = append(keep, s.sync)
	}
	prog, memory, err := compile(r.Plan, s.inputs, closeOthers(r.Reserved, keep), ignoredSignals())
	if err != nil {
		return err
	}
	defer memory.free() // the child has its own by then
	if c.progress, err = newProgress(); err != nil {
		return err
	}
	prog.progress, prog.report, prog.sync = c.progress.at(), uintptr(s.report), uintptr(s.sync)
	args := &cloneArgs{
		flags:      r.Plan.CloneFlags | unix.CLONE_PIDFD | unix.CLONE_CLEAR_SIGHAND,
		pidfd:      uint64(uintptr(unsafe.Pointer(&prog.pidfd))),
		exitSignal: uint64(unix.SIGCHLD),
		stack:      memory.stack(), stackSize: stackSize,
	}
	if r.Cgroup > 0 {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(r.Cgroup)
	}
	how := &cloning{args, prog, []mapping{memory.mapping(), c.progress.mapping()}}
	if c.PID, err = c.clone(how, s.inputs[plan.InputContainer]); err != nil {
		return err
	}
	c.PIDFD = int(prog.pidfd)
	return nil
}

// followFork replaces the child by the process that it has forked and that goes on in its place.
func (c *Child) followFork() error {
	fork := uint64(slices.IndexFunc(c.plan.Steps, func(s plan.Step) bool {
		return s.Call == plan.OpFork
	}))
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

// clone creates the child, with the calling thread in the pid namespace to be joined and on the
// processors to be used, if the plan has any, for the length of the fork.
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
		// Else the thread stays locked and so ends with this goroutine: no other code may use it.
		// From a user namespace that does not own its pid namespace, such as the one that podman
		// makes for a plain user, no thread may go back.
		if stays == nil {
			runtime.UnlockOSThread()
		}
	}()
	<-done
	return pid, err
}

// cloneElsewhere moves the thread to the processors and the pid namespace for the child, creates
// the child there, and returns the functions that move the thread back.
func (c *Child) cloneElsewhere(how *cloning, container int) (pid int, back []func() error,
	err error,
) {
	if mask := c.plan.CPUs.Mask; mask != nil {
		own := make([]byte, len(mask))
		if err := affinity(unix.SYS_SCHED_GETAFFINITY, 0, own); err != nil {
			return 0, back, fmt.Errorf("process.execCPUAffinity.initial: sched_getaffinity: %w", err)
		}
		if err := affinity(unix.SYS_SCHED_SETAFFINITY, 0, mask); err != nil {
			return 0, back, fmt.Errorf("process.execCPUAffinity.initial: found %s: sched_setaffinity: %w",
				c.plan.CPUs.List, err)
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
