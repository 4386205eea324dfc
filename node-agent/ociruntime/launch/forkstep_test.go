// SPDX-License-Identifier: Apache-2.0

package launch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// forking returns a plan whose second step has another process go on.
func forking(command string, after ...plan.Step) *plan.Plan {
	args := make([]byte, 64)
	binary.NativeEndian.PutUint64(args, unix.CLONE_PARENT)
	p := sh(command, append([]plan.Step{
		step("process", unix.SYS_UMASK, n(0o27)),
		step("linux.namespaces", plan.OpFork, plan.Memory(args), n(64)),
	}, after...)...)
	p.HasFork, p.Syncs[1] = true, plan.SyncForked
	return p
}

// TestFork: the process that goes on is a child of this one, whichever of the two is the first to
// report.
func TestFork(t *testing.T) {
	leaktest.Check(t)
	for range 200 {
		answered := 0
		child, err := Start(Request{
			Plan: forking("test $(umask) = 0027 && exit 9", step("linux.uidMappings", plan.OpSync,
				plan.Text("idmap"), n(1))), Inputs: streams(t, nil), Reserved: 3,
			OnSync: func(_ plan.Sync, pid int) error {
				answered = pid
				return nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child.PID))
		if err != nil || !strings.Contains(string(stat), fmt.Sprintf(" %d ", os.Getpid())) {
			t.Fatalf("it is no child of this process: %s, %v", stat, err)
		}
		if err := child.Follow(context.Background(), ""); err != nil {
			t.Fatal(err)
		}
		if status := child.Wait(); status.ExitStatus() != 9 || answered != child.PID {
			t.Fatalf("exit code %d, answered %d of %d", status.ExitStatus(), answered, child.PID)
		}
	}
}

// TestForkAfterSync: the parent answers the first process too, and ends it where it cannot.
func TestForkAfterSync(t *testing.T) {
	leaktest.Check(t)
	for _, refusal := range []error{nil, errors.New("no place")} {
		p := forking("exit 9")
		p.Steps[0], p.Syncs[0], p.Waits = step("linux.cgroupsPath", plan.OpSync, plan.Text("cgroup"),
			n(1)), plan.SyncCgroup, true
		var answered []plan.Sync
		child, err := Start(Request{
			Plan: p, Inputs: streams(t, nil), Reserved: 3,
			OnSync: func(s plan.Sync, pid int) error {
				answered = append(answered, s)
				if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err != nil {
					t.Error(err)
				}
				return refusal
			},
		})
		if !errors.Is(err, refusal) || !slices.Equal(answered, []plan.Sync{plan.SyncCgroup}) {
			t.Fatalf("found %v, answered %v", err, answered)
		}
		if refusal != nil {
			continue
		}
		if err := child.Follow(context.Background(), ""); err != nil {
			t.Fatal(err)
		}
		if status := child.Wait(); status.ExitStatus() != 9 {
			t.Errorf("exit code %d", status.ExitStatus())
		}
	}
}

// TestForkFails: before the fork, at it, and after it.
func TestForkFails(t *testing.T) {
	leaktest.Check(t)
	before := forking("true")
	before.Steps[0] = step("a", unix.SYS_CLOSE, n(9999))
	at := forking("true")
	at.Steps[1].Args[1] = n(1) // less than any version of struct clone_args
	for name, c := range map[string]struct {
		plan *plan.Plan
		want int
	}{
		"before": {before, 0}, "at": {at, 1},
		"after": {forking("true", step("b", unix.SYS_CLOSE, n(9999))), 2},
	} {
		t.Run(name, func(t *testing.T) {
			child, err := Start(Request{Plan: c.plan, Inputs: streams(t, nil), Reserved: 3})
			if err == nil {
				err = child.Follow(context.Background(), "")
			}
			var failed *StepError
			if !errors.As(err, &failed) || failed.Index != c.want {
				t.Errorf("found %v; want step %d to fail", err, c.want)
			}
		})
	}
}
