// SPDX-License-Identifier: Apache-2.0

package launch

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// op is a step with its arguments resolved to numbers.
type op struct {
	call    uintptr
	args    [6]uintptr
	regs    [6]uint16 // where not 0, the argument is this register
	out     uint16
	ok, err int32     // where to go on
	allowed [3]uint64 // errnos after which to go on, a bit each
	must    uintptr   // the errno that has to come, and
	mustErr uintptr   // what to report where it does not
}

// program is a plan ready to run. It lies, with all that it points to, in the child's memory.
type program struct {
	ops  []op
	regs []uintptr
	// first are the calls before the plan's own steps, which cannot fail: close_range(2) of
	// descriptors that are not the child's.
	first []gap
	// report is the pipe that the child reports to, sync the one that it waits on.
	report, sync uintptr
	// pidfd is the variable into which clone3 writes the child's pidfd for the parent.
	pidfd int32
	// blocked is the sigset_t of the signals that are blocked.
	blocked uint64
	// ignored are the signals that this process ignores, which stay so over clone3 and execve
	// (signal(7)): a container is not to learn that its runtime was started by nohup. They are set
	// to defaultAction.
	ignored []uintptr
	// progress is memory that the child shares with its parent, into which it writes the number of
	// its step.
	progress      *int64
	defaultAction [sigactionSize]byte
	// thread is for a Thread.
	thread struct {
		step int64
		// alive is zero once the thread has ended.
		alive uint32
	}
}

// block is memory of a plan: where it is here, and where the child has it.
type block struct{ from, to, child uintptr }

// compiler resolves a plan's arguments to numbers, and copies the data that they point to into the
// child's memory.
type compiler struct {
	inputs map[plan.Input]int
	memory *memory
	// texts is the unused part of the memory of strings.
	texts []byte
	// blocks are the plan's memory without overlaps, by address.
	blocks []block
}

// compile resolves a plan's arguments. Inputs have their final descriptor numbers by now.
func compile(p *plan.Plan, inputs map[plan.Input]int, first []gap, ignored []uintptr) (*program,
	*memory, error,
) {
	c := compiler{inputs: inputs, blocks: make([]block, 0, 64)}
	texts, size := c.measure(p)
	size += sizeOf[program](1) + sizeOf[op](len(p.Steps)) + sizeOf[uintptr](p.Regs+len(ignored)) +
		sizeOf[gap](len(first)) + sizeOf[byte](texts)
	var err error
	if c.memory, err = newMemory(size); err != nil {
		return nil, nil, err
	}
	prog := &carve[program](c.memory, 1)[0]
	prog.ops, prog.regs = carve[op](c.memory, len(p.Steps)), carve[uintptr](c.memory, p.Regs)
	prog.first, prog.ignored = carve[gap](c.memory, len(first)), carve[uintptr](c.memory, len(ignored))
	copy(prog.first, first)
	copy(prog.ignored, ignored)
	c.texts = carve[byte](c.memory, texts)
	for i := range c.blocks {
		b := &c.blocks[i]
		to := carve[byte](c.memory, int(b.to-b.from))
		b.child = uintptr(unsafe.Pointer(unsafe.SliceData(to)))
	}
	for i := range p.Steps {
		s := &p.Steps[i]
		o := &prog.ops[i]
		o.call, o.out, o.ok, o.err = uintptr(s.Call), uint16(s.Out), int32(i+1), int32(i+1)
		if s.IfOK != 0 {
			o.ok = int32(p.Labels[s.IfOK])
		}
		if s.IfErr != 0 {
			o.err = int32(p.Labels[s.IfErr])
		}
		for _, e := range s.Tolerate {
			o.allowed[e/64] |= 1 << (e % 64)
		}
		o.must, o.mustErr = uintptr(s.Must), uintptr(s.MustErr)
		for j := range s.Args {
			if err := c.argument(o, j, &s.Args[j]); err != nil {
				c.memory.free()
				return nil, nil, fmt.Errorf("step %d, %s: %w", i, s, err)
			}
		}
	}
	return prog, c.memory, nil
}

// measure finds the plan's memory. It returns the length of all strings with the zero bytes at
// their ends, and the size of all else.
func (c *compiler) measure(p *plan.Plan) (texts, size int) {
	var add func(a *plan.Arg)
	add = func(a *plan.Arg) {
		if b, ok := a.Bytes(); ok && len(b) > 0 {
			from := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
			// Most steps have memory that one of those just before has, too.
			k := (block{from: from, to: from + uintptr(len(b))})
			if !slices.Contains(c.blocks[max(0, len(c.blocks)-8):], k) {
				c.blocks = append(c.blocks, k)
			}
		}
		for _, to := range a.Pointers() {
			add(&to.To)
		}
	}
	for i := range p.Steps {
		args := p.Steps[i].Args
		for j := range args {
			a := &args[j]
			if s, ok := a.Text(); ok {
				texts += len(s) + 1
			} else if list, ok := a.Strings(); ok {
				for _, s := range list {
					texts += len(s) + 1
				}
				size += sizeOf[uintptr](len(list) + 1)
			} else {
				add(a)
			}
		}
	}
	slices.SortFunc(c.blocks, func(a, b block) int { return cmp.Compare(a.from, b.from) })
	merged := c.blocks[:0]
	for _, b := range c.blocks {
		if n := len(merged); n > 0 && b.from < merged[n-1].to {
			merged[n-1].to = max(merged[n-1].to, b.to)
		} else {
			merged = append(merged, b)
		}
	}
	c.blocks = merged
	for _, b := range merged {
		size += sizeOf[byte](int(b.to - b.from))
	}
	return texts, size
}

func (c *compiler) argument(o *op, j int, a *plan.Arg) error {
	if v, ok := a.Const(); ok {
		o.args[j] = v
		return nil
	}
	if r, ok := a.Reg(); ok {
		if o.call == uintptr(plan.OpSet) && j == 0 {
			return nil // the register that OpSet names is its result
		}
		o.regs[j] = uint16(r)
		return nil
	}
	if in, ok := a.Input(); ok {
		fd, ok := c.inputs[in]
		if !ok {
			return fmt.Errorf("input %s has no descriptor", in)
		}
		o.args[j] = uintptr(fd)
		return nil
	}
	if s, ok := a.Text(); ok {
		var err error
		o.args[j], err = c.text(s)
		return err
	}
	if list, ok := a.Strings(); ok {
		array := carve[uintptr](c.memory, len(list)+1)
		for i, s := range list {
			var err error
			if array[i], err = c.text(s); err != nil {
				return err
			}
		}
		o.args[j] = uintptr(unsafe.Pointer(unsafe.SliceData(array)))
		return nil
	}
	if _, ok := a.Bytes(); ok {
		o.args[j] = c.bytes(a)
		return nil
	}
	return fmt.Errorf("argument %d is of no known kind", j)
}

// text copies a string, and returns the address of the copy.
func (c *compiler) text(s string) (uintptr, error) {
	if strings.IndexByte(s, 0) >= 0 {
		return 0, fmt.Errorf("%q holds a NUL byte", s)
	}
	at := uintptr(unsafe.Pointer(unsafe.SliceData(c.texts)))
	c.texts = c.texts[copy(c.texts, s)+1:] // the memory is zero
	return at, nil
}

// bytes copies memory with all that it points to, and returns the address of the copy.
func (c *compiler) bytes(a *plan.Arg) uintptr {
	b, _ := a.Bytes()
	if len(b) == 0 {
		return 0 // of which there is nothing to point to
	}
	from := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	i, _ := slices.BinarySearchFunc(c.blocks, from, func(k block, at uintptr) int {
		if k.to <= at {
			return -1
		}
		return 1
	})
	at := c.blocks[i].child + from - c.blocks[i].from
	to := c.memory.at(at, len(b))
	copy(to, b)
	for _, p := range a.Pointers() {
		binary.NativeEndian.PutUint64(to[p.At:], uint64(c.bytes(&p.To)))
	}
	return at
}
