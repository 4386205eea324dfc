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

// TestEverySignalIsForwarded by run and by exec, but for the one that is of berth's own terminal.
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
			return exec.Command(program, "--root", root, "run", "--bundle", bundle(t, args("sh", "-c", script.String())), id)
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
				stuck := time.AfterFunc(20*time.Second, func() { stdout.Close() })
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

// TestSignalEndsCreate: what is being made is undone.
func TestSignalEndsCreate(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT} {
		t.Run(unix.SignalName(sig), func(t *testing.T) {
			root, id := host(t)
			came := filepath.Join(t.TempDir(), "came")
			dir := bundle(t, func(s *specs.Spec) {
				s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo >" + came + "; exec sleep 1000"}}}}
			})
			cmd := exec.Command(program, "--root", root, "create", "--bundle", dir, id)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			must(t, cmd.Start())
			for _, err := os.Stat(came); err != nil; _, err = os.Stat(came) {
				time.Sleep(time.Millisecond)
			}
			must(t, cmd.Process.Signal(sig))
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != exitFailure || !strings.Contains(stderr.String(), unix.SignalName(sig)) {
				t.Errorf("exit code %d, standard error %q; want %d and the signal's name", code, stderr.String(), exitFailure)
			}
			if entries, _ := os.ReadDir(root); len(entries) > 0 {
				t.Errorf("left in --root: %v", entries)
			}
		})
	}
}
