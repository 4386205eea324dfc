// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// schedulerPolicies returns the numbers of scheduling policies (linux/sched.h).
func schedulerPolicy(p specs.LinuxSchedulerPolicy) (uint32, bool) {
	switch p {
	case specs.SchedOther:
		return unix.SCHED_NORMAL, true
	case specs.SchedFIFO:
		return unix.SCHED_FIFO, true
	case specs.SchedRR:
		return unix.SCHED_RR, true
	case specs.SchedBatch:
		return unix.SCHED_BATCH, true
	case specs.SchedISO:
		return 4, true // reserved in linux/sched.h and never implemented: the kernel answers EINVAL
	case specs.SchedIdle:
		return unix.SCHED_IDLE, true
	case specs.SchedDeadline:
		return unix.SCHED_DEADLINE, true
	}
	return 0, false
}

func schedulerFlag(f specs.LinuxSchedulerFlag) (uint64, bool) {
	switch f {
	case specs.SchedFlagResetOnFork:
		return unix.SCHED_FLAG_RESET_ON_FORK, true
	case specs.SchedFlagReclaim:
		return unix.SCHED_FLAG_RECLAIM, true
	case specs.SchedFlagDLOverrun:
		return unix.SCHED_FLAG_DL_OVERRUN, true
	case specs.SchedFlagKeepPolicy:
		return unix.SCHED_FLAG_KEEP_POLICY, true
	case specs.SchedFlagKeepParams:
		return unix.SCHED_FLAG_KEEP_PARAMS, true
	case specs.SchedFlagUtilClampMin:
		return unix.SCHED_FLAG_UTIL_CLAMP_MIN, true
	case specs.SchedFlagUtilClampMax:
		return unix.SCHED_FLAG_UTIL_CLAMP_MAX, true
	}
	return 0, false
}

// scheduling sets the scheduler and the I/O priority of the process. It comes after the limits,
// since RLIMIT_RTPRIO and RLIMIT_NICE may be what allows it (sched(7)), and while there still is
// CAP_SYS_NICE.
func (c *container) scheduling() error {
	if s := c.spec.Process.Scheduler; s != nil {
		attr, err := c.schedulerAttr(s)
		if err != nil {
			return err
		}
		c.at("process.scheduler")
		c.call(unix.SYS_SCHED_SETATTR, num(0), structArg(native(attr), printScheduler(s)), num(0))
	}
	if p := c.spec.Process.IOPriority; p != nil {
		var class int // linux/ioprio.h
		switch p.Class {
		case specs.IOPRIO_CLASS_RT:
			class = 1
		case specs.IOPRIO_CLASS_BE:
			class = 2
		case specs.IOPRIO_CLASS_IDLE:
			class = 3
		default:
			return c.fieldError("process.ioPriority.class", strconv.Quote(string(p.Class)),
				"allowed are IOPRIO_CLASS_RT, IOPRIO_CLASS_BE, IOPRIO_CLASS_IDLE")
		}
		if p.Priority < 0 || p.Priority > 7 {
			return c.fieldError("process.ioPriority.priority", strconv.Itoa(p.Priority),
				"allowed are 0 to 7")
		}
		c.at("process.ioPriority")
		value := Arg{kind: argConst, val: uintptr(class<<13 | p.Priority), names: ioprioNames}
		c.call(unix.SYS_IOPRIO_SET, flags(uint(ioprioWhoPgrp), ioprioWhoNames), num(0), value)
	}
	return nil
}

// ioprioWhoPgrp is IOPRIO_WHO_PGRP: the priority is that of the process group, whose only member
// the child is as yet.
const ioprioWhoPgrp = 2

func (c *container) schedulerAttr(s *specs.Scheduler) (*unix.SchedAttr, error) {
	policy, ok := schedulerPolicy(s.Policy)
	if !ok {
		return nil, c.fieldError("process.scheduler.policy", strconv.Quote(string(s.Policy)),
			"it is none of sched(7)")
	}
	attr := &unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: policy, Nice: s.Nice, Priority: uint32(s.Priority),
		Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
	}
	for i, f := range s.Flags {
		flag, ok := schedulerFlag(f)
		if !ok {
			return nil, c.fieldError("process.scheduler.flags["+strconv.Itoa(i)+"]",
				strconv.Quote(string(f)), "it is none of sched_setattr(2)")
		}
		attr.Flags |= flag
	}
	return attr, nil
}

func printScheduler(s *specs.Scheduler) string {
	var b strings.Builder
	fmt.Fprintf(&b, "{policy=%s", s.Policy)
	for i, f := range s.Flags {
		b.WriteString([]string{", flags=", "|"}[min(i, 1)] + string(f))
	}
	if s.Nice != 0 {
		fmt.Fprintf(&b, ", nice=%d", s.Nice)
	}
	if s.Priority != 0 {
		fmt.Fprintf(&b, ", priority=%d", s.Priority)
	}
	if s.Policy == specs.SchedDeadline {
		fmt.Fprintf(&b, ", runtime=%d, deadline=%d, period=%d", s.Runtime, s.Deadline, s.Period)
	}
	return b.String() + "}"
}

// MemoryPolicyModes returns the modes of linux.memoryPolicy that are honoured, by their numbers
// (linux/mempolicy.h).
func MemoryPolicyModes() []string {
	return []string{
		string(specs.MpolDefault), string(specs.MpolPreferred), string(specs.MpolBind),
		string(specs.MpolInterleave),
		string(specs.MpolLocal), string(specs.MpolPreferredMany), string(specs.MpolWeightedInterleave),
	}
}

// MemoryPolicyFlags returns the flags of linux.memoryPolicy that are honoured.
func MemoryPolicyFlags() []string {
	return []string{
		string(specs.MpolFNumaBalancing), string(specs.MpolFRelativeNodes),
		string(specs.MpolFStaticNodes),
	}
}

func memoryPolicyFlag(f specs.MemoryPolicyFlagType) (uint64, bool) {
	switch f {
	case specs.MpolFNumaBalancing:
		return 1 << 13, true
	case specs.MpolFRelativeNodes:
		return 1 << 14, true
	case specs.MpolFStaticNodes:
		return 1 << 15, true
	}
	return 0, false
}

// CountNodes returns the number of nodes that linux.memoryPolicy.nodes names, or 0 if it is not a
// list.
func CountNodes(list string) (n int) {
	mask, _ := bitMask(list, MaxCPUs) // there are no more nodes than processors
	for _, b := range mask {
		n += bits.OnesCount8(b)
	}
	return n
}

// memoryPolicy sets the nodes from which the process's memory comes (set_mempolicy(2)). execve
// keeps the policy.
func (c *container) memoryPolicy() error {
	p := c.spec.Linux.MemoryPolicy
	if p == nil {
		return nil
	}
	mode := -1
	for i, name := range MemoryPolicyModes() {
		if name == string(p.Mode) {
			mode = i
		}
	}
	if mode < 0 {
		return c.fieldError("linux.memoryPolicy.mode", strconv.Quote(string(p.Mode)),
			"it is none of set_mempolicy(2)")
	}
	value, shown := uint64(mode), string(p.Mode)
	for i, f := range p.Flags {
		flag, ok := memoryPolicyFlag(f)
		if !ok {
			return c.fieldError("linux.memoryPolicy.flags["+strconv.Itoa(i)+"]", strconv.Quote(string(f)),
				"it is none of set_mempolicy(2)")
		}
		value, shown = value|flag, shown+"|"+string(f)
	}
	c.at("linux.memoryPolicy")
	op := Arg{kind: argConst, val: uintptr(value), names: &names{render: func(uintptr) string {
		return shown
	}}}
	if strings.TrimSpace(p.Nodes) == "" {
		c.call(unix.SYS_SET_MEMPOLICY, op, noPointer(), num(0))
		return nil
	}
	mask, err := bitMask(p.Nodes, maxNodes)
	if err != nil {
		return c.fieldError("linux.memoryPolicy.nodes", strconv.Quote(p.Nodes), "%v", err)
	}
	// The kernel reads one bit less than it is given.
	c.call(unix.SYS_SET_MEMPOLICY, op, structArg(mask, "{"+p.Nodes+"}"), num(8*len(mask)+1))
	return nil
}

// maxNodes is the number of memory nodes of the largest kernel: 1<<CONFIG_NODES_SHIFT.
const maxNodes = 1024
