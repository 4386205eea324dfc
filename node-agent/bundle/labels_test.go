// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/needs"
	"github.com/berth-run/berth/internal/selinuxtest"
)

// TestRelabelAfterAKill: a volume that was about to get another label, which is taken back after a
// kill, has its own label again in all files. One that has it is not looked through.
func TestRelabelAfterAKill(t *testing.T) {
	needs.Root(t)
	const own, other = "system_u:object_r:container_file_t:s0:c1,c2",
		"system_u:object_r:container_file_t:s0:c3,c4"
	volume := t.TempDir()
	file := filepath.Join(volume, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	relabel := func() {
		t.Helper()
		if err := Relabel(t.Context(), volume, own); err != nil {
			t.Fatal(err)
		}
	}
	relabel()
	ended, end := context.WithCancel(t.Context())
	end()
	if err := Relabel(ended, volume, other); !errors.Is(err, context.Canceled) {
		t.Fatalf("found %v; want that it is interrupted", err)
	}
	for _, want := range []string{own, other} {
		if err := unix.Setxattr(file, xattrSELinux, []byte(other), 0); err != nil {
			t.Fatal(err)
		}
		relabel()
		if got := selinuxtest.OfFile(t, file); got != want {
			t.Errorf("the file is %s; want %s", got, want)
		}
	}
}

// TestRelabelWithoutLabels: the error of a filesystem that takes no labels names a remedy.
func TestRelabelWithoutLabels(t *testing.T) {
	const want = "found a filesystem that takes no labels of SELinux; allowed: one that does, such as ext4"
	err := Relabel(t.Context(), "/proc/self/attr", "system_u:object_r:container_file_t:s0:c1,c2")
	if !errors.Is(err, unix.EOPNOTSUPP) || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("found %v; want %s", err, want)
	}
}

// TestSELinuxRelabel: all of a volume gets a label, and nothing that a link or a mount in it leads
// to. The volume's own directory is last.
func TestSELinuxRelabel(t *testing.T) {
	selinuxtest.Load(t)
	const label = "system_u:object_r:container_file_t:s0:c1,c2"
	dir := t.TempDir()
	volume, outside := filepath.Join(dir, "volume"), filepath.Join(dir, "outside")
	for _, d := range []string{volume + "/a/b", volume + "/mount", outside} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{volume + "/a/b/file", outside + "/file"} {
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside+"/file", volume+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(volume+"/fifo", unix.S_IFIFO|0o600, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("test", volume+"/mount", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(volume+"/mount", unix.MNT_DETACH)
	was := selinuxtest.OfFile(t, outside+"/file")
	if err := Relabel(t.Context(), volume, label); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", "/a", "/a/b", "/a/b/file", "/link", "/fifo"} {
		if got := selinuxtest.OfFile(t, volume+path); got != label {
			t.Errorf("%s is %s", path, got)
		}
	}
	for _, path := range []string{outside + "/file", outside, volume + "/mount"} {
		if got := selinuxtest.OfFile(t, path); got != was {
			t.Errorf("%s is %s; want %s, as it was", path, got, was)
		}
	}
	// As after a kill: the volume itself is not labelled yet, and a file has another label.
	for path, other := range map[string]string{volume: was, volume + "/a/b/file": was} {
		if err := unix.Lsetxattr(path, xattrSELinux, []byte(other), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := Relabel(t.Context(), volume, label); err != nil {
		t.Fatal(err)
	}
	if got := selinuxtest.OfFile(t, volume+"/a/b/file"); got != label {
		t.Errorf("a file is %s after a repeated start", got)
	}
}
