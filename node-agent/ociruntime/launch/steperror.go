// SPDX-License-Identifier: Apache-2.0

package launch

import (
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// StepError is a step that failed in the child.
type StepError struct {
	// Phase is the synchronization point that the child was on the way to.
	Phase plan.Sync
	// Index of the step in the plan.
	Index int
	// Field is the field of the document that the step served.
	Field plan.Field
	// Path is the file that the step used, as far as the plan knows; empty if it used none.
	Path string
	// Call is the step, rendered as strace would.
	Call string
	// Name of the system call.
	Name string
	// Errno is the error that the step returned.
	Errno unix.Errno
	// Cause returns the likely cause of a system call that fails for a field, in words that say
	// what to change. It is empty if the errno says as much, or if the cause could only be guessed.
	Cause string
}

func (e *StepError) Error() string {
	s := fmt.Sprintf("%s: %s: %s (step %d: %s)", e.Field, e.Name, e.Errno, e.Index, e.Call)
	if e.Cause != "" {
		s += "; likely cause: " + e.Cause
	}
	return s
}

func (e *StepError) Unwrap() error { return e.Errno }

// newStepError turns a report into an error.
func newStepError(p *plan.Plan, m message) error {
	if m.step >= uint64(len(p.Steps)) {
		return fmt.Errorf("the container's first process reported step %d of %d", m.step, len(p.Steps))
	}
	e := stepAt(p, int(m.step))
	e.Errno = unix.Errno(m.errno)
	e.Cause = Cause(e.Field.String(), e.Name, e.Errno)
	return e
}

// stepAt describes a step of a plan.
func stepAt(p *plan.Plan, i int) *StepError {
	s := p.Steps[i]
	return &StepError{
		Phase: p.Phase(i), Index: i, Field: s.Field, Path: pathOf(p, i),
		Call: s.String(), Name: s.Name(),
	}
}

// pathOf returns the file that a step is about: its path below the directory whose descriptor it is
// given, if any.
func pathOf(p *plan.Plan, i int) string {
	s := &p.Steps[i]
	dir, name := "", ""
	for j := range min(2, len(s.Args)) {
		if r, ok := s.Args[j].Reg(); ok && j == 0 {
			dir = pathOfRegister(p, i, r)
		}
		if text, ok := s.Args[j].Text(); ok && name == "" {
			name = text
		}
	}
	switch s.Call {
	case unix.SYS_OPENAT2, unix.SYS_MKDIRAT, unix.SYS_MKNODAT, unix.SYS_OPEN_TREE, unix.SYS_FACCESSAT,
		unix.SYS_FACCESSAT2, unix.SYS_FCHOWNAT, unix.SYS_UNLINKAT,
		unix.SYS_MOUNT_SETATTR, unix.SYS_CHDIR, unix.SYS_PIVOT_ROOT, unix.SYS_UMOUNT2, unix.SYS_EXECVE,
		unix.SYS_CHROOT:
		if dir == "" {
			return name
		}
		return path.Join(dir, name)
	case unix.SYS_SYMLINKAT: // the new link comes third, below the directory
		if len(s.Args) > 2 {
			if r, ok := s.Args[1].Reg(); ok {
				dir = pathOfRegister(p, i, r)
			}
			name, _ = s.Args[2].Text()
		}
		return path.Join(dir, name)
	case unix.SYS_MOVE_MOUNT: // onto what its third argument stands for
		if len(s.Args) > 3 {
			target, _ := s.Args[3].Text()
			if r, ok := s.Args[2].Reg(); ok {
				return path.Join(pathOfRegister(p, i, r), target)
			}
			return target
		}
	case unix.SYS_WRITE, unix.SYS_READ, unix.SYS_FCHDIR, unix.SYS_IOCTL, unix.SYS_FCHOWN,
		unix.SYS_FCHMOD, unix.SYS_FSTATFS, unix.SYS_SETNS:
		return dir
	}
	return ""
}

// pathOfRegister returns the path of a descriptor that a step before i has opened.
func pathOfRegister(p *plan.Plan, i int, r plan.Reg) string {
	for i--; i >= 0; i-- {
		if p.Steps[i].Out == r {
			switch p.Steps[i].Call {
			case unix.SYS_OPENAT2, unix.SYS_OPEN_TREE:
				return pathOf(p, i)
			}
			return ""
		}
	}
	return ""
}

// Cause returns the likely cause of a system call that fails for a field, in words that say what to
// change. It is empty if the errno says as much, or if the cause could only be guessed.
func Cause(field, call string, errno unix.Errno) string {
	for _, c := range [...]struct {
		field, call string // a prefix of the field; "" is any
		errno       unix.Errno
		cause       string
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
	} {
		if strings.HasPrefix(field, c.field) && (c.call == "" || c.call == call) && c.errno == errno {
			return c.cause
		}
	}
	return ""
}
