// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// shell returns a program that runs a shell script.
func shell(t *testing.T, script string) program {
	t.Helper()
	path, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	return program{name: "it", path: path, args: []string{"-c", script}}
}

func mustStart(t *testing.T, p programs, prog program, wantStarted bool) record {
	t.Helper()
	started, err := p.start(prog)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	if started != wantStarted {
		t.Fatalf("started = %v, want %v", started, wantStarted)
	}
	rec, running, err := p.find(prog.name)
	if err != nil || !running {
		t.Fatalf("after start: running = %v, err = %v", running, err)
	}
	t.Cleanup(func() { _ = rec.end(10 * time.Millisecond) })
	return rec
}

func TestStartIsIdempotentAndFollowsChanges(t *testing.T) {
	p := programs{dir: t.TempDir(), grace: time.Second}
	first := mustStart(t, p, shell(t, "exec sleep 1000"), true)
	if again := mustStart(t, p, shell(t, "exec sleep 1000"), false); again.PID != first.PID {
		t.Errorf("the second start has pid %d, want %d", again.PID, first.PID)
	}
	other := mustStart(t, p, shell(t, "exec sleep 2000"), true)
	if first.running() {
		t.Errorf("pid %d, with the old arguments, still runs", first.PID)
	}
	if err := p.stop("it"); err != nil {
		t.Fatal(err)
	}
	if other.running() {
		t.Errorf("pid %d runs after stop", other.PID)
	}
	if err := p.stop("it"); err != nil {
		t.Errorf("stop of what is not there: %v", err)
	}
}

func TestStopKillsProgramThatIgnoresSIGTERM(t *testing.T) {
	p := programs{dir: t.TempDir(), grace: 50 * time.Millisecond}
	rec := mustStart(t, p, shell(t, "trap '' TERM; while :; do sleep 1; done"), true)
	if err := p.stop("it"); err != nil {
		t.Fatal(err)
	}
	if rec.running() {
		t.Errorf("pid %d runs after stop", rec.PID)
	}
}

// A record outlives its process, by a kill -9 or a reboot, and its pid may be
// another process's by then.
func TestStopLeavesAnotherProcessWithThePidAlone(t *testing.T) {
	for name, change := range map[string]func(*record){
		"started at another time": func(r *record) { r.StartTime-- },
		"in another boot":         func(r *record) { r.BootID = "00000000-0000-0000-0000-000000000000" },
	} {
		t.Run(name, func(t *testing.T) {
			p := programs{dir: t.TempDir(), grace: time.Second}
			rec := mustStart(t, p, shell(t, "exec sleep 1000"), true)
			stale := rec
			change(&stale)
			if err := writeJSON(p.recordPath("it"), stale); err != nil {
				t.Fatal(err)
			}
			if _, running, _ := p.find("it"); running {
				t.Error("find takes the process for the one of the record")
			}
			if err := p.stop("it"); err != nil {
				t.Fatal(err)
			}
			if !rec.running() {
				t.Error("stop ended a process that is not the record's")
			}
			if _, err := os.Stat(p.recordPath("it")); !os.IsNotExist(err) {
				t.Errorf("the stale record is still there: %v", err)
			}
		})
	}
}

func TestEndedProgramIsReportedWithItsLog(t *testing.T) {
	p := programs{dir: t.TempDir(), grace: time.Second}
	if _, err := p.start(shell(t, "echo no such port >&2; exit 1")); err != nil {
		t.Fatal(err)
	}
	// It may stay a zombie of this process for ever; that counts as ended.
	deadline := time.Now().Add(2 * time.Minute)
	for {
		_, running, err := p.find("it")
		if err != nil {
			t.Fatal(err)
		}
		if !running {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("an ended program counts as running")
		}
		time.Sleep(5 * time.Millisecond)
	}
	if got := p.tail("it"); !strings.Contains(got, "no such port") {
		t.Errorf("tail = %q", got)
	}
}
