// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// cgroupFile reads a file of a process's cgroup: of the v1 hierarchy of a controller, or of cgroup v2.
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
	return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory, CheckBeforeUpdate: new(true)}, Pids: &specs.LinuxPids{Limit: &pids}}
}

const mi = int64(1 << 20)

// assertLimits asserts the limits of a container's cgroup, and that its process still runs.
func assertLimits(t *testing.T, n *node, before protocol.Status, memory, pids int64) {
	t.Helper()
	if got := cgroupFile(t, before.PID, "memory", "memory.limit_in_bytes", "memory.max"); got != strconv.FormatInt(memory, 10) {
		t.Errorf("the limit of memory is %s; want %d", got, memory)
	}
	if got := cgroupFile(t, before.PID, "pids", "pids.max", "pids.max"); got != strconv.FormatInt(pids, 10) {
		t.Errorf("the limit of pids is %s; want %d", got, pids)
	}
	if st, err := n.client.Get(n.ctx(), before.ID); err != nil || st.State != protocol.Running || st.PID != before.PID {
		t.Errorf("found %+v, %v; want pid %d to run", st, err, before.PID)
	}
}

// TestUpdate changes limits of a running container. Where the kernel refuses one of them, all are what they were.
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
		if err == nil || !strings.Contains(err.Error(), "linux.resources") || strings.Contains(err.Error(), "set it back") {
			t.Errorf("a limit below the usage: %v", err)
		}
		if h == "berth" && (err == nil || !strings.Contains(err.Error(), "linux.resources.memory.limit: ")) {
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
		if err := n.client.Update(n.ctx(), "nope", protocol.UpdateRequest{To: first}); !errors.Is(err, protocol.ErrNotExist) {
			t.Errorf("update of none: %v", err)
		}
		if err := n.client.Update(n.ctx(), "web", protocol.UpdateRequest{}); !errors.Is(err, protocol.ErrInvalid) {
			t.Errorf("update without limits: %v", err)
		}
	})
}

// TestUpdateKilledAtEachStep kills the supervisor before and after an update. Its outcome is unknown, and asking the same of the next
// supervisor settles it.
func TestUpdateKilledAtEachStep(t *testing.T) {
	for _, step := range []string{"update begins", "updated"} {
		t.Run(step, func(t *testing.T) {
			n := newNode(t)
			n.end(9)
			t.Setenv(killVariable, step)
			n.start()
			os.Unsetenv(killVariable)
			st := n.run("berth", "web", "sleep 1000")
			r := protocol.UpdateRequest{To: limits(64*mi, 20), Before: limits(-1, -1)}
			if err := n.client.Update(n.ctx(), "web", r); !errors.Is(err, protocol.ErrUnknownOutcome) {
				t.Fatalf("found %v; want ErrUnknownOutcome", err)
			}
			_ = n.cmd.Wait()
			n.start()
			if err := n.client.Update(n.ctx(), "web", r); err != nil {
				t.Fatal(err)
			}
			assertLimits(t, n, st, 64*mi, 20)
		})
	}
}
