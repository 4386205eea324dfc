// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// cgroupFile reads a file of a process's cgroup: of the v1 hierarchy of a controller, or of cgroup
// v2.
func cgroupFile(t *testing.T, pid int, controller, v1, v2 string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		t.Fatal(err)
	}
	root, name, dir := "/sys/fs/cgroup", v2, ""
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case parts[1] == "" && dir == "":
			dir = parts[2]
		case parts[1] == controller:
			root, name, dir = filepath.Join(root, controller), v1, parts[2]
		}
	}
	data, err := os.ReadFile(filepath.Join(root, dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func limits(memory, pids int64) *specs.LinuxResources {
	return &specs.LinuxResources{Memory: &specs.LinuxMemory{
		Limit:             &memory,
		CheckBeforeUpdate: new(true),
	}, Pids: &specs.LinuxPids{Limit: &pids}}
}

const mi = int64(1 << 20)

// assertLimits asserts the limits of a container's cgroup, and that its process still runs.
func assertLimits(t *testing.T, n *node, before protocol.Status, memory, pids int64) {
	t.Helper()
	got := cgroupFile(t, before.PID, "memory", "memory.limit_in_bytes", "memory.max")
	if got != strconv.FormatInt(memory, 10) {
		t.Errorf("the limit of memory is %s; want %d", got, memory)
	}
	if got := cgroupFile(t, before.PID, "pids", "pids.max",
		"pids.max"); got != strconv.FormatInt(pids, 10) {
		t.Errorf("the limit of pids is %s; want %d", got, pids)
	}
	if st, err := n.client.Get(n.ctx(), before.ID); err != nil || st.State != protocol.Running ||
		st.PID != before.PID {
		t.Errorf("found %+v, %v; want pid %d to run", st, err, before.PID)
	}
}

// TestUpdate changes limits of a running container. Where the kernel refuses one of them, all are
// what they were.
func TestUpdate(t *testing.T) {
	eachHandler(t, func(t *testing.T, h string) {
		n := newNode(t)
		st := n.run(h, "web", "sleep 1000")
		update := func(to, before *specs.LinuxResources) error {
			return n.client.Update(n.ctx(), "web", protocol.UpdateRequest{To: to, Before: before})
		}
		first, next := limits(64*mi, 20), limits(32*mi, 30)
		for range 2 { // it may be asked again
			if err := update(first, limits(-1, -1)); err != nil {
				t.Fatal(err)
			}
		}
		assertLimits(t, n, st, 64*mi, 20)
		if err := update(next, first); err != nil {
			t.Fatal(err)
		}
		assertLimits(t, n, st, 32*mi, 30)
		bad := limits(4096, 40)
		bad.CPU = &specs.LinuxCPU{Shares: new(uint64(77))}
		was := limits(32*mi, 30)
		was.CPU = &specs.LinuxCPU{Shares: new(uint64(1024))}
		err := update(bad, was)
		if err == nil || !strings.Contains(err.Error(), "linux.resources") ||
			strings.Contains(err.Error(), "set it back") {
			t.Errorf("a limit below the usage: %v", err)
		}
		if h == "berth" &&
			(err == nil || !strings.Contains(err.Error(), "linux.resources.memory.limit: ")) {
			t.Errorf("the error names no field: %v", err)
		}
		assertLimits(t, n, st, 32*mi, 30)
		if cgroupFile(t, st.PID, "cpu", "cpu.shares", "cpu.weight") == "77" {
			t.Error("cpu.shares was not set back")
		}

		if err := n.client.Kill(n.ctx(), "web", "KILL", true); err != nil {
			t.Fatal(err)
		}
		n.stopped("web")
		if err := update(first, next); !errors.Is(err, protocol.ErrNotRunning) {
			t.Errorf("update of a stopped one: %v", err)
		}
		if err := n.client.Update(n.ctx(), "nope", protocol.UpdateRequest{To: first}); !errors.Is(err,
			protocol.ErrNotExist) {
			t.Errorf("update of none: %v", err)
		}
		if err := n.client.Update(n.ctx(), "web", protocol.UpdateRequest{}); !errors.Is(err,
			protocol.ErrInvalid) {
			t.Errorf("update without limits: %v", err)
		}
	})
}

// logFiles returns the sizes of a container's log files, the current one first.
func (n *node) logFiles(id string) []int64 {
	n.t.Helper()
	var sizes []int64
	for i := range 1000 {
		name := n.logPath(id)
		if i > 0 {
			name += "." + strconv.Itoa(i)
		}
		fi, err := os.Stat(name)
		if err != nil {
			break
		}
		sizes = append(sizes, fi.Size())
	}
	return sizes
}

// untilLogFiles waits until a container that writes has that many log files, each of at most that
// size.
func (n *node) untilLogFiles(id string, files int, most int64) {
	n.t.Helper()
	n.eventually(fmt.Sprintf("%d log files of at most %d bytes", files, most), func() error {
		if got := n.logFiles(id); len(got) != files || slices.Max(got) > most {
			return fmt.Errorf("found log files of %v bytes", got)
		}
		return nil
	})
}

// TestUpdateOfTheLog changes the limits of the log of a container that writes all the time. They
// hold at once, in the next supervisor and in the next program of the same one; where the handler
// refuses a limit of the same request, they stay as they were.
func TestUpdateOfTheLog(t *testing.T) {
	n := newNode(t)
	st := n.run("berth", "web", "while :; do seq 1 2000; sleep 0.05; done")
	limit := func(maxBytes int64, maxFiles int) *protocol.LogLimits {
		return &protocol.LogLimits{MaxBytes: maxBytes, MaxFiles: maxFiles}
	}
	update := func(r protocol.UpdateRequest) error { return n.client.Update(n.ctx(), "web", r) }
	const small = protocol.MinLogBytes
	n.eventually("the log grows", func() error {
		if got := n.logFiles("web"); len(got) != 1 || got[0] < 200<<10 {
			return fmt.Errorf("found log files of %v bytes", got)
		}
		return nil
	})
	for range 2 { // it may be asked again
		if err := update(protocol.UpdateRequest{Log: limit(64<<10, 4)}); err != nil {
			t.Fatal(err)
		}
	}
	n.untilLogFiles("web", 4, 64<<10)
	if err := update(protocol.UpdateRequest{
		To: limits(64*mi, 20), Before: limits(-1, -1),
		Log: limit(small, 3),
	}); err != nil {
		t.Fatal(err)
	}
	if got := n.logFiles("web"); len(got) > 3 {
		t.Errorf("found log files of %v bytes right after the update", got)
	}
	assertLimits(t, n, st, 64*mi, 20)
	n.untilLogFiles("web", 3, small)

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, next := range []struct {
		name   string
		become func()
	}{
		{"killed", func() { n.end(9); n.start() }},
		{"upgraded", func() {
			if err := n.upgrade(self); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		next.become()
		rec, err := records{dir: filepath.Join(n.dir, "supervisor")}.read("web")
		if err != nil || rec.Log.LogLimits != *limit(small, 3) {
			t.Errorf("%s: found the limits %+v (%v)", next.name, rec.Log, err)
		}
		var before os.FileInfo
		n.eventually("the log is there", func() (err error) { // not within a rotation
			before, err = os.Stat(n.logPath("web"))
			return err
		})
		n.eventually("the log is rotated", func() error {
			if now, err := os.Stat(n.logPath("web")); err != nil || os.SameFile(before, now) {
				return fmt.Errorf("found the same file (%v)", err)
			}
			return nil
		})
		n.untilLogFiles("web", 3, small)
	}

	bad := protocol.UpdateRequest{
		To: limits(4096, 40), Before: limits(64*mi, 20),
		Log: limit(64<<10, 2),
	}
	if err := update(bad); err == nil || !strings.Contains(err.Error(),
		"linux.resources.memory.limit: ") {
		t.Errorf("a limit below the usage: %v", err)
	}
	n.untilLogFiles("web", 3, small)
	assertLimits(t, n, st, 64*mi, 20)
	for _, l := range []*protocol.LogLimits{limit(small-1, 2), limit(small, 1), limit(small, 1001)} {
		if err := update(protocol.UpdateRequest{Log: l}); !errors.Is(err, protocol.ErrInvalid) {
			t.Errorf("%+v: found %v", l, err)
		}
	}
}

// TestUpdateKilledAtEachStep kills the supervisor before and after an update. Its outcome is
// unknown, and asking the same of the next supervisor settles it.
func TestUpdateKilledAtEachStep(t *testing.T) {
	for _, step := range []string{"update begins", "updated", "limits of the log recorded"} {
		t.Run(step, func(t *testing.T) {
			n := newNode(t)
			n.end(9)
			t.Setenv(killVariable, step)
			n.start()
			os.Unsetenv(killVariable)
			st := n.run("berth", "web", "seq 1 20000; sleep 1000")
			n.eventually("it has written all", func() error { // or the log rotates later, too
				if got := len(n.lines("web", "stdout")); got != 20000 {
					return fmt.Errorf("found %d lines", got)
				}
				return nil
			})
			r := protocol.UpdateRequest{
				To: limits(64*mi, 20), Before: limits(-1, -1),
				Log: &protocol.LogLimits{MaxBytes: protocol.MinLogBytes, MaxFiles: 2},
			}
			if err := n.client.Update(n.ctx(), "web", r); !errors.Is(err, protocol.ErrUnknownOutcome) {
				t.Fatalf("found %v; want ErrUnknownOutcome", err)
			}
			_ = n.cmd.Wait()
			n.start()
			if err := n.client.Update(n.ctx(), "web", r); err != nil {
				t.Fatal(err)
			}
			assertLimits(t, n, st, 64*mi, 20)
			if got := n.logFiles("web"); len(got) != 2 || got[0] > protocol.MinLogBytes {
				t.Errorf("found log files of %v bytes", got)
			}
		})
	}
}

// TestUpdateOfTheLogIsUndone has the supervisor fail to record the limits of the log: all limits
// are as they were.
func TestUpdateOfTheLogIsUndone(t *testing.T) {
	n := newNode(t)
	st := n.run("berth", "web", "sleep 1000")
	// A directory that is not empty cannot be replaced by a record.
	record := filepath.Join(n.dir, "supervisor", "web.json")
	if err := os.Rename(record, record+".kept"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(record, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	r := protocol.UpdateRequest{
		To: limits(64*mi, 20), Before: limits(128*mi, 30),
		Log: &protocol.LogLimits{MaxBytes: protocol.MinLogBytes, MaxFiles: 2},
	}
	if err := n.client.Update(n.ctx(), "web", r); err == nil ||
		errors.Is(err, protocol.ErrUnknownOutcome) {
		t.Errorf("found %v; want the error of the record", err)
	}
	assertLimits(t, n, st, 128*mi, 30)
	if err := os.RemoveAll(record); err != nil {
		t.Fatal(err)
	}
	n.eventually("the record is written again", func() error {
		rec, err := records{dir: filepath.Dir(record)}.read("web")
		if err == nil && rec.Log.LogLimits != (protocol.LogLimits{MaxFiles: protocol.DefaultLogFiles}) {
			err = fmt.Errorf("found the limits %+v", rec.Log)
		}
		return err
	})
	if err := n.client.Update(n.ctx(), "web", r); err != nil {
		t.Error(err)
	}
	assertLimits(t, n, st, 64*mi, 20)
}
