// SPDX-License-Identifier: Apache-2.0

package launch

import (
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// renaming returns a plan whose thread has a host name of its own, and whose namespace takes the
// place of InputNetwork.
func renaming() *plan.Plan {
	// AT_FDCWD
	open := step("a", unix.SYS_OPENAT, n(^uintptr(99)), plan.Text("/proc/thread-self/ns/uts"),
		n(unix.O_RDONLY|unix.O_CLOEXEC))
	open.Out = 1
	p := tiny(step("a", unix.SYS_UNSHARE, n(unix.CLONE_NEWUTS)), step("a", unix.SYS_SETHOSTNAME,
		plan.Text("elsewhere"), n(9)), open,
		step("a", unix.SYS_DUP3, plan.Register(1), plan.Descriptor(plan.InputNetwork), n(unix.O_CLOEXEC)),
		step("a", unix.SYS_CLOSE, plan.Register(1)),
		step("a", plan.OpSync, plan.Text(string(plan.SyncNetwork)), n(0)))
	p.CloneFlags = unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND |
		unix.CLONE_THREAD | unix.CLONE_SYSVSEM
	return p
}

func placeholder(t *testing.T) int {
	t.Helper()
	fd, err := unix.Open("/dev/null", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// TestThread starts many threads while signals arrive for the process. None of them may get one,
// each puts its namespace into its caller's descriptor, and the caller stays in its own namespace.
func TestThread(t *testing.T) {
	leaktest.Check(t)
	clean(t)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGUSR1)
	defer signal.Stop(signals)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Kill(os.Getpid(), unix.SIGUSR1)
			}
		}
	}()
	own, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	var here unix.Stat_t
	if err := unix.Stat("/proc/self/ns/uts", &here); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				fd := placeholder(t)
				thread, err := StartThread(renaming(), map[plan.Input]int{plan.InputNetwork: fd})
				if err != nil {
					t.Error(err)
					return
				}
				if err := errors.Join(thread.Await(0), thread.End(0)); err != nil {
					t.Error(err)
				}
				var there unix.Stat_t
				if err := unix.Fstat(fd, &there); err != nil || there.Dev != here.Dev || there.Ino == here.Ino {
					t.Errorf("it has made %d:%d, this process is in %d:%d; %v", there.Dev, there.Ino, here.Dev,
						here.Ino, err)
				}
				unix.Close(fd)
			}
		})
	}
	wg.Wait()
	close(stop)
	<-stopped
	if now, err := os.Hostname(); err != nil || now != own {
		t.Errorf("the caller is called %s, %v; want %s", now, err, own)
	}
}

// TestThreadFails: a step that fails is an error like a child's, and nothing is left.
func TestThreadFails(t *testing.T) {
	leaktest.Check(t)
	clean(t)
	p := renaming()
	p.Steps[1].Args[1] = n(1 << 10) // longer than any
	p.Steps[1].Field = plan.Field{Path: "linux.namespaces", Index: 1}
	fd := placeholder(t)
	defer unix.Close(fd)
	thread, err := StartThread(p, map[plan.Input]int{plan.InputNetwork: fd})
	if err != nil {
		t.Fatal(err)
	}
	err = thread.Await(0)
	var failed *StepError
	if !errors.As(err, &failed) || failed.Index != 1 || failed.Errno != unix.EINVAL ||
		failed.Field.String() != "linux.namespaces[1]" || failed.Name != "sethostname" {
		t.Errorf("found %v", err)
	}
	if err := thread.End(0); err != nil {
		t.Error(err)
	}
	if _, err := StartThread(renaming(), nil); err == nil {
		t.Error("an input that there is not is no error")
	}
}

// TestThreadHangs: the error names the step, and the thread goes on when it can.
func TestThreadHangs(t *testing.T) {
	leaktest.Check(t)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	p := renaming()
	p.Steps[1] = step("linux.namespaces", unix.SYS_OPENAT, n(^uintptr(99)), plan.Text(fifo),
		n(unix.O_WRONLY|unix.O_CLOEXEC))
	p.Steps[1].Out = 1
	p.Steps = slices.Insert(p.Steps, 2, step("a", unix.SYS_CLOSE, plan.Register(1)))
	fd := placeholder(t)
	thread, err := StartThread(p, map[plan.Input]int{plan.InputNetwork: fd})
	if err != nil {
		t.Fatal(err)
	}
	// On a busy machine it may take long to come there.
	for end := time.Now().Add(time.Minute); atomic.LoadInt64(&thread.prog.thread.step) != 1 ||
		state(t, thread.id) != 'S'; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not wait for a reader")
		}
	}
	err = thread.Await(50 * time.Millisecond)
	var hung *HungError
	if !errors.As(err, &hung) || hung.Step.Index != 1 || !hung.Unkillable {
		t.Fatalf("found %v", err)
	}
	if err := thread.End(50 * time.Millisecond); !errors.As(err, &hung) {
		t.Fatalf("found %v", err)
	}
	reader, err := os.Open(fifo)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := errors.Join(thread.Await(0), thread.End(0)); err != nil {
		t.Errorf("once it can go on: %v", err)
	}
	unix.Close(fd)
}
