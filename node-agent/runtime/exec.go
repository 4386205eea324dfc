// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/oci/validate"
	"github.com/berth-run/berth/node-agent/runtime/cgroup"
	"github.com/berth-run/berth/node-agent/runtime/launch"
	"github.com/berth-run/berth/node-agent/runtime/plan"
)

// Errors of Exec that clients tell apart, with runc's words.
var (
	// ErrExecStopped: the container's first process has ended.
	ErrExecStopped = errors.New("cannot exec in a stopped container")
	// ErrExecPaused: the new process would be stopped at once, as all others are.
	ErrExecPaused = errors.New("cannot exec in a paused container (use --ignore-paused to override)")
)

// ExecOptions say what to execute in a container.
type ExecOptions struct {
	// Process is what to execute. What it leaves out of capabilities, apparmorProfile, selinuxLabel, rlimits, oomScoreAdj, scheduler,
	// ioPriority, execCPUAffinity and user.umask is as the container's own process has it. Nil is that process itself.
	Process *specs.Process
	// Change, if it is there, has the last word on the process. It gets a copy.
	Change func(*specs.Process) error
	// Stdin, Stdout and Stderr become the process's own; nil is /dev/null. They are not used with a terminal.
	Stdin, Stdout, Stderr *os.File
	// ConsoleSocket is the path of a unix socket that gets the terminal's master by SCM_RIGHTS.
	ConsoleSocket string
	// Console is a connected socket for the same, where the caller has one.
	Console *os.File
	// PlainNewlines has the terminal hand newlines on as they are (termios(3), ONLCR off).
	PlainNewlines bool
	// PidfdSocket is the path of a unix socket that gets a pidfd of the process by SCM_RIGHTS.
	PidfdSocket string
	// PidFile gets the pid of the process, in decimal.
	PidFile string
	// PreserveFDs is how many descriptors from 3 on the process inherits.
	PreserveFDs int
	// Cgroups are cgroups below the container's, as [CONTROLLER,...:]PATH, that the process is put in.
	Cgroups []string
	// IgnorePaused executes in a paused container as well. The process is paused then, and Exec returns when it no longer is.
	IgnorePaused bool
}

// Executed is a process that Exec has started, a child of the caller's. The caller calls Wait, or Leave where another reaps it.
type Executed struct {
	// PID of the process.
	PID   int
	child *launch.Child
}

// FD is the process's pidfd (pidfd_open(2)), open until Wait, Kill or Leave.
func (e *Executed) FD() int { return e.child.PIDFD }

// Wait waits for the process to end, and reaps it.
func (e *Executed) Wait() unix.WaitStatus { return e.child.Wait() }

// Kill ends the process, if it still runs, and reaps it.
func (e *Executed) Kill() { e.child.Kill() }

// Leave gives up what the caller holds of the process, which goes on.
func (e *Executed) Leave() { e.child.ClosePIDFD() }

// Exec executes a process in a created or running container and returns once it has become its program. On an error there is none.
func (r *Runtime) Exec(ctx context.Context, id string, o ExecOptions) (*Executed, error) {
	x := &execution{o: o, maker: &maker{r: r, inputs: map[plan.Input]int{}}}
	defer x.closeFiles()
	if err := x.prepare(ctx, id); err != nil {
		return nil, err
	}
	if err := x.start(ctx); err != nil {
		return nil, err
	}
	x.r.debugf("container %s: setns_init: about to exec %q", x.rec.ID, x.spec.Process.Args[0])
	x.child.Release()
	if err := x.child.Follow(ctx, ""); err != nil {
		x.removePidFile()
		return nil, x.explain(err)
	}
	return &Executed{PID: x.child.PID, child: x.child}, nil
}

// execution is one Exec under way.
type execution struct {
	*maker
	o ExecOptions
	// container is a pidfd of the container's first process.
	container *os.File
	// program, if it is there, is what to execute in place of process.args[0], as for a hook.
	program string
	// ownEnv is whether process.env is all of the environment, to which no HOME is added.
	ownEnv bool
}

func (x *execution) closeFiles() {
	for _, f := range x.close {
		f.Close()
	}
}

// prepare does all that comes before the child. It takes no lock: whatever becomes of the container meanwhile, the child joins the
// one whose pidfd it has, or fails.
func (x *execution) prepare(ctx context.Context, id string) error {
	rec, err := x.r.load(id)
	if err != nil {
		return err
	}
	x.rec = rec
	switch x.r.status(rec) {
	case specs.StateStopped:
		return ErrExecStopped
	case specs.StateCreating:
		return errors.New("cannot exec in a container that is being created")
	case StatusPaused:
		if !x.o.IgnorePaused {
			return ErrExecPaused
		}
	}
	pidfd := rec.pidfd()
	if pidfd < 0 {
		return ErrExecStopped
	}
	x.container = os.NewFile(uintptr(pidfd), "pidfd")
	x.close = append(x.close, x.container)
	x.inputs[plan.InputContainer] = pidfd
	if err := x.readSpec(); err != nil {
		return err
	}
	x.maker.o = CreateOptions{
		Stdin: x.o.Stdin, Stdout: x.o.Stdout, Stderr: x.o.Stderr, Console: x.o.Console, ConsoleSocket: x.o.ConsoleSocket,
		PlainNewlines: x.o.PlainNewlines, PreserveFDs: x.o.PreserveFDs,
	}
	if err := x.openStreams(ctx); err != nil {
		return err
	}
	if joinedUserNamespace(x.spec) >= 0 {
		if err := x.readMappings(rec.PID); err != nil {
			return err
		}
		x.giveStreams()
	}
	return x.makePlan(ctx)
}

// readSpec makes the document of the new process: the container's with another process.
func (x *execution) readSpec() error {
	spec, err := x.r.loadConfig(x.rec.ID)
	if err != nil {
		return err
	}
	isTime := func(n specs.LinuxNamespace) bool { return n.Type == specs.TimeNamespace }
	if x.rec.TimeNamespace && !slices.ContainsFunc(spec.Linux.Namespaces, isTime) {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	}
	if x.o.Process != nil {
		spec.Process = inherit(x.o.Process, spec.Process)
	}
	if x.o.Change != nil {
		if err := x.o.Change(spec.Process); err != nil {
			return err
		}
	}
	faults := validate.ProcessOf(spec, validate.Options{})
	for _, w := range faults.Warnings() {
		x.r.warn(w.Error())
	}
	if err := faults.Err(); err != nil {
		return ExplainProcessFault(spec.Process, err)
	}
	x.spec = spec
	return nil
}

// inherit returns a process with what it does not say taken from the container's own.
func inherit(p, own *specs.Process) *specs.Process {
	out := *p
	if out.Capabilities == nil {
		out.Capabilities = own.Capabilities
	}
	if out.ApparmorProfile == "" {
		out.ApparmorProfile = own.ApparmorProfile
	}
	if out.SelinuxLabel == "" {
		out.SelinuxLabel = own.SelinuxLabel
	}
	if len(out.Rlimits) == 0 {
		out.Rlimits = own.Rlimits
	}
	if out.OOMScoreAdj == nil {
		out.OOMScoreAdj = own.OOMScoreAdj
	}
	if out.Scheduler == nil {
		out.Scheduler = own.Scheduler
	}
	if out.IOPriority == nil {
		out.IOPriority = own.IOPriority
	}
	if out.ExecCPUAffinity == nil {
		out.ExecCPUAffinity = own.ExecCPUAffinity
	}
	if out.User.Umask == nil {
		out.User.Umask = own.User.Umask
	}
	return &out
}

func (x *execution) makePlan(ctx context.Context) error {
	host, err := x.r.Host()
	if err != nil {
		return err
	}
	o := plan.Options{ID: x.rec.ID, Rootfs: x.rec.Rootfs, NullStreams: x.nulls, PreserveFDs: x.o.PreserveFDs, NoNewKeyring: x.rec.NoNewKeyring, PlainNewlines: x.o.PlainNewlines, Program: x.program, DefaultNoFile: defaultNoFile()}
	if !x.ownEnv {
		o.Home = x.home(ctx)
	}
	if o.Seccomp, err = x.r.seccompFilter(x.spec); err != nil {
		return err
	}
	paths, err := cgroup.Below(x.rec.Cgroups, x.o.Cgroups)
	if err != nil {
		return fmt.Errorf("--cgroup: %w", err)
	}
	below := *x.rec
	below.Cgroups = paths
	if x.group, err = below.cgroup(); err != nil {
		return err
	}
	if err = x.openCgroups(); err != nil {
		if len(x.o.Cgroups) > 0 {
			err = fmt.Errorf("--cgroup: adding pid of the process: %w", err) // runc's words
		}
		return err
	}
	o.Cgroups, o.CgroupByParent = x.cgroups, x.cgroupByParent
	host, x.spec = x.r.withSecurityModules(host, x.spec, x.r.ignoreMissingLSM || x.rec.IgnoreMissingLSM)
	if x.plan, err = plan.BuildExec(x.spec, host, o); err != nil {
		return err
	}
	for _, w := range x.plan.Warnings {
		x.r.warn(w)
	}
	if x.r.change != nil {
		x.r.change(x.plan)
	}
	return nil
}

// homeTimeout is how long a container's /etc/passwd is waited for: longer than it takes on a machine that has too much to do.
const homeTimeout = 10 * time.Second

// home is what HOME is to be where process.env does not say. The container's files are read as its processes see them, and so may
// lie on a filesystem that the container serves itself (FUSE) and that never answers.
func (x *execution) home(ctx context.Context) string {
	if plan.HasHome(x.spec.Process.Env) {
		return ""
	}
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", x.rec.PID), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "/"
	}
	// It is the container's only if the process has had the pid all the while.
	if err := unix.PidfdSendSignal(int(x.container.Fd()), 0, nil, 0); err != nil {
		unix.Close(root)
		return "/"
	}
	found := make(chan string, 1)
	uid := x.spec.Process.User.UID
	go func() {
		defer unix.Close(root)
		found <- homeBelow(root, passwdFile, uid)
	}()
	ctx, cancel := context.WithTimeout(ctx, homeTimeout)
	defer cancel()
	select {
	case home := <-found:
		if home != "" {
			return home
		}
	case <-ctx.Done():
		x.r.warn("/etc/passwd of the container cannot be read in time: HOME is /")
	}
	return "/"
}

// pausedDeadline is how long a process may wait for its container to be resumed: as long as poll(2) can count, in milliseconds.
const pausedDeadline = (1<<31 - 1) * time.Millisecond

// start makes the child, which waits before its program is executed, and tells others of it.
func (x *execution) start(ctx context.Context) error {
	request := launch.Request{Plan: x.plan, Inputs: x.inputs, Cgroup: x.cgroup, Reserved: 3 + x.o.PreserveFDs, Held: true, OnSync: x.answer(ctx), Deadline: x.r.deadline}
	if x.o.IgnorePaused {
		request.Deadline = pausedDeadline
	}
	child, err := launch.Start(request)
	if errors.Is(err, unix.EBUSY) && x.cgroup > 0 && len(x.o.Cgroups) == 0 {
		// A container that has given its own cgroups controllers can have no process beside them (cgroups(7), "no internal
		// processes"): go where its first process is. So does attach.
		var below *os.File
		if below, err = cgroup.OpenOf(x.rec.PID, x.rec.Cgroups[""]); err == nil {
			x.close = append(x.close, below)
			request.Cgroup = int(below.Fd())
			child, err = launch.Start(request)
		}
	}
	if err != nil {
		return x.explain(err)
	}
	x.child = child
	x.r.debugf("container %s: the process is pid %d; its plan has %d steps: nsexec container setup, child process in init()", x.rec.ID, child.PID, len(x.plan.Steps))
	if mask := x.plan.CPUs.Mask; mask != nil {
		x.r.debugf("nsexec: affinity: %#x (process.execCPUAffinity.initial %q)", binary.NativeEndian.Uint64(mask), x.plan.CPUs.List)
	}
	err = x.r.joinResctrl(x.rec, child.PID)
	if err == nil && x.o.PidFile != "" {
		err = writePidFile(x.o.PidFile, child.PID)
	}
	if err == nil && x.o.PidfdSocket != "" {
		err = sendPidfd(ctx, x.o.PidfdSocket, child.PIDFD)
	}
	if err != nil {
		child.Abandon()
		x.removePidFile()
	}
	return err
}

// answer does what the child's synchronization points ask of the parent.
func (x *execution) answer(ctx context.Context) func(plan.Sync, int) error {
	return func(s plan.Sync, pid int) error {
		switch s {
		case plan.SyncCgroup:
			return x.attach(pid)
		case plan.SyncSeccomp:
			return sendListener(ctx, x.spec.Linux.Seccomp, x.child, x.rec.ociState(x.r.status(x.rec)))
		}
		return fmt.Errorf("no answer to the synchronization point %s", s)
	}
}

func (x *execution) attach(pid int) error {
	err := x.group.Attach(pid)
	if err == nil || len(x.o.Cgroups) > 0 {
		return err
	}
	below, e := cgroup.OpenOf(x.rec.PID, x.rec.Cgroups[""])
	if e != nil {
		return errors.Join(err, e)
	}
	defer below.Close()
	if below.Name() == x.rec.Cgroups[""] {
		return err
	}
	g, e := cgroup.OpenUnit(map[string]string{"": below.Name()}, *x.rec.Unit)
	if e != nil {
		return errors.Join(err, e)
	}
	return g.Attach(pid)
}

func (x *execution) removePidFile() {
	if x.o.PidFile != "" {
		_ = os.Remove(x.o.PidFile)
	}
}

// explain is that of a container, but that the first process, whose end ends all others, may be what has ended.
func (x *execution) explain(err error) error {
	// ESRCH: it has left its namespaces, and the kernel waits for its others to be reaped (pid_namespaces(7)).
	if !x.rec.alive() || errors.Is(err, unix.ESRCH) {
		return ErrExecStopped
	}
	var killed *launch.KilledError
	if errors.As(err, &killed) && killed.Status.Signal() == unix.SIGKILL && x.group.OOMKills() > 0 {
		return errors.New("unable to start container process: linux.resources.memory.limit: it was OOM-killed (memory limit too low?)")
	}
	return x.maker.explain(err)
}
