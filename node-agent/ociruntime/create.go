// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/containerid"
	"github.com/berth-run/berth/node-agent/ociruntime/launch"
	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// CreateOptions say how to create a container from a bundle.
type CreateOptions struct {
	// Bundle is the directory with config.json.
	Bundle string
	// Config is the file of the document if it is not Bundle/config.json.
	Config string
	// Stdin, Stdout and Stderr become the process's own; nil is /dev/null. They are not used with
	// process.terminal.
	Stdin, Stdout, Stderr *os.File
	// ConsoleSocket is the path of a unix socket that gets the terminal's master by SCM_RIGHTS.
	ConsoleSocket string
	// Console is a connected socket that receives the terminal's master, like ConsoleSocket.
	Console *os.File
	// PlainNewlines makes the terminal pass newlines on unchanged (termios(3), ONLCR off).
	PlainNewlines bool
	// PidfdSocket is the path of a unix socket that gets a pidfd of the first process by
	// SCM_RIGHTS.
	PidfdSocket string
	// PidFile gets the pid of the first process, in decimal.
	PidFile string
	// NoPivot moves the root in place of pivot_root(2); NoNewKeyring leaves the session keyring.
	NoPivot, NoNewKeyring bool
	// PreserveFDs is the number of descriptors, from 3 on, that the process inherits.
	PreserveFDs int
	// ListenFDs is the number of them that are sockets of a service manager, which the process is
	// informed of (sd_listen_fds(3)).
	ListenFDs int
	// Notify is $NOTIFY_SOCKET, if a service manager has set it. It gives the process a socket of
	// its own to report its readiness to (sd_notify(3)); see Runtime.ListenNotify and
	// Process.Notify.
	Notify string
}

// Create creates a container that waits for Start. Its first process is a child of the caller. On
// an error nothing is left of the container.
func (r *Runtime) Create(ctx context.Context, id string, o CreateOptions) (*State, error) {
	c, err := r.create(ctx, id, o, false)
	if err != nil {
		return nil, err
	}
	c.child.ClosePIDFD()
	s := r.state(c.rec)
	s.PID, s.Status = c.rec.PID, specs.StateCreated
	return s, nil
}

// Run creates and starts a container. Its first process is a child of the caller. On an error
// nothing is left of the container.
func (r *Runtime) Run(ctx context.Context, id string, o CreateOptions) (*Process, error) {
	c, err := r.create(ctx, id, o, true)
	if err != nil {
		return nil, err
	}
	p := &Process{PID: c.rec.PID, r: r, rec: c.rec, child: c.child, notify: c.notify}
	if h := c.rec.Hooks; h != nil {
		if err := r.runHooks(ctx, "poststart", h.Poststart, c.rec, specs.StateRunning); err != nil {
			p.child.Kill()
			return nil, errors.Join(err, p.Delete(context.WithoutCancel(ctx)))
		}
	}
	return p, nil
}

// creation creates a container and, with run, starts it.
type creation struct {
	*newContainer
	run      bool
	prefetch prefetch
	streams  streams
	mounts   mountInputs
	notify   *net.UnixConn
}

// create creates a container. When it returns, the first process waits for Start or, with run, has
// executed its program.
func (r *Runtime) create(ctx context.Context, id string, o CreateOptions, run bool) (_ *creation,
	err error,
) {
	if err := containerid.CheckNew(id); err != nil {
		return nil, err
	}
	c := &creation{newContainer: r.newContainer(id, o), run: run}
	c.prefetch.c = c.newContainer
	defer func() { c.end(ctx, err) }()
	for _, step := range []func(context.Context) error{
		c.readDocument, // and check it
		c.reserveID,
		c.createGroups, // the cgroup and the resctrl group
		c.openInputs,
		c.buildPlan,
		c.mountRoot,
		c.launch,
		c.record, // while the child works
		c.follow, // until the child waits or executes its program
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// end ends the session. A hook that failed ends the container's lifecycle, of which the poststop
// hooks are a part (runtime.md, Lifecycle, 3 to 13).
func (c *creation) end(ctx context.Context, err error) {
	c.newContainer.end(err)
	var hook *hookError
	if errors.As(err, &hook) {
		ctx := context.WithoutCancel(ctx)
		c.r.runHooksLogged(ctx, "poststop", c.rec.Hooks.Poststop, c.rec, specs.StateStopped)
	}
}

// readDocument reads and validates config.json. The network namespace is begun before validation,
// whose errors come first: one of the network is that of the second Start.
func (c *creation) readDocument(context.Context) error {
	d, err := c.read()
	if err != nil {
		return err
	}
	if d.Value != nil {
		_ = c.prefetch.Start(d.Value)
	}
	if err := c.check(d); err != nil {
		return err
	}
	return c.replaceMissingProcess()
}

func (c *creation) reserveID(context.Context) error {
	if err := c.reserve(); err != nil {
		return err
	}
	if err := c.addActivation(); err != nil {
		return err
	}
	return c.prefetch.Start(c.spec)
}

// createGroups creates the groups that limit the container's resources.
func (c *creation) createGroups(context.Context) error {
	if err := c.chooseCgroup(); err != nil {
		return err
	}
	if err := c.prefetch.createCgroup(); err != nil {
		return err
	}
	return c.createResctrl()
}

// openInputs opens the standard streams or the console. The streams of a process in a user
// namespace that is joined are given away once the ids of that are known.
func (c *creation) openInputs(ctx context.Context) (err error) {
	if c.streams, err = c.openStreams(ctx, c.o.streams(), c.spec.Process.Terminal); err != nil {
		return err
	}
	if joinedUserNamespace(c.spec) < 0 {
		c.streams.giveTo(c.spec)
	}
	return nil
}

// buildPlan builds the plan of the first process and opens the host's files that it needs.
func (c *creation) buildPlan(ctx context.Context) error {
	host, err := c.r.Host()
	if err != nil {
		return err
	}
	o := plan.Options{
		ID: c.id, Bundle: c.o.Bundle, Rootfs: c.rec.Rootfs, NoProgram: c.rec.NoProgram, Result: !c.run,
		PreserveFDs: c.o.PreserveFDs, NullStreams: c.streams.nulls, NoPivot: c.o.NoPivot,
		NoNewKeyring: c.o.NoNewKeyring, PlainNewlines: c.o.PlainNewlines, StartHooks: c.run,
		Cgroups: c.cgroup.hierarchies, DeferCgroups: c.prefetch.defersCgroup,
		CgroupByParent: c.cgroup.byManager,
		CgroupPaths:    c.cgroup.group.HostPaths(), DefaultNoFile: defaultNoFile(),
	}
	if err := checkSysctl(c.spec); err != nil {
		return err
	}
	if c.o.NoPivot {
		if o.KernelMounts, err = kernelMounts(c.rec.Rootfs); err != nil {
			return err
		}
	}
	if o.Seccomp, err = c.r.seccompFilter(c.spec); err != nil {
		return err
	}
	if o.Dangling, err = danglingDestinations(c.rec.Rootfs, c.spec.Mounts); err != nil {
		return err
	}
	o.Home = homeOf(c.spec, c.rec.Rootfs, c.o.Bundle)
	host, c.spec = c.r.withSecurityModules(host, c.spec, c.r.ignoreMissingLSM)
	p, err := plan.Build(c.spec, host, o)
	if err != nil {
		return err
	}
	c.usePlan(p)
	c.r.debugf("container %s: the plan has %d steps (`berth plan` prints them)", c.id, len(p.Steps))
	c.mounts = mountInputs{session: c.session, spec: c.spec, cgroup: &c.cgroup}
	return c.mounts.open(ctx)
}

// launch starts the first process. It works through its plan and does not execute its program
// before record has returned.
func (c *creation) launch(ctx context.Context) (err error) {
	if !c.run {
		if err := c.createFIFOs(); err != nil {
			return err
		}
		c.rec.Late = lateSteps(c.plan, c.spec.Process.Args)
	}
	c.child, err = launch.Start(launch.Request{
		Plan: c.plan, Inputs: c.inputs, Cgroup: c.cgroup.unified, Reserved: 3 + c.o.PreserveFDs,
		Held:   c.run,
		OnSync: c.answer(ctx), Deadline: c.r.deadline,
	})
	if err != nil {
		return err
	}
	// These are runc's words for the stages of a start, which its users look for in the log.
	c.r.debugf("container %s: its first process is pid %d: nsexec container setup, child process in init()", c.id, c.child.PID)
	return nil
}

// createFIFOs creates the fifos of Start: one that the first process waits on, and one for its
// failure. They are opened for reading and writing, so that a read waits for a byte and not for a
// writer.
func (c *creation) createFIFOs() error {
	for in, name := range map[plan.Input]string{
		plan.InputStart:  newFIFO,
		plan.InputResult: resultFIFO,
	} {
		path := filepath.Join(c.r.dir(c.id), name)
		if err := unix.Mkfifo(path, 0o600); err != nil {
			return &os.PathError{Op: "mkfifo", Path: path, Err: err}
		}
		f, err := c.open(path, unix.O_RDWR)
		if err != nil {
			return err
		}
		c.inputs[in] = int(f.Fd())
	}
	return nil
}

// record sends the child its deferred inputs, records it and announces it. It runs
// concurrently with the child, and ends it on an error.
func (c *creation) record(ctx context.Context) error {
	err := c.recordChild(ctx)
	if err != nil {
		c.child.Abandon()
	}
	return err
}

func (c *creation) recordChild(ctx context.Context) error {
	deferred, err := c.prefetch.Take()
	if err != nil {
		return err
	}
	if err := c.child.SendDeferred(deferred); err != nil {
		return err
	}
	if err := c.recordProcess(c.child.PID); err != nil {
		return err
	}
	if err := c.r.joinResctrl(c.rec, c.child.PID); err != nil {
		return err
	}
	if err := c.writePidFile(c.child.PID); err != nil {
		return err
	}
	if c.o.PidfdSocket != "" {
		return sendPidfd(ctx, c.o.PidfdSocket, c.child.PIDFD)
	}
	return nil
}

// follow follows the child until it waits for Start or, with run, executes its program.
func (c *creation) follow(ctx context.Context) error {
	if !c.run {
		if err := c.child.Follow(ctx, plan.SyncReady); err != nil {
			return explainLaunch(err, c.spec, c.cgroup.group)
		}
		return c.allowStart()
	}
	c.child.Release()
	if err := c.child.Follow(ctx, ""); err != nil {
		return explainLaunch(err, c.spec, c.cgroup.group)
	}
	if sig, ended := c.child.Ended(); ended && sig == unix.SIGKILL && c.cgroup.group.OOMKills() > 0 {
		c.child.Wait()
		return errOOM // the kernel had no memory to load the program
	}
	c.r.debugf("container %s: running: init: closing the pipe to signal completion", c.id)
	return nil
}

// allowStart gives the fifo the name under which Start looks for it.
func (c *creation) allowStart() error {
	dir := c.r.dir(c.id)
	if err := os.Rename(filepath.Join(dir, newFIFO), filepath.Join(dir, startFIFO)); err != nil {
		c.child.Kill()
		return fmt.Errorf("create container %s: %w", c.id, err)
	}
	c.r.debugf("container %s: created: init: closing the pipe to signal completion", c.id)
	return nil
}

// answer returns the function that answers the child's synchronization points.
func (c *creation) answer(ctx context.Context) func(plan.Sync, int) error {
	return func(s plan.Sync, pid int) error {
		c.r.debugf("container %s: pid %d has come to %s", c.id, pid, s)
		switch s {
		case plan.SyncCgroup:
			return c.cgroup.group.Attach(pid)
		case plan.SyncIDMap:
			if err := prepareUserNamespace(c.spec, pid); err != nil {
				return err
			}
			return c.mounts.createNodes()
		case plan.SyncJoined:
			if err := c.learnUserNamespace(pid); err != nil {
				return err
			}
			return c.mounts.createNodes()
		case plan.SyncNetDevices:
			return c.moveNetDevices(pid)
		case plan.SyncHostFiles:
			return c.mounts.sendHostFiles()
		case plan.SyncCopyUp:
			return c.mounts.copyUp(ctx)
		case plan.SyncNamespaces:
			c.rec.PID = pid
			return c.createHooks(ctx)
		case plan.SyncStart:
			return c.r.startHooks(ctx, c.rec)
		case plan.SyncSeccomp:
			c.rec.PID = pid
			return sendListener(ctx, c.spec.Linux.Seccomp, c.child, c.rec.ociState(specs.StateCreating))
		}
		return errNoAnswer(s)
	}
}
