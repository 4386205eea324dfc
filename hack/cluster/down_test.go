// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/needs"
)

// A killed agent leaves mounts below the state directory, of hostPath volumes too:
// what they show must survive the directory.
func TestRemoveTreeDoesNotReachThroughMounts(t *testing.T) {
	needs.Root(t)
	top := t.TempDir()
	precious := filepath.Join(top, "precious")
	state := filepath.Join(top, "state of it") // mountinfo escapes the spaces
	shown := filepath.Join(state, "agent", "shown")
	for _, dir := range []string{precious, shown} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(precious, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // one over the other
		if err := unix.Mount(precious, shown, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(shown, unix.MNT_DETACH) })
	}
	if err := removeTree(state); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(state); !os.IsNotExist(err) {
		t.Errorf("the state directory is still there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(precious, "file")); err != nil {
		t.Errorf("removing the state directory reached through a mount: %v", err)
	}
}

func TestDownKeepsOtherDirectories(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "thesis.tex")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := cluster{dir: dir, programs: programs{dir: dir, grace: time.Second}}
	if err := c.down(t.Context()); err == nil {
		t.Error("no error")
	}
	if err := c.own(); err == nil {
		t.Error("up takes a directory that is not empty")
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	c.dir = filepath.Join(dir, "absent")
	if err := c.down(t.Context()); err != nil {
		t.Errorf("down without up: %v", err)
	}
}
