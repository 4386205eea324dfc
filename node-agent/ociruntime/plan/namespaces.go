// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/binary"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// cloneFlag returns the CLONE_NEW* flag of a namespace type, 0 for an unknown one.
func cloneFlag(t specs.LinuxNamespaceType) uint64 {
	switch t {
	case specs.PIDNamespace:
		return unix.CLONE_NEWPID
	case specs.NetworkNamespace:
		return unix.CLONE_NEWNET
	case specs.MountNamespace:
		return unix.CLONE_NEWNS
	case specs.IPCNamespace:
		return unix.CLONE_NEWIPC
	case specs.UTSNamespace:
		return unix.CLONE_NEWUTS
	case specs.UserNamespace:
		return unix.CLONE_NEWUSER
	case specs.CgroupNamespace:
		return unix.CLONE_NEWCGROUP
	case specs.TimeNamespace:
		return unix.CLONE_NEWTIME
	}
	return 0
}

// undumpable keeps others out of the child's memory and descriptors, which are the runtime's, until
// execve makes it the program's (prctl(2), proc(5)): in a pid namespace that it shares, another
// container's root could look into both (CVE-2016-9962).
//
// Where a plain user makes a user namespace it comes once the ids are mapped (namespaces): the
// files in /proc of a process that is not dumpable are root's, and neither he nor newuidmap for him
// could write the mappings. Until then a process of another container of his has no rights in this
// one's user namespace; nor has it in the host's, where the child is that is to join one.
func (c *container) undumpable() error {
	c.at("process")
	if c.mapped && c.host.PlainUser {
		// it is not, where the user may execute berth but not read it
		c.prctl(unix.PR_SET_DUMPABLE, num(1))
		return nil
	}
	if c.hasNamespace(specs.UserNamespace) && !c.mapped {
		c.oomScoreAdj()
		c.at("process")
	}
	c.prctl(unix.PR_SET_DUMPABLE, num(0))
	return nil
}

// oomScoreAdj is for a child that is not yet in the container's user namespace: to lower the value
// takes CAP_SYS_RESOURCE on the host. For one that was made in a new user namespace the parent does
// it, at SyncIDMap.
func (c *container) oomScoreAdj() {
	if adj := c.spec.Process.OOMScoreAdj; adj != nil {
		c.at("process.oomScoreAdj")
		c.writeFile(cwd(), "/proc/self/oom_score_adj", fmt.Sprint(*adj), 0)
	}
}

// joinCgroups moves the child into its cgroups. The child itself writes 0, since the parent would
// have to make it wait; and first, since a cgroup namespace begins where its maker stands. If it
// does not have the right, it waits for its parent to do it.
func (c *container) joinCgroups() error {
	c.at("linux.cgroupsPath")
	if c.opts.CgroupByParent {
		c.sync(SyncCgroup)
	}
	for _, h := range c.opts.Cgroups {
		if c.opts.DeferCgroups {
			c.plan.Deferred = append(c.plan.Deferred, InputCgroup(h))
			continue
		}
		c.joinCgroup(input(InputCgroup(h)))
	}
	if !c.hasNamespace(specs.UserNamespace) {
		c.oomScoreAdj()
	}
	return nil
}

func (c *container) joinCgroup(tasks Arg) { c.call(unix.SYS_WRITE, tasks, text("0"), num(1)) }

// CanDeferCgroups reports whether a container's cgroups may be created after its first process,
// which joins them before the first mount that shows anything of them: those of version 1, which
// take long to create. The kernel asks more of a process in a user namespace, and without a mount
// namespace the mounts are the host's.
func CanDeferCgroups(spec *specs.Spec, host Host) bool {
	c := container{spec: spec}
	return !host.Cgroup.Unified && !c.hasNamespace(specs.UserNamespace) && c.ownMounts()
}

// receiveDeferred receives the deferred inputs, unless the child has them: it joins its cgroups and
// its network.
func (c *container) receiveDeferred() error {
	if len(c.plan.Deferred) == 0 || c.hasDeferred {
		return nil
	}
	c.hasDeferred = true
	c.at("linux")
	c.waitClosed(input(InputDeferred))
	fds := c.receiveDescriptors(input(InputDeferred), len(c.plan.Deferred))
	c.call(unix.SYS_CLOSE, input(InputDeferred))
	for i, in := range c.plan.Deferred {
		if in == InputNetwork {
			c.atNamespace(newNetwork(c.spec))
			c.call(unix.SYS_SETNS, regArg(fds[i]), flags(uint64(unix.CLONE_NEWNET), cloneNames))
		} else {
			c.at("linux.cgroupsPath")
			c.joinCgroup(regArg(fds[i]))
		}
		c.close(fds[i])
	}
	if c.opts.DeferCgroups {
		c.newCgroupNamespace()
	}
	return nil
}

// canPrecedeDeferred reports whether a filesystem shows neither cgroups nor a network, so that it
// can be mounted before receiveDeferred.
func canPrecedeDeferred(m specs.Mount, o mountOptions) bool {
	if o.bind || o.remount || o.copyUp {
		return false
	}
	switch m.Type {
	case "proc", "tmpfs", "devpts", "mqueue":
		return true
	}
	return false
}

// newCgroupNamespace creates a cgroup namespace, if the container gets a new one.
func (c *container) newCgroupNamespace() {
	for _, n := range c.spec.Linux.Namespaces {
		if n.Type == specs.CgroupNamespace && n.Path == "" {
			c.at("linux.namespaces")
			c.call(unix.SYS_UNSHARE, flags(unix.CLONE_NEWCGROUP, cloneNames))
		}
	}
}

// namespaceWork groups the document's namespaces by the way in which the child enters them. An
// index is one of linux.namespaces, negative for none.
type namespaceWork struct {
	// joins are the namespaces to join by a path, without user, and without a pid namespace that
	// the parent joins.
	joins []join
	// user is a user namespace to join, newTime a new time namespace, and network one that the
	// parent creates.
	user, newTime, network int
	// forks reports whether a second process continues in place of the child.
	forks bool
}

// namespaces creates or joins every namespace of the document. All new ones come from clone3 at
// once, but for the cgroup namespace, whose root is the cgroup that its creator is in.
//
// A namespace belongs to the user namespace that its creator is in. So new ones are created in the
// container's user namespace, and others are joined before that is entered, where the runtime has
// rights, or else in it. If a document asks for both, or for a user namespace to be joined, it
// takes a second process: the first one joins, and forks. The same holds for a pid namespace if the
// runtime is in a user namespace, and could not come back from one that it has joined.
func (c *container) namespaces() error {
	c.at("process")
	c.call(unix.SYS_UMASK, flags(uint(0), modeNames))
	w, err := c.sortNamespaces()
	if err != nil {
		return err
	}
	for i := range w.joins {
		w.joins[i].fd = c.openNamespace(w.joins[i].i)
	}
	if w.forks {
		c.joinAndFork(w)
	}
	if w.user >= 0 {
		c.atNamespace(w.user)
		c.sync(SyncJoined)
	}
	if w.newTime >= 0 {
		if err := c.newTimeNamespace(w.newTime); err != nil {
			return err
		}
	}
	if c.mapped {
		c.at("linux.uidMappings")
		c.sync(SyncIDMap)
		if c.host.PlainUser {
			c.prctl(unix.PR_SET_DUMPABLE, num(0))
		}
	}
	for _, j := range w.joins {
		switch {
		case !w.forks:
			c.atNamespace(j.i)
			c.call(unix.SYS_SETNS, regArg(j.fd), flags(j.flag, cloneNames))
			c.close(j.fd)
		case w.user < 0:
			c.joinLate(j)
		}
	}
	if w.network >= 0 {
		c.plan.Deferred = append(c.plan.Deferred, InputNetwork)
	}
	if !c.opts.DeferCgroups {
		c.newCgroupNamespace()
	}
	return nil
}

// sortNamespaces sorts the namespaces and sets the flags of clone3.
func (c *container) sortNamespaces() (namespaceWork, error) {
	w := namespaceWork{user: -1, newTime: -1, network: c.networkByParent()}
	var pids *join
	for i, n := range c.spec.Linux.Namespaces {
		flag := cloneFlag(n.Type)
		switch {
		case flag == 0:
			return w, &Unsupported{
				Path: fmt.Sprintf("linux.namespaces[%d].type", i), Found: string(n.Type),
				Reason: "unknown type",
			}
		case n.Path == "" && n.Type == specs.TimeNamespace:
			w.newTime = i
		case n.Path == "" && n.Type == specs.CgroupNamespace:
			// newCgroupNamespace creates it
		case i == w.network:
			c.plan.Prefetch = BuildPrefetch(c.spec)
		case n.Path == "":
			c.plan.CloneFlags |= flag
		case n.Type == specs.PIDNamespace:
			pids = &join{i: i, flag: flag}
		case n.Type == specs.UserNamespace:
			w.user = i
		default:
			w.joins = append(w.joins, join{i: i, flag: flag})
		}
	}
	if c.mapped && !c.hasNamespace(specs.MountNamespace) {
		return w, &Unsupported{
			Path: "linux.namespaces", Found: "user and no mount",
			Reason: "in a new user namespace there is no right to mount in the host's mount namespace: add one of type mount",
		}
	}
	if w.newTime < 0 && len(c.spec.Linux.TimeOffsets) > 0 {
		return w, c.fieldError("linux.timeOffsets", "offsets",
			"only a new time namespace has any: linux.namespaces makes none")
	}
	w.forks = w.user >= 0 || c.mapped && len(w.joins) > 0 || pids != nil &&
		(c.mapped || c.host.UserNamespace)
	switch {
	case pids != nil && w.forks:
		w.joins = append(w.joins, *pids)
	case pids != nil:
		c.plan.PIDNamespace = c.spec.Linux.Namespaces[pids.i].Path
	}
	return w, nil
}

// openNamespace opens the path of a namespace.
func (c *container) openNamespace(i int) Reg {
	c.atNamespace(i)
	return c.openat2(cwd(), c.spec.Linux.Namespaces[i].Path, unix.O_RDONLY, 0).out()
}

// joinAndFork joins namespaces and forks: the new process is in the pid namespace and creates the
// others.
func (c *container) joinAndFork(w namespaceWork) {
	for _, j := range w.joins {
		// The process that forks must be in the pid namespace.
		c.joinEarly(j, w.user < 0 && (j.flag == unix.CLONE_NEWPID || !c.mapped))
	}
	if w.user >= 0 {
		fd := c.openNamespace(w.user)
		c.call(unix.SYS_SETNS, regArg(fd), flags(uint64(unix.CLONE_NEWUSER), cloneNames))
		c.close(fd)
		for _, j := range w.joins {
			c.joinLate(j)
		}
	}
	c.at("linux.namespaces")
	c.fork(c.plan.CloneFlags)
	c.plan.CloneFlags = 0
}

// newNetwork returns the index in linux.namespaces of a new network namespace that the parent
// creates for the child to join; negative for none. With a new or joined user namespace the parent
// creates none, because the creator's user namespace owns a network namespace.
func newNetwork(spec *specs.Spec) int {
	network := -1
	for i, n := range spec.Linux.Namespaces {
		switch {
		case n.Type == specs.UserNamespace:
			return -1
		case n.Type == specs.NetworkNamespace && n.Path == "":
			network = i
		}
	}
	return network
}

// threadFlags are the clone flags of a thread of the same process (pthreads(7)).
const threadFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND |
	unix.CLONE_THREAD | unix.CLONE_SYSVSEM

// BuildPrefetch builds the plan of a thread of the parent that creates the container's network
// namespace and puts it in the place of the descriptor InputNetwork. It returns nil if the parent
// creates none.
func BuildPrefetch(spec *specs.Spec) *Plan {
	i := newNetwork(spec)
	if i < 0 {
		return nil
	}
	c := &container{builder: newBuilder(16), spec: spec}
	c.plan.CloneFlags = threadFlags
	c.atNamespace(i)
	c.call(unix.SYS_UNSHARE, flags(unix.CLONE_NEWNET, cloneNames))
	c.loopbackUp(i)
	c.atNamespace(i)
	made := c.openat2(cwd(), "/proc/thread-self/ns/net", unix.O_RDONLY, 0).out()
	c.dup3(regArg(made), input(InputNetwork), unix.O_CLOEXEC)
	c.close(made)
	c.report(SyncNetwork)
	return &c.plan
}

// networkByParent returns newNetwork, or a negative index if the plan's child sees nothing of its
// network.
func (c *container) networkByParent() int {
	if c.placesOnly {
		return -1
	}
	return newNetwork(c.spec)
}

// join is a namespace to be joined: its descriptor, its index in linux.namespaces and its
// CLONE_NEW* flag.
type join struct {
	fd   Reg
	i    int
	flag uint64
}

func (c *container) atNamespace(i int) {
	c.atIndex("linux.namespaces", i, string(c.spec.Linux.Namespaces[i].Type))
}

// joinEarly joins a namespace as the runtime's user. One that this user has no rights over waits
// for joinLate, unless it must not.
func (c *container) joinEarly(j join, must bool) {
	c.atNamespace(j.i)
	later := c.label()
	setns := c.call(unix.SYS_SETNS, regArg(j.fd), flags(j.flag, cloneNames))
	if !must {
		setns.tolerate(unix.EPERM).orElse(later)
	}
	c.close(j.fd)
	c.set(j.fd, num(^uint32(0))) // no descriptor
	c.mark(later)
}

// joinLate joins in the container's user namespace the namespaces that joinEarly has left.
func (c *container) joinLate(j join) {
	c.atNamespace(j.i)
	done := c.label()
	c.call(unix.SYS_SETNS, regArg(j.fd), flags(j.flag, cloneNames)).tolerate(unix.EBADF).orElse(done)
	c.close(j.fd)
	c.mark(done)
}

// fork creates a child in new namespaces that continues in the place of this process, as a child of
// the same parent.
func (c *container) fork(newNamespaces uint64) {
	const size = 64 // CLONE_ARGS_SIZE_VER0 of linux/sched.h; all but the flags is zero
	args := make([]byte, size)
	binary.NativeEndian.PutUint64(args, newNamespaces|unix.CLONE_PARENT)
	c.plan.HasFork = true
	c.plan.Syncs[len(c.plan.Steps)] = SyncForked
	c.call(OpFork, structArg(args, "{flags="+printBits(newNamespaces|unix.CLONE_PARENT, cloneBits())+
		"}"), num(size))
}

// becomeRoot makes the child root of its user namespace. Until here its user is the runtime's, who
// may pass the directories on the way to the bundle that the container's root may not; from here on
// it is the one who owns what is made in the root filesystem.
func (c *container) becomeRoot() error {
	if !c.hasNamespace(specs.UserNamespace) {
		return nil
	}
	c.at("linux.uidMappings")
	c.call(unix.SYS_SETRESGID, num(0), num(0), num(0))
	c.call(unix.SYS_SETRESUID, num(0), num(0), num(0))
	return nil
}

// loopback brings up lo in a network namespace that the child has made.
func (c *container) loopback() error {
	for i, n := range c.spec.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace && n.Path == "" && i != c.networkByParent() {
			c.loopbackUp(i)
		}
	}
	return nil
}

// loopbackUp brings up lo in a new network namespace, as users of runc expect: 127.0.0.1 answers
// whatever else the network is (netdevice(7)).
func (c *container) loopbackUp(i int) {
	c.atIndex("linux.namespaces", i, "network, loopback")
	request := make([]byte, 40) // struct ifreq: the name, then a union that begins with the flags
	copy(request, "lo")
	binary.NativeEndian.PutUint16(request[unix.IFNAMSIZ:], unix.IFF_UP)
	fd := c.call(unix.SYS_SOCKET, num(uint(unix.AF_UNIX)),
		num(uint(unix.SOCK_DGRAM|unix.SOCK_CLOEXEC)), num(0)).out()
	c.call(unix.SYS_IOCTL, regArg(fd), num(uint(unix.SIOCSIFFLAGS)),
		structArg(request, "{lo, IFF_UP}"))
	c.close(fd)
}

// session starts a session and, unless asked not to, a keyring of its own, so that the container
// reads no key of the host's.
func (c *container) session() error {
	c.at("process")
	c.call(unix.SYS_SETSID)
	if !c.opts.NoNewKeyring {
		c.call(unix.SYS_KEYCTL, num(unix.KEYCTL_JOIN_SESSION_KEYRING),
			text("_ses."+c.opts.ID)).tolerate(unix.ENOSYS)
	}
	return nil
}

// netDevices lets the parent move devices of its network namespace: as late as may be, since a
// device has to be moved back if something fails, and before the hooks and the sysctls, which may
// be about it.
func (c *container) netDevices() error {
	if len(c.spec.Linux.NetDevices) == 0 {
		return nil
	}
	if !c.hasNamespace(specs.NetworkNamespace) {
		return c.fieldError("linux.netDevices", "devices",
			"without a network namespace there is nowhere to move them to")
	}
	c.at("linux.netDevices")
	c.sync(SyncNetDevices)
	return nil
}

// hooksBeforePivot lets the parent run the hooks whose time is between the mounts and the change of
// root.
func (c *container) hooksBeforePivot() error {
	hooks := c.spec.Hooks
	if hooks == nil {
		return nil
	}
	if len(hooks.Prestart)+len(hooks.CreateRuntime)+len(hooks.CreateContainer) > 0 { //nolint:staticcheck // prestart is deprecated, not gone
		c.at("hooks.createRuntime")
		joined := len(hooks.CreateContainer) > 0 && c.closedToItsUser()
		if joined {
			c.prctl(unix.PR_SET_DUMPABLE, num(1))
		}
		c.sync(SyncNamespaces)
		if joined {
			c.prctl(unix.PR_SET_DUMPABLE, num(0))
		}
	}
	return nil
}

// closedToItsUser reports whether the child's namespaces cannot be joined while it is not dumpable
// (ptrace(2), PTRACE_MODE_READ): not by a plain user, whom the container's user namespace belongs
// to but not the runtime's. Other containers of his, in user namespaces of their own, have no right
// to look into the child when it is.
func (c *container) closedToItsUser() bool { return c.mapped && c.host.PlainUser }

// names sets the host name and the domain name of the UTS namespace.
func (c *container) names() error {
	if h := c.spec.Hostname; h != "" {
		c.at("hostname")
		c.call(unix.SYS_SETHOSTNAME, text(h), num(len(h)))
	}
	if d := c.spec.Domainname; d != "" {
		c.at("domainname")
		c.call(unix.SYS_SETDOMAINNAME, text(d), num(len(d)))
	}
	return nil
}
