// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A killer kills a process with SIGKILL just after its n-th step. A step is a system call that
// succeeds and changes something that outlives the process: files, mounts, signals, and messages on
// sockets. The killer is a process of its own that traces the other (ptrace(2)), so the programs
// under test are the shipped ones.
type killer struct {
	t     *testing.T
	pid   int // of the process that it kills
	cmd   *exec.Cmd
	stdin io.Closer
	out   *bufio.Reader
	found chan string
}

// killerVariable has a test binary be a killer: "PID N".
const killerVariable = "BERTH_TEST_KILLER"

// killAt returns a killer that has begun to count the steps of a process.
func killAt(t *testing.T, pid, n int) *killer {
	t.Helper()
	k := &killer{t: t, pid: pid, cmd: exec.Command(os.Args[0]), found: make(chan string, 1)}
	k.cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %d", killerVariable, pid, n))
	k.cmd.Stderr = os.Stderr
	stdin, err := k.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := k.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := k.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	k.stdin, k.out = stdin, bufio.NewReader(stdout)
	if line, err := k.out.ReadString('\n'); line != "attached\n" {
		t.Fatalf("killer: found %q, %v", line, err)
	}
	go func() {
		line, _ := k.out.ReadString('\n')
		k.found <- strings.TrimSpace(line)
	}()
	return k
}

// waitForCont returns the beginning of a command line that stops itself, and becomes the command
// behind it on SIGCONT.
func waitForCont() []string { return []string{"/bin/sh", "-c", `kill -STOP $$; exec "$@"`, "sh"} }

// killedAt runs a command of berth-agent that is killed at its nth step, and returns that step, or
// "" if the command has fewer.
func (h *host) killedAt(n int, args ...string) string {
	h.t.Helper()
	cmd := h.program(args...)
	cmd.Args = append(waitForCont(), cmd.Args...)
	cmd.Path = cmd.Args[0]
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.until("the command waits", func() bool { return procState(cmd.Process.Pid) == "T" })
	k := killAt(h.t, cmd.Process.Pid, n)
	if err := cmd.Process.Signal(unix.SIGCONT); err != nil {
		h.t.Fatal(err)
	}
	_ = cmd.Wait()
	return k.end()
}

// killed reports whether the process has been killed.
func (k *killer) killed() bool { return len(k.found) > 0 }

// end lets go of the process, and returns the step that it was killed at, or "" if there were
// fewer.
func (k *killer) end() string {
	k.t.Helper()
	k.stdin.Close()
	var step string
	select {
	case step = <-k.found:
	case <-time.After(hangs):
		threads := ""
		for _, file := range []string{"stat", "wchan", "syscall"} {
			found, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/%s", k.pid, file))
			for _, f := range found {
				data, _ := os.ReadFile(f)
				threads += fmt.Sprintf("%s: %s\n", f, data)
			}
		}
		_ = k.cmd.Process.Signal(unix.SIGQUIT) // its goroutines are then in the test's output
		k.t.Fatalf("the killer of process %d did not end in %v; its threads:\n%s", k.pid, hangs, threads)
	}
	_ = k.cmd.Wait()
	if strings.HasPrefix(step, "steps ") {
		return ""
	}
	return step
}

// beKiller runs as the killer's process.
func beKiller(order string) error {
	var pid, n int
	if _, err := fmt.Sscan(order, &pid, &n); err != nil {
		return err
	}
	runtime.LockOSThread()
	tr := tracer{pid: pid, left: n, under: map[int]string{}}
	if err := tr.attach(); err != nil {
		return fmt.Errorf("attach to process %d: %w", pid, err)
	}
	fmt.Println("attached")
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		if !tr.settled.CompareAndSwap(false, true) {
			return // run says at which step
		}
		// The kernel detaches what is traced when the tracer ends.
		fmt.Printf("steps %d\n", tr.steps.Load())
		os.Exit(0)
	}()
	step, err := tr.run()
	if err != nil {
		return err
	}
	fmt.Println(step)
	return nil
}

// tracer traces all threads of a process. Its methods belong to one thread.
type tracer struct {
	pid, left int
	steps     atomic.Int64
	settled   atomic.Bool    // whether the process is killed, or let go of
	under     map[int]string // the step that each thread is making
	last      string         // the file of the kernel that was written last
}

func (tr *tracer) attach() error {
	known := map[int]bool{}
	for again := true; again; {
		again = false
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", tr.pid))
		if err != nil {
			return err
		}
		for _, task := range tasks {
			tid, err := strconv.Atoi(filepath.Base(task))
			if err != nil {
				return err
			}
			if known[tid] {
				continue
			}
			known[tid], again = true, true
			_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(tid), 0,
				unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACECLONE, 0, 0)
			switch errno {
			case 0:
				if err := unix.PtraceInterrupt(tid); err != nil && err != unix.ESRCH {
					return err
				}
			case unix.ESRCH, unix.EPERM: // it has ended, or is traced since the thread that made it is
			default:
				return errno
			}
		}
	}
	if len(known) == 0 {
		return unix.ESRCH
	}
	return nil
}

// run returns the step that the process was killed at, or "ended" if it ended by itself.
func (tr *tracer) run() (string, error) {
	step := "ended"
	for {
		var ws unix.WaitStatus
		tid, err := unix.Wait4(-1, &ws, unix.WALL, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECHILD):
			return step, nil
		case err != nil:
			return "", err
		case !ws.Stopped():
			continue
		}
		signal := 0
		switch sig := ws.StopSignal(); {
		case sig == unix.SIGTRAP|0x80:
			if done := tr.observe(tid); done != "" && tr.left > 0 {
				tr.steps.Add(1)
				if tr.left--; tr.left == 0 && tr.settled.CompareAndSwap(false, true) {
					step = done
					if err := unix.Kill(tr.pid, unix.SIGKILL); err != nil {
						return "", err
					}
				}
			}
		case int(ws)>>16 != 0: // an event of ptrace(2)
		default:
			signal = int(sig)
		}
		if err := unix.PtraceSyscall(tid, signal); err != nil && err != unix.ESRCH {
			return "", fmt.Errorf("continue thread %d: %w", tid, err)
		}
	}
}

// syscallInfo is struct ptrace_syscall_info (linux/ptrace.h). At an exit, nr is the result.
type syscallInfo struct {
	op     uint8
	_      [3]uint8
	arch   uint32
	ip, sp uint64
	nr     uint64
	args   [6]uint64
}

const (
	ptraceGetSyscallInfo = 0x420e
	syscallEntry         = 1
	syscallExit          = 2
)

// steps are the system calls that are steps.
var steps = map[uint64]string{
	unix.SYS_RENAMEAT: "renameat", unix.SYS_RENAMEAT2: "renameat2", unix.SYS_UNLINKAT: "unlinkat",
	unix.SYS_MKDIRAT: "mkdirat", unix.SYS_LINKAT: "linkat",
	unix.SYS_SYMLINKAT: "symlinkat", unix.SYS_FSYNC: "fsync", unix.SYS_FDATASYNC: "fdatasync",
	unix.SYS_SYNCFS: "syncfs", unix.SYS_FTRUNCATE: "ftruncate",
	unix.SYS_MOUNT: "mount", unix.SYS_UMOUNT2: "umount2", unix.SYS_MOVE_MOUNT: "move_mount",
	unix.SYS_BIND: "bind", unix.SYS_SPLICE: "splice",
	unix.SYS_PIDFD_SEND_SIGNAL: "pidfd_send_signal", unix.SYS_CLONE3: "clone3",
	unix.SYS_WAITID: "waitid", unix.SYS_WAIT4: "wait4",
}

// writes are the system calls that are steps if they write to a file or a socket.
var writes = map[uint64]string{
	unix.SYS_WRITE: "write", unix.SYS_PWRITE64: "pwrite64", unix.SYS_WRITEV: "writev",
	unix.SYS_SENDTO: "sendto", unix.SYS_SENDMSG: "sendmsg",
}

// observe takes in that a thread has come to the beginning or the end of a system call, and returns
// the step that is done.
func (tr *tracer) observe(tid int) (done string) {
	var info syscallInfo
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, ptraceGetSyscallInfo, uintptr(tid),
		unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 {
		return ""
	}
	switch info.op {
	case syscallEntry:
		tr.under[tid] = tr.step(&info)
	case syscallExit:
		if int64(info.nr) >= 0 {
			done = tr.under[tid]
		}
		delete(tr.under, tid)
	}
	return done
}

// step returns the name of the step that a successful system call completes, or "" if the call
// changes nothing outside the process.
func (tr *tracer) step(info *syscallInfo) string {
	switch name := writes[info.nr]; {
	case name == "":
		return steps[info.nr]
	case info.args[0] <= 2: // its own messages
		return ""
	default:
		target, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tr.pid, int32(info.args[0])))
		if strings.HasPrefix(target, "/sys/") { // many rules of one container, one after the other
			if tr.last == target {
				return ""
			}
			tr.last = target
		}
		if strings.HasPrefix(target, "socket:") || strings.HasPrefix(target, "/") &&
			!strings.HasPrefix(target, "/dev/") {
			return name + " " + target
		}
		return ""
	}
}
