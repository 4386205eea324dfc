// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"strings"

	"golang.org/x/sys/unix"
)

// Cause returns the likely cause of a system call that fails for a field, in words that say what to
// change. It is empty if the errno says as much, or if the cause could only be guessed.
func Cause(field, call string, errno unix.Errno) string {
	for _, c := range causes {
		if strings.HasPrefix(field, c.field) && (c.call == "" || c.call == call) && c.errno == errno {
			return c.text
		}
	}
	return ""
}

// causes are the known causes of failures. The first match counts, so the general ones come last.
var causes = []struct {
	field string // a prefix of the field; "" is any
	call  string // "" is any
	errno unix.Errno
	text  string
}{
	{
		"process.oomScoreAdj", "write", unix.EACCES,
		"a score below the runtime's own takes CAP_SYS_RESOURCE",
	},
	{
		"process.rlimits", "prlimit64", unix.EPERM,
		"a hard limit above the runtime's own takes CAP_SYS_RESOURCE",
	},
	{
		"process.apparmorProfile", "write", unix.ENOENT,
		"no profile of that name is loaded (/sys/kernel/security/apparmor/profiles has all): apparmor_parser loads one",
	},
	{
		"process.apparmorProfile", "write", unix.EACCES,
		"the runtime is confined itself, by a profile that does not let it change to this one",
	},
	{
		"process.apparmorProfile", "", unix.EXDEV,
		"something is mounted over /proc on the host, or it is no procfs",
	},
	{
		"process.selinuxLabel", "", unix.EXDEV,
		"something is mounted over /proc on the host, or it is no procfs",
	},
	{
		"process.selinuxLabel", "write", unix.EINVAL,
		"the host's policy has no such user, role, type or level",
	},
	{
		"process.selinuxLabel", "write", unix.EACCES,
		"the host's policy does not let the runtime ask for it",
	},
	{
		"linux.seccomp", "seccomp", unix.EINVAL,
		"the kernel does not know a flag of the filter (SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV came with Linux 5.19)",
	},
	{
		"process.scheduler", "sched_setattr", unix.EPERM,
		"a real-time policy, SCHED_DEADLINE or a lower nice value takes CAP_SYS_NICE on the host; " +
			"with cgroup v1 a real-time policy takes linux.resources.cpu.realtimeRuntime as well, and SCHED_DEADLINE all processors of the host",
	},
	{
		"process.scheduler", "sched_setattr", unix.EINVAL,
		"the kernel has no such policy or flag, or not with these values",
	},
	{
		"process.scheduler", "sched_setattr", unix.EOPNOTSUPP,
		"the kernel has no such flag (CONFIG_UCLAMP_TASK)",
	},
	{
		"process.scheduler", "sched_setattr", unix.EBUSY,
		"the processors have not as much time left as runtime and period ask for",
	},
	{
		"process.ioPriority", "ioprio_set", unix.EPERM,
		"IOPRIO_CLASS_RT takes CAP_SYS_NICE or CAP_SYS_ADMIN on the host",
	},
	{
		"linux.memoryPolicy", "set_mempolicy", unix.EINVAL,
		"no such node is online (/sys/devices/system/node/online) or allowed by the cgroup's cpuset, " +
			"or the kernel is older than the mode or flag",
	},
	{"linux.memoryPolicy", "set_mempolicy", unix.ENOSYS, "a kernel without CONFIG_NUMA"},
	{
		"linux.timeOffsets", "write", unix.ERANGE,
		"the container's clock would be negative or beyond 146 years",
	},
	{
		"linux.timeOffsets", "write", unix.EPERM,
		"to set the clocks of a time namespace takes CAP_SYS_TIME",
	},
	{"linux.namespaces", "unshare", unix.EINVAL, "a kernel without CONFIG_TIME_NS or CONFIG_CGROUPS"},
	{
		"linux.namespaces", "unshare", unix.ENOSPC,
		"the limit of network namespaces is reached (/proc/sys/user/max_net_namespaces)",
	},
	{"linux.namespaces", "unshare", unix.EPERM, "a new namespace takes CAP_SYS_ADMIN"},
	{"linux.namespaces", "setns", unix.EINVAL, "the path is another type of namespace"},
	{
		"linux.sysctl", "openat2", unix.EXDEV,
		"something is mounted over /proc/sys where the runtime is, or below it, and in a user namespace without a pid namespace of its own no other procfs can be had",
	},
	{"linux.sysctl", "expect", unix.EXDEV, "the /proc where the runtime is is no procfs"},
	{
		"linux.sysctl", "openat2", unix.ENOENT,
		"the kernel has no such parameter, or not in this namespace",
	},
	{
		"linux.sysctl", "openat2", unix.EACCES,
		"the parameter cannot be written to from a user namespace, or not at all",
	},
	{"linux.sysctl", "write", unix.EINVAL, "the kernel does not take the value"},
	{
		"process.user", "setgroups", unix.EPERM,
		"setgroups is denied in a user namespace that a plain user has mapped (user_namespaces(7)): leave out process.user.additionalGids",
	},
	{"process.user", "", unix.EINVAL, "the user namespace does not map the id"},
	{
		"linux.devices", "expect", unix.EEXIST,
		"what is there already, or in a user namespace what the host has there, is another file than the device",
	},
	{
		"linux.devices", "open_tree", unix.ENOENT,
		"in a user namespace the host's node is shown, and there is none",
	},
	{
		"linux.namespaces", "openat2", unix.ENOENT,
		"the path does not exist: the namespace's last process may have ended",
	},
	{"linux.devices", "mknodat", unix.EPERM, "devices are made with CAP_MKNOD on the host only"},
	{
		"root", "pivot_root", unix.EINVAL,
		"the host's root is a ramfs, which cannot be left: --no-pivot moves it instead",
	},
	{
		"mounts", "fsopen", unix.ENODEV,
		"the kernel has no filesystem of this type, or its module is not loaded",
	},
	{
		"mounts", "fsconfig", unix.EINVAL,
		"the filesystem does not take an option or its value (lowerdir+ of an overlay came with Linux 6.7); the kernel's log may say which",
	},
	{
		"mounts", "fsconfig", unix.EPERM,
		"a filesystem of this type cannot be mounted from this user namespace",
	},
	{
		"mounts", "move_mount", unix.EINVAL,
		"not a directory: a directory can be mounted on a directory alone, and a file on anything but a directory",
	},
	{"mounts", "open_tree", unix.ENOENT, "the source does not exist"},
	{
		"mounts", "openat2", unix.ELOOP,
		"a symbolic link on the way: a filesystem such as proc or sysfs must be mounted on ordinary directory",
	},
	{"", "openat2", unix.ELOOP, "a symbolic link stands where none is followed, or links go round"},
	{
		"", "", unix.ENOSYS,
		"Linux 5.14 or newer is needed, and no seccomp filter around the runtime that refuses the call",
	},
}
