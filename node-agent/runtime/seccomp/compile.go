// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

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

// Compile turns a profile into a filter with the verdicts that runc and libseccomp give it:
//
//   - The native architecture is always in, further ones as listed; all have to be of its byte
//     order. A system call of any other ends in SECCOMP_RET_KILL_THREAD, libseccomp's default for a bad
//     architecture. So does an x32 call where only x86_64 is listed, save for number -1, which
//     tracers use.
//   - A rule whose action is the default one is skipped, as runc does.
//   - Of rules for the same system call those of equal action are ORed. A rule without conditions wins over all
//     that have some, and the first such over later ones.
//   - Of rules with conditions and different actions which hold at once, the one whose first condition
//     is on the higher argument wins; for the same argument equality comes before less and less before
//     greater, then the larger value (with less: the smaller one). That is the order of libseccomp's
//     tree. A rule that says all that an earlier one says, and more, never matches (a Warning, if its
//     action is another). One that says as much or less than an earlier one of another action is
//     refused, as by libseccomp (EEXIST). Where ranges or inequalities of several rules meet,
//     libseccomp 2.5 departs from what the profile says; Compile does not.
//   - Several conditions of one rule on the same argument make it one rule for each condition, as runc does.
//   - On a 32-bit ABI only the low 32 bits of arguments and values count.
//   - Where socketcall(2) and ipc(2) exist, a rule for one of their calls holds for both ways of making it; the
//     multiplexers' first argument being the call's number, a condition on it is lost there.
//   - Names that no ABI has are left out with a Warning; those that an ABI has not are left out for that ABI.
//   - Numbers that the profile does not name get the default action. Those above the highest one that
//     it names for their ABI return ENOSYS, as with runc, unless the default action is ALLOW, LOG or
//     TRACE: they are newer than the profile, and C libraries fall back to an older call on ENOSYS
//     only. So does setup(2) on s390, which is number 0 and stands for numbers that the kernel does not know.
//   - An errnoRet with an action that returns no number is refused, as config-linux.md demands.
//   - Without a list of flags SECCOMP_FILTER_FLAG_SPEC_ALLOW is set, as runc and crun do; an empty
//     list sets none.
//   - SCMP_ACT_NOTIFY is refused as the default action and for write(2), as runc does: a process under
//     such a filter may be unable to report that it is.
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
		c.fault("defaultAction", quote(profile.DefaultAction), "any other action: a process could not even be started")
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
		return nil, c.warnings, fmt.Errorf("seccomp: the filter has %d instructions, the kernel takes %d: fewer rules with args or fewer architectures are needed",
			len(g.reversed), maxInstructions)
	}
	slices.Reverse(g.reversed)
	f.Program = g.reversed
	return f, c.warnings, nil
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

// action translates an action and its errno. An error has the path of the one or of the other.
func (c *compiler) action(path func(errno bool) string, name specs.LinuxSeccompAction, errnoRet *uint) (action, bool) {
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
		c.fault(path(true), fmt.Sprint(*errnoRet), "nothing with "+string(name)+", only SCMP_ACT_ERRNO and SCMP_ACT_TRACE return a number")
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
	x8664 := slices.IndexFunc(c.archs, func(a *architecture) bool { return a.name == specs.ArchX86_64 })
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
				c.warnings = append(c.warnings, Warning{path, string(name) + " is left out: no rule has SCMP_ACT_NOTIFY"})
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
				c.fault(at(".action"), quote(line.Action), "any other action for write (SCMP_ACT_NOTIFY cannot be used for the write syscall): a process under the filter could not report to its runtime")
				continue
			}
			entry := lookup(name)
			if entry == nil {
				c.warnings = append(c.warnings, Warning{at(fmt.Sprintf(".names[%d]", j)), "unknown system call " + quote(name) + " is left out"})
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

func (c *compiler) conditions(at func(string) string, args []specs.LinuxSeccompArg) ([]condition, bool) {
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

// numbered is a rule for one number of one architecture.
type numbered struct {
	rule       *rule
	conditions []condition
	wide       bool
}

// numberRange is the first number of a verdict, which holds up to the next range's first.
type numberRange struct {
	start  uint32
	target label
}

// errNewer is the verdict for a system call that is newer than the profile.
const errNewer = unix.SECCOMP_RET_ERRNO | action(unix.ENOSYS)

// returnsNewer reports whether system calls newer than the profile return ENOSYS.
func (c *compiler) returnsNewer() bool {
	switch c.fallback & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_LOG, unix.SECCOMP_RET_TRACE:
		// Permissive; a tracer answers for new system calls itself.
		return false
	}
	return true
}

// highest returns the highest number that the profile names for an ABI, -1 if it names none.
func (c *compiler) highest(a *architecture) int32 {
	highest := int32(-1)
	for _, entry := range c.named {
		highest = max(highest, entry.numbers[a.column])
	}
	return highest
}

// ranges returns the verdicts for all numbers that the architectures of group, which have one
// seccomp_data.arch in common, can have.
func (c *compiler) ranges(g *generator, group []*architecture, rules []namedRule) []numberRange {
	fallback := g.ret(c.fallback)
	ranges := make([]numberRange, 1, 64)
	ranges[0] = numberRange{0, fallback}
	put := func(start uint32, target label) {
		last := &ranges[len(ranges)-1]
		switch {
		case last.target == target:
		case last.start == start:
			last.target = target
			if len(ranges) > 1 && ranges[len(ranges)-2].target == target {
				ranges = ranges[:len(ranges)-1]
			}
		default:
			ranges = append(ranges, numberRange{start, target})
		}
	}
	all := make([]numbered, 0, len(rules)+16)
	// Sorted by number, then by place in the profile, which is that in all.
	keys := make([]uint64, 0, cap(all))
	same := make([]numbered, 0, 16)
	for _, a := range group {
		all, keys = numberedRules(a, rules, all[:0], keys[:0])
		newer := fallback
		highest := c.highest(a)
		if len(keys) > 0 {
			// A multiplexer's number may be above those of the calls that are named.
			highest = max(highest, int32(keys[len(keys)-1]>>32))
		}
		if highest > 0 && c.returnsNewer() {
			newer = g.ret(errNewer)
			if a.name == specs.ArchS390 || a.name == specs.ArchS390X {
				put(0, newer)
				put(1, fallback)
			}
		}
		if a.name == specs.ArchX32 {
			put(x32Bit, fallback)
		}
		for i := 0; i < len(keys); {
			number := uint32(keys[i] >> 32)
			same = same[:0]
			for ; i < len(keys) && uint32(keys[i]>>32) == number; i++ {
				same = append(same, all[uint32(keys[i])])
			}
			put(number, c.verdict(g, same))
			put(number+1, fallback)
		}
		put(uint32(highest)+1, newer)
	}
	if group[0].name == specs.ArchX86_64 && len(group) == 1 {
		put(x32Bit, g.ret(unix.SECCOMP_RET_KILL_THREAD))
		put(0xffffffff, fallback)
	}
	return ranges
}

// numberedRules appends the rules for each number of an ABI to all, and its number and index in all
// to keys, which it sorts.
func numberedRules(a *architecture, rules []namedRule, all []numbered, keys []uint64) ([]numbered, []uint64) {
	add := func(number uint32, n numbered) {
		keys = append(keys, uint64(number)<<32|uint64(len(all)))
		all = append(all, n)
	}
	for i := range rules {
		r := rules[i].rule
		conditions := r.conditions
		if !a.wide && len(conditions) > 0 {
			conditions = narrow(conditions)
		} else if slices.ContainsFunc(conditions, tautology) {
			conditions = slices.DeleteFunc(slices.Clone(conditions), tautology)
		}
		if a.muxBase >= 0 {
			if nr, call, ok := multiplexed(rules[i].entry.name); ok {
				add(uint32(a.muxBase)+nr, numbered{r, muxConditions(conditions, call, a.wide), a.wide})
			}
		}
		if nr := rules[i].entry.numbers[a.column]; nr >= 0 {
			add(uint32(nr), numbered{r, conditions, a.wide})
		}
	}
	slices.Sort(keys)
	return all, keys
}

// tautology reports whether a condition always holds.
func tautology(c condition) bool { return c.op == opMasked && c.mask == 0 }

// narrow returns the conditions as a 32-bit ABI sees them.
func narrow(conditions []condition) []condition {
	narrowed := make([]condition, 0, len(conditions))
	for _, c := range conditions {
		c.mask &= 0xffffffff
		c.value &= 0xffffffff
		if !tautology(c) {
			narrowed = append(narrowed, c)
		}
	}
	return narrowed
}

// muxConditions returns the conditions for call number `call` of a multiplexer.
func muxConditions(conditions []condition, call uint32, wide bool) []condition {
	mux := make([]condition, 1, len(conditions)+1)
	mux[0] = condition{op: opMasked, mask: 0xffffffff, value: uint64(call)}
	if wide {
		mux[0].mask = ^uint64(0)
	}
	for _, c := range conditions {
		if c.arg != 0 {
			mux = append(mux, c)
		}
	}
	return mux
}

// verdict returns the code for one number: a return, or comparisons of arguments.
func (c *compiler) verdict(g *generator, rules []numbered) label {
	var root level
	for i := range rules {
		if len(rules[i].conditions) == 0 {
			return g.ret(rules[i].rule.action)
		}
		c.insert(&root, rules[i])
	}
	return g.level(root, g.ret(c.fallback), rules[0].wide)
}

// level is the alternatives for one condition, in the order in which they are tried.
type level []*node

// node is a condition, and what follows where it holds: an action, or further conditions.
type node struct {
	condition condition
	final     bool
	action    action
	line      int
	next      level
}

// insert puts a rule where its conditions belong in the tree. See Compile for the order.
func (c *compiler) insert(l *level, n numbered) {
	for i, cond := range n.conditions {
		found, at := l.find(cond, n.wide)
		if found == nil {
			found = &node{condition: cond}
			*l = slices.Insert(*l, at, found)
		} else if found.final {
			switch {
			case found.action == n.rule.action:
			case i == len(n.conditions)-1:
				c.conflict(n.rule.line, found.line)
			default:
				c.warnings = append(c.warnings, Warning{
					fmt.Sprintf("syscalls[%d]", n.rule.line),
					fmt.Sprintf("never matches: syscalls[%d] decides with fewer conditions", found.line),
				})
			}
			return
		}
		if i < len(n.conditions)-1 {
			l = &found.next
			continue
		}
		if other := differs(found.next, n.rule.action); other != nil {
			c.conflict(n.rule.line, other.line)
			return
		}
		found.final, found.action, found.line, found.next = true, n.rule.action, n.rule.line, nil
	}
}

func (c *compiler) conflict(line, earlier int) {
	err := &FieldError{
		fmt.Sprintf("syscalls[%d]", line),
		fmt.Sprintf("conditions that also hold wherever those of syscalls[%d] do, with another action", earlier),
		"one action for the same conditions",
	}
	for _, other := range c.faults {
		if other.Error() == err.Error() {
			return // for another architecture or name
		}
	}
	c.faults = append(c.faults, err)
}

// differs returns a node below l that ends in another action, or nil.
func differs(l level, a action) *node {
	for _, n := range l {
		if n.final && n.action != a {
			return n
		}
		if other := differs(n.next, a); other != nil {
			return other
		}
	}
	return nil
}

// find returns the node for a condition, or where to put it.
func (l level) find(c condition, wide bool) (*node, int) {
	at, kin := len(l), false
	for i, n := range l {
		if n.condition == c {
			return n, i
		}
		switch akin := wide && alike(n.condition, c); {
		case akin && !kin:
			// What has the high half in common stays together.
			kin = true
			at = i + 1
			if before(c, n.condition, wide) {
				at = i
			}
		case akin && at == i && !before(c, n.condition, wide):
			at = i + 1
		case !kin && at == len(l) && before(c, n.condition, wide):
			at = i
		}
	}
	return nil, at
}

// alike reports whether libseccomp tests both conditions' high halves at once.
func alike(a, b condition) bool {
	return a.arg == b.arg && rank(a.op) == rank(b.op) && a.value>>32 == b.value>>32 && a.mask>>32 == b.mask>>32 &&
		(a.mask == ^uint64(0)) == (b.mask == ^uint64(0))
}

// before reports whether condition a, the newer one, has to be tried before b.
func before(a, b condition, wide bool) bool {
	if a.arg != b.arg {
		return a.arg > b.arg
	}
	if ra, rb := rank(a.op), rank(b.op); ra != rb {
		return ra > rb
	}
	if wide && a.value>>32 == b.value>>32 && !alike(a, b) {
		return false
	}
	if a.op == opLT || a.op == opLE {
		return a.value < b.value
	}
	return a.value > b.value
}

// rank orders the conditions of a call: those with a higher rank are tried first.
func rank(op operator) int {
	switch op {
	case opMasked, opNE:
		return 3
	case opLT, opLE:
		return 2
	}
	return 1
}
