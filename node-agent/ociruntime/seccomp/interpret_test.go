// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// data is struct seccomp_data of linux/seccomp.h, less the instruction pointer.
type data struct {
	number uint32
	arch   uint32
	args   [6]uint64
}

// interpret runs a classic BPF program as the kernel's seccomp does: it takes only what
// seccomp_check_filter (kernel/seccomp.c) and bpf_check_classic (net/core/filter.c) take.
func interpret(program []unix.SockFilter, d data, order binary.ByteOrder) (uint32, error) {
	var raw [64]byte
	order.PutUint32(raw[0:], d.number)
	order.PutUint32(raw[4:], d.arch)
	for i, a := range d.args {
		order.PutUint64(raw[16+8*i:], a)
	}
	var a uint32
	for pc := 0; pc < len(program); pc++ {
		in := program[pc]
		take := func(condition bool) {
			if condition {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		}
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			if in.K > 60 || in.K%4 != 0 {
				return 0, fmt.Errorf("instruction %d: load of offset %d", pc, in.K)
			}
			a = order.Uint32(raw[in.K:])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= in.K
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(in.K)
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			take(a == in.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			take(a >= in.K)
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			take(a > in.K)
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			take(a&in.K != 0)
		case unix.BPF_RET | unix.BPF_K:
			return in.K, nil
		default:
			return 0, fmt.Errorf("instruction %d: code %#x", pc, in.Code)
		}
	}
	return 0, fmt.Errorf("ran past the end")
}
