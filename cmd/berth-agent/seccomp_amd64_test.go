// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Numbers of the i386 system call table, and of linux/net.h.
const (
	i386Socketcall = 102
	i386Socket     = 359
	netSocket      = 1 // SYS_SOCKET, a call of socketcall(2)
	// newCall is newer than any system call that the default profile names.
	newCall = 1000
)

// program386 returns a static ELF program for i386. It makes one system call, whose third argument
// points to the three words of data if it is nil, and exits with the errno, 0 for success.
func program386(number, first, second uint32, data [3]uint32) []byte {
	const (
		base    = 0x10000
		headers = 52 + 32
	)
	var code []byte
	word := func(v uint32) { code = binary.LittleEndian.AppendUint32(code, v) }
	code = append(code, 0xb8) // mov eax, number
	word(number)
	code = append(code, 0xbb) // mov ebx, first
	word(first)
	code = append(code, 0xb9) // mov ecx, second
	word(second)
	code = append(code, 0x31, 0xd2, // xor edx, edx
		0xcd, 0x80, // int 0x80
		0x31, 0xdb, // xor ebx, ebx
		0x85, 0xc0, // test eax, eax
		0x79, 0x04, // jns over the next two
		0xf7, 0xd8, // neg eax
		0x89, 0xc3, // mov ebx, eax
		0xb8, 1, 0, 0, 0, // mov eax, exit
		0xcd, 0x80) // int 0x80
	if second == 0 {
		binary.LittleEndian.PutUint32(code[11:], base+headers+uint32(len(code)))
	}
	for _, v := range data {
		word(v)
	}

	var b bytes.Buffer
	b.WriteString("\x7fELF\x01\x01\x01" + string(make([]byte, 9))) // 32 bits, little endian
	size := uint32(headers + len(code))
	for _, field := range []any{
		uint16(2), uint16(3), uint32(1), uint32(base + headers), // an executable for i386, its entry
		uint32(52), uint32(0), uint32(0), // one program header behind this one, no sections
		uint16(52), uint16(32), uint16(1), uint16(0), uint16(0), uint16(0),
		// PT_LOAD, R and X
		uint32(1), uint32(0), uint32(base), uint32(base), size, size, uint32(5), uint32(0x1000),
	} {
		_ = binary.Write(&b, binary.LittleEndian, field) // a bytes.Buffer takes all
	}
	b.Write(code)
	return b.Bytes()
}

// TestProgramsOf32Bits runs programs for i386 under the default seccomp profile: they reach no
// socket that the profile denies to those of 64 bits.
func TestProgramsOf32Bits(t *testing.T) {
	unixSocket := [3]uint32{unix.AF_UNIX, unix.SOCK_STREAM, 0}
	programs := []struct {
		name     string
		program  []byte
		spec     string
		wantCode int32
	}{
		// seccomp cannot see the address family in socketcall, so it is denied as a whole.
		{"socketcall", program386(i386Socketcall, netSocket, 0, unixSocket), "", int32(unix.ENOSYS)},
		{
			"socketcall-alg", program386(i386Socketcall, netSocket, 0,
				[3]uint32{unix.AF_ALG, unix.SOCK_SEQPACKET, 0}), "", int32(unix.ENOSYS),
		},
		{
			"socketcall-allowed", program386(i386Socketcall, netSocket, 0, unixSocket),
			"  allowSocketcall: true\n", 0,
		},
		{
			"socketcall-unconfined", program386(i386Socketcall, netSocket, 0, unixSocket),
			"  securityContext: {seccompProfile: {type: Unconfined}}\n", 0,
		},
		{"socket-unix", program386(i386Socket, unix.AF_UNIX, unix.SOCK_STREAM, unixSocket), "", 0},
		{
			"socket-vsock", program386(i386Socket, unix.AF_VSOCK, unix.SOCK_STREAM, unixSocket), "",
			int32(unix.EPERM),
		},
		{
			"socket-alg", program386(i386Socket, unix.AF_ALG, unix.SOCK_SEQPACKET, unixSocket), "",
			int32(unix.EPERM),
		},
		{"newer", program386(newCall, 1, 1, unixSocket), "", int32(unix.ENOSYS)},
	}
	h := newHost(t)
	for _, p := range programs {
		root := h.path("root-" + p.name)
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, "program"), p.program, 0o755); err != nil {
			t.Fatal(err)
		}
		var exit *exec.ExitError
		if err := exec.Command(filepath.Join(root, "program")).Run(); err != nil &&
			!errors.As(err, &exit) {
			t.Skipf("this kernel runs no programs for i386: %v", err)
		}
		h.write(p.name+".yaml",
			fmt.Sprintf("  rootfs: {path: %s}\n  command: [/program]\n  restartPolicy: Never\n%s", root,
				p.spec))
	}
	h.start()
	var files []string
	for _, p := range programs {
		h.until("the end of "+p.name, func() bool {
			c := h.get(p.name)
			return c != nil && c.Status.State.Terminated != nil
		})
		if got := h.get(p.name).Status.State.Terminated; got.ExitCode != p.wantCode {
			t.Errorf("%s ended with %+v; want exit code %d", p.name, got, p.wantCode)
		}
		files = append(files, p.name+".yaml")
	}
	h.removeAll(files...)
}
