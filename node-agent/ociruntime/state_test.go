// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestPIDOfAnotherProcess: a process that has the recorded pid and is another, since the pid was used
// again or the machine has booted since, is never taken for the container's.
func TestPIDOfAnotherProcess(t *testing.T) {
	for name, change := range map[string]func(*record){
		"another start time": func(rec *record) { rec.StartTime++ },
		"another boot":       func(rec *record) { rec.Boot = "00000000-0000-0000-0000-000000000000" },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s := w.start(w.spec("/bin/sleep", "1000"))
			rec, err := w.rt.load(w.id)
			w.must(err)
			own := *rec
			change(rec)
			w.must(w.rt.save(rec))
			if state, err := w.rt.State(background, w.id); err != nil ||
				state.Status != specs.StateStopped || state.PID != 0 {
				t.Errorf("found the state %+v, %v; want stopped", state, err)
			}
			if err := w.rt.Kill(background, w.id, unix.SIGKILL, false); !errors.Is(err, ErrNotRunning) {
				t.Errorf("kill: %v; want %v", err, ErrNotRunning)
			}
			if err := unix.Kill(s.PID, 0); err != nil {
				t.Errorf("the stranger: %v", err)
			}
			w.must(w.rt.save(&own))
		})
	}
}

// TestBrokenState: a record that a loss of power has left empty is reported, and can be removed.
func TestBrokenState(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(w.dir, "run", w.id)
	w.must(os.MkdirAll(dir, 0o700))
	w.must(os.WriteFile(filepath.Join(dir, stateFile), nil, 0o600))
	_, err := w.rt.State(background, w.id)
	if err == nil || !strings.Contains(err.Error(), "state of container "+w.id) {
		t.Errorf("state: %v", err)
	}
	if list, err := w.rt.List(background); err != nil || len(list) != 0 || len(w.warned) != 1 {
		t.Errorf("list: %v, %v, warnings %q", list, err, w.warned)
	}
	if err := w.rt.Delete(background, w.id, false); err == nil {
		t.Error("it was deleted without force")
	}
	w.must(w.rt.Delete(background, w.id, true))
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// TestKilledBeforeStart: a container that is killed before its start does not count as running at
// any time, also while the kernel ends its process.
func TestKilledBeforeStart(t *testing.T) {
	w := newWorld(t)
	for range 20 {
		s := w.create(w.sh("true"))
		w.must(unix.Kill(s.PID, unix.SIGKILL))
		status := ""
		for end := time.Now().Add(patience); status != "stopped" && time.Now().Before(end); {
			if status = w.status(); status == "running" {
				t.Fatal("it counts as running")
			}
		}
		if status != "stopped" {
			t.Fatalf("found it %s; want it stopped", status)
		}
		w.end(w.id, s.PID)
	}
}
