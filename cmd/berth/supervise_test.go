// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/internal/needs"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// A container may have any id, those of the supervisor's own directories too: making and deleting
// it touches no record.
func TestSuperviseKeepsContainersApartFromItsOwnFiles(t *testing.T) {
	needs.Root(t)
	dir := t.TempDir()
	// The static program is the container's as well: there is nothing else in its root filesystem.
	rootfs := filepath.Join(dir, "bundle", "rootfs")
	if err := os.MkdirAll(rootfs, 0o700); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(rootfs, "berth"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	cgroup := "/berth-test-" + strconv.Itoa(os.Getpid())
	config, err := json.Marshal(&specs.Spec{
		Version: specs.Version, Root: &specs.Root{Path: "rootfs", Readonly: true},
		Process: &specs.Process{Args: []string{"/berth", "--version"}, Cwd: "/", NoNewPrivileges: true},
		Linux: &specs.Linux{CgroupsPath: cgroup + "-container", Namespaces: []specs.LinuxNamespace{
			{Type: specs.MountNamespace}, {Type: specs.PIDNamespace},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bundle", "config.json"), config, 0o600); err != nil {
		t.Fatal(err)
	}

	run := filepath.Join(dir, "run")
	var log strings.Builder
	server := exec.Command(program, "supervise", "--run-dir", run)
	server.Stderr = &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = server.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = server.Process.Signal(os.Interrupt)
		select {
		case <-ended:
		case <-time.After(patience):
			_ = server.Process.Kill()
			<-ended
			t.Error("the supervisor does not end")
		}
		if t.Failed() {
			t.Log(log.String())
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	client := protocol.NewClient(filepath.Join(run, "supervisor.sock"))
	for {
		if _, err := client.Ping(ctx); err == nil {
			break
		}
		select {
		case <-ended:
			t.Fatal("the supervisor has ended")
		case <-ctx.Done():
			t.Fatal("the supervisor does not answer")
		case <-time.After(5 * time.Millisecond):
		}
	}

	listed := func(t *testing.T) []string {
		t.Helper()
		out, err := exec.Command(program, "--root", filepath.Join(run, "containers"), "list",
			"-q").CombinedOutput()
		if err != nil {
			t.Fatalf("list: %v: %s", err, out)
		}
		return strings.Fields(string(out))
	}
	for _, id := range []string{"supervisor", "handlers", "containers"} {
		t.Run(id, func(t *testing.T) {
			defer func() { _ = client.Delete(context.Background(), id, true) }()
			r := protocol.CreateRequest{ID: id, Bundle: filepath.Join(dir, "bundle")}
			if _, err := client.Create(ctx, r); err != nil {
				t.Fatal(err)
			}
			if got := listed(t); len(got) != 1 || got[0] != id {
				t.Errorf("the runtime has %q, want %q alone", got, id)
			}
			if _, err := client.Start(ctx, id); err != nil {
				t.Error(err)
			}
			if err := client.Delete(ctx, id, true); err != nil {
				t.Fatal(err)
			}
			if got := listed(t); len(got) != 0 {
				t.Errorf("the runtime still has %q", got)
			}
			if _, err := os.Stat(filepath.Join(run, "supervisor", "lock")); err != nil {
				t.Errorf("the supervisor's own directory is gone: %v", err)
			}
		})
	}
}
