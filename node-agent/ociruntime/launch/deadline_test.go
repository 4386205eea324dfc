// SPDX-License-Identifier: Apache-2.0

package launch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

var atCwd = n(^uintptr(99)) // AT_FDCWD, -100

// opens returns a step that opens a file below a directory.
func opens(field string, dir plan.Arg, path string) plan.Step {
	return step(field, unix.SYS_OPENAT2, dir, plan.Text(path), plan.Memory(make([]byte, 24)), n(24))
}

// state returns the state of a process or thread, as in /proc/PID/stat (proc(5)).
func state(t *testing.T, pid int) byte {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	return stat[bytes.LastIndexByte(stat, ')')+2]
}

// TestHang: the error names a step that does not return and the kernel function that waits, and the
// child is ended.
func TestHang(t *testing.T) {
	leaktest.Check(t)
	clean(t)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	// without a writer it waits for one
	p := sh("true", step("process", unix.SYS_GETPID), opens("mounts[3]", atCwd, fifo))
	const deadline = 200 * time.Millisecond
	const patience = time.Minute
	child, err := Start(Request{Plan: p, Inputs: streams(t, nil), Reserved: 3, Deadline: deadline})
	if err != nil {
		t.Fatal(err)
	}
	// On a busy machine it may take longer to come there.
	for end := time.Now().Add(patience); state(t, child.PID) != 'S'; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not wait for a writer")
		}
	}
	began := time.Now()
	err = child.Follow(context.Background(), "")
	var hung *HungError
	if !errors.As(err, &hung) || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("found %v; want a HungError", err)
	}
	if took := time.Since(began); took < deadline || took > patience {
		t.Errorf("it came after %s", took)
	}
	s := hung.Step
	if s.Index != 1 || s.Field.String() != "mounts[3]" || s.Path != fifo || s.Name != "openat2" ||
		s.Phase != plan.SyncExec {
		t.Errorf("found %+v", s)
	}
	if os.Geteuid() == 0 {
		// openat2, the same on all architectures
		if hung.Wchan == "" || !strings.HasPrefix(hung.Syscall, "437 ") {
			t.Errorf("wchan %q, syscall %q", hung.Wchan, hung.Syscall)
		}
		for _, word := range []string{
			"mounts[3]: openat2 has not returned", "200ms", "step 1", fifo,
			hung.Wchan,
		} {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%v lacks %q", err, word)
			}
		}
	}
	if hung.Unkillable {
		t.Error("it could be killed")
	}
}

// TestDeadlineIsTheChilds: the time that the parent takes to answer is not the child's.
func TestDeadlineIsTheChilds(t *testing.T) {
	leaktest.Check(t)
	clean(t)
	const deadline = 2 * time.Second // enough for what the child does, on a busy machine too
	p := sh("true", step("hooks", plan.OpSync, plan.Text("namespaces"), n(1)))
	child, err := Start(Request{
		Plan: p, Inputs: streams(t, nil), Reserved: 3, Deadline: deadline,
		OnSync: func(plan.Sync, int) error {
			time.Sleep(deadline + deadline/4)
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Follow(context.Background(), ""); err != nil {
		t.Fatal(err)
	}
	if status := child.Wait(); status.ExitStatus() != 0 {
		t.Errorf("ended with %v", status)
	}
}

// TestStepErrorMessage holds what an error says besides the errno.
func TestStepErrorMessage(t *testing.T) {
	leaktest.Check(t)
	out := func(s plan.Step, r plan.Reg) plan.Step { s.Out = r; return s }
	p := tiny(
		out(opens("root.path", atCwd, "/bundle/rootfs"), 1),
		out(opens("mounts[0] (/etc/x)", plan.Register(1), "etc"), 2),
		step("mounts[0] (/etc/x)", unix.SYS_MKDIRAT, plan.Register(2), plan.Text("x"), n(0o755)),
		step("linux.namespaces", plan.OpSync, plan.Text("namespaces"), n(1)),
		step("mounts[0] (/etc/x)", unix.SYS_MOVE_MOUNT, plan.Register(3), plan.Text(""), plan.Register(2),
			plan.Text(""), n(0)),
		step("process.oomScoreAdj", unix.SYS_WRITE, plan.Register(2), plan.Text("-5"), n(2)),
		step("process", unix.SYS_SYMLINKAT, plan.Text("/proc/self/fd"), plan.Register(2),
			plan.Text("fd")),
		step("process.args", unix.SYS_EXECVE, plan.Text("/bin/sh"), n(0), n(0)),
	)
	for _, c := range []struct {
		step  uint64
		errno unix.Errno
		path  string
		phase plan.Sync
		words string
	}{
		{0, unix.ENOENT, "/bundle/rootfs", plan.SyncNamespaces, "root.path: openat2: "},
		{2, unix.ENOSPC, "/bundle/rootfs/etc/x", plan.SyncNamespaces, "mkdirat: "},
		{4, unix.ENOSYS, "/bundle/rootfs/etc", plan.SyncExec, "likely cause: Linux 5.14"},
		{5, unix.EACCES, "/bundle/rootfs/etc", plan.SyncExec, "CAP_SYS_RESOURCE"},
		{6, unix.EEXIST, "/bundle/rootfs/etc/fd", plan.SyncExec, "symlinkat: "},
		{7, unix.E2BIG, "/bin/sh", plan.SyncExec, "execve: "},
	} {
		err := newStepError(p, message{step: c.step, errno: uint64(c.errno)})
		var s *StepError
		if !errors.As(err, &s) || s.Path != c.path || s.Phase != c.phase || !errors.Is(err, c.errno) ||
			!strings.Contains(err.Error(), c.words) {
			t.Errorf("step %d: found %+v (%v); want the path %s in the phase %s, and: %s", c.step, s, err,
				c.path, c.phase, c.words)
		}
	}
}
