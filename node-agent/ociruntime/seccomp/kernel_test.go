// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestKernel loads filters in a child process, on a thread that ends with it.
func TestKernel(t *testing.T) {
	tests := map[string]func() error{
		"docker's default": func() error {
			if _, err := load(defaultProfile(t)); err != nil {
				return err
			}
			if _, _, errno := unix.RawSyscall(unix.SYS_KEYCTL, 0, 0, 0); errno != unix.EPERM {
				return fmt.Errorf("keyctl: %v, want EPERM", errno)
			}
			if _, _, errno := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0); errno != unix.ENOSYS {
				return fmt.Errorf("clone3: %v, want ENOSYS", errno)
			}
			if pid, _, errno := unix.RawSyscall(unix.SYS_GETPID, 0, 0, 0); errno != 0 ||
				int(pid) != os.Getpid() {
				return fmt.Errorf("getpid: %d %v", pid, errno)
			}
			// An argument decides: AF_UNIX is allowed, AF_ALG (CVE-2026-31431) and AF_VSOCK are not. The
			// kernel takes 32 bits of it, whatever the others are (CVE-2026-123876 of podman).
			for _, family := range []uintptr{unix.AF_ALG, unix.AF_VSOCK} {
				for _, high := range []uintptr{0, 1 << 32, 1 << 63, 0xffffffff << 32} {
					if _, _, errno := unix.RawSyscall(unix.SYS_SOCKET, family|high, unix.SOCK_SEQPACKET,
						0); errno != unix.EPERM {
						return fmt.Errorf("socket(%#x): %v, want EPERM", family|high, errno)
					}
				}
			}
			// glibc falls back to an older call on ENOSYS alone.
			if _, _, errno := unix.RawSyscall(1000, 0, 0, 0); errno != unix.ENOSYS {
				return fmt.Errorf("a system call newer than the profile: %v, want ENOSYS", errno)
			}
			fd, _, errno := unix.RawSyscall(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if errno != 0 {
				return fmt.Errorf("socket(AF_UNIX): %v", errno)
			}
			return unix.Close(int(fd))
		},
		"notify": func() error {
			listener, err := load(&specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow,
				Flags: []specs.LinuxSeccompFlag{
					flagTsync, specs.LinuxSeccompFlagLog,
					specs.LinuxSeccompFlagSpecAllow, specs.LinuxSeccompFlagWaitKillableRecv,
				},
				Syscalls: []specs.LinuxSyscall{{Names: []string{"getppid"}, Action: specs.ActNotify}},
			})
			if err != nil {
				return err
			}
			if err := unix.Close(listener); err != nil {
				return fmt.Errorf("the listener: %w", err)
			}
			if _, _, errno := unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); errno != unix.ENOSYS {
				return fmt.Errorf("getppid without a listener: %v, want ENOSYS", errno)
			}
			return nil
		},
		"long jumps": func() error {
			if _, err := load(longProfile(t)); err != nil {
				return err
			}
			if _, _, errno := unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); errno != unix.Errno(77) {
				return fmt.Errorf("getppid: %v, want errno 77", errno)
			}
			return nil
		},
	}
	if name := os.Getenv("SECCOMP_TEST_CHILD"); name != "" {
		runtime.LockOSThread()
		if err := tests[name](); err != nil {
			t.Fatal(err)
		}
		return
	}
	for name := range tests {
		t.Run(name, func(t *testing.T) {
			child := exec.Command(os.Args[0], "-test.run=^TestKernel$")
			child.Env = append(os.Environ(), "SECCOMP_TEST_CHILD="+name)
			if out, err := child.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// load puts the filter for a profile on the calling thread.
func load(p *specs.LinuxSeccomp) (int, error) {
	f, warnings, err := Compile(p)
	if err != nil || len(warnings) > 0 {
		return 0, errors.Join(err, fmt.Errorf("warnings %v", warnings))
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, err
	}
	program := unix.SockFprog{Len: uint16(len(f.Program)), Filter: &f.Program[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(f.Flags),
		uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return 0, fmt.Errorf("seccomp(2): %w", errno)
	}
	return int(fd), nil
}
