// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/procfs"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// holds starts to hold what the node's supervisor has open, and goes on with its successors, until
// the test ends.
func (n *node) holds() {
	n.t.Helper()
	n.holder = &protocol.Holder{}
	ctx, cancel := context.WithCancel(n.ctx())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_ = n.client.Hold(ctx, n.holder)
			time.Sleep(time.Millisecond)
		}
	}()
	n.t.Cleanup(func() {
		cancel()
		<-done
		n.holder.Close()
	})
}

// held waits until the descriptors of that many containers are held.
func (n *node) held(count int) {
	n.t.Helper()
	n.eventually(fmt.Sprintf("%d containers are held", count), func() error {
		if got := n.holder.Len(); got != count {
			return fmt.Errorf("%d", got)
		}
		return nil
	})
}

// subreaper has orphans come to the test, which reaps them at once, as systemd does; a pid 1 may
// take its time.
func subreaper(t *testing.T) {
	t.Helper()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
}

// TestEndsWhileNoSupervisorRuns kills the supervisor. Containers write their last lines and end
// before there is another, and are reaped by somebody else: their exit codes and all of their
// output are known all the same.
func TestEndsWhileNoSupervisorRuns(t *testing.T) {
	eachHandler(t, func(t *testing.T, h string) {
		subreaper(t)
		n := newNode(t)
		n.holds()
		goFile := filepath.Join(n.rootfs, "tmp", "go")
		wait := "while [ ! -e /tmp/go ]; do sleep 0.02; done; "
		ended := map[string]protocol.Status{}
		for id, script := range map[string]string{
			"seven": wait + "echo last; exit 7",
			"zero":  "echo first; " + wait + "echo last",
			"half":  "echo first; echo -n 'the begin'; " + wait + "echo 'ning of a line'; exit 3",
		} {
			ended[id] = n.run(h, id, script)
		}
		n.held(len(ended))
		n.eventually("the first lines are in the log", func() error {
			if len(n.lines("zero", "stdout")) == 0 || len(n.lines("half", "stdout")) == 0 {
				return errors.New("not yet")
			}
			return nil
		})
		n.end(unix.SIGKILL)
		if err := os.WriteFile(goFile, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, st := range ended {
			reapOrphan(t, st.PID)
		}
		n.start()
		for id, want := range map[string]struct {
			code  int
			lines []string
		}{
			"seven": {7, []string{"last"}},
			"zero":  {0, []string{"first", "last"}},
			"half":  {3, []string{"first", "the beginning of a line"}},
		} {
			st := n.stopped(id)
			if st.StartedAt.IsZero() || kernelTellsExits(t) &&
				(st.ExitCode == nil || *st.ExitCode != want.code) {
				t.Errorf("%s: found %+v; want exit code %d", id, st, want.code)
			}
			if got := n.lines(id, "stdout"); !slices.Equal(got, want.lines) {
				t.Errorf("%s: the log has %q; want %q", id, got, want.lines)
			}
			if err := n.client.Delete(n.ctx(), id, false); err != nil {
				t.Error(err)
			}
		}
		n.held(0)
		if left, _ := filepath.Glob(filepath.Join(n.dir, "supervisor", "*spool*")); len(left) > 0 {
			t.Errorf("left over: %v", left)
		}
	})
}

// TestKilledAgainAndAgain kills the supervisor at random moments while containers write, each of
// which ends with a burst of lines. No line is lost, doubled or out of order, and no exit code is
// unknown.
func TestKilledAgainAndAgain(t *testing.T) {
	subreaper(t)
	n := newNode(t)
	n.holds()
	const count, kills = 12, 12
	for i := range count {
		id := fmt.Sprintf("c%d", i)
		n.run("berth", id, fmt.Sprintf(`i=0
			while [ ! -e /tmp/go ]; do echo line $i; i=$((i+1)); sleep 0.00%d; done
			j=0; while [ $j -lt 1000 ]; do echo line $i; i=$((i+1)); j=$((j+1)); done
			echo -n end $i; exit %d`, 1+i%3, 10+i))
	}
	n.held(count)
	for i := range kills {
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
		n.end(unix.SIGKILL)
		if i == kills-1 {
			if err := os.WriteFile(filepath.Join(n.rootfs, "tmp", "go"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		n.start()
	}
	all, err := n.client.List(n.ctx())
	if err != nil || len(all) != count {
		t.Fatalf("found %d containers, %v; want %d", len(all), err, count)
	}
	for i := range count {
		id := fmt.Sprintf("c%d", i)
		st := n.stopped(id)
		reapOrphan(t, st.PID)
		if kernelTellsExits(t) && (st.ExitCode == nil || *st.ExitCode != 10+i) {
			t.Errorf("%s: found %+v; want exit code %d", id, st, 10+i)
		}
		// writes the last line, which has no end
		if err := n.client.Delete(n.ctx(), id, false); err != nil {
			t.Error(err)
		}
		lines := n.lines(id, "stdout")
		for j, l := range lines {
			if want := fmt.Sprintf("line %d", j); l != want &&
				(j != len(lines)-1 || l != fmt.Sprintf("end %d", j)) {
				t.Errorf("%s: line %d is %q", id, j, l)
				break
			}
		}
		if len(lines) < 1001 || !strings.HasPrefix(lines[len(lines)-1], "end ") {
			t.Errorf("%s: found %d lines, the last of them %q", id, len(lines), lines[max(0, len(lines)-1):])
		}
	}
}

// TestEndsWhileHeld ends a supervisor, and has it become another program, while an agent holds
// descriptors: neither waits for the agent to go.
func TestEndsWhileHeld(t *testing.T) {
	n := newNode(t)
	n.holds()
	n.run("berth", "web", "sleep 1000")
	n.held(1)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, end := range map[string]func() error{
		"upgrade": func() error { return n.upgrade(self) },
		"SIGTERM": func() error { n.end(unix.SIGTERM); return nil },
	} {
		begin := time.Now()
		if err := end(); err != nil {
			t.Fatal(name, err)
		}
		if took := time.Since(begin); took > stopTimeout/2 {
			t.Errorf("%s: it took %v", name, took)
		}
		if name == "SIGTERM" {
			n.start()
		}
		n.held(1)
	}
}

// TestHolderGetsTheNewestLast forgets a container while its descriptors are looked up for a client
// that begins to hold: what the client gets last is that it is forgotten.
func TestHolderGetsTheNewestLast(t *testing.T) {
	leaktest.Check(t)
	c := &container{id: "web", pidfd: -1}
	for i, name := range protocol.Kinds[1:] {
		c.streams[i] = &stream{name: name, fd: open(t, os.DevNull)}
	}
	s := &server{
		log: slog.New(slog.DiscardHandler), containers: map[string]*container{"web": c},
		holders: map[*holder]struct{}{},
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	server, client := socket(t, fds[0]), socket(t, fds[1])

	// The second stream is in use, so that the search for descriptors stops there.
	c.streams[1].mu.Lock()
	var ended sync.WaitGroup
	ended.Go(func() { _ = s.hold(t.Context(), server) })
	for held := 0; held == 0; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		held = len(s.holders)
		s.mu.Unlock()
	}
	time.Sleep(20 * time.Millisecond)
	c.streams[0].mu.Lock()
	c.streams[0].fd = -1
	c.streams[0].mu.Unlock()
	ended.Go(func() { s.passOn(c, true) })
	time.Sleep(20 * time.Millisecond)
	c.streams[1].fd = -1
	c.streams[1].mu.Unlock()

	var last protocol.Holding
	r := bufio.NewReader(client)
	for synced, dropped := false, false; !synced || !dropped; {
		var m protocol.Holding
		if err := protocol.ReadLine(r, &m); err != nil {
			t.Fatal(err)
		}
		synced, dropped = synced || m.Synced, dropped || m.Dropped
		if m.ID == "web" {
			last = m
		}
	}
	if !last.Dropped {
		t.Errorf("the last message of the container is %+v; want that it was dropped", last)
	}
	client.Close()
	ended.Wait()
}

// TestHeldPidfdOfAnEarlierContainer adopts a running container, where the pidfd that was held under
// its id is of a container before, which has ended. The container goes on.
func TestHeldPidfdOfAnEarlierContainer(t *testing.T) {
	leaktest.Check(t)
	before := exec.Command("/bin/true")
	if err := before.Start(); err != nil {
		t.Fatal(err)
	}
	stale, err := unix.PidfdOpen(before.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := before.Wait(); err != nil {
		t.Fatal(err)
	}
	// A grandchild, as the containers of a killed supervisor are no children of the next.
	parent := exec.Command("/bin/sh", "-c", "sleep 1000 & echo $!; wait")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = unix.Kill(pid, unix.SIGKILL)
		_ = parent.Wait()
	}()
	st, err := procfs.ReadStat(pid)
	if err != nil {
		t.Fatal(err)
	}

	s := testServer(t)
	s.held = map[string]map[string]int{protocol.Key("web"): {protocol.Kinds[0]: stale}}
	if err := s.adopt(t.Context(), &record{
		Status:    protocol.Status{ID: "web", PID: pid, State: protocol.Running},
		StartTime: st.StartTime,
	}); err != nil {
		t.Error(err)
	}
	if fd, ok := s.held[protocol.Key("web")][protocol.Kinds[0]]; ok {
		unix.Close(fd)
	}
	time.Sleep(50 * time.Millisecond) // a pidfd of what has ended is readable at once
	c := s.containers["web"]
	if got := c.status(); got.State != protocol.Running {
		t.Errorf("found %+v; want it to run", got)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-c.ended
}

// TestAdoptWithoutDescriptors adopts a container whose process lives while no descriptor can be
// opened. It must not count as ended: another process would be started beside it.
func TestAdoptWithoutDescriptors(t *testing.T) {
	leaktest.Check(t)
	process := exec.Command("sleep", "1000")
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = process.Process.Kill()
		_ = process.Wait()
	}()
	st, err := procfs.ReadStat(process.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	s := testServer(t)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := unix.Rlimit{Cur: 3, Max: limit.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	err = s.adopt(t.Context(), &record{
		Status:    protocol.Status{ID: "web", PID: process.Process.Pid, State: protocol.Running},
		StartTime: st.StartTime,
	})
	if rerr := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); rerr != nil {
		t.Fatal(rerr)
	}
	if !errors.Is(err, unix.EMFILE) {
		t.Errorf("found error %v; want EMFILE", err)
	}
	if got := s.containers["web"].status(); got.State != protocol.Running {
		t.Errorf("found %+v; want it to run", got)
	}
}

// testServer returns a server without clients or handlers, and ends it with the test.
func testServer(t *testing.T) *server {
	t.Helper()
	s := &server{
		log: slog.New(slog.DiscardHandler), records: records{t.TempDir()}, step: func(string) {},
		containers: map[string]*container{},
		byPID:      map[int]*container{}, zombies: map[int]bool{}, early: map[int]unix.WaitStatus{},
		reaped: make(chan struct{}, 1), stopped: make(chan struct{}),
	}
	var err error
	if s.exits, err = newPoller(1, s.log); err != nil {
		t.Fatal(err)
	}
	if s.logs, err = newPoller(1, s.log); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.letGo)
	return s
}

// open opens a file and closes it when the test ends.
func open(t *testing.T, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// socket returns a descriptor, which it takes over, as a connection.
func socket(t *testing.T, fd int) *net.UnixConn {
	t.Helper()
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.UnixConn)
}
