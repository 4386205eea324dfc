// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/berth-run/berth/api/oci/accounts"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/needs"
)

func mounts(t *testing.T, below string) int {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(table), " "+below)
}

func newDir(t *testing.T) Dir {
	t.Helper()
	root, err := Open(filepath.Join(t.TempDir(), "bundles"))
	if err != nil {
		t.Fatal(err)
	}
	d := root.Dir("x")
	if err := d.Make(); err != nil {
		t.Fatal(err)
	}
	return d
}

func layers(t *testing.T, n int) []string {
	t.Helper()
	base := t.TempDir()
	var out []string
	for i := range n {
		layer := filepath.Join(base, fmt.Sprintf("layer-with-a-name-of-some-length-%04d", i))
		if err := os.MkdirAll(layer, 0o755); err != nil {
			t.Fatal(err)
		}
		err := os.WriteFile(filepath.Join(layer, "top"), fmt.Appendf(nil, "%d", i), 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(layer, fmt.Sprintf("only-%d", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		out = append(out, layer)
	}
	return out
}

func TestMountRootfs(t *testing.T) {
	needs.Root(t)
	// 300 names of this length are far more than a page of options
	for _, n := range []int{1, 2, 300} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			d, layers := newDir(t), layers(t, n)
			t.Cleanup(func() { _ = d.Remove() })
			if err := d.MountRootfs(layers, nil, ""); err != nil {
				t.Fatal(err)
			}
			top, err := os.ReadFile(filepath.Join(d.Rootfs(), "top"))
			if err != nil || string(top) != fmt.Sprint(n-1) {
				t.Fatalf("top: found %q, %v; want the uppermost layer's, %d", top, err, n-1)
			}
			if _, err := os.Stat(filepath.Join(d.Rootfs(), "only-0")); err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(d.Rootfs())
			if err != nil || info.Mode().Perm() != 0o755 {
				t.Fatalf("mode of /: found %v, %v; want 0755", info.Mode(), err)
			}
			if err := os.WriteFile(filepath.Join(d.Rootfs(), "top"), []byte("changed"), 0o644); err != nil {
				t.Fatal(err)
			}
			// A start afresh has a writable layer of its own, and the layers are as they were.
			if err := d.MountRootfs(layers, nil, ""); err != nil {
				t.Fatal(err)
			}
			if top, _ := os.ReadFile(filepath.Join(d.Rootfs(), "top")); string(top) != fmt.Sprint(n-1) {
				t.Fatalf("top after mounting afresh: found %q; want the layer's", top)
			}
			if err := d.Remove(); err != nil {
				t.Fatal(err)
			}
			if left := mounts(t, d.Path()); left != 0 {
				t.Errorf("found %d mounts after Remove", left)
			}
			if _, err := os.Stat(d.Path()); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the directory is there after Remove: %v", err)
			}
		})
	}
}

func TestMountRootfsUndoes(t *testing.T) {
	needs.Root(t)
	d := newDir(t)
	if err := d.MountRootfs(append(layers(t, 1), "/nowhere/layer"), nil, ""); err == nil ||
		!strings.Contains(err.Error(), "/nowhere/layer") {
		t.Fatalf("found %v; want an error that names the layer", err)
	}
	left, err := os.ReadDir(d.Path())
	if err != nil || len(left) != 0 || mounts(t, d.Path()) != 0 {
		t.Fatalf("found %v and %d mounts left, %v", left, mounts(t, d.Path()), err)
	}
	if err := d.MountRootfs(nil, nil, ""); err == nil {
		t.Fatal("no layers: found no error")
	}
}

func TestRemoveOfABusyRootfs(t *testing.T) {
	needs.Root(t)
	d := newDir(t)
	layers := layers(t, 1)
	if err := d.MountRootfs(layers, nil, ""); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(d.Rootfs(), "top"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := d.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(layers[0], "top")); err != nil {
		t.Fatalf("the layer was harmed: %v", err)
	}
}

func TestPrepareVolumes(t *testing.T) {
	needs.Root(t)
	d := newDir(t)
	t.Cleanup(func() { _ = d.Remove() })
	both := []v1alpha1.Volume{
		{Name: "disk", EmptyDir: &corev1.EmptyDirVolumeSource{}},
		{Name: "mem", EmptyDir: &corev1.EmptyDirVolumeSource{
			Medium:    corev1.StorageMediumMemory,
			SizeLimit: new(resource.MustParse("1Mi")),
		}},
	}
	for range 2 { // the second time finds them
		if _, err := d.PrepareVolumes(both, ""); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"disk", "mem"} {
			info, err := os.Stat(d.Volume(name))
			if err != nil || info.Mode().Perm() != 0o777 {
				t.Fatalf("%s: found %v, %v; want mode 0777", name, info, err)
			}
		}
		if n := mounts(t, d.Volume("mem")); n != 1 {
			t.Fatalf("found %d mounts of the memory volume; want 1", n)
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(d.Volume("mem"), &st); err != nil || st.Blocks*uint64(st.Bsize) != 1<<20 {
		t.Fatalf("size: found %d, %v; want 1 MiB", st.Blocks*uint64(st.Bsize), err)
	}
	if err := os.WriteFile(filepath.Join(d.Volume("disk"), "kept"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// A failure later in the list undoes what this call made, and leaves what was there.
	_, err := d.PrepareVolumes(append(both[:2:2],
		v1alpha1.Volume{
			Name:     "new",
			EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory},
		},
		v1alpha1.Volume{
			Name:     "huge",
			EmptyDir: &corev1.EmptyDirVolumeSource{Medium: "HugePages-3Mi"},
		}), "")
	if err == nil || !strings.Contains(err.Error(), "volumes[3].emptyDir.medium") {
		t.Fatalf("found %v; want the field", err)
	}
	if _, err := os.Stat(d.Volume("new")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("volume new is left: %v", err)
	}
	if _, err := os.Stat(filepath.Join(d.Volume("disk"), "kept")); err != nil {
		t.Fatal(err)
	}
	// An agent that was killed as it made a volume has left the beginning of one.
	if err := os.Mkdir(d.Volume(".new"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := d.PrepareVolumes(append(both[:2:2], v1alpha1.Volume{
		Name:     "new",
		EmptyDir: &corev1.EmptyDirVolumeSource{},
	}), ""); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(d.Volume("new")); err != nil || info.Mode().Perm() != 0o777 {
		t.Fatalf("volume new: found %v, %v; want mode 0777", info, err)
	}
	// One that is to be emptied is made anew, and others stay.
	if err := os.WriteFile(filepath.Join(d.Volume("new"), "kept"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.PrepareVolumes(append(both[:2:2], v1alpha1.Volume{
		Name:     "new",
		EmptyDir: &corev1.EmptyDirVolumeSource{},
	}), "disk"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(d.Volume("disk"), "kept")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("volume disk is not emptied: %v", err)
	}
	if _, err := os.Stat(filepath.Join(d.Volume("new"), "kept")); err != nil {
		t.Fatal(err)
	}
	// A volume that is no longer asked for goes.
	if _, err := d.PrepareVolumes(both[:1], ""); err != nil {
		t.Fatal(err)
	}
	if n := mounts(t, d.Path()); n != 0 {
		t.Fatalf("found %d mounts after the memory volume went", n)
	}
}

func TestHostPathTypes(t *testing.T) {
	base := t.TempDir()
	file, dir, sock := filepath.Join(base, "f"), filepath.Join(base, "d"), filepath.Join(base, "s")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, tc := range []struct {
		path string
		kind corev1.HostPathType
		ok   bool
	}{
		{file, "", true},
		{dir, "", true},
		{base + "/none", "", false},
		{dir, corev1.HostPathDirectory, true},
		{file, corev1.HostPathDirectory, false},
		{base + "/none", corev1.HostPathDirectory, false},
		{base + "/made/deep", corev1.HostPathDirectoryOrCreate, true},
		{file, corev1.HostPathDirectoryOrCreate, false},
		{file, corev1.HostPathFile, true},
		{dir, corev1.HostPathFile, false},
		{base + "/madefile", corev1.HostPathFileOrCreate, true},
		{base + "/no/parent", corev1.HostPathFileOrCreate, false},
		{sock, corev1.HostPathSocket, true},
		{file, corev1.HostPathSocket, false},
		{"/dev/null", corev1.HostPathCharDev, true},
		{"/dev/null", corev1.HostPathBlockDev, false},
		{file, "Nonsense", false},
	} {
		err := CheckHostPath("volumes[0].hostPath", &corev1.HostPathVolumeSource{
			Path: tc.path,
			Type: &tc.kind,
		})
		if (err == nil) != tc.ok {
			t.Errorf("%s as %q: found %v", tc.path, tc.kind, err)
		}
		if err != nil && !strings.Contains(err.Error(), "volumes[0].hostPath") {
			t.Errorf("%v does not name the field", err)
		}
	}
	if info, err := os.Stat(base + "/made/deep"); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("DirectoryOrCreate: %v, %v", info, err)
	}
}

func TestReadAccountsStaysInside(t *testing.T) {
	for name, tc := range map[string]struct {
		make func(t *testing.T, etc string)
		err  string
		uid  uint32 // of "app"; 0: not known
	}{
		"a file": {make: func(t *testing.T, etc string) {
			write(t, etc+"/passwd", "app:x:1000:1000::/:\n")
		}, uid: 1000},
		"no file": {make: func(*testing.T, string) {}},
		"link out by ..": {make: func(t *testing.T, etc string) {
			symlink(t, "../../../outside", etc+"/passwd")
		}},
		"absolute link out": {make: func(t *testing.T, etc string) {
			symlink(t, filepath.Join(filepath.Dir(filepath.Dir(etc)), "outside"), etc+"/passwd")
		}},
		"link inside": {make: func(t *testing.T, etc string) {
			write(t, etc+"/real", "app:x:1000:1000::/:\n")
			symlink(t, "/etc/real", etc+"/passwd")
		}, uid: 1000},
		"a fifo": {make: func(t *testing.T, etc string) {
			if err := unix.Mkfifo(etc+"/passwd", 0o600); err != nil {
				t.Fatal(err)
			}
		}, err: "regular file"},
		"a directory": {make: func(t *testing.T, etc string) {
			if err := os.Mkdir(etc+"/passwd", 0o700); err != nil {
				t.Fatal(err)
			}
		}, err: "regular file"},
		"too large": {make: func(t *testing.T, etc string) {
			write(t, etc+"/passwd", "")
			if err := os.Truncate(etc+"/passwd", accounts.MaxFile+1); err != nil {
				t.Fatal(err)
			}
		}, err: "bytes"},
		"a line of 1 GiB": {make: func(t *testing.T, etc string) { // CVE-2026-135844 (moby/sys/user)
			write(t, etc+"/passwd", "")
			if err := os.Truncate(etc+"/passwd", 1<<30); err != nil {
				t.Fatal(err)
			}
		}, err: "bytes"},
		"groups of 1 GiB": {make: func(t *testing.T, etc string) {
			write(t, etc+"/passwd", "app:x:1000:1000::/:\n")
			write(t, etc+"/group", "")
			if err := os.Truncate(etc+"/group", 1<<30); err != nil {
				t.Fatal(err)
			}
		}, err: "bytes"},
		"magic link": {make: func(t *testing.T, etc string) {
			symlink(t, "/proc/self/environ", etc+"/passwd")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			etc := base + "/rootfs/etc"
			if err := os.MkdirAll(etc, 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, base+"/outside", "app:x:4242:4242::/:\n")
			tc.make(t, etc)
			a, err := ReadAccounts(base + "/rootfs")
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("found %v; want an error with %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			id, err := a.Identify("app", nil, nil)
			if (err == nil) != (tc.uid != 0) || id.UID != tc.uid {
				t.Fatalf("found uid %d, %v; want %d", id.UID, err, tc.uid)
			}
		})
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func symlink(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}
