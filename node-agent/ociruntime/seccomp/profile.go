// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Values of linux/seccomp.h that x/sys does not define.
const (
	maxInstructions = 4096 // BPF_MAXINSNS
	maxErrno        = 4095 // MAX_ERRNO, what the kernel cuts SECCOMP_RET_ERRNO's value to
	maxData         = 0xffff
	maxArguments    = 6
)

// action is the return value of a filter: SECCOMP_RET_* and 16 bits of data.
type action uint32

// condition compares one argument. SCMP_CMP_EQ is opMasked with a full mask.
type condition struct {
	arg   uint8
	op    operator
	mask  uint64 // only with opMasked
	value uint64 // only bits of mask
}

type operator uint8

const (
	opMasked operator = iota
	opNE
	opLT
	opLE
	opGE
	opGT
)

// rule is one line of a profile for one system call, conditions in the order of arguments; all have
// to hold.
type rule struct {
	line       int // index in syscalls
	action     action
	conditions []condition
}

// action translates an action and its errno. An error has the path of the one or of the other.
func (c *compiler) action(path func(errno bool) string, name specs.LinuxSeccompAction,
	errnoRet *uint,
) (action, bool) {
	var ret action
	most := uint(0) // 0: the action returns no number
	switch name {
	case specs.ActKill, specs.ActKillThread:
		ret = unix.SECCOMP_RET_KILL_THREAD
	case specs.ActKillProcess:
		ret = unix.SECCOMP_RET_KILL_PROCESS
	case specs.ActTrap:
		ret = unix.SECCOMP_RET_TRAP
	case specs.ActErrno:
		ret, most = unix.SECCOMP_RET_ERRNO, maxErrno
	case specs.ActTrace:
		ret, most = unix.SECCOMP_RET_TRACE, maxData
	case specs.ActAllow:
		ret = unix.SECCOMP_RET_ALLOW
	case specs.ActLog:
		ret = unix.SECCOMP_RET_LOG
	case specs.ActNotify:
		ret = unix.SECCOMP_RET_USER_NOTIF
	default:
		c.fault(path(false), quote(name), list(SupportedActions()))
		return 0, false
	}
	if errnoRet == nil {
		if most > 0 {
			ret |= action(unix.EPERM)
		}
		return ret, true
	}
	switch {
	case most == 0:
		c.fault(path(true), fmt.Sprint(*errnoRet), "nothing with "+string(name)+
			", only SCMP_ACT_ERRNO and SCMP_ACT_TRACE return a number")
		return 0, false
	case *errnoRet > most:
		c.fault(path(true), fmt.Sprint(*errnoRet), fmt.Sprintf("0 to %d", most))
		return 0, false
	}
	return ret | action(*errnoRet), true
}

// architectures fills in c.archs: the native one first, x32 right behind x86_64.
func (c *compiler) architectures(names []specs.Arch) {
	c.archs = []*architecture{c.native}
	for i, name := range names {
		path := fmt.Sprintf("architectures[%d]", i)
		a := architectureByName(name)
		switch {
		case a == nil:
			c.fault(path, quote(name), list(SupportedArchitectures()))
		case a.big != c.native.big:
			c.fault(path, quote(name), "architectures of this machine's byte order")
		case slices.Contains(c.archs, a):
		default:
			c.archs = append(c.archs, a)
		}
	}
	x32 := slices.IndexFunc(c.archs, func(a *architecture) bool { return a.name == specs.ArchX32 })
	if x32 < 0 {
		return
	}
	a := c.archs[x32]
	x8664 := slices.IndexFunc(c.archs, func(a *architecture) bool {
		return a.name == specs.ArchX86_64
	})
	if x8664 < 0 {
		c.fault("architectures", quote(a.name), "SCMP_ARCH_X32 only together with SCMP_ARCH_X86_64")
		return
	}
	c.archs = slices.Delete(c.archs, x32, x32+1)
	x8664 = slices.IndexFunc(c.archs, func(a *architecture) bool { return a.name == specs.ArchX86_64 })
	c.archs = slices.Insert(c.archs, x8664+1, a)
}

func (c *compiler) flags(names []specs.LinuxSeccompFlag, notify bool) uint {
	var flags uint
	if names == nil {
		flags = unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	}
	if notify {
		flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
	for i, name := range names {
		path := fmt.Sprintf("flags[%d]", i)
		switch name {
		case flagTsync:
			flags |= unix.SECCOMP_FILTER_FLAG_TSYNC
			if notify {
				// Else the kernel could return a thread's id in place of the listener.
				flags |= unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
			}
		case specs.LinuxSeccompFlagLog:
			flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case specs.LinuxSeccompFlagWaitKillableRecv:
			if !notify {
				// The kernel refuses it without a listener (EINVAL).
				c.warnings = append(c.warnings, Warning{path, string(name) +
					" is left out: no rule has SCMP_ACT_NOTIFY"})
				continue
			}
			flags |= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
		default:
			c.fault(path, quote(name), list(SupportedFlags()))
		}
	}
	return flags
}

// namedRule is a rule for one name.
type namedRule struct {
	entry *syscallEntry
	rule  *rule
}

// rules translates all lines of a profile, in order, less those without effect.
func (c *compiler) rules(lines []specs.LinuxSyscall) []namedRule {
	count := 0
	for i := range lines {
		count += len(lines[i].Names)
	}
	named := make([]namedRule, 0, count)
	c.named = make([]*syscallEntry, 0, count)
	for i := range lines {
		line := &lines[i]
		at := func(rest string) string { return fmt.Sprintf("syscalls[%d]%s", i, rest) }
		if len(line.Names) == 0 {
			c.fault(at(".names"), "none", "one name or more")
		}
		ret, ok := c.action(func(errno bool) string {
			if errno {
				return at(".errnoRet")
			}
			return at(".action")
		}, line.Action, line.ErrnoRet)
		conditions, wellFormed := c.conditions(at, line.Args)
		ok = ok && wellFormed
		var rules []rule
		switch {
		case !ok || ret == c.fallback:
		case repeated(conditions):
			for j := range conditions {
				rules = append(rules, rule{i, ret, conditions[j : j+1]})
			}
		default:
			slices.SortFunc(conditions, func(a, b condition) int { return cmp.Compare(a.arg, b.arg) })
			rules = []rule{{i, ret, conditions}}
		}
		for j, name := range line.Names {
			switch {
			case name == "":
				c.fault(at(fmt.Sprintf(".names[%d]", j)), `""`, "the name of a system call")
				continue
			case line.Action == specs.ActNotify && name == "write":
				c.fault(at(".action"), quote(line.Action),
					"any other action for write (SCMP_ACT_NOTIFY cannot be used for the write syscall): a process under the filter could not report to its runtime")
				continue
			}
			entry := lookup(name)
			if entry == nil {
				c.warnings = append(c.warnings, Warning{
					at(fmt.Sprintf(".names[%d]", j)),
					"unknown system call " + quote(name) + " is left out",
				})
				continue
			}
			c.named = append(c.named, entry)
			for k := range rules {
				named = append(named, namedRule{entry, &rules[k]})
			}
		}
	}
	return named
}

// repeated reports whether two conditions are on the same argument.
func repeated(conditions []condition) bool {
	var seen [maxArguments]bool
	for _, c := range conditions {
		if seen[c.arg] {
			return true
		}
		seen[c.arg] = true
	}
	return false
}

func (c *compiler) conditions(at func(string) string, args []specs.LinuxSeccompArg) ([]condition,
	bool,
) {
	if len(args) == 0 {
		return nil, true
	}
	conditions := make([]condition, 0, len(args))
	ok := true
	for i, a := range args {
		if a.Index >= maxArguments {
			c.fault(at(fmt.Sprintf(".args[%d].index", i)), fmt.Sprint(a.Index), "0 to 5")
			ok = false
			continue
		}
		cond := condition{arg: uint8(a.Index), value: a.Value, mask: ^uint64(0)}
		switch a.Op {
		case specs.OpEqualTo:
			cond.op = opMasked
		case specs.OpMaskedEqual:
			cond.op, cond.mask, cond.value = opMasked, a.Value, a.ValueTwo&a.Value
		case specs.OpNotEqual:
			cond.op = opNE
		case specs.OpLessThan:
			cond.op = opLT
		case specs.OpLessEqual:
			cond.op = opLE
		case specs.OpGreaterEqual:
			cond.op = opGE
		case specs.OpGreaterThan:
			cond.op = opGT
		default:
			c.fault(at(fmt.Sprintf(".args[%d].op", i)), quote(a.Op), list(SupportedOperators()))
			ok = false
			continue
		}
		conditions = append(conditions, cond)
	}
	return conditions, ok
}

func quote[T ~string](s T) string { return fmt.Sprintf("%q", string(s)) }

func list[T ~string](names []T) string {
	var b strings.Builder
	for i, n := range names {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(n))
	}
	return b.String()
}
