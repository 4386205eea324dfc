// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/cgrouplayout"
	"github.com/berth-run/berth/node-agent/ociruntime/seccomp"
)

// Host holds the facts of the machine that a plan depends on, the same for all its containers.
type Host struct {
	// LastCapability is the highest capability that the kernel knows
	// (/proc/sys/kernel/cap_last_cap).
	LastCapability int
	// Permitted are the capabilities that the runtime has to give away, bit n for capability n.
	Permitted uint64
	// AppArmor and SELinux are whether these security modules are enabled.
	AppArmor, SELinux bool
	// Cgroup is the layout of the cgroup hierarchies.
	Cgroup cgrouplayout.Layout
	// UserNamespace reports whether the runtime itself is in a user namespace that is not the
	// host's, as under rootless podman: its root makes no device nodes (user_namespaces(7)).
	UserNamespace bool
	// PlainUser reports whether the runtime is not root, not even of a user namespace.
	PlainUser bool
}

// Options are the options of a caller of the runtime.
type Options struct {
	// ID of the container.
	ID string
	// Bundle is the absolute path of the bundle, which relative paths in the document are relative
	// to.
	Bundle string
	// Rootfs is the absolute path of the root filesystem on the host.
	Rootfs string
	// Cgroups are the hierarchies whose cgroup.procs the child joins by, in order; names as of
	// InputCgroup.
	Cgroups []string
	// DeferCgroups reports whether the parent creates them after clone3 (see CanDeferCgroups).
	DeferCgroups bool
	// CgroupByParent reports whether the child waits, at SyncCgroup, until its parent has had it
	// moved into its cgroup.
	CgroupByParent bool
	// CgroupPaths are the container's cgroups by hierarchy, as directories of the host; they are
	// what a cgroup mount without a cgroup namespace shows.
	CgroupPaths map[string]string
	// Seccomp is the compiled filter of linux.seccomp, nil without one.
	Seccomp *seccomp.Filter
	// Home is the value of HOME if process.env does not have one.
	Home string
	// NoProgram ends the plan, once the container is ready, in waiting: nothing of process.args is
	// executed.
	NoProgram bool
	// Result reports whether failures after SyncReady go to InputResult, as when another process
	// starts the container.
	Result bool
	// NullStreams are the standard streams, 0 to 2, that are the host's /dev/null.
	NullStreams []int
	// StartHooks reports whether the child waits until its parent has run the startContainer hooks.
	StartHooks bool
	// Environment is the runtime's own, for hooks.
	Environment []string
	// Program is the path to execute in place of process.args[0]: that of a startContainer hook.
	Program string
	// PlainNewlines makes a terminal pass newlines on as they are (termios(3), ONLCR off).
	PlainNewlines bool
	// PreserveFDs is the number of descriptors, from 3 on, that the process inherits.
	PreserveFDs int
	// NoPivot moves the root in place of pivot_root(2), for a host whose root is a ramfs.
	NoPivot bool
	// KernelMounts are the places on the host where all of a procfs or sysfs is mounted. With
	// NoPivot they stay below the root, and are taken away.
	KernelMounts []string
	// Dangling is, by the index of a mount whose destination leads by a symbolic link to what is
	// not there, the path of that.
	Dangling map[int]string
	// NoNewKeyring leaves the session keyring as it is.
	NoNewKeyring bool
	// DefaultNoFile is the limit of open files to restore before execve; nil leaves the runtime's
	// own.
	DefaultNoFile *unix.Rlimit
}

// Unsupported is the error of Build for a field that this runtime refuses.
type Unsupported struct {
	Path, Found, Reason string
}

// ErrNoLinux is returned for a document without the section linux.
var ErrNoLinux error = &Unsupported{
	Path: "linux", Found: "nothing",
	Reason: "a Linux container needs this section",
}

func (e *Unsupported) Error() string {
	return fmt.Sprintf("%s: found %s; %s", e.Path, e.Found, e.Reason)
}

// Build builds the plan of a validated document. The document is not changed. It fails with
// *Unsupported where a field cannot be honoured.
func Build(spec *specs.Spec, host Host, o Options) (*Plan, error) {
	o.DeferCgroups = o.DeferCgroups && len(o.Cgroups) > 0
	c := &container{builder: newBuilder(640), spec: spec, host: host, opts: o}
	c.mapped = spec.Linux != nil && c.newUserNamespace()
	// The order is the design: what needs the host's view comes before the root changes, and what
	// takes privilege away comes last.
	return c.build(
		c.refuse,
		c.undumpable,
		c.joinCgroups,
		c.checkMountLabel,
		c.labels,
		c.namespaces,
		c.loopback,
		c.sharedSources,
		c.root,
		c.becomeRoot,
		c.session,
		c.mounts,
		c.receiveDeferred,
		c.anyCPU,
		c.makeWorkingDirectory,
		c.devices,
		c.console,
		c.readonlyMounts,
		c.netDevices,
		c.hooksBeforePivot,
		c.sysctl,
		c.readonlyPaths,
		c.maskedPaths,
		c.pivot,
		c.names,
		c.workingDirectory,
		c.process,
	)
}

// process adds the last part of every plan, of the container's first process and of those that are
// executed in it later: the fields of process.* for a process that has its namespaces and its root.
func (c *container) process() error {
	return c.stages(
		c.standardStreams,
		c.limits,
		c.scheduling,
		c.memoryPolicy,
		c.credentials,
		c.exec,
	)
}

func (c *container) stages(stages ...func() error) error {
	for _, stage := range stages {
		if err := stage(); err != nil {
			return err
		}
	}
	return nil
}

func (c *container) build(stages ...func() error) (*Plan, error) {
	if c.spec.Linux == nil {
		return nil, ErrNoLinux
	}
	if err := c.stages(stages...); err != nil {
		return nil, err
	}
	for i, at := range c.plan.Labels {
		if i > 0 && at < 0 {
			return nil, fmt.Errorf("plan: label %d is used but stands nowhere", i)
		}
	}
	return &c.plan, nil
}

// refuse fails for every field that has no stage, so that none is dropped in silence.
func (c *container) refuse() error {
	p, l := c.spec.Process, c.spec.Linux
	if p == nil {
		return c.fieldError("process", "nothing", "a container that is to be started needs one")
	}
	for _, f := range []struct {
		set  bool
		path string
	}{
		{l.Personality != nil && len(l.Personality.Flags) > 0, "linux.personality.flags"},
	} {
		if f.set {
			return c.fieldError(f.path, "a value",
				"this version of berth does not support the field: remove it")
		}
	}
	return nil
}

// container is the state that the stages of a plan share.
type container struct {
	*builder
	spec *specs.Spec
	host Host
	opts Options

	// mapped reports whether the child is created in a user namespace of its own, whose ids the
	// parent maps.
	mapped bool
	rootFD Reg
	// rootAt is the root filesystem's place on the host if there is a user namespace; zero
	// otherwise.
	rootAt Reg
	tty    Reg
	// shared are the clones of bind sources, by the mount's index, that stay peers of the host's
	// mounts.
	shared map[int]Reg
	// node is the index in Plan.Nodes of a device by that in linux.devices.
	node map[int]int
	// live reports whether the mounts are for a running container: its root is no longer the
	// host's, whose files the parent opens.
	live bool
	// hasDeferred reports whether the child has received the deferred inputs.
	hasDeferred bool
	// placesOnly reports whether only the mount points are to be created: ids and copies do not
	// matter.
	placesOnly bool
	// readonly are the mounts that turn read-only once all that lies in them is made.
	readonly []lateMount
}

type lateMount struct {
	field Field
	mount Reg
}

// newUserNamespace reports whether the container gets a user namespace of its own, and not one that
// it joins.
func (c *container) newUserNamespace() bool {
	for _, n := range c.spec.Linux.Namespaces {
		if n.Type == specs.UserNamespace {
			return n.Path == ""
		}
	}
	return false
}

// inUserNamespace reports whether the container is in a user namespace that is not the host's: its
// own, or the runtime's.
func (c *container) inUserNamespace() bool {
	return c.host.UserNamespace || c.hasNamespace(specs.UserNamespace)
}

func (c *container) hasNamespace(t specs.LinuxNamespaceType) bool {
	for _, n := range c.spec.Linux.Namespaces {
		if n.Type == t {
			return true
		}
	}
	return false
}
