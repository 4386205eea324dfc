// SPDX-License-Identifier: Apache-2.0

package validate

import "github.com/opencontainers/runtime-spec/specs-go"

// seccomp checks linux.seccomp (config-linux.md, "Seccomp").
func (c *checker) seccomp() {
	s := c.linux.Seccomp
	if s == nil {
		return
	}
	const path = "linux.seccomp"
	c.action(path+".defaultAction", s.DefaultAction)
	c.errno(path+".defaultErrnoRet", s.DefaultErrnoRet, s.DefaultAction)
	for i, a := range s.Architectures {
		if !seccompArch(a) {
			c.err(at(path+".architectures", i), quoteOrNothing(string(a)),
				"an architecture of libseccomp, such as SCMP_ARCH_X86_64 or SCMP_ARCH_AARCH64")
		}
	}
	notify := s.DefaultAction == specs.ActNotify
	for i := range s.Syscalls {
		notify = notify || s.Syscalls[i].Action == specs.ActNotify
		c.syscallRule(i, &s.Syscalls[i])
	}
	for i, f := range s.Flags {
		switch f {
		case specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow, "SECCOMP_FILTER_FLAG_TSYNC":
		case specs.LinuxSeccompFlagWaitKillableRecv:
			if !notify {
				// seccomp(2): EINVAL without SECCOMP_FILTER_FLAG_NEW_LISTENER.
				c.warn(at(path+".flags", i), quote(string(f)),
					"it only beside the action SCMP_ACT_NOTIFY: it is left out")
			}
		default:
			c.err(at(path+".flags", i), quoteOrNothing(string(f)),
				"SECCOMP_FILTER_FLAG_ and one of TSYNC, LOG, SPEC_ALLOW, WAIT_KILLABLE_RECV")
		}
	}
	c.text(path+".listenerPath", s.ListenerPath)
	if notify && s.ListenerPath == "" {
		c.err(path+".listenerPath", nothing, "the path of a socket, since SCMP_ACT_NOTIFY is used")
	}
	if s.ListenerMetadata != "" && s.ListenerPath == "" {
		c.err(path+".listenerMetadata", quote(s.ListenerMetadata), "nothing, unless listenerPath is set")
	}
}

// syscallRule checks one element of syscalls.
func (c *checker) syscallRule(i int, r *specs.LinuxSyscall) {
	const path = "linux.seccomp.syscalls"
	if len(r.Names) == 0 {
		c.err(at(path, i)+".names", nothing, "at least one system call's name")
	}
	for j, name := range r.Names {
		switch {
		case name == "" || hasNUL(name):
			c.err(at(at(path, i)+".names", j), quote(name), "a system call's name")
		case c.options.KnownSyscall != nil && !c.options.KnownSyscall(name):
			if _, fail := c.spec.Annotations["run.oci.seccomp_fail_unknown_syscall"]; fail {
				c.err(at(at(path, i)+".names", j), quote(name),
					"a system call that the runtime knows, as annotations[\"run.oci.seccomp_fail_unknown_syscall\"] asks")
				continue
			}
			c.warn(at(at(path, i)+".names", j), quote(name),
				"a system call that the runtime knows; this one is left out")
		}
	}
	if !seccompAction(r.Action) {
		c.action(at(path, i)+".action", r.Action)
	}
	if r.ErrnoRet != nil {
		c.errno(at(path, i)+".errnoRet", r.ErrnoRet, r.Action)
	}
	for j := range r.Args {
		a := &r.Args[j]
		if a.Index > 5 {
			c.err(at(at(path, i)+".args", j)+".index", unsigned(a.Index), "0 to 5")
		}
		switch a.Op {
		case specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual,
			specs.OpGreaterThan, specs.OpMaskedEqual:
		default:
			c.err(at(at(path, i)+".args", j)+".op", quoteOrNothing(string(a.Op)),
				"SCMP_CMP_ and one of NE, LT, LE, EQ, GE, GT, MASKED_EQ")
		}
	}
}

func (c *checker) action(path string, a specs.LinuxSeccompAction) {
	if !seccompAction(a) {
		c.err(path, quoteOrNothing(string(a)),
			"SCMP_ACT_ and one of KILL, KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, TRACE, ALLOW, LOG, NOTIFY")
	}
}

func seccompAction(a specs.LinuxSeccompAction) bool {
	switch a {
	case specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap, specs.ActErrno,
		specs.ActTrace,
		specs.ActAllow, specs.ActLog, specs.ActNotify:
		return true
	}
	return false
}

// errno checks an action's errno. "When the action doesn't support an errno,
// the runtime MUST print and error and fail."
func (c *checker) errno(path string, errno *uint, action specs.LinuxSeccompAction) {
	if errno == nil {
		return
	}
	switch action {
	case specs.ActErrno:
		// The kernel's MAX_ERRNO: it would make 4095 of more.
		if *errno > 4095 {
			c.err(path, unsigned(*errno), "0 to 4095")
		}
	case specs.ActTrace:
		// SECCOMP_RET_DATA has 16 bits.
		if *errno > 1<<16-1 {
			c.err(path, unsigned(*errno), "0 to 65535")
		}
	default:
		if seccompAction(action) {
			c.err(path, unsigned(*errno)+" with "+string(action),
				"nothing, unless the action is SCMP_ACT_ERRNO or SCMP_ACT_TRACE")
		}
	}
}

func seccompArch(a specs.Arch) bool {
	switch a {
	case specs.ArchX86, specs.ArchX86_64, specs.ArchX32, specs.ArchARM, specs.ArchAARCH64,
		specs.ArchMIPS, specs.ArchMIPS64, specs.ArchMIPS64N32, specs.ArchMIPSEL, specs.ArchMIPSEL64,
		specs.ArchMIPSEL64N32,
		specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE, specs.ArchS390, specs.ArchS390X,
		specs.ArchPARISC, specs.ArchPARISC64, specs.ArchRISCV64, specs.ArchLOONGARCH64, specs.ArchM68K,
		specs.ArchSH, specs.ArchSHEB:
		return true
	}
	return false
}
