// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/binary"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/oci/capability"
)

// capabilitySets are the five sets as bit masks.
type capabilitySets struct {
	bounding, effective, permitted, inheritable, ambient uint64
}

// capabilities reads process.capabilities. Capabilities that the host cannot grant are left out
// with a warning, as the spec requires (config.md, Linux Process); an absent section means no
// capability.
func (c *container) capabilities() capabilitySets {
	var s capabilitySets
	p := c.spec.Process.Capabilities
	if p == nil {
		p = &specs.LinuxCapabilities{}
	}
	permitted := c.host.Permitted
	if c.hasNamespace(specs.UserNamespace) {
		permitted = ^uint64(0) // who makes or enters one has all capabilities in it (user_namespaces(7))
	}
	var denied uint64
	read := func(names []string) uint64 {
		var mask uint64
		for _, name := range names {
			n, ok := capability.Number(name)
			switch {
			case !ok: // api/oci/validate warns of it
			case n > c.host.LastCapability || permitted>>n&1 == 0:
				denied |= 1 << n
			default:
				mask |= 1 << n
			}
		}
		return mask
	}
	s.bounding, s.effective, s.permitted = read(p.Bounding), read(p.Effective), read(p.Permitted)
	s.inheritable, s.ambient = read(p.Inheritable), read(p.Ambient)
	// More the kernel does not grant (capset(2); prctl(2), PR_CAP_AMBIENT_RAISE), which
	// api/oci/validate warns of; buildah asks for ambient ones without inheritable ones.
	s.inheritable &= s.bounding
	s.effective &= s.permitted
	s.ambient &= s.permitted & s.inheritable
	for n := 0; denied>>n != 0; n++ {
		if denied>>n&1 == 1 {
			c.plan.Warnings = append(c.plan.Warnings, "process.capabilities: this host cannot grant "+
				capability.Name(n)+"; it is left out")
		}
	}
	return s
}

// capset sets the effective, permitted and inheritable sets (capset(2), version 3: two halves of 32
// bits).
func (c *container) capset(s capabilitySets) {
	header := make([]byte, 8)
	binary.NativeEndian.PutUint32(header, unix.LINUX_CAPABILITY_VERSION_3)
	data := make([]byte, 24)
	for half := range 2 {
		shift, at := 32*half, 12*half
		binary.NativeEndian.PutUint32(data[at:], uint32(s.effective>>shift))
		binary.NativeEndian.PutUint32(data[at+4:], uint32(s.permitted>>shift))
		binary.NativeEndian.PutUint32(data[at+8:], uint32(s.inheritable>>shift))
	}
	c.call(unix.SYS_CAPSET, structArg(header, "{v3}"), structArg(data, "{effective="+hex(s.effective)+
		", permitted="+hex(s.permitted)+", inheritable="+hex(s.inheritable)+"}"))
}

func hex(v uint64) string { return "0x" + strconv.FormatUint(v, 16) }

// KeepGroups is the annotation of crun that leaves a process the groups of who makes it: engines
// set it for files that a plain user reaches through a group of his. Of process.user.additionalGids
// nothing is set then.
const KeepGroups = "run.oci.keep_original_groups"

// credentials drops the privileges that the process must not have. Seccomp without noNewPrivileges
// needs CAP_SYS_ADMIN and so comes before; with it, it comes last of all, so that the filter need
// allow nothing but execve.
func (c *container) credentials() error {
	p := c.spec.Process
	sets := c.capabilities()
	if !p.NoNewPrivileges {
		c.seccomp()
	}
	c.at("process.capabilities.bounding")
	for n := 0; n <= c.host.LastCapability; n++ {
		if sets.bounding>>n&1 == 0 {
			c.prctl(unix.PR_CAPBSET_DROP, flags(uint(n), capNames))
		}
	}
	c.at("process.user")
	c.prctl(unix.PR_SET_KEEPCAPS, num(1))
	groups := p.User.AdditionalGids
	mem := make([]byte, 4*len(groups)+4)
	for i, g := range groups {
		binary.NativeEndian.PutUint32(mem[4*i:], g)
	}
	if _, keep := c.spec.Annotations[KeepGroups]; !keep {
		set := c.call(unix.SYS_SETGROUPS, num(len(groups)), structArg(mem, "{"+joinUint(groups)+"}"))
		if len(groups) == 0 && c.inUserNamespace() {
			// setgroups is denied where an unprivileged user made the mapping (user_namespaces(7))
			set.tolerate(unix.EPERM)
		}
	}
	c.call(unix.SYS_SETRESGID, num(p.User.GID), num(p.User.GID), num(p.User.GID))
	c.call(unix.SYS_SETRESUID, num(p.User.UID), num(p.User.UID), num(p.User.UID))
	c.at("process.capabilities")
	c.capset(sets)
	c.prctl(unix.PR_SET_KEEPCAPS, num(0))
	if sets.ambient != 0 {
		c.at("process.capabilities.ambient")
		for n := 0; n <= c.host.LastCapability; n++ {
			if sets.ambient>>n&1 == 1 {
				c.call(unix.SYS_PRCTL, flags(uint(unix.PR_CAP_AMBIENT), prctlNames),
					num(uint(unix.PR_CAP_AMBIENT_RAISE)), flags(uint(n), capNames), num(0), num(0))
			}
		}
	}
	c.at("process.user.umask")
	umask := uint32(0o022)
	if p.User.Umask != nil {
		umask = *p.User.Umask
	}
	c.call(unix.SYS_UMASK, flags(umask, modeNames))
	if p.NoNewPrivileges {
		c.at("process.noNewPrivileges")
		c.prctl(unix.PR_SET_NO_NEW_PRIVS, num(1))
	}
	return nil
}

func joinUint(v []uint32) string {
	s := make([]string, len(v))
	for i, n := range v {
		s[i] = strconv.FormatUint(uint64(n), 10)
	}
	return strings.Join(s, ", ")
}
