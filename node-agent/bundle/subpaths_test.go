// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/oci/environment"
	"github.com/berth-run/berth/api/oci/files"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/needs"
)

// subPaths is a bundle with an emptyDir e, and a directory of the node.
type subPaths struct {
	*testing.T
	d    Dir
	node string
}

func newSubPaths(t *testing.T) subPaths {
	t.Helper()
	needs.Root(t)
	s := subPaths{t, newDir(t), t.TempDir()}
	t.Cleanup(func() {
		if err := s.d.Remove(); err != nil {
			t.Error(err)
		}
	})
	_, err := s.d.PrepareVolumes([]v1alpha1.Volume{
		{Name: "e", EmptyDir: &corev1.EmptyDirVolumeSource{}},
	}, "")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sh executes a script in which E is the emptyDir and N the directory of the node.
func (s subPaths) sh(script string) {
	s.Helper()
	cmd := exec.Command("/bin/sh", "-ec", script)
	cmd.Env = append(os.Environ(), "E="+s.d.Volume("e"), "N="+s.node)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.Fatalf("%s: %v\n%s", script, err, out)
	}
}

func (s subPaths) mount(source, path string) error {
	if source == "node" {
		source = s.node
	}
	return s.d.MountSubPaths([]v1alpha1.BundleSubPath{{Mount: 3, Source: source, Path: path}}, nil)
}

// TestMountSubPaths mounts paths in volumes, and undoes that. No path leads out of its volume.
func TestMountSubPaths(t *testing.T) {
	for name, tc := range map[string]struct {
		script, source, path string
		want                 string // the content of the file f below the mount, or of the mount
		message              string
	}{
		"directory":        {"mkdir $E/a; echo x >$E/a/f", "volumes/e", "a", "x\n", ""},
		"file":             {"mkdir $E/a; echo x >$E/a/b", "volumes/e", "a/b", "x\n", ""},
		"of the node":      {"mkdir -p $N/a/b; echo x >$N/a/b/f", "node", "a/b", "x\n", ""},
		"link inside":      {"mkdir $E/a; echo x >$E/a/f; ln -s a $E/l", "volumes/e", "l", "x\n", ""},
		"link up inside":   {"mkdir -p $E/a/b $E/c; echo x >$E/c/f; ln -s ../../c $E/a/b/l", "volumes/e", "a/b/l", "x\n", ""},
		"link to /":        {"ln -s / $E/l", "volumes/e", "l", "", "leads out of the volume"},
		"link to / on it":  {"ln -s / $E/l", "volumes/e", "l/etc", "", "leads out of the volume"},
		"link up and out":  {"ln -s ../../.. $E/l", "volumes/e", "l/x", "", "leads out of the volume"},
		"link out, to new": {"ln -s ../../new $E/l", "volumes/e", "l", "", "leads out of the volume"},
		"magic link":       {"mkdir $N/a; mount --bind /proc $N/a", "node", "a/self/root", "", "symbolic link"},
		"dangling link":    {"ln -s nothing $E/l", "volumes/e", "l", "", "leads nowhere"},
		"link to itself":   {"ln -s l $E/l", "volumes/e", "l/a", "", "leads nowhere"},
		"below a file":     {"echo x >$E/a", "volumes/e", "a/b", "", "in place of a directory"},
		"fifo":             {"mkfifo $E/a", "volumes/e", "a", "", ""},
		"no file":          {"", "files/e", "a", "", `found no "a" in the volume`},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSubPaths(t)
			t.Cleanup(func() { _ = unix.Unmount(filepath.Join(s.node, "a"), unix.MNT_DETACH) })
			if err := s.d.WriteFiles(map[string]files.Tree{"e": {}}); err != nil {
				t.Fatal(err)
			}
			s.sh(tc.script)
			before := mounts(t, s.d.Path())
			for range 2 { // as after an agent that was killed
				err := s.mount(tc.source, tc.path)
				if tc.message == "" && err != nil || tc.message != "" && (err == nil ||
					!strings.HasPrefix(err.Error(), "volumeMounts[3].subPath: ") ||
					!strings.Contains(err.Error(), tc.message)) {
					t.Fatalf("found %v; want %q", err, tc.message)
				}
			}
			at := s.d.File("subpaths/3")
			if tc.want != "" {
				if info, err := os.Stat(at); err == nil && info.IsDir() {
					at += "/f"
				}
				if got, err := os.ReadFile(at); err != nil || string(got) != tc.want {
					t.Errorf("found %q, %v; want %q", got, err, tc.want)
				}
			}
			if err := s.d.UnmountSubPaths(); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Lstat(s.d.File("subpaths")); !os.IsNotExist(err) ||
				mounts(t, s.d.Path()) != before {
				t.Errorf("found %v and %d mounts; want nothing and %d", err, mounts(t, s.d.Path()), before)
			}
		})
	}
}

// TestSubPathsAreMade: what does not exist is a directory with the mode of the volume's.
func TestSubPathsAreMade(t *testing.T) {
	s := newSubPaths(t)
	s.sh("mkdir $E/a; chmod 0750 $E/a; ln -s a $E/l")
	err := s.d.MountSubPaths([]v1alpha1.BundleSubPath{
		{Mount: 0, Source: "volumes/e", Path: "l/b/$(N)", Expand: true},
		{Mount: 1, Source: "volumes/e", Path: "l/b/d"},
	}, environment.Variables{{Name: "N", Value: "c"}})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{"a": 0o750, "a/b": 0o777, "a/b/c": 0o777, "a/b/d": 0o777} {
		info, err := os.Lstat(filepath.Join(s.d.Volume("e"), path))
		if err != nil || !info.IsDir() || info.Mode().Perm() != want {
			t.Errorf("%s: found %v, %v; want a directory of mode %o", path, info, err, want)
		}
	}
	s.sh("echo x >$E/a/b/c/f")
	if got, err := os.ReadFile(s.d.File("subpaths/0/f")); err != nil || string(got) != "x\n" {
		t.Errorf("found %q, %v", got, err)
	}
	for value, message := range map[string]string{"..": `must not contain ".."`, "": "must not be empty"} {
		err := s.d.MountSubPaths([]v1alpha1.BundleSubPath{
			{Source: "volumes/e", Path: "$(N)", Expand: true},
		}, environment.Variables{{Name: "N", Value: value}})
		if err == nil || !strings.Contains(err.Error(), "volumeMounts[0].subPathExpr: ") ||
			!strings.Contains(err.Error(), message) {
			t.Errorf("%q: found %v; want %q", value, err, message)
		}
	}
	// An error must not show the value of a variable: it may come from a Secret.
	s.sh("ln -s / $E/secret; ln -s nothing $E/secret2; touch $E/secret3")
	for _, value := range []string{
		"secret/x", "secret2", "secret3/x", "secret/../x", "/secret", strings.Repeat("secret", 100),
	} {
		err := s.d.MountSubPaths([]v1alpha1.BundleSubPath{
			{Source: "volumes/e", Path: "$(N)", Expand: true},
		}, environment.Variables{{Name: "N", Value: value}})
		if err == nil || !strings.Contains(err.Error(), "$(N)") ||
			strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: found %v; want an error with the name of the variable alone", value, err)
		}
	}
	err = s.d.MountSubPaths([]v1alpha1.BundleSubPath{
		{Source: "volumes/e", Path: "$(M)", Expand: true},
	}, nil)
	if err == nil || !strings.Contains(err.Error(), "has $(M), which is no variable") {
		t.Errorf("found %v", err)
	}
	if n := mounts(t, s.d.Path()); n != 0 {
		t.Errorf("found %d mounts after failures", n)
	}
}

// TestSubPathOfARacingVolume: a program that replaces a directory by a link to outside, again and
// again, never has anything outside of the volume mounted or created.
func TestSubPathOfARacingVolume(t *testing.T) {
	s := newSubPaths(t)
	s.sh("mkdir $N/secret $E/good $E/x; touch $N/secret/outside; ln -s $N/secret $E/bad")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		e := s.d.Volume("e")
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, other := range []string{"bad", "good"} {
				from, to := filepath.Join(e, other), filepath.Join(e, "x")
				_ = unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE)
			}
		}
	}()
	defer func() {
		close(stop)
		<-done
	}()
	mounted := 0
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); {
		for _, path := range []string{"x", "x/new"} {
			if s.mount("volumes/e", path) != nil {
				continue
			}
			mounted++
			if _, err := os.Stat(s.d.File("subpaths/3/outside")); err == nil {
				t.Fatal("a directory outside of the volume is mounted")
			}
		}
	}
	if entries, err := os.ReadDir(filepath.Join(s.node, "secret")); err != nil || len(entries) != 1 {
		t.Errorf("found %v, %v outside of the volume", entries, err)
	}
	if mounted == 0 {
		t.Error("nothing was ever mounted")
	}
}

// TestSubPathWithMountsOfTheNode: the mounts below a path of the node are there, and stay on the
// node when the path is unmounted, while something looks into it.
func TestSubPathWithMountsOfTheNode(t *testing.T) {
	s := newSubPaths(t)
	s.sh("mount -t tmpfs none $N; mount --make-shared $N; mkdir -p $N/a/b; mount -t tmpfs none $N/a/b; touch $N/a/b/f")
	t.Cleanup(func() {
		_ = unix.Unmount(filepath.Join(s.node, "a/b"), unix.MNT_DETACH)
		_ = unix.Unmount(s.node, unix.MNT_DETACH)
	})
	if err := s.mount("node", "a"); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(s.d.File("subpaths/3/b/f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s.sh("mkdir $N/a/c; mount -t tmpfs none $N/a/c; touch $N/a/c/later")
	if _, err := os.Stat(s.d.File("subpaths/3/c/later")); err != nil {
		t.Errorf("a mount that came later is not there: %v", err)
	}
	s.sh("umount $N/a/c")
	if err := s.d.UnmountSubPaths(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(s.node, "a/b/f")); err != nil {
		t.Errorf("the node has lost a mount: %v", err)
	}
}

// TestSubPathOfAnEndedServer: a path in a filesystem whose server has ended is unmounted, and the
// bundle removed.
func TestSubPathOfAnEndedServer(t *testing.T) {
	s := newSubPaths(t)
	device := filepath.Join(t.TempDir(), "fuse") // fuse(4): character device 10, 229
	if err := unix.Mknod(device, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 229))); err != nil {
		t.Fatal(err)
	}
	server, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		needs.Skip(t, fmt.Sprintf("FUSE: %v", err))
	}
	s.sh("mkdir $N/a")
	if err := s.mount("node", "a"); err != nil {
		t.Fatal(err)
	}
	at := s.d.File("subpaths/3")
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", server)
	if err := unix.Mount("test", at, "fuse", 0, options); err != nil {
		needs.Skip(t, fmt.Sprintf("FUSE: %v", err))
	}
	if err := unix.Close(server); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(at); !errors.Is(err, unix.ENOTCONN) {
		t.Errorf("found %v; want a server that has ended", err)
	}
	if err := s.d.UnmountSubPaths(); err != nil {
		t.Error(err)
		_ = unix.Unmount(at, unix.MNT_DETACH)
	}
}
