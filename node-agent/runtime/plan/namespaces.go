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

// undumpable keeps others out of the child's memory and descriptors, which are the runtime's, until execve makes it the
// program's (prctl(2), proc(5)): in a pid namespace that it shares, another container's root could look into both
// (CVE-2016-9962).
//
// In a user namespace of its own it comes once the ids are mapped (namespaces): the files in /proc of a process that is not
// dumpable are root's, and neither a plain user nor newuidmap for him could write the mappings. Until then a process of
// another container has no rights in this one's user namespace, whatever its user; nor has it in the host's, where the
// child is that is to join one.
func (c *container) undumpable() error {
	c.at("process")
	if c.mapped {
		c.prctl(unix.PR_SET_DUMPABLE, num(1)) // it is not, where the user may execute berth but not read it
		return nil
	}
	if c.hasNamespace(specs.UserNamespace) {
		c.oomScoreAdj()
		c.at("process")
	}
	c.prctl(unix.PR_SET_DUMPABLE, num(0))
	return nil
}

// oomScoreAdj is for a child that is not yet in the container's user namespace: to lower the value takes CAP_SYS_RESOURCE on the
// host. For one that was made in a new user namespace the parent does it, at SyncIDMap.
func (c *container) oomScoreAdj() {
	if adj := c.spec.Process.OOMScoreAdj; adj != nil {
		c.at("process.oomScoreAdj")
		c.writeFile(cwd(), "/proc/self/oom_score_adj", fmt.Sprint(*adj), 0)
	}
}

// joinCgroups moves the child into its cgroups. It does so itself, by writing 0, since the parent would have to make
// it wait; and first, since a cgroup namespace begins where its maker stands.
func (c *container) joinCgroups() error {
	c.at("linux.cgroupsPath")
	for _, h := range c.opts.Cgroups {
		c.call(unix.SYS_WRITE, input(InputCgroup(h)), text("0"), num(1))
	}
	if !c.hasNamespace(specs.UserNamespace) {
		c.oomScoreAdj()
	}
	return nil
}

// namespaces makes or joins every namespace of the document. All new ones come from clone3 at once, but for the cgroup
// namespace, whose root is the cgroup that its maker is in.
func (c *container) namespaces() error {
	c.at("process")
	c.call(unix.SYS_UMASK, flags(uint(0), modeNames))
	type join struct {
		fd   Reg
		i    int
		flag uint64
	}
	var joins []join
	newCgroup, newTime := false, -1
	for i, n := range c.spec.Linux.Namespaces {
		flag := cloneFlag(n.Type)
		c.atIndex("linux.namespaces", i, string(n.Type))
		switch {
		case flag == 0:
			return &Unsupported{Path: fmt.Sprintf("linux.namespaces[%d].type", i), Found: string(n.Type), Reason: "unknown type"}
		case n.Path == "" && n.Type == specs.TimeNamespace:
			newTime = i
		case n.Path == "" && n.Type == specs.CgroupNamespace:
			newCgroup = true
		case n.Path == "":
			c.plan.CloneFlags |= flag
		case n.Type == specs.PIDNamespace:
			c.plan.PIDNamespace = n.Path
		default:
			fd := c.openat2(cwd(), n.Path, unix.O_RDONLY, 0).out()
			joins = append(joins, join{fd, i, flag})
		}
	}
	if c.mapped && !c.hasNamespace(specs.MountNamespace) {
		return &Unsupported{Path: "linux.namespaces", Found: "user and no mount", Reason: "in a new user namespace there is no right to mount in the host's mount namespace: add one of type mount"}
	}
	if newTime < 0 && len(c.spec.Linux.TimeOffsets) > 0 {
		return c.fieldError("linux.timeOffsets", "offsets", "only a new time namespace has any: linux.namespaces makes none")
	}
	if c.mapped {
		if newTime >= 0 {
			if err := c.newTimeNamespace(newTime); err != nil {
				return err
			}
			newTime = -1
		}
		c.at("linux.uidMappings")
		c.sync(SyncIDMap)
		c.prctl(unix.PR_SET_DUMPABLE, num(0))
	}
	// The user namespace first: it is what gives the right to join the others.
	for _, user := range []bool{true, false} {
		for _, j := range joins {
			if (j.flag == unix.CLONE_NEWUSER) != user {
				continue
			}
			c.atIndex("linux.namespaces", j.i, string(c.spec.Linux.Namespaces[j.i].Type))
			c.call(unix.SYS_SETNS, regArg(j.fd), flags(j.flag, cloneNames))
			c.close(j.fd)
			if user && newTime >= 0 {
				if err := c.newTimeNamespace(newTime); err != nil {
					return err
				}
				newTime = -1
			}
		}
	}
	if newTime >= 0 {
		if err := c.newTimeNamespace(newTime); err != nil {
			return err
		}
	}
	if newCgroup {
		c.at("linux.namespaces")
		c.call(unix.SYS_UNSHARE, flags(unix.CLONE_NEWCGROUP, cloneNames))
	}
	return nil
}

// becomeRoot makes the child root of its user namespace. Until here its user is the runtime's, who may pass the folders on
// the way to the bundle that the container's root may not; from here on it is the one who owns what is made in the root
// filesystem.
func (c *container) becomeRoot() error {
	if !c.hasNamespace(specs.UserNamespace) {
		return nil
	}
	c.at("linux.uidMappings")
	c.call(unix.SYS_SETRESGID, num(0), num(0), num(0))
	c.call(unix.SYS_SETRESUID, num(0), num(0), num(0))
	return nil
}

// loopback brings up lo in a new network namespace, as users of runc expect: 127.0.0.1 answers whatever else the network is
// (netdevice(7)).
func (c *container) loopback() error {
	for i, n := range c.spec.Linux.Namespaces {
		if n.Type != specs.NetworkNamespace || n.Path != "" {
			continue
		}
		c.atIndex("linux.namespaces", i, "network, loopback")
		request := make([]byte, 40) // struct ifreq: the name, then a union that begins with the flags
		copy(request, "lo")
		binary.NativeEndian.PutUint16(request[unix.IFNAMSIZ:], unix.IFF_UP)
		fd := c.call(unix.SYS_SOCKET, num(uint(unix.AF_UNIX)), num(uint(unix.SOCK_DGRAM|unix.SOCK_CLOEXEC)), num(0)).out()
		c.call(unix.SYS_IOCTL, regArg(fd), num(uint(unix.SIOCSIFFLAGS)), structArg(request, "{lo, IFF_UP}"))
		c.close(fd)
	}
	return nil
}

// session starts a session and, unless asked not to, a keyring of its own, so that the container reads no key of the
// host's.
func (c *container) session() error {
	c.at("process")
	c.call(unix.SYS_SETSID)
	if !c.opts.NoNewKeyring {
		c.call(unix.SYS_KEYCTL, num(unix.KEYCTL_JOIN_SESSION_KEYRING), text("_ses."+c.opts.ID)).tolerate(unix.ENOSYS)
	}
	return nil
}

// netDevices lets the parent move devices of its network namespace: as late as may be, since a device has to be moved back if
// something fails, and before the hooks and the sysctls, which may be about it.
func (c *container) netDevices() error {
	if len(c.spec.Linux.NetDevices) == 0 {
		return nil
	}
	if !c.hasNamespace(specs.NetworkNamespace) {
		return c.fieldError("linux.netDevices", "devices", "without a network namespace there is nowhere to move them to")
	}
	c.at("linux.netDevices")
	c.sync(SyncNetDevices)
	return nil
}

// hooksBeforePivot lets the parent run the hooks whose time is between the mounts and the change of root.
func (c *container) hooksBeforePivot() error {
	hooks := c.spec.Hooks
	if hooks == nil {
		return nil
	}
	if len(hooks.Prestart)+len(hooks.CreateRuntime)+len(hooks.CreateContainer) > 0 { //nolint:staticcheck // prestart is deprecated, not gone
		c.at("hooks.createRuntime")
		c.sync(SyncNamespaces)
	}
	return nil
}

// names sets what the UTS namespace says.
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
