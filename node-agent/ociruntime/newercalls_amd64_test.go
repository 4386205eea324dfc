// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// programCalling returns a static ELF program for x86-64 that makes one system call without
// arguments, and exits with its errno.
func programCalling(number uint32) []byte {
	const (
		base    = 0x400000
		headers = 64 + 56
	)
	code := binary.LittleEndian.AppendUint32([]byte{0xb8}, number) // mov eax, number
	code = append(code, 0x0f, 0x05,                                // syscall
		0x89, 0xc7, // mov edi, eax
		0xf7, 0xdf, // neg edi
		0xb8, unix.SYS_EXIT, 0, 0, 0, // mov eax, exit
		0x0f, 0x05) // syscall
	size := uint64(headers + len(code))
	var b bytes.Buffer
	b.WriteString("\x7fELF\x02\x01\x01" + string(make([]byte, 9))) // 64 bits, little endian
	for _, v := range []any{
		uint16(2), uint16(62), uint32(1), uint64(base + headers), uint64(64), uint64(0), uint32(0),
		uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0), // no sections
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(4096),
	} {
		_ = binary.Write(&b, binary.LittleEndian, v)
	}
	b.Write(code)
	return b.Bytes()
}

// TestSeccompOfNewerCalls: of a document's profile, a system call with a number above all that it
// names fails with ENOSYS, on which a C library tries the older call, and others with the
// profile's errno.
func TestSeccompOfNewerCalls(t *testing.T) {
	w := newWorld(t)
	for number, want := range map[uint32]unix.Errno{
		unix.SYS_KEYCTL: unix.EPERM, unix.SYS_OPENAT2: unix.EPERM, unix.SYS_FACCESSAT2: unix.ENOSYS,
		1000: unix.ENOSYS,
	} {
		w.must(os.WriteFile(w.file("/program"), programCalling(number), 0o755))
		spec := w.spec("/program")
		spec.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64},
			Syscalls: []specs.LinuxSyscall{{
				Names: []string{"execve", "execveat", "exit", "pidfd_getfd"}, Action: specs.ActAllow,
			}},
		}
		_, status, err := w.try(spec)
		w.must(err)
		if got := unix.Errno(status.ExitStatus()); got != want {
			t.Errorf("system call %d: %v; want %v", number, got, want)
		}
	}
}
