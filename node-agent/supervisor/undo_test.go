// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/procfs"
	"github.com/berth-run/berth/node-agent/handler"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// stubborn is a handler whose Delete fails as long as busy is set.
type stubborn struct {
	handler.Handler
	create func() (int, error)
	remove func()
	busy   bool
}

func (h *stubborn) Create(context.Context, string, string, handler.Stdio) (int, error) {
	return h.create()
}

func (h *stubborn) Delete(context.Context, string, bool) error {
	if h.busy {
		return unix.EBUSY
	}
	h.remove()
	return nil
}

// TestCreateIsNotUndone: a container whose creation failed and cannot be undone stays known, also to
// the next supervisor, and is deleted later. It cannot be started.
func TestCreateIsNotUndone(t *testing.T) {
	for _, name := range []string{"cut off", "no record", "no pidfd"} {
		t.Run(name, func(t *testing.T) {
			leaktest.Check(t)
			s := testServer(t)
			s.patience = time.Minute
			h := &stubborn{busy: true, remove: func() {}}
			obstacle := filepath.Join(s.records.dir, ".web.json.new")
			cmd := exec.Command("sleep", "1000")
			switch name {
			case "cut off":
				h.create = func() (int, error) {
					return 0, fmt.Errorf("%w: %w", handler.ErrCutOff, handler.ErrNotUndone)
				}
			case "no record": // a directory in the place of the temporary file
				h.create = func() (int, error) {
					return cmd.Process.Pid, os.MkdirAll(filepath.Join(obstacle, "x"), 0o700)
				}
				h.remove = func() { _ = cmd.Process.Kill() }
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
			case "no pidfd":
				thread := newThreadHandler(t)
				h.create = func() (int, error) { return thread.pid, nil }
			}
			s.handlers = handler.Set{"stubborn": h}
			s.slots = slotsOf(s.handlers, 1)
			_, err := s.create(t.Context(), &protocol.CreateRequest{
				ID: "web", Bundle: "/b", Handler: "stubborn",
			})
			if !errors.Is(wireError(err), protocol.ErrUnknownOutcome) {
				t.Errorf("found %v; want ErrUnknownOutcome", err)
			}
			if len(s.list()) != 1 {
				t.Fatalf("found %+v; want the container", s.list())
			}
			if _, err := s.start(t.Context(), "web"); !errors.Is(err, protocol.ErrNotCreated) {
				t.Errorf("start: found %v; want ErrNotCreated", err)
			}
			if err := s.remove(t.Context(), "web", true); !errors.Is(err, unix.EBUSY) {
				t.Errorf("delete: found %v; want %v", err, unix.EBUSY)
			}
			if err := os.RemoveAll(obstacle); err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Millisecond) {
				rec, err := s.records.read("web")
				if err == nil && rec.Status.State != protocol.Created {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("found the record %+v, %v; want one that cannot be started", rec, err)
				}
			}
			h.busy = false
			if err := s.remove(t.Context(), "web", true); err != nil || len(s.list()) != 0 {
				t.Errorf("found %v and %+v; want no container", err, s.list())
			}
			if _, err := s.records.read("web"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("found %v; want no record", err)
			}
			if name == "no record" {
				if err := unix.Kill(cmd.Process.Pid, 0); !errors.Is(err, unix.ESRCH) {
					t.Errorf("process: found %v; want %v", err, unix.ESRCH)
				}
				_ = cmd.Process.Release()
			}
		})
	}
}

// TestLivingNonChildIsNotReaped: a process that is no child has not ended before it has, also where
// it has no pidfd, or its start time could not be read.
func TestLivingNonChildIsNotReaped(t *testing.T) {
	for name, tc := range map[string]struct{ pidfd, startTime bool }{
		"pidfd": {true, true}, "no pidfd": {false, true}, "neither": {false, false},
	} {
		t.Run(name, func(t *testing.T) {
			leaktest.Check(t)
			s := testServer(t)
			parent := exec.Command("sh", "-c", "sleep 1000 >/dev/null & echo $!; wait")
			out, err := parent.StdoutPipe()
			if err == nil {
				err = parent.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			var pid int
			if _, err := fmt.Fscan(out, &pid); err != nil {
				t.Fatal(err)
			}
			c := &container{
				id: "web", op: newOperations(), pid: pid, pidfd: -1, unwatched: true,
				ended: make(chan struct{}),
			}
			c.rec.Status = protocol.Status{ID: "web", State: protocol.Creating}
			if tc.startTime {
				st, err := procfs.ReadStat(pid)
				if err != nil {
					t.Fatal(err)
				}
				c.rec.StartTime = st.StartTime
			}
			if tc.pidfd {
				if c.pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
					t.Fatal(err)
				}
			}
			s.byPID[pid] = c
			if s.reap(c) {
				t.Error("found the end of a process that lives")
			}
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if !s.awaitEnd(c) {
				t.Error("found no end of a process that has been killed")
			}
			if err := parent.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}
