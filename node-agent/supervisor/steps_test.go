// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// killVariable names the step at which the supervisor of a test kills itself.
const killVariable = "BERTH_SUPERVISOR_TEST_KILL_AT"

// killAt returns a step function that ends this process, as SIGKILL does, when it comes to the
// named step.
func killAt(name string) func(string) {
	return func(step string) {
		if step == name {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	}
}

// TestKilledAtEachStep kills the supervisor at each step of a start and of an exit. The program
// runs once, what it wrote is in the log once, and its exit code is right, or said to be unknown
// where the supervisor had not written it down.
func TestKilledAtEachStep(t *testing.T) {
	eachHandler(t, func(t *testing.T, h string) {
		for _, tc := range []struct {
			step string
			// atStart reports whether the step is part of the start.
			atStart bool
			// ran reports whether the program has been started by then.
			ran bool
			// code reports whether the exit code is on disk by then.
			code bool
		}{
			{step: "start recorded", atStart: true},
			{step: "started", atStart: true, ran: true},
			{step: "drained", ran: true},
			{step: "exit recorded", ran: true, code: true},
			{step: "reaped", ran: true, code: true},
		} {
			t.Run(tc.step, func(t *testing.T) {
				n := newNode(t)
				n.end(unix.SIGTERM)
				t.Setenv(killVariable, tc.step)
				n.start()
				os.Unsetenv(killVariable)
				// The fifo keeps the program until the supervisor is gone where it is to be killed
				// at the start.
				n.create(h, "web", "echo ran; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo end; exit 7")
				goFile := filepath.Join(n.rootfs, "tmp", "go")
				if !tc.atStart {
					if _, err := n.client.Start(n.ctx(), "web"); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(goFile, nil, 0o600); err != nil {
						t.Fatal(err)
					}
				} else if _, err := n.client.Start(n.ctx(), "web"); err == nil {
					t.Fatal("the start was answered by a supervisor that should have been killed")
				}
				_ = n.cmd.Wait()
				n.start()

				st, err := n.client.Get(n.ctx(), "web")
				if err != nil {
					t.Fatal(err)
				}
				if tc.atStart {
					want := protocol.Created
					if tc.ran {
						want = protocol.Running
					}
					if st.State != want || st.StartedAt.IsZero() {
						t.Fatalf("found %+v; want the state %s", st, want)
					}
					// A client that does not know asks again.
					if _, err := n.client.Start(n.ctx(), "web"); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(goFile, nil, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				st = n.stopped("web")
				if st.StartedAt.IsZero() {
					t.Errorf("found %+v; want to know that it was started", st)
				}
				switch {
				case st.ExitCode != nil && *st.ExitCode == 7:
				case tc.code || st.ExitCode != nil || st.Reason == "":
					t.Errorf("found %+v; want exit code 7, or a reason why it is unknown", st)
				}
				if _, err := n.client.Start(n.ctx(), "web"); !errors.Is(err, protocol.ErrNotCreated) {
					t.Errorf("start of what has ended: found %v; want ErrNotCreated", err)
				}
				if got := n.lines("web", "stdout"); !slices.Equal(got, []string{"ran", "end"}) {
					t.Errorf("the log has %q", got)
				}
			})
		}
	})
}

// TestStartFoundLate kills the supervisor right after it has let the first process go, which is slow
// to come to its program. The next supervisor finds a container that is still created, and must
// remember that its program may have run: an agent would have it run a second time.
func TestStartFoundLate(t *testing.T) {
	n := newNode(t)
	st := n.create("berth", "web", "echo ran; exit 7")
	fifo := filepath.Join(n.dir, "native", "web", "exec.fifo")
	if err := os.Link(fifo, fifo+".kept"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(st.PID, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	started := make(chan error)
	go func() {
		_, err := n.client.Start(n.ctx(), "web")
		started <- err
	}()
	n.eventually("the first process is let go", func() error {
		if _, err := os.Lstat(fifo); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("found %v", err)
		}
		return nil
	})
	n.end(unix.SIGKILL)
	if err := <-started; err == nil {
		t.Fatal("a supervisor that is killed has answered")
	}
	// A supervisor that is killed a system call earlier has not removed it.
	if err := os.Rename(fifo+".kept", fifo); err != nil {
		t.Fatal(err)
	}
	n.start()
	if st, err := n.client.Get(n.ctx(), "web"); err != nil || st.State != protocol.Created {
		t.Fatalf("found %+v, %v; want a container that is still created", st, err)
	}
	if err := unix.Kill(st.PID, unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if st := n.stopped("web"); st.StartedAt.IsZero() {
		t.Errorf("found %+v; want to know that it was started", st)
	}
	if got := n.lines("web", "stdout"); !slices.Equal(got, []string{"ran"}) {
		t.Errorf("the log has %q", got)
	}
}

// TestStartIsIdempotent starts a container that runs: the answer is the same, and nothing is
// started.
func TestStartIsIdempotent(t *testing.T) {
	eachHandler(t, func(t *testing.T, h string) {
		n := newNode(t)
		st := n.run(h, "web", "echo ran; sleep 1000")
		before, err := n.client.Get(n.ctx(), "web")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.client.Start(n.ctx(), "web"); err != nil {
			t.Fatalf("a second start: %v", err)
		}
		after, err := n.client.Get(n.ctx(), "web")
		if err != nil || after.PID != st.PID || after.State != protocol.Running ||
			!after.StartedAt.Equal(before.StartedAt) {
			t.Errorf("found %+v, %v; want %+v", after, err, before)
		}
	})
}

// TestRecordIsWrittenLate keeps the record of an exit from being written for a while: clients see
// the exit at once, and the next supervisor finds it.
func TestRecordIsWrittenLate(t *testing.T) {
	n := newNode(t)
	n.run("berth", "web", "sleep 1000")
	dir := filepath.Join(n.dir, "supervisor")
	// A directory in the place of the temporary file: no record can be written.
	obstacle := filepath.Join(dir, ".web.json.new", "x")
	if err := os.MkdirAll(obstacle, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := n.client.Kill(n.ctx(), "web", "KILL", false); err != nil {
		t.Fatal(err)
	}
	if st := n.stopped("web"); st.ExitCode == nil || *st.ExitCode != 137 {
		t.Errorf("found %+v; want exit code 137", st)
	}
	if err := os.RemoveAll(filepath.Dir(obstacle)); err != nil {
		t.Fatal(err)
	}
	n.eventually("the record is written", func() error {
		rec, err := records{dir}.read("web")
		if err == nil && rec.Status.State != protocol.Stopped {
			err = errors.New(string(rec.Status.State))
		}
		return err
	})
	n.end(unix.SIGKILL)
	n.start()
	if st := n.stopped("web"); st.ExitCode == nil || *st.ExitCode != 137 {
		t.Errorf("the next supervisor: found %+v; want exit code 137", st)
	}
}

// TestLateRecordOfARunningContainer writes the record of a container late whose process has just
// ended. The process is not reaped before its exit is on disk.
func TestLateRecordOfARunningContainer(t *testing.T) {
	leaktest.Check(t)
	cmd := exec.Command("/bin/true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	zombie := func() bool {
		ended, _, err := peek(unix.P_PID, pid, 0)
		return err == nil && ended == pid
	}
	for !zombie() {
		time.Sleep(time.Millisecond)
	}
	s := &server{
		log: slog.New(slog.DiscardHandler), records: records{t.TempDir()}, stopped: make(chan struct{}),
		reaped:  make(chan struct{}, 1),
		zombies: map[int]bool{pid: true},
	}
	c := &container{
		id: "web", pid: pid, late: true,
		rec: record{Status: protocol.Status{ID: "web", PID: pid, State: protocol.Running}},
	}
	s.recordLate(c)
	if rec, err := s.records.read("web"); err != nil || rec.Status.State != protocol.Running ||
		c.late {
		t.Fatalf("found %+v, %v; want the record of a running container", rec, err)
	}
	if !zombie() {
		t.Fatal("the process is reaped, and its exit is not on disk")
	}
	c.rec.Status.State = protocol.Stopped
	s.recordLate(c)
	if zombie() {
		t.Error("the process is not reaped")
	}
	_ = cmd.Process.Release()
}
