// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestEverySignalIsForwarded checks run and exec with each signal except the one for berth's own
// terminal.
func TestEverySignalIsForwarded(t *testing.T) {
	signals := slices.DeleteFunc(forwarded(), func(s unix.Signal) bool { return s == unix.SIGWINCH })
	var script strings.Builder
	for _, s := range signals {
		fmt.Fprintf(&script, "trap 'echo %d' %d; ", s, s)
	}
	script.WriteString("echo ready; while :; do sleep 0.01; done")
	commands := map[string]func(t *testing.T) *exec.Cmd{
		"run": func(t *testing.T) *exec.Cmd {
			root, id := host(t)
			return exec.Command(program, "--root", root, "run", "--bundle",
				bundle(t, args("sh", "-c", script.String())), id)
		},
		"exec": func(t *testing.T) *exec.Cmd {
			_, command := running(t, nil)
			return command([]string{"exec"}, sh(script.String())...)
		},
	}
	for name, make := range commands {
		t.Run(name, func(t *testing.T) {
			cmd := make(t)
			stdout, err := cmd.StdoutPipe()
			must(t, err)
			must(t, cmd.Start())
			defer func() {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}()
			lines := bufio.NewScanner(stdout)
			next := func() string {
				t.Helper()
				stuck := time.AfterFunc(patience, func() { stdout.Close() })
				defer stuck.Stop()
				lines.Scan()
				return lines.Text()
			}
			if got := next(); got != "ready" {
				t.Fatalf("found %q", got)
			}
			for _, s := range signals {
				must(t, cmd.Process.Signal(s))
				if got := next(); got != strconv.Itoa(int(s)) {
					t.Fatalf("after signal %d the container's process said %q", s, got)
				}
			}
		})
	}
}

// TestSignalEndsCreate: a signal during create undoes the container.
func TestSignalEndsCreate(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP} {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			root, id := host(t)
			came := filepath.Join(t.TempDir(), "came")
			dir := bundle(t, func(s *specs.Spec) {
				s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{
					"sh", "-c",
					"echo >" + came + "; exec sleep 1000",
				}}}}
			})
			cmd := exec.Command(program, "--root", root, "create", "--bundle", dir, id)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			must(t, cmd.Start())
			for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
				if _, err := os.Stat(came); err == nil || time.Now().After(end) {
					break
				}
			}
			must(t, cmd.Process.Signal(sig))
			_ = cmd.Wait()
			code := cmd.ProcessState.ExitCode()
			if code != exitFailure || !strings.Contains(stderr.String(), unix.SignalName(sig)) {
				t.Errorf("exit code %d, standard error %q; want %d and the signal's name", code,
					stderr.String(), exitFailure)
			}
			if entries, _ := os.ReadDir(root); len(entries) > 0 {
				t.Errorf("left in --root: %v", entries)
			}
		})
	}
}

// traces returns the files that a container leaves in its root directory and in the cgroup
// hierarchies.
func traces(t *testing.T, root, id string) (found []string) {
	t.Helper()
	for _, pattern := range []string{
		root + "/" + id, "/sys/fs/cgroup/" + id,
		"/sys/fs/cgroup/*/" + id,
	} {
		names, err := filepath.Glob(pattern)
		must(t, err)
		found = append(found, names...)
	}
	return found
}

// TestSignalsMidway: a signal that ends berth while it makes a container leaves a container that is
// whole, or nothing.
func TestSignalsMidway(t *testing.T) {
	root, id := host(t)
	dir := bundle(t, args("sleep", "1000"))
	began := time.Now()
	berth(t, "--root", root, "create", "--bundle", dir, id).is(t, 0, "", "")
	took := time.Since(began)
	berth(t, "--root", root, "delete", "--force", id).is(t, 0, "", "")
	const rounds = 24
	seen := map[string]int{}
	// On a busy machine it may take more of them until some come midway.
	for round, end := 0, time.Now().Add(patience); round < rounds || seen["undone"] < 2 &&
		time.Now().Before(end); round++ {
		sig := []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGPIPE}[round%4]
		stderr := newOutput(t)
		cmd := exec.Command(program, "--root", root, "create", "--bundle", dir, id)
		cmd.Stderr = stderr.w
		must(t, cmd.Start())
		// Before berth has its handlers a signal ends it, with nothing made: its first step is the
		// container's directory.
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
			if _, err := os.Stat(filepath.Join(root, id)); err == nil {
				break
			}
		}
		time.Sleep(took * time.Duration(round%rounds/4) / rounds) // most of the time is gone by now
		_ = cmd.Process.Signal(sig)
		_ = cmd.Wait()
		said := stderr.all()
		if cmd.ProcessState.Sys().(interface{ Signaled() bool }).Signaled() {
			t.Errorf("%s has ended it: %s", sig, cmd.ProcessState)
		}
		code, left := cmd.ProcessState.ExitCode(), traces(t, root, id)
		switch {
		case code == 0:
			seen["made"]++
			berth(t, "--root", root, "state", id).is(t, 0, `"status": "created"`, "")
			berth(t, "--root", root, "delete", "--force", id).is(t, 0, "", "")
		case sig == unix.SIGPIPE:
			t.Errorf("SIGPIPE: exit code %d: %s", code, said)
		default:
			seen["undone"]++
			if len(left) > 0 {
				t.Errorf("%s after %d of %d: it has left %v; %s", sig, round, rounds, left, said)
			}
		}
	}
	t.Logf("%v", seen)
	if seen["undone"] < 2 {
		t.Errorf("none came midway: %v", seen)
	}
}

// TestNobodyReadsTheLog: writing the log to a pipe that nobody reads any more does not end berth
// halfway.
func TestNobodyReadsTheLog(t *testing.T) {
	root, id := host(t)
	dir := bundle(t, args("sh", "-c", "exit 3"))
	r, w, err := os.Pipe()
	must(t, err)
	must(t, r.Close())
	defer w.Close()
	cmd := exec.Command(program, "--debug", "--root", root, "run", "--bundle", dir, id)
	cmd.Stderr = w
	_ = cmd.Run()
	if code := cmd.ProcessState.ExitCode(); code != 3 {
		t.Errorf("it ended with %s; want exit code 3", cmd.ProcessState)
	}
	if left := traces(t, root, id); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestNohup: a hangup that berth is to ignore does not reach its container; one that it is not
// does.
func TestNohup(t *testing.T) {
	for name, want := range map[string]int{"ignored": 7, "heeded": 5} {
		t.Run(name, func(t *testing.T) {
			trap := map[string]string{"ignored": "trap '' HUP;"}[name]
			root, id := host(t)
			dir := bundle(t,
				args("sh", "-c",
					"trap 'exit 5' HUP; trap 'exit 7' USR1; echo ready; while :; do sleep 0.01; done"))
			cmd := exec.Command("sh", "-c", trap+` exec "$0" "$@"`, program, "--root", root, "run",
				"--bundle", dir, id)
			stdout, err := cmd.StdoutPipe()
			must(t, err)
			must(t, cmd.Start())
			buf := make([]byte, 6)
			if _, err := stdout.Read(buf); err != nil || string(buf) != "ready\n" {
				t.Errorf("found %q, %v", buf, err)
			}
			must(t, cmd.Process.Signal(unix.SIGHUP))
			if name == "ignored" { // one that is forwarded would be there before the next
				must(t, cmd.Process.Signal(unix.SIGUSR1))
			}
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != want {
				t.Errorf("it ended with %s; want exit code %d", cmd.ProcessState, want)
			}
		})
	}
}

// TestIgnoredSignals: the container does not inherit the caller's ignored signals, and the end of
// its process is noticed even if SIGCHLD is ignored.
func TestIgnoredSignals(t *testing.T) {
	root, id := host(t)
	dir := bundle(t, args("sh", "-c", "grep SigIgn /proc/self/status; exit 6"))
	script := `trap '' HUP INT QUIT PIPE USR1 CHLD TERM; exec "$0" --root "$1" `
	call(t, exec.Command("sh", "-c", script+`run --bundle "$2" "$3"`, program, root, dir, id)).is(t, 6,
		"SigIgn:\t0000000000000000\n", "")
	sleeping := bundle(t, args("sleep", "1000"))
	berth(t, "--root", root, "run", "--detach", "--bundle", sleeping, id).is(t, 0, "", "")
	call(t, exec.Command("sh", "-c", script+`exec "$2" sh -c 'grep SigIgn /proc/self/status; exit 5'`,
		program, root, id)).is(t, 5, "SigIgn:\t0000000000000000\n", "")
}
