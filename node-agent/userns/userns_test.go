// SPDX-License-Identifier: Apache-2.0

package userns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/needs"
)

func open(t *testing.T, dir string, first, last uint32) *Ranges {
	t.Helper()
	r, err := Open(dir, first, last)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestRanges: each container has a range of its own, also if an agent was killed, and keeps it.
func TestRanges(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "userns")
	r := open(t, dir, 2*Size, 5*Size-1)
	got := map[uint32]string{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for i := range 3 {
		all.Go(func() {
			name := fmt.Sprint("c", i)
			first, err := r.Ensure(name)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			got[first] = name
		})
	}
	all.Wait()
	if len(got) != 3 || got[2*Size] == "" || got[3*Size] == "" || got[4*Size] == "" {
		t.Fatalf("found %v; want three ranges", got)
	}
	if _, err := r.Ensure("more"); err == nil || !strings.Contains(err.Error(), "--user-namespace-ids") {
		t.Errorf("a fourth: found %v; want the flag", err)
	}
	// The next agent knows them, also with other settings.
	r = open(t, dir, 3*Size, 6*Size-1)
	for first, name := range got {
		if again, err := r.Ensure(name); again != first || err != nil {
			t.Errorf("%s: found %d, %v; want %d", name, again, err, first)
		}
	}
	if first, err := r.Ensure("more"); first != 5*Size || err != nil {
		t.Errorf("found %d, %v; want the one that is free", first, err)
	}
	for range 2 {
		if err := r.Release(got[3*Size]); err != nil {
			t.Error(err)
		}
	}
	if first, err := open(t, dir, 3*Size, 6*Size-1).Ensure("next"); first != 3*Size || err != nil {
		t.Errorf("found %d, %v; want the one that was freed", first, err)
	}
	for _, wrong := range [][2]uint32{{0, 5 * Size}, {Size + 1, 5 * Size}, {2 * Size, 3*Size - 2}, {2 * Size, Size}} {
		if _, err := Open(dir, wrong[0], wrong[1]); err == nil {
			t.Errorf("%v: found no error", wrong)
		}
	}
}

// TestNew: a namespace without a process has the mappings of the range.
func TestNew(t *testing.T) {
	needs.Root(t)
	f, err := New(1 << 30)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// A mount with these ids shows them.
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir+"/file", 7, 8); err != nil {
		t.Fatal(err)
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(tree)
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{
		Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(f.Fd()),
	}); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(tree, "file", &st, 0); err != nil {
		t.Fatal(err)
	}
	if st.Uid != 1<<30+7 || st.Gid != 1<<30+8 {
		t.Errorf("found %d:%d; want them mapped", st.Uid, st.Gid)
	}
	err = Create(1<<30, 0, func(pid int) error { // and somebody has ended the process
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Error(err)
		}
		return errors.Join(os.ErrInvalid, reap(pid))
	})
	if !errors.Is(err, os.ErrInvalid) || !errors.Is(err, unix.ECHILD) {
		t.Errorf("found %v; want the errors of the function and of the wait", err)
	}
}
