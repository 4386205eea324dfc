// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/needs"
)

// TestGiveToGroup: all of a volume belongs to the group, and nothing that a link in it leads to.
func TestGiveToGroup(t *testing.T) {
	needs.Root(t)
	top := t.TempDir()
	volume := filepath.Join(top, "volume")
	if err := os.MkdirAll(filepath.Join(volume, "a/b"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{
		"outside": 0o600, "volume/file": 0o604, "volume/a/b/program": 0o700 | os.ModeSetuid,
	} {
		path := filepath.Join(top, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"up": "../outside", "root": "/", "self": "."} {
		if err := os.Symlink(target, filepath.Join(volume, link)); err != nil {
			t.Fatal(err)
		}
	}
	check := func(name string, group, mode uint32) {
		t.Helper()
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(top, name), &st); err != nil {
			t.Fatal(err)
		}
		if st.Uid != 0 || st.Gid != group || st.Mode&0o7777 != mode {
			t.Errorf("%s: found %d:%d %o; want 0:%d %o", name, st.Uid, st.Gid, st.Mode&0o7777, group, mode)
		}
	}
	give := func(onMismatch bool) {
		t.Helper()
		if err := GiveToGroup(t.Context(), volume, 77, onMismatch); err != nil {
			t.Fatal(err)
		}
	}
	give(true)
	check("volume", 77, 0o2770)
	check("volume/a/b", 77, 0o2770)
	check("volume/file", 77, 0o664)
	check("volume/a/b/program", 77, 0o4760)
	check("volume/up", 77, 0o777)
	check("outside", 0, 0o600)

	if err := os.Chown(filepath.Join(volume, "file"), 0, 0); err != nil {
		t.Fatal(err)
	}
	give(true)
	check("volume/file", 0, 0o664)
	give(false)
	check("volume/file", 77, 0o664)
}

// TestGiveToGroupOfRemovedDirectory: a container may remove a directory that is just looked at.
func TestGiveToGroupOfRemovedDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	never := func(int, *unix.Stat_t) error { return errors.New("found a file") }
	if err := eachBelow(t.Context(), fd, never, 1); err != nil {
		t.Error(err)
	}
}

// TestGiveToGroupOfDeepVolume: a volume has a limit of levels, since each takes descriptors.
func TestGiveToGroupOfDeepVolume(t *testing.T) {
	needs.Root(t)
	volume := t.TempDir()
	dir, err := os.OpenRoot(volume)
	if err != nil {
		t.Fatal(err)
	}
	for range maxDepth - 1 {
		if err := dir.Mkdir("a", 0o700); err != nil {
			t.Fatal(err)
		}
		below, err := dir.OpenRoot("a")
		dir.Close()
		if err != nil {
			t.Fatal(err)
		}
		dir = below
	}
	defer dir.Close()
	if err := GiveToGroup(t.Context(), volume, 77, false); err != nil {
		t.Errorf("%d levels: %v", maxDepth, err)
	}
	if err := dir.Mkdir("a", 0o700); err != nil {
		t.Fatal(err)
	}
	want := "found directories 1000 deep; allowed: fewer"
	if err := GiveToGroup(t.Context(), volume, 77, false); err == nil || err.Error() != want {
		t.Errorf("%d levels: found %v; want %s", maxDepth+1, err, want)
	}
}
