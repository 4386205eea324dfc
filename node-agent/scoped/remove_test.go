// SPDX-License-Identifier: Apache-2.0

package scoped

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/needs"
)

// TestRemoveAll removes deep trees with few descriptors, wide trees, links, and a path that is
// missing. The targets of links stay.
func TestRemoveAll(t *testing.T) {
	dir := t.TempDir()
	kept, top := filepath.Join(dir, "kept", "file"), filepath.Join(dir, "top")
	if err := os.MkdirAll(filepath.Dir(kept), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(top, 0o700); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Open(top, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	const levels = maxDepth * maxDepth // of which none can be opened by its path
	for i := range levels {
		for name, to := range map[string]string{"link": filepath.Dir(kept), "up": ".."} {
			if err := unix.Symlinkat(to, at, name); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Mkdirat(at, "d", 0o700); err != nil {
			t.Fatal(i, err)
		}
		next, err := unix.Openat(at, "d", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		unix.Close(at)
		if err != nil {
			t.Fatal(err)
		}
		at = next
	}
	unix.Close(at)
	for i := range 3000 {
		if err := os.WriteFile(filepath.Join(top, fmt.Sprint(i)), nil, 0o400); err != nil {
			t.Fatal(err)
		}
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	few := limit
	few.Cur = 4 * maxDepth
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Error(err)
		}
	}()
	none := []string{filepath.Join(top, "missing"), filepath.Join(dir, "kept", "none")}
	for _, path := range append(none, top, top, none[0]) {
		if err := RemoveAll(path); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s: found %v; want nothing", path, err)
		}
	}
	if err := os.Symlink(filepath.Dir(kept), top); err != nil {
		t.Fatal(err)
	}
	if err := RemoveAll(top); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("what a link led to: %v", err)
	}
}

// TestRemoveAllEntersNoMount: files of a mount in a tree stay, and the error has a short path.
func TestRemoveAllEntersNoMount(t *testing.T) {
	needs.Root(t)
	top, other := t.TempDir(), t.TempDir()
	at := filepath.Join(top, "a", "b")
	if err := os.MkdirAll(at, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, "kept"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(other, at, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	err := RemoveAll(top)
	if uerr := unix.Unmount(at, unix.MNT_DETACH); uerr != nil {
		t.Fatal(uerr)
	}
	if err == nil || !strings.HasPrefix(err.Error(), "remove "+top+": ") {
		t.Errorf("found %v", err)
	}
	if _, err := os.Stat(filepath.Join(other, "kept")); err != nil {
		t.Error(err)
	}
}
