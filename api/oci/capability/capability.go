// SPDX-License-Identifier: Apache-2.0

// Package capability holds the names and numbers of Linux capabilities (capabilities(7),
// linux/capability.h).
package capability

// names holds the name of each capability at its number, up to Linux 5.9, the newest kernel to have
// added one.
var names = [...]string{
	"CAP_CHOWN",
	"CAP_DAC_OVERRIDE",
	"CAP_DAC_READ_SEARCH",
	"CAP_FOWNER",
	"CAP_FSETID",
	"CAP_KILL",
	"CAP_SETGID",
	"CAP_SETUID",
	"CAP_SETPCAP",
	"CAP_LINUX_IMMUTABLE",
	"CAP_NET_BIND_SERVICE",
	"CAP_NET_BROADCAST",
	"CAP_NET_ADMIN",
	"CAP_NET_RAW",
	"CAP_IPC_LOCK",
	"CAP_IPC_OWNER",
	"CAP_SYS_MODULE",
	"CAP_SYS_RAWIO",
	"CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE",
	"CAP_SYS_PACCT",
	"CAP_SYS_ADMIN",
	"CAP_SYS_BOOT",
	"CAP_SYS_NICE",
	"CAP_SYS_RESOURCE",
	"CAP_SYS_TIME",
	"CAP_SYS_TTY_CONFIG",
	"CAP_MKNOD",
	"CAP_LEASE",
	"CAP_AUDIT_WRITE",
	"CAP_AUDIT_CONTROL",
	"CAP_SETFCAP",
	"CAP_MAC_OVERRIDE",
	"CAP_MAC_ADMIN",
	"CAP_SYSLOG",
	"CAP_WAKE_ALARM",
	"CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ",
	"CAP_PERFMON",
	"CAP_BPF",
	"CAP_CHECKPOINT_RESTORE",
}

// Names returns all names, by number.
func Names() []string { return append([]string(nil), names[:]...) }

// Name returns the name of a number, or "" if it has none.
func Name(number int) string {
	if number < 0 || number >= len(names) {
		return ""
	}
	return names[number]
}

// Number returns the number of a name such as CAP_CHOWN, and whether there is such a capability.
// Whether a host can grant it is another question.
func Number(name string) (int, bool) {
	for n := range names {
		if names[n] == name {
			return n, true
		}
	}
	return 0, false
}
