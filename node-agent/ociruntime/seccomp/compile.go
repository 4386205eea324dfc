// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Filter is a compiled seccomp filter, ready for seccomp(2).
type Filter struct {
	// Program is the classic BPF program, at least one and at most 4096 (BPF_MAXINSNS)
	// instructions.
	Program []unix.SockFilter
	// Flags are the SECCOMP_FILTER_FLAG_* bits to pass to seccomp(2).
	Flags uint
	// Notify says that some rule answers SCMP_ACT_NOTIFY. SECCOMP_FILTER_FLAG_NEW_LISTENER is set
	// in Flags then, and seccomp(2) returns the descriptor that has to go to listenerPath.
	Notify bool
}

// Warning is something in a profile that was left out of the filter.
type Warning struct {
	// Path is the path of the field below linux.seccomp, such as "syscalls[3].names[1]".
	Path string
	// Message says what was left out and why.
	Message string
}

// String returns the warning as one line.
func (w Warning) String() string { return w.Path + ": " + w.Message }

// FieldError is a fault in a profile. Compile returns all of them joined (errors.Join).
type FieldError struct {
	// Path is the path of the field below linux.seccomp, such as "syscalls[3].args[0].op".
	Path string
	// Found is the field's value, Allowed describes the allowed ones.
	Found, Allowed string
}

// Error returns "path: found X; allowed: Y".
func (e *FieldError) Error() string {
	return fmt.Sprintf("%s: found %s; allowed: %s", e.Path, e.Found, e.Allowed)
}

// Compile turns a profile into a filter with the verdicts that runc and libseccomp give it:
//
//   - The native architecture is always in, further ones as listed; all have to be of its byte
//     order. A system call of any other ends in SECCOMP_RET_KILL_THREAD, libseccomp's default for a
//     bad architecture. So does an x32 call where only x86_64 is listed, save for number -1, which
//     tracers use.
//   - A rule whose action is the default one is skipped, as runc does.
//   - Of rules for the same system call those of equal action are ORed. A rule without conditions
//     wins over all that have some, and the first such over later ones.
//   - Of rules with conditions and different actions which hold at once, the one whose first
//     condition is on the higher argument wins; for the same argument equality comes before less
//     and less before greater, then the larger value (with less: the smaller one). That is the
//     order of libseccomp's tree. A rule that says all that an earlier one says, and more, never
//     matches (a Warning, if its action is another). One that says as much or less than an earlier
//     one of another action is refused, as by libseccomp (EEXIST). Where ranges or inequalities of
//     several rules meet, libseccomp 2.5 departs from what the profile says; Compile does not.
//   - Several conditions of one rule on the same argument make it one rule for each condition, as
//     runc does.
//   - On a 32-bit ABI only the low 32 bits of arguments and values count.
//   - Where socketcall(2) and ipc(2) exist, a rule for one of their calls holds for both ways of
//     making it; the multiplexers' first argument being the call's number, a condition on it is
//     lost there.
//   - Names that no ABI has are left out with a Warning; those that an ABI has not are left out for
//     that ABI.
//   - Numbers that the profile does not name get the default action. Those above the highest one
//     that it names for their ABI return ENOSYS, as with runc, unless the default action is ALLOW,
//     LOG or TRACE: they are newer than the profile, and C libraries fall back to an older call on
//     ENOSYS only. So does setup(2) on s390, which is number 0 and stands for numbers that the
//     kernel does not know.
//   - An errnoRet with an action that returns no number is refused, as config-linux.md demands.
//   - Without a list of flags SECCOMP_FILTER_FLAG_SPEC_ALLOW is set, as runc and crun do; an empty
//     list sets none.
//   - SCMP_ACT_NOTIFY is refused as the default action and for write(2), as runc does: a process
//     under such a filter may be unable to report that it is.
//
// Source: runtime-spec 1.3.0 config-linux.md, "Seccomp"; seccomp(2); seccomp_rule_add(3).
func Compile(profile *specs.LinuxSeccomp) (*Filter, []Warning, error) {
	return compile(profile, runtime.GOARCH)
}

// compiler holds the intermediate results of Compile.
type compiler struct {
	native   *architecture
	archs    []*architecture
	fallback action
	// named has the entries of all system calls that the profile names, those of rules without
	// effect included.
	named    []*syscallEntry
	warnings []Warning
	faults   []error
}

func (c *compiler) fault(path, found, allowed string) {
	c.faults = append(c.faults, &FieldError{path, found, allowed})
}

func compile(profile *specs.LinuxSeccomp, goarch string) (*Filter, []Warning, error) {
	if profile == nil {
		return nil, nil, errors.New("seccomp: no profile")
	}
	c := compiler{native: architectureByName(nativeName(goarch))}
	if c.native == nil {
		return nil, nil, fmt.Errorf("seccomp: no system call table for the architecture %s", goarch)
	}
	f := &Filter{}
	c.fallback, _ = c.action(func(errno bool) string {
		if errno {
			return "defaultErrnoRet"
		}
		return "defaultAction"
	}, profile.DefaultAction, profile.DefaultErrnoRet)
	if profile.DefaultAction == specs.ActNotify {
		c.fault("defaultAction", quote(profile.DefaultAction),
			"any other action: a process could not even be started")
	}
	c.architectures(profile.Architectures)
	rules := c.rules(profile.Syscalls)
	for i := range rules {
		f.Notify = f.Notify || rules[i].rule.action == unix.SECCOMP_RET_USER_NOTIF
	}
	f.Flags = c.flags(profile.Flags, f.Notify)
	if len(c.faults) > 0 {
		return nil, c.warnings, errors.Join(c.faults...)
	}
	var g generator
	g.init(c.native.big)
	entry := g.ret(unix.SECCOMP_RET_KILL_THREAD)
	for i := len(c.archs) - 1; i >= 0; i-- {
		// x32 stands right behind x86_64, and is compiled with it.
		group := c.archs[i : i+1]
		if c.archs[i].name == specs.ArchX32 {
			i--
			group = c.archs[i : i+2]
		}
		ranges := c.ranges(&g, group, rules)
		if len(c.faults) > 0 {
			return nil, c.warnings, errors.Join(c.faults...)
		}
		body := g.search(ranges)
		if len(ranges) > 1 {
			body = g.load(offsetNumber, body)
		}
		entry = g.jump(unix.BPF_JEQ, group[0].audit, body, entry)
	}
	g.load(offsetArch, entry)
	if len(g.reversed) > maxInstructions {
		return nil, c.warnings,
			fmt.Errorf("seccomp: the filter has %d instructions, the kernel takes %d: fewer rules with args or fewer architectures are needed",
				len(g.reversed), maxInstructions)
	}
	slices.Reverse(g.reversed)
	f.Program = g.reversed
	return f, c.warnings, nil
}
