// SPDX-License-Identifier: Apache-2.0

package ociruntime

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
	"github.com/berth-run/berth/node-agent/ociruntime/cgroup"
	"github.com/berth-run/berth/node-agent/ociruntime/launch"
	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// Errors of Exec that clients tell apart, with runc's words.
var (
	// ErrExecStopped: the container's first process has ended.
	ErrExecStopped = errors.New("cannot exec in a stopped container")
	// ErrExecPaused: the new process would be stopped at once, as all others are.
	ErrExecPaused = errors.New("cannot exec in a paused container (use --ignore-paused to override)")
)

// ExecOptions describe a process to execute in a container.
type ExecOptions struct {
	// Process is the process to execute. Its absent capabilities, apparmorProfile, selinuxLabel,
	// rlimits, oomScoreAdj, scheduler, ioPriority, execCPUAffinity and user.umask are those of the
	// container's own process. Nil is that process itself.
	Process *specs.Process
	// Change, if it is there, has the last word on the process. It gets a copy.
	Change func(*specs.Process) error
	// Stdin, Stdout and Stderr become the process's own; nil is /dev/null. They are not used with a
	// terminal.
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
	// PreserveFDs is the number of descriptors, from 3 on, that the process inherits.
	PreserveFDs int
	// Cgroups are cgroups below the container's, as [CONTROLLER,...:]PATH, that the process is put
	// in.
	Cgroups []string
	// IgnorePaused executes in a paused container as well. The process is paused then, and Exec
	// returns when it no longer is.
	IgnorePaused bool
}

// Executed is a process that Exec has started, a child of the caller's. The caller calls Wait, or
// Leave where another reaps it.
type Executed struct {
	// PID of the process.
	PID   int
	child *launch.Child
}

// FD returns the process's pidfd (pidfd_open(2)), open until Wait, Kill or Leave.
func (e *Executed) FD() int { return e.child.PIDFD }

// Wait waits for the process to end, and reaps it.
func (e *Executed) Wait() unix.WaitStatus { return e.child.Wait() }

// Kill ends the process, if it still runs, and reaps it.
func (e *Executed) Kill() { e.child.Kill() }

// Leave closes the caller's descriptors of the process, which goes on.
func (e *Executed) Leave() { e.child.ClosePIDFD() }

// Exec executes a process in a created or running container and returns after execve. On an error
// no process is left.
func (r *Runtime) Exec(ctx context.Context, id string, o ExecOptions) (_ *Executed, err error) {
	x := &execution{session: r.newSession(), id: id, o: o}
	defer func() { x.end(err) }()
	if err := x.begin(ctx); err != nil {
		return nil, err
	}
	x.r.debugf("container %s: setns_init: about to exec %q", x.id, x.spec.Process.Args[0])
	if err := x.follow(ctx); err != nil {
		return nil, x.explain(err)
	}
	return &Executed{PID: x.child.PID, child: x.child}, nil
}

// execution executes a process in a container.
type execution struct {
	*session
	id string
	o  ExecOptions
	// rec is the container's record and spec its document with the process replaced.
	rec    *record
	spec   *specs.Spec
	cgroup membership
	// container is a pidfd of the container's first process.
	container *os.File
	streams   streams
	// program is the path to execute in place of process.args[0], as for a hook; empty otherwise.
	program string
	// ownEnv reports whether process.env is the whole environment, to which no HOME is added.
	ownEnv bool
}

// begin starts the process, which then waits before it executes its program. It takes no lock: the
// child joins the container whose pidfd it has, or fails, even if the container is removed or
// replaced at the same time.
func (x *execution) begin(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		x.findContainer,
		x.readDocument,
		x.openInputs,
		x.buildPlan,
		x.launch,
		x.announce,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// execute executes the process and returns once it has become its program.
func (x *execution) execute(ctx context.Context) (err error) {
	defer func() { x.end(err) }()
	if err := x.begin(ctx); err != nil {
		return err
	}
	return x.follow(ctx)
}

// follow lets the child execute its program and waits until it has.
func (x *execution) follow(ctx context.Context) error {
	x.child.Release()
	return x.child.Follow(ctx, "")
}

// findContainer reads the container's record and opens its first process.
func (x *execution) findContainer(context.Context) (err error) {
	if x.rec, err = x.r.load(x.id); err != nil {
		return err
	}
	switch x.r.status(x.rec) {
	case specs.StateStopped:
		return ErrExecStopped
	case specs.StateCreating:
		return errors.New("cannot exec in a container that is being created")
	case StatusPaused:
		if !x.o.IgnorePaused {
			return ErrExecPaused
		}
	}
	if x.container = x.openProcess(x.rec); x.container == nil {
		return ErrExecStopped
	}
	return nil
}

// readDocument builds the document of the new process: the container's with another process.
func (x *execution) readDocument(context.Context) error {
	spec, err := x.r.loadConfig(x.id)
	if err != nil {
		return err
	}
	isTime := func(n specs.LinuxNamespace) bool { return n.Type == specs.TimeNamespace }
	if x.rec.TimeNamespace && !slices.ContainsFunc(spec.Linux.Namespaces, isTime) {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces,
			specs.LinuxNamespace{Type: specs.TimeNamespace})
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

// openInputs opens the standard streams or the console, and gives the streams to the process's
// user.
func (x *execution) openInputs(ctx context.Context) (err error) {
	if x.streams, err = x.openStreams(ctx, x.o.streams(), x.spec.Process.Terminal); err != nil {
		return err
	}
	if joinedUserNamespace(x.spec) >= 0 {
		if err := readMappings(x.spec, x.rec.PID); err != nil {
			return err
		}
	}
	x.streams.giveTo(x.spec)
	return nil
}

// inherit returns a process with its absent fields taken from the container's own.
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

// buildPlan builds the plan of the process and opens the cgroup that it enters.
func (x *execution) buildPlan(ctx context.Context) error {
	host, err := x.r.Host()
	if err != nil {
		return err
	}
	o := plan.Options{
		ID: x.id, Rootfs: x.rec.Rootfs, NullStreams: x.streams.nulls, PreserveFDs: x.o.PreserveFDs,
		NoNewKeyring: x.rec.NoNewKeyring, PlainNewlines: x.o.PlainNewlines, Program: x.program,
		DefaultNoFile: defaultNoFile(),
	}
	if !x.ownEnv {
		o.Home = x.home(ctx)
	}
	if o.Seccomp, err = x.r.seccompFilter(x.spec); err != nil {
		return err
	}
	if err := x.openCgroup(); err != nil {
		return err
	}
	o.Cgroups, o.CgroupByParent = x.cgroup.hierarchies, x.cgroup.byManager
	host, x.spec = x.r.withSecurityModules(host, x.spec, x.r.ignoreMissingLSM ||
		x.rec.IgnoreMissingLSM)
	p, err := plan.BuildExec(x.spec, host, o)
	if err != nil {
		return err
	}
	x.usePlan(p)
	return nil
}

// openCgroup opens the container's cgroup, or those below it that ExecOptions.Cgroups names.
func (x *execution) openCgroup() error {
	paths, err := cgroup.Below(x.rec.Cgroups, x.o.Cgroups)
	if err != nil {
		return fmt.Errorf("--cgroup: %w", err)
	}
	below := *x.rec
	below.Cgroups = paths
	if x.cgroup.group, err = below.cgroup(); err != nil {
		return err
	}
	if err = x.cgroup.open(x.session); err != nil && len(x.o.Cgroups) > 0 {
		err = fmt.Errorf("--cgroup: adding pid of the process: %w", err) // runc's words
	}
	return err
}

// homeTimeout is the time for which a read of a container's /etc/passwd is waited for: longer than
// it takes on a machine that has too much to do.
const homeTimeout = 10 * time.Second

// home returns the value of HOME if process.env does not have one. The container's files are read
// as its processes see them, and so may lie on a filesystem that the container serves itself (FUSE)
// and that never answers.
func (x *execution) home(ctx context.Context) string {
	if plan.HasHome(x.spec.Process.Env) {
		return ""
	}
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", x.rec.PID), unix.O_PATH|unix.O_DIRECTORY|
		unix.O_CLOEXEC, 0)
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

// pausedDeadline is the time for which a process may wait for its container to be resumed: as long
// as poll(2) can count, in milliseconds.
const pausedDeadline = (1<<31 - 1) * time.Millisecond

// launch starts the child, which waits before it executes its program.
func (x *execution) launch(ctx context.Context) error {
	request := launch.Request{
		Plan: x.plan, Inputs: x.inputs, Cgroup: x.cgroup.unified, Reserved: 3 + x.o.PreserveFDs,
		Held:   true,
		OnSync: x.answer(ctx), Deadline: x.r.deadline,
	}
	if x.o.IgnorePaused {
		request.Deadline = pausedDeadline
	}
	child, err := launch.Start(request)
	if errors.Is(err, unix.EBUSY) && x.cgroup.unified > 0 && len(x.o.Cgroups) == 0 {
		// A container that has given its own cgroups controllers can have no process beside them
		// (cgroups(7), "no internal processes"): the child goes where the first process is, as in
		// attach.
		var below *os.File
		if below, err = cgroup.OpenOf(x.rec.PID, x.rec.Cgroups[""]); err == nil {
			x.closeLater(below)
			request.Cgroup = int(below.Fd())
			child, err = launch.Start(request)
		}
	}
	if err != nil {
		return x.explain(err)
	}
	x.child = child
	x.r.debugf("container %s: the process is pid %d; its plan has %d steps: nsexec container setup, child process in init()", x.id, child.PID, len(x.plan.Steps))
	if mask := x.plan.CPUs.Mask; mask != nil {
		x.r.debugf("nsexec: affinity: %#x (process.execCPUAffinity.initial %q)",
			binary.NativeEndian.Uint64(mask), x.plan.CPUs.List)
	}
	return nil
}

// announce adds the child to the resctrl group and gives its pid to those who asked for it. On an
// error it ends the child.
func (x *execution) announce(ctx context.Context) error {
	err := x.r.joinResctrl(x.rec, x.child.PID)
	if file := x.o.PidFile; err == nil && file != "" {
		x.onFailure(ignoring(func() error { return os.Remove(file) }))
		err = writePidFile(file, x.child.PID)
	}
	if err == nil && x.o.PidfdSocket != "" {
		err = sendPidfd(ctx, x.o.PidfdSocket, x.child.PIDFD)
	}
	if err != nil {
		x.child.Abandon()
	}
	return err
}

// answer returns the function that answers the child's synchronization points.
func (x *execution) answer(ctx context.Context) func(plan.Sync, int) error {
	return func(s plan.Sync, pid int) error {
		switch s {
		case plan.SyncCgroup:
			return x.attach(pid)
		case plan.SyncSeccomp:
			return sendListener(ctx, x.spec.Linux.Seccomp, x.child, x.rec.ociState(x.r.status(x.rec)))
		}
		return errNoAnswer(s)
	}
}

// attach moves the child into the container's cgroup, or where the first process is.
func (x *execution) attach(pid int) error {
	err := x.cgroup.group.Attach(pid)
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

// explain explains a launch error. If the first process has ended, the executed one was killed with
// it: that is the error then.
func (x *execution) explain(err error) error {
	// ESRCH: it has left its namespaces, and the kernel waits for its others to be reaped
	// (pid_namespaces(7)).
	if !x.rec.alive() || errors.Is(err, unix.ESRCH) {
		return ErrExecStopped
	}
	var killed *launch.KilledError
	if errors.As(err, &killed) && killed.Status.Signal() == unix.SIGKILL &&
		x.cgroup.group.OOMKills() > 0 {
		return errors.New(
			"unable to start container process: linux.resources.memory.limit: it was OOM-killed (memory limit too low?)")
	}
	return explainLaunch(err, x.spec, x.cgroup.group)
}
