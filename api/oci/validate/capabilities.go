// SPDX-License-Identifier: Apache-2.0

package validate

import (
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// capabilities checks process.capabilities (config.md, "Linux Process").
func (c *checker) capabilities(path string, caps *specs.LinuxCapabilities) {
	bounding := c.capabilitySet(path+".bounding", caps.Bounding)
	effective := c.capabilitySet(path+".effective", caps.Effective)
	inheritable := c.capabilitySet(path+".inheritable", caps.Inheritable)
	permitted := c.capabilitySet(path+".permitted", caps.Permitted)
	ambient := c.capabilitySet(path+".ambient", caps.Ambient)
	// What follows is what the kernel does not grant: capset(2) an inheritable
	// one that is not bounding, and an effective one that is not permitted, and prctl(2) PR_CAP_AMBIENT_RAISE an ambient
	// one that is not both permitted and inheritable. "Runtimes SHOULD NOT
	// fail if the container configuration requests capabilities that cannot
	// be granted."
	c.notGranted(path+".inheritable", caps.Inheritable, inheritable&^bounding, "only what is in bounding, too: the kernel does not grant it")
	c.notGranted(path+".effective", caps.Effective, effective&^permitted, "only what is in permitted, too: the kernel does not grant it")
	const noAmbient = "only what is in permitted and in inheritable, too: can't raise ambient capability " // runc's words
	refused := ambient &^ (permitted & inheritable & bounding)
	for i, name := range caps.Ambient {
		if capabilityBit(name)&refused != 0 {
			c.warn(at(path+".ambient", i), quote(name), noAmbient+name+": the kernel does not grant it")
		}
	}
}

// capabilitySet checks the names of one set and returns their bits.
func (c *checker) capabilitySet(path string, names []string) uint64 {
	var set uint64
	for i, name := range names {
		bit := capabilityBit(name)
		set |= bit
		if bit == 0 {
			// "Any value which cannot be mapped to a relevant kernel interface, or cannot be granted
			// otherwise MUST be logged as a warning by the runtime." A Container names them in
			// another place, where compile refuses them.
			c.warn(at(path, i), quoteOrNothing(name), capabilityAllowed(name)+"; this one is left out")
		}
	}
	return set
}

// capabilityAllowed suggests a name in place of one that is no capability.
func capabilityAllowed(name string) string {
	if len(name) <= maxCapability {
		if fixed := "CAP_" + strings.TrimPrefix(strings.ToUpper(name), "CAP_"); capabilityBit(fixed) != 0 {
			return "a name of capabilities(7); write " + fixed
		}
	}
	return "a name of capabilities(7), such as CAP_CHOWN"
}

// notGranted warns of the names whose bits are in refused.
func (c *checker) notGranted(path string, names []string, refused uint64, allowed string) {
	if refused == 0 {
		return
	}
	for i, name := range names {
		if capabilityBit(name)&refused != 0 {
			c.warn(at(path, i), quote(name), allowed)
		}
	}
}

// maxCapability is the length of the longest name, CAP_CHECKPOINT_RESTORE.
const maxCapability = 22

// capabilityBit returns the bit of one of the 41 capabilities that
// capabilities(7) lists, by their numbers in linux/capability.h, or 0 for a
// name that is none of them. Whether a host can grant it is another question.
func capabilityBit(name string) uint64 {
	switch name {
	case "CAP_CHOWN":
		return 1 << 0
	case "CAP_DAC_OVERRIDE":
		return 1 << 1
	case "CAP_DAC_READ_SEARCH":
		return 1 << 2
	case "CAP_FOWNER":
		return 1 << 3
	case "CAP_FSETID":
		return 1 << 4
	case "CAP_KILL":
		return 1 << 5
	case "CAP_SETGID":
		return 1 << 6
	case "CAP_SETUID":
		return 1 << 7
	case "CAP_SETPCAP":
		return 1 << 8
	case "CAP_LINUX_IMMUTABLE":
		return 1 << 9
	case "CAP_NET_BIND_SERVICE":
		return 1 << 10
	case "CAP_NET_BROADCAST":
		return 1 << 11
	case "CAP_NET_ADMIN":
		return 1 << 12
	case "CAP_NET_RAW":
		return 1 << 13
	case "CAP_IPC_LOCK":
		return 1 << 14
	case "CAP_IPC_OWNER":
		return 1 << 15
	case "CAP_SYS_MODULE":
		return 1 << 16
	case "CAP_SYS_RAWIO":
		return 1 << 17
	case "CAP_SYS_CHROOT":
		return 1 << 18
	case "CAP_SYS_PTRACE":
		return 1 << 19
	case "CAP_SYS_PACCT":
		return 1 << 20
	case "CAP_SYS_ADMIN":
		return 1 << 21
	case "CAP_SYS_BOOT":
		return 1 << 22
	case "CAP_SYS_NICE":
		return 1 << 23
	case "CAP_SYS_RESOURCE":
		return 1 << 24
	case "CAP_SYS_TIME":
		return 1 << 25
	case "CAP_SYS_TTY_CONFIG":
		return 1 << 26
	case "CAP_MKNOD":
		return 1 << 27
	case "CAP_LEASE":
		return 1 << 28
	case "CAP_AUDIT_WRITE":
		return 1 << 29
	case "CAP_AUDIT_CONTROL":
		return 1 << 30
	case "CAP_SETFCAP":
		return 1 << 31
	case "CAP_MAC_OVERRIDE":
		return 1 << 32
	case "CAP_MAC_ADMIN":
		return 1 << 33
	case "CAP_SYSLOG":
		return 1 << 34
	case "CAP_WAKE_ALARM":
		return 1 << 35
	case "CAP_BLOCK_SUSPEND":
		return 1 << 36
	case "CAP_AUDIT_READ":
		return 1 << 37
	case "CAP_PERFMON":
		return 1 << 38
	case "CAP_BPF":
		return 1 << 39
	case "CAP_CHECKPOINT_RESTORE":
		return 1 << 40
	}
	return 0
}
