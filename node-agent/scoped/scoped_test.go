// SPDX-License-Identifier: Apache-2.0

package scoped

import (
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRenamesElsewhere: a path with ".." is opened while others rename unrelated files, where
// openat2(2) itself fails.
func TestRenamesElsewhere(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "root", "below"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("below/../below/..", filepath.Join(dir, "root", "link")); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	ended := make(chan struct{})
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	if err := os.WriteFile(one, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(ended)
		for !stop.Load() {
			_, _ = unix.Rename(one, two), unix.Rename(two, one)
		}
	}()
	defer func() { stop.Store(true); <-ended }()
	root, err := unix.Open(filepath.Join(dir, "root"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	raced := 0
	for range 20000 {
		fd, err := unix.Openat2(root, "link/below", &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_IN_ROOT,
		})
		if err != nil {
			raced++
		} else {
			unix.Close(fd)
		}
		if fd, err = Open(root, "link/below", unix.O_PATH, unix.RESOLVE_IN_ROOT); err != nil {
			t.Fatalf("after %d that openat2 failed with: %v", raced, err)
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil ||
			flags != unix.FD_CLOEXEC {
			t.Fatalf("flags of the descriptor: %d, %v", flags, err)
		}
		unix.Close(fd)
	}
	t.Logf("openat2 itself failed %d times", raced)
	if _, err := Open(root, "none", unix.O_PATH, unix.RESOLVE_IN_ROOT); err != unix.ENOENT {
		t.Errorf("what is not there: %v", err)
	}
}
