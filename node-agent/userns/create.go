// SPDX-License-Identifier: Apache-2.0

package userns

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Create creates a user namespace for the range that begins with an id, and other namespaces that
// it owns by their flags of clone(2). It calls f with a process that is in them and does nothing.
// That process is gone afterwards, so the namespaces last as long as what f has made of them.
func Create(first uint32, flags uintptr, f func(pid int) error) error {
	// A thread of a Go program cannot enter a user namespace; a new process can. It is traced, so
	// that it stops before the first instruction of this program. The tracer is a thread: the child
	// is killed with it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	mapping := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(first), Size: Size}}
	child, err := os.StartProcess("/proc/self/exe", []string{"userns", "--version"}, &os.ProcAttr{
		Env: []string{},
		Sys: &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | flags,
			UidMappings: mapping, GidMappings: mapping, GidMappingsEnableSetgroups: true,
			Ptrace: true, Pdeathsig: unix.SIGKILL,
		},
	})
	if err != nil {
		return fmt.Errorf("create a user namespace: %w", err)
	}
	err = f(child.Pid)
	if kill := child.Kill(); kill != nil {
		err = errors.Join(err, fmt.Errorf("create a user namespace: %w", kill))
	}
	if wait := reap(child.Pid); wait != nil {
		err = errors.Join(err, fmt.Errorf("create a user namespace: %w", wait))
	}
	_ = child.Release() // reap has waited for it
	return err
}

// reap waits for the end of a traced child, which reports its stop first.
func reap(pid int) error {
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(pid, &status, unix.WALL, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return os.NewSyscallError("wait4", err)
		case status.Exited() || status.Signaled():
			return nil
		}
	}
}

// New returns a user namespace for the range that begins with an id, with no process in it.
func New(first uint32) (file *os.File, err error) {
	err = Create(first, 0, func(pid int) error {
		file, err = os.Open("/proc/" + strconv.Itoa(pid) + "/ns/user")
		return err
	})
	if err != nil && file != nil {
		file.Close()
		return nil, err
	}
	return file, err
}
