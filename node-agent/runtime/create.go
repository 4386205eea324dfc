// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/oci/validate"
	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/node-agent/runtime/cgroup"
	"github.com/berth-run/berth/node-agent/runtime/launch"
	"github.com/berth-run/berth/node-agent/runtime/netdev"
	"github.com/berth-run/berth/node-agent/runtime/plan"
	"github.com/berth-run/berth/node-agent/runtime/seccomp"
)

// CreateOptions say how to make a container from a bundle.
type CreateOptions struct {
	// Bundle is the folder with config.json.
	Bundle string
	// Config is the document's file where it is not Bundle/config.json.
	Config string
	// Stdin, Stdout and Stderr become the process's own; nil is /dev/null. They are not used with process.terminal.
	Stdin, Stdout, Stderr *os.File
	// ConsoleSocket is the path of a unix socket that gets the terminal's master by SCM_RIGHTS.
	ConsoleSocket string
	// Console is a connected socket for the same, where the caller has one.
	Console *os.File
	// PlainNewlines has the terminal hand newlines on as they are (termios(3), ONLCR off).
	PlainNewlines bool
	// PidfdSocket is the path of a unix socket that gets a pidfd of the first process by SCM_RIGHTS.
	PidfdSocket string
	// PidFile gets the pid of the first process, in decimal.
	PidFile string
	// NoPivot moves the root in place of pivot_root(2); NoNewKeyring leaves the session keyring.
	NoPivot, NoNewKeyring bool
	// PreserveFDs is how many descriptors from 3 on the process inherits.
	PreserveFDs int
	// ListenFDs is how many of them are sockets that a service manager has opened, which the process is told of (sd_listen_fds(3)).
	ListenFDs int
	// Notify is $NOTIFY_SOCKET, if a service manager has set it. It gives the process a socket of its own to report its
	// readiness to (sd_notify(3)); see Runtime.ListenNotify and Process.Notify.
	Notify string
}

// Create makes a container and leaves it waiting for Start. Its first process is a child of the caller's. On an error
// nothing is left of it.
func (r *Runtime) Create(ctx context.Context, id string, o CreateOptions) (*State, error) {
	c, err := r.make(ctx, id, o, false)
	if err != nil {
		return nil, err
	}
	c.child.ClosePIDFD()
	s := r.state(c.rec)
	s.PID, s.Status = c.rec.PID, specs.StateCreated
	return s, nil
}

// Process is a container that Run has started: its first process is a child of the caller, who calls Wait.
type Process struct {
	// PID of the first process.
	PID    int
	r      *Runtime
	rec    *record
	child  *launch.Child
	notify *net.UnixConn
}

// Run makes and starts a container in one go.
func (r *Runtime) Run(ctx context.Context, id string, o CreateOptions) (*Process, error) {
	c, err := r.make(ctx, id, o, true)
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

// FD is the first process's pidfd (pidfd_open(2)), open until Wait.
func (p *Process) FD() int { return p.child.PIDFD }

// Wait waits for the first process to end, and reaps it.
func (p *Process) Wait() unix.WaitStatus { return p.child.Wait() }

// Delete removes the container after Wait. That another has done so meanwhile is no error.
func (p *Process) Delete(ctx context.Context) error { return p.r.Delete(ctx, p.rec.ID, true) }

// maker is one creation under way.
type maker struct {
	// holder keeps a scope of systemd from ending before the container is in it.
	holder *launch.Child

	r    *Runtime
	o    CreateOptions
	spec *specs.Spec
	// config is the document as it was read.
	config []byte
	rec    *record
	plan   *plan.Plan
	group  *cgroup.Group
	child  *launch.Child

	inputs map[plan.Input]int
	// nulls are the standard streams that are /dev/null.
	nulls []int
	// streams are those that are not.
	streams []*os.File
	close   []io.Closer
	// copies and hostFiles are the other ends of plan.InputCopyUp and plan.InputHostFiles.
	copies, hostFiles *os.File
	cgroup            int // descriptor of the v2 folder
	// cgroupByParent is whether children wait for attach.
	cgroupByParent bool
	// cgroups are the hierarchies that a child joins by itself.
	cgroups []string
	// cgroupsLater is whether they are made while the child has begun.
	cgroupsLater bool
	// devices are linux.netDevices once they have been moved.
	devices *netdev.Moved
	// groundwork is what is made meanwhile; nil for nothing.
	groundwork *groundwork
	notify     *net.UnixConn
	undo       []func()
}

func (r *Runtime) make(ctx context.Context, id string, o CreateOptions, run bool) (_ *maker, err error) {
	if err := checkNewID(id); err != nil {
		return nil, err
	}
	m := &maker{r: r, o: o, inputs: map[plan.Input]int{}}
	defer func() {
		m.letGo()
		m.groundwork.close()
		for _, f := range m.close {
			f.Close()
		}
		if err == nil && m.devices != nil {
			m.devices.Close()
		}
		if err != nil {
			for i := len(m.undo) - 1; i >= 0; i-- {
				m.undo[i]()
			}
			// Where a hook fails, what follows is the end of the lifecycle, poststop hooks included (runtime.md, Lifecycle, 3 to 13).
			var hook *hookError
			if errors.As(err, &hook) {
				r.runHooksLogged(context.WithoutCancel(ctx), "poststop", m.rec.Hooks.Poststop, m.rec, specs.StateStopped)
			}
		}
	}()
	for _, step := range []func(context.Context) error{
		func(context.Context) error { return m.readConfig(func(spec *specs.Spec) { m.begin(id, spec) }) },
		func(context.Context) error { return m.withoutProcess(run) },
		func(context.Context) error { return m.reserve(id) },
		func(context.Context) error { return m.addActivation(id, run) },
		func(context.Context) error { return m.makeGroundwork() },
		func(context.Context) error { return m.beginCgroup(id) },
		func(context.Context) error { return m.makeResctrl(id) },
		m.openStreams,
		func(ctx context.Context) error { return m.makePlan(ctx, id, run) },
		m.mountRoot,
		func(ctx context.Context) error { return m.launch(ctx, run) },
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// readConfig reads and validates the document, and shows it to early, if there is one, before it is validated.
func (m *maker) readConfig(early func(*specs.Spec)) error {
	bundle, err := filepath.Abs(m.o.Bundle)
	if err != nil {
		return fmt.Errorf("--bundle %s: %w", m.o.Bundle, err)
	}
	m.o.Bundle = bundle
	file := m.o.Config
	if file == "" {
		file = "config.json"
	}
	if !filepath.IsAbs(file) {
		file = filepath.Join(bundle, file)
	}
	data, err := ReadConfig(file)
	if err != nil {
		return err
	}
	var mapped validate.Faults
	options := validate.Options{
		Bundle: bundle, Systemd: m.r.manager == cgroup.Systemd, KnownSyscall: seccomp.KnownSyscall,
		Early: func(spec *specs.Spec) {
			mapped = MapCaller(spec)
			if early != nil {
				early(spec)
			}
		},
	}
	spec, faults := validate.JSON(data, options)
	for _, w := range append(mapped, faults.Warnings()...) {
		if w.Path != "linux.rootfsPropagation" { // podman and docker write rprivate into every document
			m.r.warn(w.Error())
		}
	}
	if err := faults.Err(); err != nil {
		if spec != nil {
			err = explainMemoryPolicyFault(spec.Linux, ExplainProcessFault(spec.Process, err))
		}
		return fmt.Errorf("%s: %w", file, err)
	}
	if spec.Linux == nil {
		return fmt.Errorf("%s: %w", file, plan.ErrNoLinux)
	}
	if len(mapped) > 0 {
		if data, err = json.Marshal(spec); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	m.spec, m.config = spec, data
	if m.o.PidfdSocket == "" {
		m.o.PidfdSocket = spec.Annotations["run.oci.pidfd_receiver"]
	}
	m.r.debugf("%s: read %d bytes, ociVersion %s", file, len(data), spec.Version)
	return checkUser(spec)
}

// reserve takes the id by making its folder, which only one can.
func (m *maker) reserve(id string) error {
	if err := m.r.makeRoot(); err != nil {
		return err
	}
	err := os.Mkdir(m.r.dir(id), 0o700)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("container %s: %w", id, ErrExist)
	}
	if err != nil {
		return fmt.Errorf("--root: %w", err)
	}
	m.undo = append(m.undo, func() { _ = m.r.removeDir(id) })
	root := m.spec.Root.Path
	if !filepath.IsAbs(root) {
		root = filepath.Join(m.o.Bundle, root)
	}
	st, err := os.Stat(root)
	switch {
	case err != nil:
		return fmt.Errorf("root.path: %w", err)
	case !st.IsDir():
		return fmt.Errorf("root.path: found %s, which is not a folder", root)
	}
	m.rec = &record{
		OCIVersion: m.spec.Version, ID: id, Bundle: m.o.Bundle, Rootfs: filepath.Clean(root), Created: time.Now().UTC(), Boot: bootID(),
		Owner: os.Geteuid(), Annotations: m.spec.Annotations, Hooks: m.spec.Hooks, NoNewKeyring: m.o.NoNewKeyring,
		IgnoreMissingLSM: m.r.ignoreMissingLSM, NoProgram: len(m.spec.Process.Args) == 0,
	}
	for _, n := range m.spec.Linux.Namespaces {
		if n.Type == specs.PIDNamespace && n.Path == "" {
			m.rec.OwnPIDs = true
		}
	}
	return nil
}

// findCgroup finds out which cgroup the container is to have.
func (m *maker) findCgroup(id string) error {
	host, err := m.r.Host()
	if err != nil {
		return err
	}
	if m.group, err = m.r.newCgroup(m.spec, id, host); err != nil {
		return err
	}
	m.rec.Cgroups, m.rec.CgroupManager, m.rec.Unit = m.group.Paths(), m.r.manager, m.group.Unit()
	m.cgroupsLater = plan.CgroupsLater(m.spec, host) && !m.r.isRootless(host) && m.group.Unit() == nil
	m.rec.Resources, err = encodeLimits(m.spec.Linux.Resources)
	return err
}

// beginCgroup makes the cgroup, unless it is made while the child has begun. The record is written before, so that whatever is killed from
// here on can be found and removed by Delete.
func (m *maker) beginCgroup(id string) error {
	if err := m.findCgroup(id); err != nil {
		return err
	}
	if err := m.record(); err != nil {
		return err
	}
	if !m.cgroupsLater {
		if err := m.makeCgroup(); err != nil {
			return err
		}
		return m.openCgroups()
	}
	m.cgroups = m.group.Hierarchies()
	if m.groundwork != nil {
		m.groundwork.makeFolders(m.group.Folders())
		m.undoing(m.groundwork.undo)
	}
	return nil
}

// beforeChild makes what of the cgroup the child is made in, where the rest is made while it has begun. The folders that take more than to be
// made come here as well, while the thread of the groundwork is at its own.
func (m *maker) beforeChild(r *launch.Request) error {
	if m.cgroupsLater {
		if err := m.group.Begin(); err != nil {
			return err
		}
		m.undoing(m.group.Abandon)
		if err := m.openUnified(); err != nil {
			return err
		}
	}
	r.Cgroup = m.cgroup
	return nil
}

// undoing has f called should the container fail; an error is a warning then.
func (m *maker) undoing(f func() error) {
	m.undo = append(m.undo, func() {
		if err := f(); err != nil {
			m.r.warn(err.Error())
		}
	})
}

// record writes the record and the document.
func (m *maker) record() error {
	if err := m.r.save(m.rec); err != nil {
		return err
	}
	if err := durable.Create(filepath.Join(m.r.dir(m.rec.ID), configFile), m.config, durable.Options{}); err != nil {
		return fmt.Errorf("write the state of container %s: %w", m.rec.ID, err)
	}
	return nil
}

// makeCgroup creates the missing directories of the cgroup.
func (m *maker) makeCgroup() error {
	there, err := m.groundwork.takeFolders()
	if err != nil {
		return err
	}
	if there {
		m.group.TakeUp()
	}
	if err := m.createCgroup(m.group); err != nil {
		return err
	}
	if w := m.group.Rounded(m.spec.Linux.Resources); w != "" {
		m.r.warn(w)
	}
	m.rec.Cgroups = m.group.Paths() // none, where a plain user may not make any
	m.r.debugf("container %s: made its cgroups %v", m.rec.ID, m.rec.Cgroups)
	m.undoing(func() error {
		if !m.rec.OwnPIDs {
			_ = m.group.Kill()
		}
		return m.group.Destroy()
	})
	return nil
}

func (m *maker) open(path string, flags int) (*os.File, error) {
	// Not os.OpenFile, which would make a fifo non-blocking for the child that inherits it.
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	m.close = append(m.close, f)
	return f, nil
}

// openStreams opens what the plan's inputs stand for.
func (m *maker) openStreams(ctx context.Context) error {
	null, err := m.open("/dev/null", unix.O_RDWR)
	if err != nil {
		return err
	}
	if !isNull(null) {
		return errors.New("/dev/null of the host is not the null device (1:3)")
	}
	if m.o.ConsoleSocket != "" && !m.spec.Process.Terminal {
		return errors.New("--console-socket: found it where process.terminal is false: there is no console to send")
	}
	// With a terminal the process has no other stream, not even until its start: containerd's shim reads ours to their end before
	// it looks at the terminal.
	if !m.spec.Process.Terminal {
		inputs := [3]plan.Input{plan.InputStdin, plan.InputStdout, plan.InputStderr}
		for i, f := range [3]*os.File{m.o.Stdin, m.o.Stdout, m.o.Stderr} {
			if f == nil {
				f = null
			}
			if isNull(f) {
				m.nulls = append(m.nulls, i)
			} else {
				m.streams = append(m.streams, f)
			}
			m.inputs[inputs[i]] = int(f.Fd())
		}
		if joinedUserNamespace(m.spec) < 0 {
			m.giveStreams()
		}
	}
	if m.spec.Process.Terminal {
		console := m.o.Console
		if console == nil {
			if m.o.ConsoleSocket == "" {
				return errors.New("process.terminal: found true; a detached container with a terminal needs --console-socket")
			}
			var d net.Dialer
			conn, err := d.DialContext(ctx, "unix", m.o.ConsoleSocket)
			if err != nil {
				return fmt.Errorf("--console-socket: %w", err)
			}
			defer conn.Close()
			if console, err = conn.(*net.UnixConn).File(); err != nil {
				return fmt.Errorf("--console-socket: %w", err)
			}
			m.close = append(m.close, console)
			// The child's sendmsg must wait, not fail, where the receiver is slow.
			if err := unix.SetNonblock(int(console.Fd()), false); err != nil {
				return fmt.Errorf("--console-socket: %w", err)
			}
		}
		m.inputs[plan.InputConsole] = int(console.Fd())
	}
	return nil
}

func isNull(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3)
}

// hostID returns the number that an id of the container has on the host.
func hostID(mappings []specs.LinuxIDMapping, id uint32) uint32 {
	for _, m := range mappings {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return m.HostID + (id - m.ContainerID)
		}
	}
	return id
}

// giveStreams gives the process's streams to its user, once it is known who that is on the host.
func (m *maker) giveStreams() {
	user := m.spec.Process.User
	uid, gid := hostID(m.spec.Linux.UIDMappings, user.UID), hostID(m.spec.Linux.GIDMappings, user.GID)
	if uid == 0 {
		return
	}
	for _, f := range m.streams {
		giveAway(f, uid, gid)
	}
}

// giveAway lets the container's user open its own standard stream again, as through /dev/stdout. A stream that has no
// owner to change, or is shared with all such as /dev/null, stays as it is. A terminal keeps its group, which is that of tty(4).
func giveAway(f *os.File, uid, gid uint32) {
	var st unix.Stat_t
	fd := int(f.Fd())
	if unix.Fstat(fd, &st) != nil || st.Uid == uid || st.Rdev == unix.Mkdev(1, 3) {
		return
	}
	group := int(gid)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFIFO, unix.S_IFSOCK:
	case unix.S_IFCHR:
		group = -1
	default:
		return // a log file is its writer's, not the container's; and a folder or a disk is no stream
	}
	_ = unix.Fchown(fd, int(uid), group) // not possible on every kind of file; then it can still be written to
}

// hostCache holds what New need not read and every container needs.
type hostCache struct {
	sync.Mutex
	host *plan.Host
}

// Host returns the facts of this machine that plans depend on, read once. What could not be read, for want of a descriptor for example,
// is read again by the next call.
func (r *Runtime) Host() (plan.Host, error) {
	r.host.Lock()
	defer r.host.Unlock()
	if r.host.host == nil {
		h, err := readHost()
		if err != nil {
			return plan.Host{}, err
		}
		r.host.host = &h
	}
	return *r.host.host, nil
}

func readHost() (h plan.Host, err error) {
	data, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if err != nil {
		return h, fmt.Errorf("read the kernel's last capability: %w", err)
	}
	if h.LastCapability, err = strconv.Atoi(strings.TrimSpace(string(data))); err != nil {
		return h, fmt.Errorf("/proc/sys/kernel/cap_last_cap: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return h, fmt.Errorf("capget: %w", err)
	}
	h.Permitted = uint64(sets[0].Permitted) | uint64(sets[1].Permitted)<<32
	if h.Cgroup, err = cgroup.Layout(); err != nil {
		return h, fmt.Errorf("look for cgroup hierarchies: %w", err)
	}
	if h.UserNamespace, err = inUserNamespace(); err != nil {
		return h, fmt.Errorf("look for a user namespace: %w", err)
	}
	h.PlainUser = os.Geteuid() != 0
	return h, nil
}

func (m *maker) makePlan(ctx context.Context, id string, run bool) error {
	host, err := m.r.Host()
	if err != nil {
		return err
	}
	o := plan.Options{
		ID: id, Bundle: m.o.Bundle, Rootfs: m.rec.Rootfs, NoProgram: m.rec.NoProgram, Result: !run, PreserveFDs: m.o.PreserveFDs,
		NullStreams: m.nulls, NoPivot: m.o.NoPivot, NoNewKeyring: m.o.NoNewKeyring, PlainNewlines: m.o.PlainNewlines, CgroupPaths: m.group.HostPaths(), StartHooks: run, DefaultNoFile: defaultNoFile(),
	}
	if err := checkSysctl(m.spec); err != nil {
		return err
	}
	if m.o.NoPivot {
		if o.KernelMounts, err = kernelMounts(m.rec.Rootfs); err != nil {
			return err
		}
	}
	if o.Seccomp, err = m.r.seccompFilter(m.spec); err != nil {
		return err
	}
	if o.Dangling, err = danglingDestinations(m.rec.Rootfs, m.spec.Mounts); err != nil {
		return err
	}
	o.Home = m.home()
	o.Cgroups, o.CgroupsLater, o.CgroupByParent = m.cgroups, m.cgroupsLater, m.cgroupByParent
	host, m.spec = m.r.withSecurityModules(host, m.spec, m.r.ignoreMissingLSM)
	if m.plan, err = plan.Build(m.spec, host, o); err != nil {
		return err
	}
	for _, w := range m.plan.Warnings {
		m.r.warn(w)
	}
	if m.r.change != nil {
		m.r.change(m.plan)
	}
	m.r.debugf("container %s: the plan has %d steps (`berth plan` prints them)", id, len(m.plan.Steps))
	return m.openMounts(ctx)
}

// openCgroups opens what a child needs to get into its cgroups.
func (m *maker) openCgroups() error {
	if m.cgroupByParent = m.group.ByManager(); m.cgroupByParent {
		return nil
	}
	if err := m.openUnified(); err != nil {
		return err
	}
	fds, err := m.group.Tasks()
	if err != nil {
		return err
	}
	m.cgroups = m.group.Hierarchies()
	for i, name := range m.cgroups {
		m.close = append(m.close, descriptor(fds[i]))
		m.inputs[plan.InputCgroup(name)] = fds[i]
	}
	return nil
}

// descriptor is a file that nothing but its number is needed of.
type descriptor int

func (d descriptor) Close() error { return os.NewSyscallError("close", unix.Close(int(d))) }

// openUnified opens the folder of version 2, if there is one that is not open yet.
func (m *maker) openUnified() error {
	if m.cgroup != 0 {
		return nil
	}
	unified, err := m.group.Unified()
	if err != nil || unified == nil {
		return err
	}
	m.close = append(m.close, unified)
	m.cgroup = int(unified.Fd())
	return nil
}

// launch makes the child and follows it until it waits for Start or, with run, has become its program.
func (m *maker) launch(ctx context.Context, run bool) (err error) {
	until := plan.Sync("")
	if !run {
		until = plan.SyncReady
		for in, name := range map[plan.Input]string{plan.InputStart: newFIFO, plan.InputResult: resultFIFO} {
			path := filepath.Join(m.r.dir(m.rec.ID), name)
			if err := unix.Mkfifo(path, 0o600); err != nil {
				return &os.PathError{Op: "mkfifo", Path: path, Err: err}
			}
			// Read and write, so that the child's reads wait for a byte and not for a writer.
			f, err := m.open(path, unix.O_RDWR)
			if err != nil {
				return err
			}
			m.inputs[in] = int(f.Fd())
		}
		m.rec.Late = lateSteps(m.plan, m.spec.Process.Args)
	}
	m.child, err = launch.Start(launch.Request{
		Plan: m.plan, Inputs: m.inputs, Reserved: 3 + m.o.PreserveFDs, Held: run, OnSync: m.answer(ctx), Deadline: m.r.deadline,
		Before: m.beforeChild,
	})
	if err != nil {
		return err
	}
	// Runc's words for the stages of a start, which its users look for in the log.
	m.r.debugf("container %s: its first process is pid %d: nsexec container setup, child process in init()", m.rec.ID, m.child.PID)
	if err := m.accompany(ctx); err != nil {
		m.child.Abandon()
		return err
	}
	if run {
		m.child.Release()
	}
	if err := m.child.Follow(ctx, until); err != nil {
		return m.explain(err)
	}
	if run {
		if sig, ended := m.child.Ended(); ended && sig == unix.SIGKILL && m.group.OOMKills() > 0 {
			m.child.Wait()
			return errOOM // the kernel had no memory to load the program
		}
		m.r.debugf("container %s: running: init: closing the pipe to signal completion", m.rec.ID)
		return nil
	}
	// From here on it may be started.
	if err := os.Rename(filepath.Join(m.r.dir(m.rec.ID), newFIFO), filepath.Join(m.r.dir(m.rec.ID), startFIFO)); err != nil {
		m.child.Kill()
		return fmt.Errorf("create container %s: %w", m.rec.ID, err)
	}
	m.r.debugf("container %s: created: init: closing the pipe to signal completion", m.rec.ID)
	return nil
}

// accompany makes what the child is to join, hands it that, and writes the record and the pid file. The child works meanwhile: it cannot become
// its program before they are there.
func (m *maker) accompany(ctx context.Context) error {
	if m.cgroupsLater {
		if err := m.makeCgroup(); err != nil {
			return err
		}
		if err := m.openCgroups(); err != nil {
			return err
		}
	}
	if err := m.groundwork.connect(); err != nil {
		return err
	}
	if err := m.child.Hand(m.inputs); err != nil {
		return err
	}
	m.rec.PID = m.child.PID
	m.rec.StartTime = startTime(m.child.PID)
	if err := m.r.save(m.rec); err != nil {
		return err
	}
	if err := m.r.joinResctrl(m.rec, m.child.PID); err != nil {
		return err
	}
	if m.o.PidFile != "" {
		if err := writePidFile(m.o.PidFile, m.child.PID); err != nil {
			return err
		}
		m.undo = append(m.undo, func() { _ = os.Remove(m.o.PidFile) })
	}
	if m.o.PidfdSocket != "" {
		return sendPidfd(ctx, m.o.PidfdSocket, m.child.PIDFD)
	}
	return nil
}

// answer does what the child's synchronization points ask of the parent.
func (m *maker) answer(ctx context.Context) func(plan.Sync, int) error {
	return func(s plan.Sync, pid int) error {
		m.r.debugf("container %s: pid %d has come to %s", m.rec.ID, pid, s)
		switch s {
		case plan.SyncCgroup:
			return m.group.Attach(pid)
		case plan.SyncIDMap:
			if err := prepareUserNamespace(m.spec, pid); err != nil {
				return err
			}
			return m.makeNodes()
		case plan.SyncJoined:
			if err := m.learnUserNamespace(pid); err != nil {
				return err
			}
			return m.makeNodes()
		case plan.SyncNetDevices:
			return m.moveNetDevices(pid)
		case plan.SyncHostFiles:
			return m.openHostFiles()
		case plan.SyncCopyUp:
			return m.copyUp(ctx)
		case plan.SyncNamespaces:
			m.rec.PID = pid
			return m.createHooks(ctx)
		case plan.SyncStart:
			return m.r.startHooks(ctx, m.rec)
		case plan.SyncSeccomp:
			m.rec.PID = pid
			return sendListener(ctx, m.spec.Linux.Seccomp, m.child, m.rec.ociState(specs.StateCreating))
		}
		return fmt.Errorf("no answer to the synchronization point %s", s)
	}
}

// attach answers the one synchronization point of a child that does something for the container beside its first process.
func (m *maker) attach(s plan.Sync, pid int) error {
	if s != plan.SyncCgroup {
		return fmt.Errorf("no answer to the synchronization point %s", s)
	}
	return m.group.Attach(pid)
}

// lateSteps are the steps after SyncReady, for Start to name.
func lateSteps(p *plan.Plan, args []string) []lateStep {
	ready := -1
	for i, s := range p.Syncs {
		if s == plan.SyncReady {
			ready = i
		}
	}
	var out []lateStep
	for i := ready + 1; ready >= 0 && i < len(p.Steps); i++ {
		s := lateStep{Index: i, Field: p.Steps[i].Field.String(), Name: p.Steps[i].Name()}
		if s.Name == "execve" {
			s.Program = args[0]
		}
		out = append(out, s)
	}
	return out
}

// sendPidfd sends a pidfd to whoever listens on a unix socket (unix(7), SCM_RIGHTS).
func sendPidfd(ctx context.Context, socket string, pidfd int) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("--pidfd-socket: %w", err)
	}
	defer conn.Close()
	if _, _, err := conn.(*net.UnixConn).WriteMsgUnix([]byte("pidfd"), unix.UnixRights(pidfd), nil); err != nil {
		return fmt.Errorf("--pidfd-socket: %w", err)
	}
	return nil
}

// writePidFile replaces a pid file atomically: decimal, no newline, as clients of runc expect.
func writePidFile(path string, pid int) error {
	if err := durable.Replace(path, []byte(strconv.Itoa(pid)), durable.Options{Mode: 0o644}); err != nil { // a pid is no secret, and engines read the file as other users
		return fmt.Errorf("--pid-file: %w", err)
	}
	return nil
}

// Start lets a created container become its program, and says if that fails.
func (r *Runtime) Start(ctx context.Context, id string) error {
	unlock, err := r.lock(id)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := r.load(id)
	if err != nil {
		return err
	}
	switch status := r.status(rec); status {
	case specs.StateCreated:
	case specs.StateStopped:
		return errors.New("cannot start a container that has stopped")
	case specs.StateCreating:
		return errors.New("cannot start a container that is being created")
	case StatusPaused:
		return errors.New("cannot start a container in the paused state")
	default:
		return errors.New("cannot start an already running container")
	}
	if rec.NoProgram {
		return r.endWithoutProgram(ctx, rec)
	}
	if err := r.startHooks(ctx, rec); err != nil {
		// The end of the lifecycle follows (runtime.md, Lifecycle, 7).
		return errors.Join(err, r.destroy(context.WithoutCancel(ctx), rec))
	}
	result, err := unix.Open(filepath.Join(r.dir(id), resultFIFO), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("start container %s: %w", id, err)
	}
	defer unix.Close(result)
	waiting := rec.command() // execve(2) gives it the program's name
	start := filepath.Join(r.dir(id), startFIFO)
	// Without a reader, that is when the child has ended, this fails with ENXIO.
	fifo, err := unix.Open(start, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("start container %s: its first process has ended: %w", id, err)
	}
	_, err = unix.Write(fifo, []byte{0})
	unix.Close(fifo)
	if err != nil {
		return fmt.Errorf("start container %s: %w", id, err)
	}
	if err := os.Remove(start); err != nil {
		return fmt.Errorf("start container %s: %w", id, err)
	}
	if err := r.readResult(ctx, rec, result); err != nil {
		// Who is told that the container has failed may look at its state next.
		if fd := rec.pidfd(); fd >= 0 && ctx.Err() == nil {
			_ = waitEnd(ctx, fd)
			unix.Close(fd)
		}
		var late *launch.LateError
		if errors.As(err, &late) {
			return r.explainLate(rec, late)
		}
		if !rec.alive() && outOfMemory(rec) {
			return errOOM
		}
		return fmt.Errorf("start container %s: %w", id, err)
	}
	_ = os.Remove(filepath.Join(r.dir(id), resultFIFO))
	r.debugf("container %s: started", id)
	if rec.command() == waiting && rec.killed() && outOfMemory(rec) {
		return errOOM // the kernel had no memory to load the program
	}
	if rec.Hooks != nil {
		if err := r.runHooks(ctx, "poststart", rec.Hooks.Poststart, rec, specs.StateRunning); err != nil {
			// The end of the lifecycle follows (runtime.md, Lifecycle, 9).
			return errors.Join(err, r.destroy(context.WithoutCancel(ctx), rec))
		}
	}
	return nil
}

// outOfMemory is whether the kernel has ended a process of the container for want of memory.
func outOfMemory(rec *record) bool {
	g, err := rec.cgroup()
	return err == nil && g.OOMKills() > 0
}
