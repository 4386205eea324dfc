// SPDX-License-Identifier: Apache-2.0

package scoped

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/needs"
)

// TestUsage measures a tree: what is allocated counts and not the length of a file, a file with
// several links counts once, and what links and mounts lead to does not count.
func TestUsage(t *testing.T) {
	needs.Root(t)
	dir := t.TempDir()
	top, outside := filepath.Join(dir, "top"), filepath.Join(dir, "outside")
	for _, d := range []string{filepath.Join(top, "a", "b"), filepath.Join(top, "mounted"), outside} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	usage := func() int64 {
		t.Helper()
		n, err := Usage(t.Context(), top)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const mib = 1 << 20
	write := func(path string) {
		t.Helper()
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.Write(make([]byte, mib)); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil { // some filesystems allocate no earlier
			t.Fatal(err)
		}
	}
	grows := func(what string, by int64, change func()) {
		t.Helper()
		before := usage()
		change()
		if got := usage() - before; got < by-64<<10 || got > by+64<<10 {
			t.Errorf("%s: usage grew by %d; want about %d", what, got, by)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(top, "a", "b", "file")
	grows("a file", mib, func() { write(file) })
	grows("links to it", 0, func() {
		for i := range 7 {
			must(os.Link(file, filepath.Join(top, "a", fmt.Sprint("link", i))))
		}
	})
	grows("a hole", 0, func() {
		must(os.WriteFile(filepath.Join(top, "hole"), nil, 0o600))
		must(os.Truncate(filepath.Join(top, "hole"), 1<<30))
	})
	grows("links to a directory and a file outside", 0, func() {
		write(filepath.Join(outside, "file"))
		must(os.Symlink(outside, filepath.Join(top, "directory")))
		must(os.Symlink(filepath.Join(outside, "file"), filepath.Join(top, "to-file")))
	})
	grows("a mount", 0, func() {
		at := filepath.Join(top, "mounted")
		must(unix.Mount(outside, at, "", unix.MS_BIND, ""))
		t.Cleanup(func() { must(unix.Unmount(at, unix.MNT_DETACH)) })
	})
}

// TestUsageOfDeepTree has a tree that is too deep refused, with no more descriptors than levels.
func TestUsageOfDeepTree(t *testing.T) {
	dir := t.TempDir()
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for level := range MaxLevels + 3 {
		if want := map[int]error{MaxLevels - 1: nil, MaxLevels: ErrTooDeep}; level+1 >= MaxLevels {
			_, err := Usage(t.Context(), dir)
			if is, ok := want[level]; ok && !errors.Is(err, is) {
				t.Fatalf("%d levels below: found %v; want %v", level, err, is)
			}
		}
		if err := unix.Mkdirat(at, "d", 0o700); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(at, "d", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		unix.Close(at)
		if err != nil {
			t.Fatal(err)
		}
		at = next
	}
	unix.Close(at)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Usage(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("found %v; want %v", err, context.Canceled)
	}
	if err := RemoveAll(filepath.Join(dir, "d")); err != nil {
		t.Error(err)
	}
}
