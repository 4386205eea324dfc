// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

func (n *node) upgrade(program string) error {
	ctx, cancel := context.WithTimeout(n.ctx(), 2*time.Minute)
	defer cancel()
	return n.client.Upgrade(ctx, program)
}

// TestUpgradeInPlace has the supervisor become another program again and again while containers
// write. Its process, the containers' parent, stays the same; no line is lost or doubled, and each
// exit code is known, also of what ends in between.
func TestUpgradeInPlace(t *testing.T) {
	eachHandler(t, func(t *testing.T, h string) {
		n := newNode(t)
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		pid := n.cmd.Process.Pid
		const count, upgrades = 6, 4
		pids := map[string]int{}
		for i := range count {
			id := fmt.Sprintf("c%d", i)
			pids[id] = n.run(h, id, fmt.Sprintf(`i=0
				while [ ! -e /tmp/go ]; do echo line $i; i=$((i+1)); sleep 0.003; done
				j=0; while [ $j -lt 300 ]; do echo line $i; i=$((i+1)); j=$((j+1)); done
				echo -n end $i; exit %d`, 10+i)).PID
		}
		n.create(h, "waiting", "exit 9")
		n.run(h, "short", "read x < /dev/null; sleep 0.05; exit 8")
		for i := range upgrades {
			if i == upgrades-1 {
				if err := os.WriteFile(filepath.Join(n.rootfs, "tmp", "go"), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := n.upgrade(self); err != nil {
				t.Fatal(err)
			}
			if got, err := n.client.Ping(n.ctx()); err != nil || got != pid {
				t.Fatalf("found process %d, %v; want %d", got, err, pid)
			}
		}
		if _, err := n.client.Start(n.ctx(), "waiting"); err != nil {
			t.Fatal(err)
		}
		want := map[string]int{"waiting": 9, "short": 8}
		for i := range count {
			want[fmt.Sprintf("c%d", i)] = 10 + i
		}
		for id, code := range want {
			st := n.stopped(id)
			if st.ExitCode == nil || *st.ExitCode != code || st.StartedAt.IsZero() {
				t.Errorf("%s: found %+v; want exit code %d", id, st, code)
			}
			if p, ok := pids[id]; ok && p != st.PID {
				t.Errorf("%s: found process %d; want %d", id, st.PID, p)
			}
			n.eventually(id+" is reaped", func() error { // a moment after its state is seen
				if err := unix.Kill(st.PID, 0); !errors.Is(err, unix.ESRCH) {
					return fmt.Errorf("process %d: %v", st.PID, err)
				}
				return nil
			})
			if err := n.client.Delete(n.ctx(), id, false); err != nil {
				t.Error(err)
			}
		}
		for id := range pids {
			lines := n.lines(id, "stdout")
			for j, l := range lines {
				if l != fmt.Sprintf("line %d", j) && (j != len(lines)-1 || l != fmt.Sprintf("end %d", j)) {
					t.Errorf("%s: line %d is %q", id, j, l)
					break
				}
			}
			if len(lines) < 301 || !strings.HasPrefix(lines[len(lines)-1], "end ") {
				t.Errorf("%s: found %d lines, the last %q", id, len(lines), lines[max(0, len(lines)-1):])
			}
		}
		// No descriptor of a container or of an upgrade stays.
		n.eventually("no descriptor is left", func() error {
			names, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
			if err != nil {
				return err
			}
			var left []string
			for _, name := range names {
				if to, err := os.Readlink(name); err == nil && (strings.Contains(to, "pidfd") ||
					strings.Contains(to, "spool") || strings.Contains(to, "memfd") ||
					strings.Contains(to, ".log") && !strings.Contains(to, "supervisor.log")) {
					left = append(left, to)
				}
			}
			if len(left) > 0 {
				return fmt.Errorf("%v", left)
			}
			return nil
		})
	})
}

// TestUpgradeIsRefused refuses a program that cannot take over: the supervisor goes on as it is.
func TestUpgradeIsRefused(t *testing.T) {
	n := newNode(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	st := n.run("berth", "web", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done")
	before, err := n.client.Info(n.ctx())
	if err != nil {
		t.Fatal(err)
	}
	for program, words := range map[string]string{
		"berth":           "absolute path",
		"/does/not/exist": "no such file", "/bin/false": "cannot take over",
	} {
		if err := n.upgrade(program); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: found %v; want it to say %q", program, err, words)
		}
	}
	// A record of a newer version.
	file := records{filepath.Join(n.dir, "supervisor")}.path("web")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(good), `"version":1`, `"version":1000`,
		1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.upgrade(self); err == nil || !strings.Contains(err.Error(), "version 1000") {
		t.Errorf("a newer record: found %v; want it to name version 1000", err)
	}
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	after, err := n.client.Info(n.ctx())
	if err != nil || !reflect.DeepEqual(after, before) {
		t.Errorf("found %+v, %v; want %+v", after, err, before)
	}
	n.eventually("it is ready", func() error {
		if !slices.Equal(n.lines("web", "stdout"), []string{"ready"}) {
			return errors.New("not yet")
		}
		return nil
	})
	if err := n.client.Kill(n.ctx(), "web", "TERM", false); err != nil {
		t.Fatal(err)
	}
	if got := n.stopped("web"); got.PID != st.PID || got.ExitCode == nil || *got.ExitCode != 5 {
		t.Errorf("found %+v; want process %d with exit code 5", got, st.PID)
	}
}

// TestUnreadableRecord leaves a container alone whose record cannot be read: it runs on, and the
// supervisor does not say that there is none.
func TestUnreadableRecord(t *testing.T) {
	n := newNode(t)
	st := n.run("berth", "web", "exec sleep 1000")
	n.end(unix.SIGTERM)
	file := records{filepath.Join(n.dir, "supervisor")}.path("web")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", string(good[:len(good)/2]), strings.Replace(string(good),
		`"version":1`, `"version":1000`, 1)} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		n.start()
		if _, err := n.client.Get(n.ctx(), "web"); err == nil || errors.Is(err, protocol.ErrNotExist) ||
			!strings.Contains(err.Error(), "cannot be read") {
			t.Errorf("get: found %v; want an error that says so", err)
		}
		_, err := n.client.Create(n.ctx(), protocol.CreateRequest{
			ID: "web", Handler: "berth",
			Bundle: st.Bundle,
		})
		if err == nil || errors.Is(err, protocol.ErrExist) {
			t.Errorf("create: found %v; want another error", err)
		}
		if err := n.client.Delete(n.ctx(), "web", true); err == nil ||
			errors.Is(err, protocol.ErrNotExist) {
			t.Errorf("delete: found %v; want another error", err)
		}
		if err := unix.Kill(st.PID, 0); err != nil {
			t.Fatalf("the container: %v", err)
		}
		n.end(unix.SIGTERM)
	}
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	n.start()
	if got, err := n.client.Get(n.ctx(), "web"); err != nil || got.PID != st.PID ||
		got.State != protocol.Running {
		t.Errorf("with its record again: found %+v, %v", got, err)
	}
}
