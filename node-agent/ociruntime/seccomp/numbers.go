// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

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
func numberedRules(a *architecture, rules []namedRule, all []numbered, keys []uint64) ([]numbered,
	[]uint64,
) {
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
