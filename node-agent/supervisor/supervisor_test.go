// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

var handlerNames = []string{"berth", "runc"}

// eachHandler runs a test with our own runtime and with another's.
func eachHandler(t *testing.T, f func(t *testing.T, h string)) {
	t.Helper()
	for _, h := range handlerNames {
		t.Run(h, func(t *testing.T) {
			if h == "runc" {
				if _, err := os.Stat(runcPath); err != nil {
					needs.Skip(t, err.Error())
				}
			}
			f(t, h)
		})
	}
}

func TestLife(t *testing.T) {
	eachHandler(t, func(t *testing.T, h string) {
		n := newNode(t)
		st := n.create(h, "web", "echo one; echo two >&2; echo three; read x; exit 7")
		if st.State != protocol.Created || st.PID == 0 || st.CreatedAt.IsZero() ||
			!st.StartedAt.IsZero() || st.ExitCode != nil || st.Handler != h ||
			st.LogPath != n.logPath("web") {
			t.Fatalf("created: %+v", st)
		}
		if err := unix.Kill(st.PID, 0); err != nil {
			t.Fatalf("pid %d: %v", st.PID, err)
		}
		_, err := n.client.Create(n.ctx(), protocol.CreateRequest{
			ID: "web", Handler: h,
			Bundle: st.Bundle,
		})
		if !errors.Is(err, protocol.ErrExist) {
			t.Fatalf("second create: %v", err)
		}
		if _, err := n.client.Start(n.ctx(), "web"); err != nil {
			t.Fatal(err)
		}
		st = n.stopped("web")
		if st.ExitCode == nil || *st.ExitCode != 7 || st.Signal != 0 || st.StartedAt.IsZero() ||
			st.FinishedAt.Before(st.StartedAt) || st.Reason != "" {
			t.Fatalf("stopped: %+v", st)
		}
		// All of it is in the log by the time the exit is published.
		if got := n.lines("web", "stdout"); !slices.Equal(got, []string{"one", "three"}) {
			t.Errorf("stdout %q", got)
		}
		if got := n.lines("web", "stderr"); !slices.Equal(got, []string{"two"}) {
			t.Errorf("stderr %q", got)
		}
		if _, err := n.client.Start(n.ctx(), "web"); !errors.Is(err, protocol.ErrNotCreated) {
			t.Errorf("start of a stopped one: %v", err)
		}
		if err := n.client.Kill(n.ctx(), "web", "TERM", false); !errors.Is(err, protocol.ErrNotRunning) {
			t.Errorf("kill of a stopped one: %v", err)
		}
		if err := n.client.Delete(n.ctx(), "web", false); err != nil {
			t.Fatal(err)
		}
		if _, err := n.client.Get(n.ctx(), "web"); !errors.Is(err, protocol.ErrNotExist) {
			t.Errorf("get of a deleted one: %v", err)
		}
		if err := n.client.Delete(n.ctx(), "web", true); !errors.Is(err, protocol.ErrNotExist) {
			t.Errorf("delete of a deleted one: %v", err)
		}
		left, _ := filepath.Glob(filepath.Join(n.dir, "supervisor", "*"))
		if len(left) != 1 { // the lock
			t.Errorf("left over: %v", left)
		}
		if _, err := os.Stat(n.logPath("web")); err != nil {
			t.Errorf("the log has gone: %v", err)
		}
	})
}

func TestExitCodes(t *testing.T) {
	eachHandler(t, func(t *testing.T, h string) {
		n := newNode(t)
		for id, tc := range map[string]struct {
			script       string
			kill         string
			code, signal int
		}{
			"zero":  {script: "true"},
			"seven": {script: "exit 7", code: 7},
			"most":  {script: "exit 255", code: 255},
			"kill":  {script: "sleep 1000", kill: "KILL", code: 137, signal: 9},
			"trap": {
				script: "trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done", kill: "15",
				code: 3,
			},
		} {
			n.run(h, id, tc.script)
			if strings.Contains(tc.script, "ready") {
				n.eventually("ready", func() error {
					if !slices.Equal(n.lines(id, "stdout"), []string{"ready"}) {
						return errors.New("not yet")
					}
					return nil
				})
			}
			if tc.kill != "" {
				if err := n.client.Kill(n.ctx(), id, tc.kill, false); err != nil {
					t.Fatal(err)
				}
			}
			if st := n.stopped(id); st.ExitCode == nil || *st.ExitCode != tc.code ||
				st.Signal != tc.signal || st.OOMKilled {
				t.Errorf("%s: %+v", id, st)
			}
		}
	})
}

func TestDelete(t *testing.T) {
	eachHandler(t, func(t *testing.T, h string) {
		n := newNode(t)
		st := n.run(h, "web", "sleep 1000")
		if err := n.client.Delete(n.ctx(), "web", false); !errors.Is(err, protocol.ErrRunning) {
			t.Fatalf("without force: %v", err)
		}
		if err := n.client.Delete(n.ctx(), "web", true); err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(st.PID, 0); err != unix.ESRCH {
			t.Fatalf("process: %v", err)
		}
		// One that was never started.
		n.create(h, "web", "true")
		if err := n.client.Delete(n.ctx(), "web", true); err != nil {
			t.Fatal(err)
		}
		// The id is free again.
		n.run(h, "web", "exit 4")
		if st := n.stopped("web"); *st.ExitCode != 4 {
			t.Fatalf("%+v", st)
		}
	})
}

// What cannot be created leaves nothing behind, and its error is the handler's own.
func TestCreateFails(t *testing.T) {
	eachHandler(t, func(t *testing.T, h string) {
		n := newNode(t)
		n.warm(h)
		before := n.descriptors()
		bundle := n.bundle("web", func(s *specs.Spec) { s.Root.Path = "/nowhere" }, "/bin/true")
		_, err := n.client.Create(n.ctx(), protocol.CreateRequest{
			ID: "web", Handler: h, Bundle: bundle,
			Log: protocol.Log{Path: n.logPath("web")},
		})
		if err == nil || !strings.Contains(err.Error(), "nowhere") {
			t.Fatalf("error %v", err)
		}
		if all, err := n.client.List(n.ctx()); err != nil || len(all) != 0 {
			t.Fatalf("list %v, %v", all, err)
		}
		n.run(h, "web", "true") // the id is free
		n.stopped("web")
		if err := n.client.Delete(n.ctx(), "web", false); err != nil {
			t.Fatal(err)
		}
		n.sameDescriptors(before)
	})
}

// sameDescriptors checks that the supervisor has no more files than before, and no children. What it
// had open for a moment then may be closed.
func (n *node) sameDescriptors(before []string) {
	n.t.Helper()
	n.eventually("no more descriptors than before", func() error {
		now, known := n.descriptors(), slices.Clone(before)
		for _, target := range now {
			i := slices.Index(known, target)
			if i < 0 {
				return fmt.Errorf("found %v, before %v", now, before)
			}
			known = slices.Delete(known, i, i+1)
		}
		if c := n.children(); len(c) != 0 {
			return fmt.Errorf("children %v", c)
		}
		return nil
	})
}

func TestInvalidRequests(t *testing.T) {
	n := newNode(t)
	for name, r := range map[string]protocol.CreateRequest{
		"id":      {ID: "../x", Bundle: "/b"},
		"bundle":  {ID: "x", Bundle: "b"},
		"handler": {ID: "x", Bundle: "/b", Handler: "nope"},
		"path":    {ID: "x", Bundle: "/b", Log: protocol.Log{Path: "rel"}},
		"maxBytes": {ID: "x", Bundle: "/b", Log: protocol.Log{
			Path:      "/l",
			LogLimits: protocol.LogLimits{MaxBytes: 5},
		}},
		"maxFiles": {ID: "x", Bundle: "/b", Log: protocol.Log{
			Path:      "/l",
			LogLimits: protocol.LogLimits{MaxFiles: 1},
		}},
	} {
		if _, err := n.client.Create(n.ctx(), r); !errors.Is(err, protocol.ErrInvalid) ||
			!strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := n.client.Kill(n.ctx(), "x", "NOPE", false); !errors.Is(err, protocol.ErrInvalid) {
		t.Errorf("signal: %v", err)
	}
	if _, err := n.client.Start(n.ctx(), "x"); !errors.Is(err, protocol.ErrNotExist) {
		t.Errorf("start: %v", err)
	}

	good := `{"protocol":"berth.supervisor","minVersion":1,"maxVersion":1}` + "\n"
	for name, tc := range map[string]struct{ send, want string }{
		"no hello":       {"GET / HTTP/1.1\r\n", `"code":"Invalid"`},
		"other protocol": {`{"protocol":"x","maxVersion":1}` + "\n", `"code":"Version"`},
		"too new": {
			`{"protocol":"berth.supervisor","minVersion":2,"maxVersion":9}` + "\n",
			`"code":"Version"`,
		},
		"too old": {`{"protocol":"berth.supervisor"}` + "\n", `"code":"Version"`},
		"newer and ours": {`{"protocol":"berth.supervisor","minVersion":1,"maxVersion":9,"new":[]}` +
			"\n", `"version":1`},
		"oversized hello": {strings.Repeat("x", 2*protocol.MaxLine), `"code":"Invalid"`},
		"no json":         {good + "{{{\n", `"code":"Invalid"`},
		"unknown op":      {good + `{"op":"fly"}` + "\n", `"code":"Invalid"`},
		"no request":      {good + `{"op":"create"}` + "\n", `"code":"Invalid"`},
		"oversized": {
			good + `{"op":"` + strings.Repeat("x", 2*protocol.MaxLine) + `"}` + "\n",
			`"code":"Invalid"`,
		},
		"deep": {good + strings.Repeat("[", protocol.MaxLine-1) + "\n", `"code":"Invalid"`},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("unix", n.socket())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			go func() {
				c.Write([]byte(tc.send))
				c.(*net.UnixConn).CloseWrite()
			}()
			var got strings.Builder
			buf := make([]byte, 4096)
			for {
				k, err := c.Read(buf)
				got.Write(buf[:k])
				if err != nil {
					break
				}
			}
			if !strings.Contains(got.String(), tc.want) {
				t.Fatalf("answer %q, want %s in it", got.String(), tc.want)
			}
		})
	}
	if _, err := n.client.Ping(n.ctx()); err != nil {
		t.Fatalf("afterwards: %v", err)
	}
}

// Another user is refused by the supervisor itself, even where the file's mode would let it in.
func TestOtherUserIsRefused(t *testing.T) {
	n := newNode(t)
	fi, err := os.Stat(n.socket())
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Fatalf("socket %v, %v", fi.Mode(), err)
	}
	for path, mode := range map[string]os.FileMode{n.dir: 0o755, n.socket(): 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	// A copy of the test program where that user may read it.
	program := filepath.Join(n.dir, "client")
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, self, 0o755); err != nil {
		t.Fatal(err)
	}
	for uid, want := range map[uint32]string{
		65534: "permission denied: found user 65534; allowed: 0 and 0", 0: "<nil>",
	} {
		cmd := exec.Command(program, n.socket())
		cmd.Env = []string{roleVariable + "=list"}
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != want {
			t.Errorf("user %d: %q, %v", uid, out, err)
		}
	}
}

// A grandchild that holds the output open does not hold up the exit, and what it writes later is
// logged.
func TestGrandchildHoldsTheOutput(t *testing.T) {
	leaktest.Check(t)
	eachHandler(t, grandchildHoldsTheOutput)
}

func grandchildHoldsTheOutput(t *testing.T, h string) {
	n := newNode(t)
	dir := filepath.Join(n.dir, "signal")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	// Without a pid namespace, so that the grandchild outlives the first process.
	bundle := n.bundle("web", func(s *specs.Spec) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(x specs.LinuxNamespace) bool {
			return x.Type == specs.PIDNamespace
		})
		s.Mounts = append(s.Mounts, specs.Mount{
			Destination: "/tmp", Type: "bind", Source: dir,
			Options: []string{"bind", "rw"},
		})
	}, "/bin/sh", "-c",
		"(while [ ! -e /tmp/go ]; do sleep 0.05; done; echo late) & echo early; exit 5")
	_, err := n.client.Create(n.ctx(), protocol.CreateRequest{
		ID: "web", Handler: h, Bundle: bundle,
		Log: protocol.Log{Path: n.logPath("web")},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.client.Start(n.ctx(), "web"); err != nil {
		t.Fatal(err)
	}
	if st := n.stopped("web"); *st.ExitCode != 5 {
		t.Fatalf("%+v", st)
	}
	if got := n.lines("web", "stdout"); !slices.Equal(got, []string{"early"}) {
		t.Fatalf("stdout %q", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	n.eventually("the late line is logged", func() error {
		if got := n.lines("web", "stdout"); !slices.Equal(got, []string{"early", "late"}) {
			return fmt.Errorf("stdout %q", got)
		}
		return nil
	})
	// The grandchild, an orphan, has become the supervisor's child and is reaped.
	n.eventually("no children", func() error {
		if c := n.children(); len(c) != 0 {
			return fmt.Errorf("children %v", c)
		}
		return nil
	})
}

// Much output at once, with rotation: no line is lost, and the supervisor keeps up with both
// streams.
func TestMuchOutput(t *testing.T) {
	n := newNode(t)
	_, err := n.client.Create(n.ctx(), protocol.CreateRequest{
		ID: "web", Bundle: n.bundle("web", nil, "/bin/sh", "-c",
			"seq 1 100000 & seq 100001 150000 >&2; wait"),
		Log: protocol.Log{Path: n.logPath("web"), LogLimits: protocol.LogLimits{
			MaxBytes: 256 << 10,
			MaxFiles: 1000,
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.client.Start(n.ctx(), "web"); err != nil {
		t.Fatal(err)
	}
	if st := n.stopped("web"); *st.ExitCode != 0 || st.LogLost != 0 {
		t.Fatalf("%+v", st)
	}
	for stream, r := range map[string][2]int{"stdout": {1, 100000}, "stderr": {100001, 150000}} {
		got := n.lines("web", stream)
		if len(got) != r[1]-r[0]+1 {
			t.Fatalf("%s: %d lines", stream, len(got))
		}
		for i, l := range got {
			if l != strconv.Itoa(r[0]+i) {
				t.Fatalf("%s: line %d is %q", stream, i, l)
			}
		}
	}
}

// A killed supervisor: containers live on and do not notice, even those that write; the next one
// has them with pid, log and exit code.
func TestKilledSupervisor(t *testing.T) {
	eachHandler(t, func(t *testing.T, h string) {
		// The orphans come to us, and we reap them: a pid 1 may take its time, or leave them as
		// zombies.
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			t.Fatal(err)
		}
		n := newNode(t)
		count := n.run(h, "count",
			"i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done; sleep 1000")
		quiet := n.run(h, "quiet", "trap 'exit 9' TERM; while :; do sleep 0.1; done")
		killed := n.run(h, "killed", "exec sleep 1000")
		unseen := n.run(h, "unseen", "exec sleep 1000")
		done := n.run(h, "done", "exit 6")
		before := n.stopped("done")
		waiting := n.create(h, "waiting", "exit 8")
		n.eventually("it counts", func() error {
			if len(n.lines("count", "stdout")) == 0 {
				return errors.New("no output")
			}
			return nil
		})

		n.end(unix.SIGKILL)
		for _, st := range []protocol.Status{count, quiet, killed, waiting} {
			if err := unix.Kill(st.PID, 0); err != nil {
				t.Fatalf("%s: %v", st.ID, err)
			}
		}
		// One ends while nobody looks.
		if err := unix.Kill(unseen.PID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		reapOrphan(t, unseen.PID)
		n.start()

		all, err := n.client.List(n.ctx())
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []struct {
			st    protocol.Status
			state protocol.State
		}{
			{count, protocol.Running},
			{done, protocol.Stopped},
			{killed, protocol.Running},
			{quiet, protocol.Running},
			{unseen, protocol.Stopped},
			{waiting, protocol.Created},
		} {
			if i >= len(all) || all[i].ID != want.st.ID || all[i].PID != want.st.PID ||
				all[i].State != want.state {
				t.Fatalf("list %+v, want %s %d %s", all, want.st.ID, want.st.PID, want.state)
			}
		}
		if got := all[1]; got.ExitCode == nil || *got.ExitCode != 6 ||
			!got.FinishedAt.Equal(before.FinishedAt) {
			t.Errorf("the one that had ended before: %+v", got)
		}
		if got := all[4]; got.ExitCode != nil || got.Reason == "" || got.FinishedAt.IsZero() {
			t.Errorf("the one that ended unseen: %+v", got)
		}

		// It goes on in the same log, in which every line is once.
		n.eventually("the count ends", func() error {
			l := n.lines("count", "stdout")
			if l[len(l)-1] != "line 29999" {
				return fmt.Errorf("last line %q", l[len(l)-1])
			}
			return nil
		})
		lines := n.lines("count", "stdout")
		for i, l := range lines {
			if want := fmt.Sprintf("line %d", i); l != want {
				t.Fatalf("line %d of the log is %q; want %q", i, l, want)
			}
		}
		if len(lines) != 30000 {
			t.Errorf("found %d lines; want 30000", len(lines))
		}

		// Exit codes of what is not the supervisor's child any more.
		if err := n.client.Kill(n.ctx(), "quiet", "TERM", false); err != nil {
			t.Fatal(err)
		}
		if _, err := n.client.Start(n.ctx(), "waiting"); err != nil {
			t.Fatal(err)
		}
		// Reaped before the supervisor can look: it is stopped by then, so only the pidfd has the
		// exit status.
		if err := n.cmd.Process.Signal(unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(killed.PID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		reapOrphan(t, killed.PID)
		if err := n.cmd.Process.Signal(unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
		for id, want := range map[string]int{"quiet": 9, "waiting": 8, "killed": 137} {
			st := n.stopped(id)
			if id == "killed" && !kernelTellsExits(t) {
				// Nobody can know the code of a process that somebody else reaped; it must not be
				// made up.
				if st.ExitCode != nil || st.Reason == "" || st.StartedAt.IsZero() {
					t.Errorf("%s: found %+v; want no exit code, and why", id, st)
				}
				continue
			}
			if st.ExitCode == nil || *st.ExitCode != want || st.StartedAt.IsZero() {
				t.Errorf("%s: %+v", id, st)
			}
		}
		reapOrphan(t, quiet.PID)
		reapOrphan(t, waiting.PID)
		for _, st := range all {
			if err := n.client.Delete(n.ctx(), st.ID, true); err != nil {
				t.Error(err)
			}
		}
		reapOrphan(t, count.PID)
	})
}

// reapOrphan waits for a process that has come to the test as its subreaper. Go's own processes are
// not touched.
func reapOrphan(t *testing.T, pid int) {
	t.Helper()
	for {
		_, err := unix.Wait4(pid, nil, 0, nil)
		if err == nil || err == unix.ECHILD {
			return
		}
		if err != unix.EINTR {
			t.Fatal(err)
		}
	}
}

// SIGTERM ends the supervisor and nothing else, and no line is lost in between.
func TestSIGTERM(t *testing.T) {
	eachHandler(t, func(t *testing.T, h string) {
		n := newNode(t)
		st := n.run(h, "count",
			"i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done; echo -n end; read x; sleep 1000")
		for range 3 {
			n.end(unix.SIGTERM)
			if _, err := n.client.List(n.ctx()); err == nil {
				t.Fatal("a supervisor still answers")
			}
			n.start()
		}
		if got, err := n.client.Get(n.ctx(), "count"); err != nil || got.PID != st.PID ||
			got.State != protocol.Running {
			t.Fatalf("%+v, %v", got, err)
		}
		if err := n.client.Kill(n.ctx(), "count", "KILL", false); err != nil {
			t.Fatal(err)
		}
		// A log that is being written to may end within an entry.
		n.stopped("count")
		// A line that was cut by the end of a supervisor is tagged P, so it comes together again.
		for i, s := range n.lines("count", "stdout") {
			if s != fmt.Sprintf("line %d", i) && !(i == 30000 && s == "end") {
				t.Fatalf("line %d is %q", i, s)
			}
		}
	})
}

func TestSecondSupervisorIsRefused(t *testing.T) {
	n := newNode(t)
	cmd := exec.Command("/proc/self/exe", n.dir)
	cmd.Env = append(os.Environ(), roleVariable+"=supervise")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another supervisor holds") {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := n.client.Ping(n.ctx()); err != nil {
		t.Fatalf("the first: %v", err)
	}
}

// Many at once, through both handlers, whose programs and orphans must not get in one another's
// way. Afterwards the supervisor has as many descriptors as before, and no child.
func TestHundredAtOnce(t *testing.T) {
	n := newNode(t)
	n.warm("berth")
	n.warm("runc")
	before := n.descriptors()
	for i := range 100 {
		n.bundle(fmt.Sprintf("c%d", i), nil, "/bin/sh", "-c",
			fmt.Sprintf("(sleep 0.01 &) ; echo I am %d; exit %d", i, i))
	}
	w, err := n.client.Watch(n.ctx())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			id := fmt.Sprintf("c%d", i)
			h := "berth"
			if i%4 == 0 {
				h = "runc"
			}
			_, err := n.client.Create(n.ctx(), protocol.CreateRequest{
				ID: id, Handler: h,
				Bundle: filepath.Join(n.dir, "bundles", id), Log: protocol.Log{Path: n.logPath(id)},
			})
			if err == nil {
				_, err = n.client.Start(n.ctx(), id)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	// The exits arrive through the watch.
	codes := map[string]int{}
	for len(codes) < 100 {
		ev, err := w.Next()
		if err != nil {
			t.Fatal(err)
		}
		if ev.Status.State == protocol.Stopped {
			if ev.Status.ExitCode == nil {
				t.Fatalf("%+v", ev.Status)
			}
			codes[ev.Status.ID] = *ev.Status.ExitCode
		}
	}
	w.Close()
	for i := range 100 {
		id := fmt.Sprintf("c%d", i)
		if codes[id] != i {
			t.Errorf("%s ended with %d", id, codes[id])
		}
		if got := n.lines(id, "stdout"); !slices.Equal(got, []string{fmt.Sprintf("I am %d", i)}) {
			t.Errorf("%s wrote %q", id, got)
		}
	}
	for i := range 100 {
		wg.Go(func() {
			if err := n.client.Delete(n.ctx(), fmt.Sprintf("c%d", i), false); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	n.sameDescriptors(before)
}

// A watcher that does not read holds nobody up, and gets the last state of each when it does.
func TestSlowWatcher(t *testing.T) {
	n := newNode(t)
	w, err := n.client.Watch(n.ctx())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	// Far more changes than a socket's buffers hold.
	for range 300 {
		for _, id := range []string{"a", "b"} {
			if _, err := n.client.Create(n.ctx(), protocol.CreateRequest{ID: id, Bundle: "/nowhere/" +
				strings.Repeat("x", 4000)}); err == nil {
				t.Fatal("created")
			}
		}
	}
	n.run("", "last", "exit 3")
	n.stopped("last")
	events := 0
	for {
		ev, err := w.Next()
		if err != nil {
			t.Fatal(err)
		}
		events++
		if ev.Status.ID == "last" && ev.Status.State == protocol.Stopped {
			break
		}
	}
	if events > 1200 {
		t.Errorf("%d events", events)
	}
	// A second watcher begins with what there is.
	w2, err := n.client.Watch(n.ctx())
	if err != nil {
		t.Fatal(err)
	}
	defer w2.Close()
	if len(w2.List) != 1 || w2.List[0].ID != "last" || *w2.List[0].ExitCode != 3 {
		t.Fatalf("list %+v", w2.List)
	}
	if err := n.client.Delete(n.ctx(), "last", false); err != nil {
		t.Fatal(err)
	}
	if ev, err := w2.Next(); err != nil || !ev.Deleted || ev.Status.ID != "last" {
		t.Fatalf("%+v, %v", ev, err)
	}
	// It ends when the supervisor does.
	n.end(unix.SIGTERM)
	if _, err := w2.Next(); err == nil {
		t.Fatal("an event from a supervisor that has ended")
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	n := newNode(t)
	ctx, cancel := context.WithCancel(n.ctx())
	w, err := n.client.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := w.Next(); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

// A client that has gone does not undo what it has asked for.
func TestClientGoesWhileCreating(t *testing.T) {
	n := newNode(t)
	bundle := n.bundle("web", nil, "/bin/true")
	c, err := net.Dial("unix", n.socket())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, `{"protocol":"berth.supervisor","minVersion":1,"maxVersion":1}`+"\n"+
		`{"op":"create","create":{"id":"web","bundle":%q,"handler":"runc"}}`+"\n", bundle)
	n.eventually("it is being made", func() error {
		_, err := n.client.Get(n.ctx(), "web")
		return err
	})
	c.Close()
	n.eventually("it is made", func() error {
		st, err := n.client.Get(n.ctx(), "web")
		if err == nil && st.State != protocol.Created {
			err = fmt.Errorf("it is %s", st.State)
		}
		return err
	})
}

// A first process that was killed for lack of memory differs from one that was merely killed, and
// from one of whose children one was; those are counted.
func TestOOMKilled(t *testing.T) {
	eachHandler(t, func(t *testing.T, h string) {
		n := newNode(t)
		limit := int64(32 << 20)
		for id, tc := range map[string]struct {
			script string
			after  func(st protocol.Status) // is called once the kills have been counted
			want   bool
			code   int
			kills  uint64
		}{
			"greedy": {script: "exec tail /dev/zero", want: true, code: 137, kills: 1},
			"killed": {script: "sleep 1000", after: func(protocol.Status) {
				_ = n.client.Kill(n.ctx(), "killed", "KILL", false)
			}, code: 137},
			"child":       {script: "tail /dev/zero; exit 3", code: 3, kills: 1},
			"child twice": {script: "tail /dev/zero; tail /dev/zero; exit 0", kills: 2},
			"passed on":   {script: "tail /dev/zero; exit $?", code: 137, kills: 1},
			// A worker is killed, and later somebody kills the first process by hand.
			"later": {script: "tail /dev/zero; sleep 1000", after: func(st protocol.Status) {
				_ = unix.Kill(st.PID, unix.SIGKILL)
			}, code: 137, kills: 1},
			"then": {
				script: "tail /dev/zero; sleep 1; exec tail /dev/zero", want: true, code: 137,
				kills: 2,
			},
		} {
			id := strings.ReplaceAll(id, " ", "-")
			bundle := n.bundle(id, func(s *specs.Spec) {
				s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
				s.Mounts = append(s.Mounts, specs.Mount{
					Destination: "/dev/zero", Type: "bind",
					Source: "/dev/zero", Options: []string{"bind"},
				})
			}, "/bin/busybox", "sh", "-c", tc.script)
			_, err := n.client.Create(n.ctx(), protocol.CreateRequest{ID: id, Handler: h, Bundle: bundle})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := n.client.Start(n.ctx(), id); err != nil {
				t.Fatal(err)
			}
			if tc.after != nil {
				var st protocol.Status
				n.eventually("the kills are counted while it runs", func() (err error) {
					st, err = n.client.Get(n.ctx(), id)
					if err == nil && st.OOMKills != tc.kills {
						err = fmt.Errorf("found %+v", st)
					}
					return err
				})
				tc.after(st)
			}
			if st := n.stopped(id); st.OOMKilled != tc.want || *st.ExitCode != tc.code ||
				st.OOMKills != tc.kills {
				t.Errorf("%s: found OOMKilled %t, exit code %d, %d kills; want %t, %d, %d", id, st.OOMKilled,
					*st.ExitCode, st.OOMKills, tc.want, tc.code, tc.kills)
			}
		}
	})
}

// A cgroup of its own wherever the host allows it.
func TestCgroupParent(t *testing.T) {
	needs.Root(t)
	own := fmt.Sprintf("/berth-test-own-%d", os.Getpid())
	t.Cleanup(func() { removeCgroup(t, own) })
	n := newNode(t, own+"/supervisor")
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", n.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), own+"/supervisor") {
		t.Fatalf("cgroups\n%s", b)
	}
	n.run("", "web", "exit 2")
	if st := n.stopped("web"); *st.ExitCode != 2 {
		t.Fatalf("%+v", st)
	}
}

// EnsureRunning starts one supervisor however many ask, and finds one that runs.
func TestEnsureRunning(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	dir, err := os.MkdirTemp("", "berth")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	run := filepath.Join(dir, "run")
	socket := filepath.Join(run, "supervisor.sock")
	args := []string{roleVariable + "=supervise", "/proc/" + strconv.Itoa(os.Getpid()) + "/exe", run}
	// As a descriptor that a shell has left open, which the supervisor must not keep.
	var inherited [2]int
	if err := unix.Pipe2(inherited[:], unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(inherited[0])
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := protocol.EnsureRunning(t.Context(), "/usr/bin/env", args, socket, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	pid, err := protocol.NewClient(socket).Ping(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		unix.Kill(pid, unix.SIGTERM)
		for unix.Kill(pid, 0) == nil {
			time.Sleep(time.Millisecond)
		}
	}()
	unix.Close(inherited[1])
	if n, err := unix.Read(inherited[0], make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("reading a pipe that nobody writes to: found %d, %v; want its end", n, err)
	}
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		t.Errorf("session %d of %d, %v", sid, pid, err)
	}
	if fi, err := os.Stat(run); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("directory %v, %v", fi.Mode(), err)
	}
	if err := protocol.EnsureRunning(t.Context(), "/bin/false", nil, socket, nil); err != nil {
		t.Errorf("one runs: %v", err)
	}
	err = protocol.EnsureRunning(t.Context(), "/bin/sh",
		[]string{"-c", "echo what is wrong >&2; exit 1"}, filepath.Join(dir, "other", "s.sock"), nil)
	if err == nil || !strings.Contains(err.Error(), "what is wrong") {
		t.Errorf("one that cannot start: %v", err)
	}
}

// The main thread is found wherever Run is called from.
func TestOnMainThread(t *testing.T) {
	leaktest.Check(t)
	for range 10 {
		tid := 0
		if err := onMainThread(func() { tid = unix.Gettid() }); err != nil || tid != os.Getpid() {
			t.Fatalf("thread %d of %d, %v", tid, os.Getpid(), err)
		}
	}
}
