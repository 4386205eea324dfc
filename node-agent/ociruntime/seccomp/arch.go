// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"slices"
	"sort"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The columns of syscallTable: one for each numbering of system calls.
const (
	colX8664 = iota
	colX32
	colX86
	colARM
	colAARCH64
	colMIPS
	colMIPS64
	colMIPS64N32
	colPARISC
	colPARISC64
	colPPC
	colPPC64
	colRISCV64
	colS390
	colS390X
	colLOONGARCH64
	columns
)

// syscallEntry is one line of syscallTable.
type syscallEntry struct {
	name    string
	numbers [columns]int32
}

// lookup returns the table's line for name, or nil.
func lookup(name string) *syscallEntry {
	i := sort.Search(len(syscallTable), func(i int) bool { return syscallTable[i].name >= name })
	if i == len(syscallTable) || syscallTable[i].name != name {
		return nil
	}
	return &syscallTable[i]
}

// KnownSyscall reports whether any architecture has a system call of that name. A profile
// may name others, as it may be written for a newer kernel: they are left out of the filter.
func KnownSyscall(name string) bool { return lookup(name) != nil }

// architecture is an ABI that seccomp distinguishes by seccomp_data.arch (and x32 from
// x86_64 by a bit of the number).
type architecture struct {
	name   specs.Arch
	audit  uint32 // AUDIT_ARCH_* of linux/audit.h
	column int    // of syscallTable
	wide   bool   // arguments have 64 bits
	big    bool   // big endian
	// muxBase is the number that socketcall(2)'s 102 and ipc(2)'s 117 are relative to, -1
	// for an ABI that does not have these two.
	muxBase int
}

// x32Bit is __X32_SYSCALL_BIT of asm/unistd.h: set in the number of a system call of the x32 ABI,
// which shares AUDIT_ARCH_X86_64 with the native one.
const x32Bit = 0x40000000

// auditN32 is __AUDIT_ARCH_CONVENTION_MIPS64_N32 of linux/audit.h.
const auditN32 = 0x20000000

// architectures are the architectures of the runtime-spec with a table of system calls. The spec
// also names m68k, sh and sheb, for which Go has no port.
var architectures = [...]architecture{
	{specs.ArchX86, unix.AUDIT_ARCH_I386, colX86, false, false, 0},
	{specs.ArchX86_64, unix.AUDIT_ARCH_X86_64, colX8664, true, false, -1},
	{specs.ArchX32, unix.AUDIT_ARCH_X86_64, colX32, false, false, -1},
	{specs.ArchARM, unix.AUDIT_ARCH_ARM, colARM, false, false, -1},
	{specs.ArchAARCH64, unix.AUDIT_ARCH_AARCH64, colAARCH64, true, false, -1},
	{specs.ArchMIPS, unix.AUDIT_ARCH_MIPS, colMIPS, false, true, 4000},
	{specs.ArchMIPS64, unix.AUDIT_ARCH_MIPS64, colMIPS64, true, true, -1},
	{specs.ArchMIPS64N32, unix.AUDIT_ARCH_MIPS64 | auditN32, colMIPS64N32, false, true, -1},
	{specs.ArchMIPSEL, unix.AUDIT_ARCH_MIPSEL, colMIPS, false, false, 4000},
	{specs.ArchMIPSEL64, unix.AUDIT_ARCH_MIPSEL64, colMIPS64, true, false, -1},
	{specs.ArchMIPSEL64N32, unix.AUDIT_ARCH_MIPSEL64 | auditN32, colMIPS64N32, false, false, -1},
	{specs.ArchPARISC, unix.AUDIT_ARCH_PARISC, colPARISC, false, true, -1},
	{specs.ArchPARISC64, unix.AUDIT_ARCH_PARISC64, colPARISC64, true, true, -1},
	{specs.ArchPPC, unix.AUDIT_ARCH_PPC, colPPC, false, true, 0},
	{specs.ArchPPC64, unix.AUDIT_ARCH_PPC64, colPPC64, true, true, 0},
	{specs.ArchPPC64LE, unix.AUDIT_ARCH_PPC64LE, colPPC64, true, false, 0},
	{specs.ArchRISCV64, unix.AUDIT_ARCH_RISCV64, colRISCV64, true, false, -1},
	{specs.ArchS390, unix.AUDIT_ARCH_S390, colS390, false, true, 0},
	{specs.ArchS390X, unix.AUDIT_ARCH_S390X, colS390X, true, true, 0},
	{specs.ArchLOONGARCH64, unix.AUDIT_ARCH_LOONGARCH64, colLOONGARCH64, true, false, -1},
}

// architectureByName returns the architecture of the spec's name, or nil.
func architectureByName(name specs.Arch) *architecture {
	for i := range architectures {
		if architectures[i].name == name {
			return &architectures[i]
		}
	}
	return nil
}

// nativeName returns the spec's name of the architecture that Go calls goarch, "" if there is none.
func nativeName(goarch string) specs.Arch {
	switch goarch {
	case "386":
		return specs.ArchX86
	case "amd64":
		return specs.ArchX86_64
	case "arm":
		return specs.ArchARM
	case "arm64":
		return specs.ArchAARCH64
	case "mips":
		return specs.ArchMIPS
	case "mips64":
		return specs.ArchMIPS64
	case "mipsle":
		return specs.ArchMIPSEL
	case "mips64le":
		return specs.ArchMIPSEL64
	case "ppc64":
		return specs.ArchPPC64
	case "ppc64le":
		return specs.ArchPPC64LE
	case "riscv64":
		return specs.ArchRISCV64
	case "s390x":
		return specs.ArchS390X
	case "loong64":
		return specs.ArchLOONGARCH64
	}
	return ""
}

// Numbers of the two multiplexed system calls, relative to muxBase.
const (
	socketcallNumber = 102
	ipcNumber        = 117
)

// multiplexed returns the multiplexer (socketcall or ipc) of a system call, and its number there
// (linux/net.h, linux/ipc.h). ok is false if it has none.
func multiplexed(name string) (number, call uint32, ok bool) {
	switch name {
	case "socket":
		return socketcallNumber, 1, true
	case "bind":
		return socketcallNumber, 2, true
	case "connect":
		return socketcallNumber, 3, true
	case "listen":
		return socketcallNumber, 4, true
	case "accept":
		return socketcallNumber, 5, true
	case "getsockname":
		return socketcallNumber, 6, true
	case "getpeername":
		return socketcallNumber, 7, true
	case "socketpair":
		return socketcallNumber, 8, true
	case "send":
		return socketcallNumber, 9, true
	case "recv":
		return socketcallNumber, 10, true
	case "sendto":
		return socketcallNumber, 11, true
	case "recvfrom":
		return socketcallNumber, 12, true
	case "shutdown":
		return socketcallNumber, 13, true
	case "setsockopt":
		return socketcallNumber, 14, true
	case "getsockopt":
		return socketcallNumber, 15, true
	case "sendmsg":
		return socketcallNumber, 16, true
	case "recvmsg":
		return socketcallNumber, 17, true
	case "accept4":
		return socketcallNumber, 18, true
	case "recvmmsg":
		return socketcallNumber, 19, true
	case "sendmmsg":
		return socketcallNumber, 20, true
	case "semop":
		return ipcNumber, 1, true
	case "semget":
		return ipcNumber, 2, true
	case "semctl":
		return ipcNumber, 3, true
	case "semtimedop":
		return ipcNumber, 4, true
	case "msgsnd":
		return ipcNumber, 11, true
	case "msgrcv":
		return ipcNumber, 12, true
	case "msgget":
		return ipcNumber, 13, true
	case "msgctl":
		return ipcNumber, 14, true
	case "shmat":
		return ipcNumber, 21, true
	case "shmdt":
		return ipcNumber, 22, true
	case "shmget":
		return ipcNumber, 23, true
	case "shmctl":
		return ipcNumber, 24, true
	}
	return 0, 0, false
}

// SupportedArchitectures returns the architectures that Compile knows, sorted, for the
// runtime-spec's features document (linux.seccomp.archs).
func SupportedArchitectures() []specs.Arch {
	names := make([]specs.Arch, 0, len(architectures))
	for _, a := range architectures {
		names = append(names, a.name)
	}
	slices.Sort(names)
	return names
}

// SupportedActions returns the actions that Compile knows, sorted (linux.seccomp.actions).
func SupportedActions() []specs.LinuxSeccompAction {
	return []specs.LinuxSeccompAction{
		specs.ActAllow, specs.ActErrno, specs.ActKill, specs.ActKillProcess, specs.ActKillThread,
		specs.ActLog, specs.ActNotify, specs.ActTrace, specs.ActTrap,
	}
}

// SupportedOperators returns the operators that Compile knows, sorted (linux.seccomp.operators).
func SupportedOperators() []specs.LinuxSeccompOperator {
	return []specs.LinuxSeccompOperator{
		specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpLessEqual,
		specs.OpLessThan, specs.OpMaskedEqual, specs.OpNotEqual,
	}
}

// flagTsync is not a constant of specs-go, though config-linux.md lists it.
const flagTsync specs.LinuxSeccompFlag = "SECCOMP_FILTER_FLAG_TSYNC"

// SupportedFlags returns the flags that Compile knows, sorted (linux.seccomp.knownFlags). The
// kernel may be older than a flag.
func SupportedFlags() []specs.LinuxSeccompFlag {
	return []specs.LinuxSeccompFlag{
		specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow, flagTsync,
		specs.LinuxSeccompFlagWaitKillableRecv,
	}
}
