// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data of linux/seccomp.h.
const (
	offsetNumber = 0
	offsetArch   = 4
	offsetArgs   = 16
)

// label names an instruction by its distance from the end of the program: 1 is the last one.
type label int

// generator writes a program from its end to its start, so that the target of every jump is known,
// and its distance final, when the jump is written. A conditional jump reaches 255 instructions
// ahead (struct sock_filter has 8 bits for it): a target further away is reached through a return
// or an unconditional jump, which has 32 bits, put right behind the conditional one.
type generator struct {
	reversed []unix.SockFilter
	// returns are the actions returned so far, each with the return instruction nearest to the
	// start.
	returns []returnAt
	// shared finds code for a set of conditions that was written before.
	shared  map[string]label
	key     []byte
	lowHalf uint32 // offset of the low 32 bits in a 64-bit argument
}

type returnAt struct {
	action action
	first  label // its name
	near   label // where it was written last
}

// farthest is the distance that a conditional jump may reach, less room for the two jumps that may
// be put between.
const farthest = 255 - 2

func (g *generator) init(big bool) {
	g.reversed = make([]unix.SockFilter, 0, 512)
	g.shared = map[string]label{}
	if big {
		g.lowHalf = 4
	}
}

func (g *generator) write(code uint16, jt, jf uint8, k uint32) label {
	g.reversed = append(g.reversed, unix.SockFilter{Code: code, Jt: jt, Jf: jf, K: k})
	return label(len(g.reversed))
}

// ret returns the label that stands for an action, which is always the same one.
func (g *generator) ret(a action) label {
	for i := range g.returns {
		if g.returns[i].action == a {
			return g.returns[i].first
		}
	}
	l := g.write(unix.BPF_RET|unix.BPF_K, 0, 0, uint32(a))
	g.returns = append(g.returns, returnAt{a, l, l})
	return l
}

// near returns a label for the same code as target that a conditional jump written next can reach.
func (g *generator) near(target label) label {
	for i := range g.returns {
		r := &g.returns[i]
		if r.first != target {
			continue
		}
		if len(g.reversed)-int(r.near) > farthest {
			r.near = g.write(unix.BPF_RET|unix.BPF_K, 0, 0, uint32(r.action))
		}
		return r.near
	}
	if distance := len(g.reversed) - int(target); distance > farthest {
		return g.write(unix.BPF_JMP|unix.BPF_JA, 0, 0, uint32(distance))
	}
	return target
}

// jump writes a conditional jump on the accumulator.
func (g *generator) jump(op uint16, k uint32, yes, no label) label {
	yes = g.near(yes)
	no = g.near(no)
	here := len(g.reversed)
	return g.write(unix.BPF_JMP|unix.BPF_K|op, uint8(here-int(yes)), uint8(here-int(no)), k)
}

// load writes a load of 32 bits of seccomp_data; next is the code after it.
func (g *generator) load(offset uint32, next label) label {
	g.next(next)
	return g.write(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, 0, 0, offset)
}

// next makes target the code after the instruction to be written.
func (g *generator) next(target label) {
	if distance := len(g.reversed) - int(target); distance > 0 {
		g.write(unix.BPF_JMP|unix.BPF_JA, 0, 0, uint32(distance))
	}
}

// search writes a binary search for the range that the accumulator is in.
func (g *generator) search(ranges []numberRange) label {
	if len(ranges) == 1 {
		return ranges[0].target
	}
	if len(ranges) == 3 && ranges[0].target == ranges[2].target &&
		ranges[2].start-ranges[1].start == 1 {
		return g.jump(unix.BPF_JEQ, ranges[1].start, ranges[1].target, ranges[0].target)
	}
	middle := len(ranges) / 2
	high := g.search(ranges[middle:])
	low := g.search(ranges[:middle])
	return g.jump(unix.BPF_JGE, ranges[middle].start, high, low)
}

// level writes the alternatives of l, in order, and after them otherwise.
func (g *generator) level(l level, otherwise label, wide bool) label {
	g.key = g.key[:0]
	g.describe(l)
	g.key = binary.LittleEndian.AppendUint64(g.key, uint64(otherwise))
	if wide {
		g.key = append(g.key, 'w')
	}
	if at, ok := g.shared[string(g.key)]; ok {
		return at
	}
	key := string(g.key)
	for i := len(l) - 1; i >= 0; i-- {
		n := l[i]
		var then label
		if n.final {
			then = g.ret(n.action)
		} else {
			then = g.level(n.next, otherwise, wide)
		}
		otherwise = g.condition(n.condition, then, otherwise, wide)
	}
	g.shared[key] = otherwise
	return otherwise
}

// describe appends to g.key what distinguishes l from other levels.
func (g *generator) describe(l level) {
	g.key = append(g.key, '(')
	for _, n := range l {
		g.key = append(g.key, n.condition.arg, byte(n.condition.op))
		g.key = binary.LittleEndian.AppendUint64(g.key, n.condition.mask)
		g.key = binary.LittleEndian.AppendUint64(g.key, n.condition.value)
		if n.final {
			g.key = append(g.key, '=')
			g.key = binary.LittleEndian.AppendUint32(g.key, uint32(n.action))
		} else {
			g.describe(n.next)
		}
	}
	g.key = append(g.key, ')')
}

// condition writes the comparison of an argument in 32-bit halves, the high one first.
func (g *generator) condition(c condition, yes, no label, wide bool) label {
	low := offsetArgs + 8*uint32(c.arg) + g.lowHalf
	high := offsetArgs + 8*uint32(c.arg) + 4 - g.lowHalf
	lowValue, highValue := uint32(c.value), uint32(c.value>>32)
	switch c.op {
	case opNE:
		yes, no = no, yes
		c.op = opMasked
	case opLT:
		yes, no = no, yes
		c.op = opGE
	case opLE:
		yes, no = no, yes
		c.op = opGT
	}
	switch c.op {
	case opMasked:
		at := yes
		if mask := uint32(c.mask); mask != 0 {
			at = g.jump(unix.BPF_JEQ, lowValue, yes, no)
			at = g.masked(low, mask, at)
		}
		if mask := uint32(c.mask >> 32); wide && mask != 0 {
			at = g.jump(unix.BPF_JEQ, highValue, at, no)
			at = g.masked(high, mask, at)
		}
		return at
	case opGE:
		yes, at := yes, g.load(low, g.jump(unix.BPF_JGE, lowValue, yes, no))
		return g.highHalf(high, highValue, yes, at, no, wide)
	default: // opGT
		yes, at := yes, g.load(low, g.jump(unix.BPF_JGT, lowValue, yes, no))
		return g.highHalf(high, highValue, yes, at, no, wide)
	}
}

// highHalf writes: more than k is yes, k is equal, less is no.
func (g *generator) highHalf(offset, k uint32, yes, equal, no label, wide bool) label {
	if !wide {
		return equal
	}
	at := g.jump(unix.BPF_JEQ, k, equal, no)
	at = g.jump(unix.BPF_JGT, k, yes, at)
	return g.load(offset, at)
}

func (g *generator) masked(offset, mask uint32, next label) label {
	if mask != 0xffffffff {
		g.next(next)
		next = g.write(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, 0, 0, mask)
	}
	return g.load(offset, next)
}
