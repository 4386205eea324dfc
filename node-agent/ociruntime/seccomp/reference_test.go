// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"math/rand/v2"
	"runtime"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// reference is the plainest evaluator of a profile there can be. It knows profiles in which all
// rules with conditions for one system call have the same action.
type reference struct {
	listed   []specs.Arch
	fallback uint32
	rules    []referenceRule
	newer    newerCalls
}

// newerCalls are the system calls that are newer than a profile: runc's
// libcontainer/seccomp/patchbpf answers them with ENOSYS before libseccomp's filter is asked.
type newerCalls struct {
	listed []specs.Arch
	// highest is the highest number that the profile names, for each architecture of its filter.
	highest map[specs.Arch]uint32
}

func findNewerCalls(p *specs.LinuxSeccomp) newerCalls {
	n := newerCalls{
		listed:  append([]specs.Arch{nativeName(runtime.GOARCH)}, p.Architectures...),
		highest: map[specs.Arch]uint32{},
	}
	switch p.DefaultAction {
	case specs.ActAllow, specs.ActLog, specs.ActTrace:
		return n
	}
	for _, name := range n.listed {
		a := architectureByName(name)
		for _, s := range p.Syscalls {
			for _, call := range s.Names {
				entry := lookup(call)
				if entry == nil {
					continue
				}
				if nr := entry.numbers[a.column]; nr > 0 {
					n.highest[name] = max(n.highest[name], uint32(nr))
				}
				// Unlike runc's, a rule for a multiplexed call counts by the multiplexer's number,
				// too.
				if mux, _, ok := multiplexed(call); ok && a.muxBase >= 0 &&
					returns(s.Action, s.ErrnoRet) != returns(p.DefaultAction, p.DefaultErrnoRet) {
					n.highest[name] = max(n.highest[name], uint32(a.muxBase)+mux)
				}
			}
		}
	}
	return n
}

// has reports whether a call is newer than the profile.
func (n newerCalls) has(d data) bool {
	// runc recognises x32 by its bit alone, and so answers ENOSYS for numbers from 1<<31 on, which
	// no ABI has.
	x32 := d.arch == unix.AUDIT_ARCH_X86_64 && d.number >= x32Bit
	for _, name := range n.listed {
		highest, some := n.highest[name]
		if architectureByName(name).audit != d.arch || !some || x32 != (name == specs.ArchX32) {
			continue
		}
		s390 := name == specs.ArchS390 || name == specs.ArchS390X
		if d.number > highest || s390 && d.number == 0 {
			return true
		}
	}
	return false
}

type referenceRule struct {
	entry     *syscallEntry
	mux, call uint32
	isMux     bool
	action    uint32
	args      []specs.LinuxSeccompArg
	split     bool // conditions on one argument: each is a rule
}

// returns computes the kernel's return value of an action.
func returns(name specs.LinuxSeccompAction, errnoRet *uint) uint32 {
	n := uint32(unix.EPERM)
	if errnoRet != nil {
		n = uint32(*errnoRet)
	}
	return map[specs.LinuxSeccompAction]uint32{
		specs.ActKill: 0, specs.ActKillThread: 0, specs.ActKillProcess: 0x80000000,
		specs.ActTrap:  0x30000,
		specs.ActErrno: 0x50000 | n, specs.ActTrace: 0x7ff00000 | n, specs.ActAllow: 0x7fff0000,
		specs.ActLog: 0x7ffc0000, specs.ActNotify: 0x7fc00000,
	}[name]
}

func newReference(p *specs.LinuxSeccomp) *reference {
	r := &reference{
		listed:   append([]specs.Arch{nativeName(runtime.GOARCH)}, p.Architectures...),
		fallback: returns(p.DefaultAction, p.DefaultErrnoRet),
		newer:    findNewerCalls(p),
	}
	for _, s := range p.Syscalls {
		var seen [6]int
		for _, arg := range s.Args {
			seen[arg.Index]++
		}
		for _, name := range s.Names {
			rule := referenceRule{
				entry: lookup(name), action: returns(s.Action, s.ErrnoRet), args: s.Args,
				split: slices.Max(seen[:]) > 1,
			}
			rule.mux, rule.call, rule.isMux = multiplexed(name)
			if rule.entry != nil && rule.action != r.fallback {
				r.rules = append(r.rules, rule)
			}
		}
	}
	return r
}

// newerVerdict is SECCOMP_RET_ERRNO with ENOSYS.
const newerVerdict = 0x50000 | uint32(unix.ENOSYS)

// verdict returns the expected verdict on one call.
func (r *reference) verdict(d data) (uint32, error) {
	a := architectureByName(r.listed[0])
	if d.arch != a.audit {
		i := slices.IndexFunc(r.listed, func(name specs.Arch) bool {
			return architectureByName(name).audit == d.arch
		})
		if i < 0 {
			return 0, nil
		}
		a = architectureByName(r.listed[i])
	}
	if r.newer.has(d) {
		return newerVerdict, nil
	}
	if a.audit == unix.AUDIT_ARCH_X86_64 {
		a = architectureByName(specs.ArchX86_64)
		if d.number >= x32Bit && d.number != 0xffffffff {
			if !slices.Contains(r.listed, specs.ArchX32) {
				return 0, nil
			}
			a = architectureByName(specs.ArchX32)
		}
	}
	verdict := r.fallback
	for i := range r.rules {
		rule := &r.rules[i]
		viaMux := false
		switch {
		case d.number < 1<<31 && rule.entry.numbers[a.column] == int32(d.number):
		case rule.isMux && a.muxBase >= 0 && d.number == uint32(a.muxBase)+rule.mux:
			first := d.args[0]
			if !a.wide {
				first = uint64(uint32(first))
			}
			if first != uint64(rule.call) {
				continue
			}
			viaMux = true
		default:
			continue
		}
		some, all, conditions, trivial := false, true, 0, false
		for _, arg := range rule.args {
			if arg.Op == specs.OpMaskedEqual && (arg.Value == 0 || !a.wide && uint32(arg.Value) == 0) ||
				viaMux && arg.Index == 0 {
				trivial = true // or its place was taken by the call's number
				continue
			}
			conditions++
			h := holds(arg, d.args[arg.Index], a.wide)
			some, all = some || h, all && h
		}
		if matches := rule.split && (some || trivial) || !rule.split && all; !matches {
			continue
		}
		verdict = rule.action
		if !viaMux && (conditions == 0 || rule.split && trivial) {
			return verdict, nil // nothing comes before the first without conditions
		}
	}
	return verdict, nil
}

func holds(c specs.LinuxSeccompArg, v uint64, wide bool) bool {
	a, b := c.Value, c.ValueTwo
	if !wide {
		a, b, v = uint64(uint32(a)), uint64(uint32(b)), uint64(uint32(v))
	}
	switch c.Op {
	case specs.OpEqualTo:
		return v == a
	case specs.OpNotEqual:
		return v != a
	case specs.OpLessThan:
		return v < a
	case specs.OpLessEqual:
		return v <= a
	case specs.OpGreaterThan:
		return v > a
	case specs.OpGreaterEqual:
		return v >= a
	}
	return v&a == b&a
}

// calls yields system calls that could show a difference between two filters for p: all numbers of
// the architectures, and values next to those that the profile compares with.
func calls(p *specs.LinuxSeccomp, r *rand.Rand, yield func(data) bool) {
	interesting := map[string][6][]uint64{}
	for _, s := range p.Syscalls {
		for _, name := range s.Names {
			values := interesting[name]
			for _, a := range s.Args {
				for _, v := range []uint64{a.Value, a.ValueTwo, a.Value & a.ValueTwo, a.ValueTwo | ^a.Value} {
					values[a.Index] = append(values[a.Index], v, v+1, v-1, v^1<<32, v^1<<63, v&0xffffffff, v>>32,
						v<<32, 0, ^uint64(0), v|0xffffffff, v+1<<32, v-1<<32)
				}
			}
			interesting[name] = values
		}
	}
	var muxNames []string
	for name := range interesting {
		if _, _, ok := multiplexed(name); ok {
			muxNames = append(muxNames, name)
		}
	}
	slices.Sort(muxNames)
	pick := func(name string, d *data) {
		for i, values := range interesting[name] {
			d.args[i] = r.Uint64()
			if len(values) > 0 {
				d.args[i] = values[r.IntN(len(values))]
			}
		}
	}
	native := nativeName(runtime.GOARCH)
	for _, name := range append([]specs.Arch{native, specs.ArchX86, specs.ArchARM, specs.ArchS390X},
		p.Architectures...) {
		a := architectureByName(name)
		for i := range syscallTable {
			e := &syscallTable[i]
			nr := e.numbers[a.column]
			if nr < 0 {
				continue
			}
			times := 1
			for _, values := range interesting[e.name] {
				times += 3 * len(values)
			}
			for range min(times, 400) {
				d := data{number: uint32(nr), arch: a.audit}
				pick(e.name, &d)
				if !yield(d) {
					return
				}
			}
		}
		if a.muxBase >= 0 {
			for _, name := range muxNames {
				mux, call, _ := multiplexed(name)
				for range 40 {
					d := data{number: uint32(a.muxBase) + mux, arch: a.audit}
					pick(name, &d)
					d.args[0] = uint64(call)
					if r.IntN(8) == 0 {
						d.args[0] ^= 1 << 32
					}
					if r.IntN(8) == 0 {
						d.args[0] = uint64(r.IntN(30))
					}
					if !yield(d) {
						return
					}
				}
			}
		}
		for _, nr := range []uint32{
			0, 334, 400, 423, 460, 471, 472, 500, 511, 512, 547, 548, 1023, 4000, 5000, 0x3fffffff,
			0x40000000, 0x40000001,
			0x400001ff, 0x40000200, 0x40000223, 0x40000224, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff,
		} {
			if !yield(data{number: nr, arch: a.audit}) {
				return
			}
		}
	}
	yield(data{number: 1, arch: 0})
}

// randomProfile makes a profile in which all rules for one system call have the same action.
func randomProfile(r *rand.Rand, operators []specs.LinuxSeccompOperator) *specs.LinuxSeccomp {
	actions := []specs.LinuxSeccompAction{
		specs.ActAllow, specs.ActErrno, specs.ActKill,
		specs.ActKillProcess, specs.ActKillThread, specs.ActLog, specs.ActTrace, specs.ActTrap,
	}
	errno := func(a specs.LinuxSeccompAction) *uint {
		if a != specs.ActErrno && a != specs.ActTrace || r.IntN(2) == 0 {
			return nil
		}
		v := uint(r.IntN(50))
		return &v
	}
	p := &specs.LinuxSeccomp{DefaultAction: actions[r.IntN(len(actions))]}
	p.DefaultErrnoRet = errno(p.DefaultAction)
	for _, a := range []specs.Arch{
		specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchARM,
		specs.ArchAARCH64, specs.ArchPPC64LE, specs.ArchMIPSEL, specs.ArchRISCV64,
		specs.ArchMIPSEL64N32,
	} {
		if r.IntN(3) == 0 {
			p.Architectures = append(p.Architectures, a)
		}
	}
	// X32 goes only together with X86_64, which on amd64 is always in.
	all := append(p.Architectures, nativeName(runtime.GOARCH))
	if slices.Contains(all, specs.ArchX32) && !slices.Contains(all, specs.ArchX86_64) {
		p.Architectures = append(p.Architectures, specs.ArchX86_64)
	}
	r.Shuffle(len(p.Architectures), func(i, j int) {
		p.Architectures[i], p.Architectures[j] = p.Architectures[j], p.Architectures[i]
	})
	value := func() uint64 {
		small := []uint64{0, 1, 2, 3, 5, 40, 0xff, 0x7fffffff, 0x80000000, 0xffffffff}
		switch r.IntN(6) {
		case 0:
			return r.Uint64()
		case 1:
			return small[r.IntN(len(small))]<<32 | small[r.IntN(len(small))]
		case 2:
			return ^uint64(0)
		}
		return small[r.IntN(len(small))]
	}
	ofName := map[string]specs.LinuxSyscall{}
	muxed := []string{
		"socket", "accept", "accept4", "send", "recvmsg", "shmat", "semop", "semtimedop",
		"msgget", "socketcall", "ipc",
	}
	// Few names make rules meet, many make the filter long.
	pool := 1 + r.IntN(12)
	if r.IntN(4) == 0 {
		pool = len(syscallTable)
	}
	start := r.IntN(len(syscallTable))
	for range 1 + r.IntN(80) {
		s := specs.LinuxSyscall{Action: actions[r.IntN(len(actions))]}
		s.ErrnoRet = errno(s.Action)
		if r.IntN(4) > 0 {
			for range 1 + r.IntN(3) {
				s.Args = append(s.Args, specs.LinuxSeccompArg{
					Index: uint(r.IntN(6)),
					Op:    operators[r.IntN(len(operators))], Value: value(), ValueTwo: value(),
				})
			}
		}
		for range 1 + r.IntN(3) {
			name := syscallTable[(start+r.IntN(pool))%len(syscallTable)].name
			if r.IntN(4) == 0 {
				name = muxed[r.IntN(len(muxed))]
			}
			if slices.Contains(s.Names, name) {
				continue
			}
			s.Names = append(s.Names, name)
		}
		for _, name := range s.Names {
			key := name
			if nr, _, ok := multiplexed(name); ok || name == "socketcall" || name == "ipc" {
				// All that could end in the same multiplexer.
				key = "ipc"
				if nr == socketcallNumber || name == "socketcall" {
					key = "socketcall"
				}
			}
			one := s
			one.Names = []string{name}
			if first, ok := ofName[key]; ok {
				one.Action, one.ErrnoRet = first.Action, first.ErrnoRet
			} else {
				ofName[key] = s
			}
			p.Syscalls = append(p.Syscalls, one)
		}
	}
	return p
}
