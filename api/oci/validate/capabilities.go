// SPDX-License-Identifier: Apache-2.0

package validate

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// capabilities checks process.capabilities (config.md, "Linux Process").
func (c *checker) capabilities(path string, caps *specs.LinuxCapabilities) {
	c.capabilitySet(path+".bounding", caps.Bounding)
	c.capabilitySet(path+".effective", caps.Effective)
	c.capabilitySet(path+".inheritable", caps.Inheritable)
	c.capabilitySet(path+".permitted", caps.Permitted)
	c.capabilitySet(path+".ambient", caps.Ambient)
	// What follows is what the kernel does not grant: capset(2) an effective
	// one that is not permitted, and prctl(2) PR_CAP_AMBIENT_RAISE an ambient
	// one that is not both permitted and inheritable. "Runtimes SHOULD NOT
	// fail if the container configuration requests capabilities that cannot
	// be granted."
	for i, name := range caps.Effective {
		if KnownCapability(name) && !slices.Contains(caps.Permitted, name) {
			c.warn(at(path+".effective", i), quote(name), "only what is in permitted, too: the kernel does not grant it")
		}
	}
	for i, name := range caps.Ambient {
		if KnownCapability(name) && !(slices.Contains(caps.Permitted, name) && slices.Contains(caps.Inheritable, name)) {
			c.warn(at(path+".ambient", i), quote(name), "only what is in permitted and in inheritable, too: the kernel does not grant it")
		}
	}
}

func (c *checker) capabilitySet(path string, names []string) {
	for i, name := range names {
		if KnownCapability(name) {
			continue
		}
		allowed := "a name of capabilities(7), such as CAP_CHOWN"
		if fixed := "CAP_" + strings.TrimPrefix(strings.ToUpper(name), "CAP_"); KnownCapability(fixed) {
			allowed = "a name of capabilities(7); write " + fixed
		}
		c.err(at(path, i), quoteOrNothing(name), allowed)
	}
}

// KnownCapability tells whether a name is one of the 41 that capabilities(7)
// lists, up to Linux 5.9's CAP_CHECKPOINT_RESTORE (Linux 7 has no more).
// Whether the host can grant it is another question.
func KnownCapability(name string) bool {
	switch name {
	case "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
		"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
		"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
		"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
		"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
		"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE":
		return true
	}
	return false
}
