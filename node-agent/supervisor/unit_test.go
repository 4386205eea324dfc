// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/procfs"
	"github.com/berth-run/berth/node-agent/handler"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// The exit code of a process that is not our child: as long as it is a zombie, and after it was
// reaped.
func TestExitStatusOfNonChild(t *testing.T) {
	leaktest.Check(t)
	for _, reaped := range []bool{false, true} {
		for script, want := range map[string]func(unix.WaitStatus) bool{
			"exit 0": func(ws unix.WaitStatus) bool { return ws.Exited() && ws.ExitStatus() == 0 },
			"exit 7": func(ws unix.WaitStatus) bool { return ws.Exited() && ws.ExitStatus() == 7 },
			"kill -9 $$": func(ws unix.WaitStatus) bool {
				return ws.Signaled() && ws.Signal() == unix.SIGKILL
			},
		} {
			t.Run(fmt.Sprintf("reaped=%v/%s", reaped, script), func(t *testing.T) {
				cmd := exec.Command("/bin/sh", "-c", "read x; "+script)
				in, err := cmd.StdinPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer unix.Close(fd)
				st, err := procfs.ReadStat(cmd.Process.Pid)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintln(in, "go")
				if reaped {
					cmd.Wait()
				} else {
					defer cmd.Wait()
					awaitReadable(t, fd)
				}
				ws, err := exitStatusOfNonChild(fd, cmd.Process.Pid, st.StartTime)
				if reaped && errors.Is(err, errNoExit) && !kernelTellsExits(t) {
					t.Skipf("Linux before 6.15: %v", err)
				}
				if err != nil || !want(ws) {
					t.Fatalf("got %#x, %v", ws, err)
				}
			})
		}
	}
}

// awaitReadable waits until a descriptor can be read. A signal, such as those of the Go runtime, ends
// poll(2).
func awaitReadable(t *testing.T, fd int) {
	t.Helper()
	_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
	for errors.Is(err, unix.EINTR) {
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// kernelTellsExits reports whether this is Linux 6.15 or newer.
func kernelTellsExits(t *testing.T) bool {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	_, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor)
	if err != nil {
		t.Fatal(err)
	}
	return major > 6 || major == 6 && minor >= 15
}

// Records replace one another whole; the half-written one of a killed writer is swept away, and one
// that is damaged is reported.
func TestRecords(t *testing.T) {
	leaktest.Check(t)
	r := records{t.TempDir()}
	rec := &record{Status: protocol.Status{
		ID: "web", State: protocol.Running, PID: 7,
		CreatedAt: time.Now().UTC(), ExitCode: new(3),
	}, StartTime: 9, Pipes: [2]uint64{1, 2}}
	for range 2 {
		if err := r.save(rec); err != nil {
			t.Fatal(err)
		}
	}
	fi, err := os.Stat(r.path("web"))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", fi, err)
	}
	for name, text := range map[string]string{
		".other.json.new": "{", "broken.json": "{",
		"renamed.json": `{"status":{"id":"web"}}`,
	} {
		if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	recs, unreadable, err := r.load()
	if len(recs) != 1 || *recs[0].Status.ExitCode != 3 || recs[0].StartTime != 9 ||
		recs[0].Pipes != rec.Pipes {
		t.Fatalf("got %+v", recs)
	}
	if err != nil || len(unreadable) != 2 || unreadable["broken"] == nil ||
		unreadable["renamed"] == nil {
		t.Fatalf("got errors %v, %v", unreadable, err)
	}
	if _, err := os.Stat(filepath.Join(r.dir, ".other.json.new")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the half-written record stays: %v", err)
	}
}

// A process cannot make us open anything but its own pipe.
func TestFindPipe(t *testing.T) {
	leaktest.Check(t)
	s, far, err := newStream("stdout", &logFile{fd: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s.fd)
	cmd := exec.Command("/bin/sh", "-c", "exec 5>&1 >/dev/null; echo found >&5; read x")
	cmd.Stdout = far
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); cmd.Wait() }()
	far.Close()
	// Our own end shows when it has got so far.
	awaitReadable(t, s.fd)
	fd, err := findPipe(cmd.Process.Pid, 1, s.inode)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	b := make([]byte, 16)
	if n, err := unix.Read(fd, b); err != nil || string(b[:n]) != "found\n" {
		t.Fatalf("read %q, %v", b[:max(n, 0)], err)
	}
	if fd, err := findPipe(cmd.Process.Pid, 1, s.inode+1000000); !errors.Is(err, errPipeGone) {
		t.Fatalf("got %d, %v", fd, err)
	}
}

// threadHandler creates a container whose pid is that of a thread, of which there is no pidfd.
type threadHandler struct {
	handler.Handler
	pid     int
	deleted []string
}

func (h *threadHandler) Create(context.Context, string, string, handler.Stdio) (int, error) {
	return h.pid, nil
}

func (h *threadHandler) Delete(_ context.Context, id string, force bool) error {
	h.deleted = append(h.deleted, fmt.Sprint(id, " ", force))
	return nil
}

func newThreadHandler(t *testing.T) *threadHandler {
	pids, end := make(chan int), make(chan struct{})
	t.Cleanup(func() { close(end) })
	for {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			pids <- unix.Gettid()
			<-end
		}()
		if pid := <-pids; pid != os.Getpid() { // of the main thread there is one
			return &threadHandler{pid: pid}
		}
	}
}

// TestCreateWithoutPidfd undoes a container that cannot be waited for: it must not be taken for one
// that has ended.
func TestCreateWithoutPidfd(t *testing.T) {
	leaktest.Check(t)
	h := newThreadHandler(t)
	s := testServer(t)
	s.handlers = handler.Set{"thread": h}
	s.slots = slotsOf(s.handlers, 1)
	st, err := s.create(t.Context(), &protocol.CreateRequest{
		ID: "web", Bundle: "/b",
		Handler: "thread",
	})
	if err == nil || !strings.Contains(err.Error(), "pidfd_open") {
		t.Errorf("found %+v, %v; want the error of pidfd_open", st, err)
	}
	if want := []string{"web true"}; !slices.Equal(h.deleted, want) || len(s.containers) != 0 {
		t.Errorf("the handler has deleted %q, and %d containers are known; want %q and none", h.deleted,
			len(s.containers), want)
	}
}

// TestRunDirRemovedDuringCreate writes records anew, and passes descriptors on, while containers
// are created. It is for the race detector.
func TestRunDirRemovedDuringCreate(t *testing.T) {
	leaktest.Check(t)
	s := testServer(t)
	s.handlers = handler.Set{"thread": newThreadHandler(t)}
	s.slots = slotsOf(s.handlers, 1)
	ctx, cancel := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	ended.Go(func() {
		for ctx.Err() == nil {
			s.restoreRecords()
			s.mu.Lock()
			c := s.containers["web"]
			s.mu.Unlock()
			if c != nil {
				_, fds := c.descriptors()
				closeAll(fds)
			}
		}
	})
	for range 50 {
		_, _ = s.create(t.Context(), &protocol.CreateRequest{ID: "web", Bundle: "/b", Handler: "thread"})
	}
	cancel()
	ended.Wait()
}
