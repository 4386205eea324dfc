// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/oci/files"
	"github.com/berth-run/berth/internal/needs"
)

func file(data string, mode uint32) files.File { return files.File{Data: data, Mode: mode} }

// shownFiles returns the files of a volume as a container sees them: path, mode and content.
func shownFiles(t *testing.T, dir string) string {
	t.Helper()
	links, err := filepath.Glob(dir + "/[^.]*")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, link := range links {
		target, err := filepath.EvalSymlinks(link)
		if err != nil {
			t.Error(err)
			continue
		}
		err = filepath.WalkDir(target, func(p string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			data, err := os.ReadFile(p)
			out = append(out, fmt.Sprintf("%s%s %o %s", filepath.Base(link),
				strings.TrimPrefix(p, target), info.Mode().Perm(), data))
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

// entries returns the number of entries of a directory.
func entries(t *testing.T, dir string) int {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func filesDirectory(t *testing.T) Dir {
	t.Helper()
	needs.Root(t)
	root, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d := root.Dir("x")
	if err := d.Make(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Remove(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(d.Path()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("found %v after the removal", err)
		}
	})
	return d
}

// TestWriteFiles follows a volume through changes of its files.
func TestWriteFiles(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	d := filesDirectory(t)
	dir := d.File("files/v")
	for i, step := range []struct {
		tree  files.Tree
		want  string
		links int
	}{
		{files.Tree{"a": file("1", 0o644), "d/b": file("2", 0o400)}, "a 644 1; d/b 400 2", 2},
		{files.Tree{"a": file("1", 0o644), "d/b": file("2", 0o400)}, "a 644 1; d/b 400 2", 2},
		{files.Tree{"a": file("3", 0o777), "d/b": file("2", 0o400), "d/c": file("", 0)}, "a 777 3; d/b 400 2; d/c 0 ", 2},
		{files.Tree{"d": file("now a file", 0o644)}, "d 644 now a file", 1},
		{files.Tree{}, "", 0},
		{files.Tree{"a/b/c": file("x", 0o644)}, "a/b/c 644 x", 1},
	} {
		before, _ := os.Readlink(dir + "/..data")
		differ, err := d.FilesDiffer(map[string]files.Tree{"v": step.tree})
		if want := i != 1; err != nil || differ != want {
			t.Errorf("step %d: differ: %v, %v; want %v", i, differ, err, want)
		}
		if err := d.WriteFiles(map[string]files.Tree{"v": step.tree}); err != nil {
			t.Fatal(err)
		}
		after, err := os.Readlink(dir + "/..data")
		if err != nil || (before == after) != (i == 1) {
			t.Errorf("step %d: ..data was %q, is %q, %v", i, before, after, err)
		}
		if got := shownFiles(t, dir); got != step.want || entries(t, dir) != step.links+2 {
			t.Errorf("step %d: found %q and %d entries; want %q", i, got, entries(t, dir), step.want)
		}
		for _, p := range []string{dir, dir + "/" + after} {
			if info, err := os.Lstat(p); err != nil || info.Mode().Perm() != 0o755 {
				t.Errorf("step %d: found %v, %v", i, info, err)
			}
		}
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(dir, &disk); err != nil || disk.Type != unix.TMPFS_MAGIC {
		t.Errorf("found the filesystem %x, %v; want a tmpfs", disk.Type, err)
	}
	if info, err := os.Stat(d.File("files")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("found %v, %v; want a directory that only root can enter", info, err)
	}
	// Other volumes come and go.
	if err := d.WriteFiles(map[string]files.Tree{"w": {"k": file("v", 0o644)}}); err != nil {
		t.Fatal(err)
	}
	if got := shownFiles(t, d.File("files/w")); got != "k 644 v" || entries(t, d.File("files")) != 1 {
		t.Errorf("found %q and %d volumes", got, entries(t, d.File("files")))
	}
	if err := d.WriteFiles(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(d.File("files")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("found %v without volumes", err)
	}
}

// TestWriteFilesRepairs has a volume as a killed agent, or a container that can write into it, has
// left it. Nothing outside of the volume is read or written.
func TestWriteFilesRepairs(t *testing.T) {
	outside := t.TempDir()
	const kept = "of the node"
	if err := os.WriteFile(outside+"/a", []byte(kept), 0o600); err != nil {
		t.Fatal(err)
	}
	want := files.Tree{"a": file("1", 0o644), "d/b": file("2", 0o644)}
	for name, damage := range map[string]string{
		"a version without a name yet":         "mkdir ..2026_x; echo 1 >..2026_x/a",
		"a link that was not renamed":          "ln -s ..2026_x ..data_next",
		"links are missing":                    "rm a d",
		"a version is empty":                   "rm -r ..data/*",
		"the version is gone":                  "rm -r ..2*",
		"everything is gone":                   "rm -r ..2* ..data a d",
		"another file":                         "echo x >x",
		"another file in the version":          "echo x >..data/x",
		"another content":                      "echo x >..data/a",
		"another mode":                         "chmod 600 ..data/a",
		"..data leads out":                     "rm ..data; ln -s $OUT ..data",
		"..data is a directory":                "rm ..data; mkdir ..data; echo x >..data/a",
		"..data_next is a directory":           "mkdir ..data_next; echo x >..data_next/x",
		"a link is a directory":                "rm a; mkdir a; echo x >a/x",
		"a link leads out":                     "rm a; ln -s $OUT/a a",
		"a fifo":                               "rm ..data/a; mkfifo ..data/a",
		"a directory is a fifo":                "rm -r ..data/d; mkfifo ..data/d",
		"the version is a fifo":                "v=$(readlink ..data); rm -r $v; mkfifo $v",
		"..data is a fifo":                     "rm ..data; mkfifo ..data",
		"another directory in the version":     "mkdir ..data/x",
		"a file of the version leads out":      "rm ..data/a; ln -s $OUT/a ..data/a",
		"a directory of the version leads out": "rm -r ..data/d; ln -s $OUT ..data/d",
	} {
		t.Run(name, func(t *testing.T) {
			d := filesDirectory(t)
			volumes := map[string]files.Tree{"v": want}
			if err := d.WriteFiles(volumes); err != nil {
				t.Fatal(err)
			}
			dir := d.File("files/v")
			out, err := exec.Command("sh", "-ec", "cd "+dir+"; OUT="+outside+"; "+damage).CombinedOutput() //nolint:gosec // of this test
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if differ, err := d.FilesDiffer(volumes); err != nil || !differ {
				t.Errorf("differ: %v, %v", differ, err)
			}
			if err := d.WriteFiles(volumes); err != nil {
				t.Fatal(err)
			}
			if differ, err := d.FilesDiffer(volumes); err != nil || differ {
				t.Errorf("differ after the repair: %v, %v", differ, err)
			}
			if got := shownFiles(t, dir); got != "a 644 1; d/b 644 2" || entries(t, dir) != 4 {
				t.Errorf("found %q and %d entries", got, entries(t, dir))
			}
			if data, err := os.ReadFile(outside + "/a"); err != nil || string(data) != kept ||
				entries(t, outside) != 1 {
				t.Errorf("found %q, %v outside", data, err)
			}
		})
	}
}

// TestFilesAfterALackOfMemory: a version that does not fit leaves nothing, and one that fits is
// written then, also after an agent was killed while it wrote.
func TestFilesAfterALackOfMemory(t *testing.T) {
	d := filesDirectory(t)
	small := func(text string) map[string]files.Tree { return map[string]files.Tree{"v": {"a": file(text, 0o644)}} }
	if err := d.WriteFiles(small("1")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", d.File("files"), "", unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV, "size=256k"); err != nil {
		t.Fatal(err)
	}
	big := files.Tree{"a": file(strings.Repeat("x", 150_000), 0o644), "b/c": file(strings.Repeat("x", 150_000), 0o644)}
	for range 3 {
		if err := d.WriteFiles(map[string]files.Tree{"v": big}); !errors.Is(err, unix.ENOSPC) {
			t.Fatalf("found %v; want ENOSPC", err)
		}
		if got := shownFiles(t, d.File("files/v")); got != "a 644 1" || entries(t, d.File("files/v")) != 3 {
			t.Errorf("after a version that does not fit: found %q and %d entries", got, entries(t, d.File("files/v")))
		}
	}
	for _, unfinished := range []string{"..2026_x", "..2026_y"} {
		place(t, d.File("files/v"), unfinished+"/a", strings.Repeat("x", 100_000))
	}
	text := strings.Repeat("2", 100_000)
	if err := d.WriteFiles(small(text)); err != nil {
		t.Fatal(err)
	}
	if got := shownFiles(t, d.File("files/v")); got != "a 644 "+text || entries(t, d.File("files/v")) != 3 {
		t.Errorf("found %d bytes and %d entries", len(got), entries(t, d.File("files/v")))
	}
}

// TestFilesBesideFifos: a container that may write into its volume places fifos where the agent is
// about to open a file or a directory.
func TestFilesBesideFifos(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := unix.Mkfifo(dir+"/..fifo", 0o666); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := writeNew(root, "..fifo", file("x", 0o644)); !errors.Is(err, fs.ErrExist) {
			t.Errorf("wrote a fifo: %v", err)
		}
		if _, err := readDir(root, "..fifo"); !errors.Is(err, unix.ENOTDIR) {
			t.Errorf("read a fifo as a directory: %v", err)
		}
		if hasFiles(root, "..fifo", files.Tree{}) || hasFile(root, "..fifo", file("", 0o644)) {
			t.Error("took a fifo for files")
		}
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("a fifo blocks the agent")
	}
}

// TestOwnersOfFiles: a file of another owner or group than the wanted one is not taken for it.
func TestOwnersOfFiles(t *testing.T) {
	needs.Root(t)
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	owners := []files.File{
		{Data: "x", Mode: 0o600},
		{Data: "x", Mode: 0o600, Owner: 1000},
		{Data: "x", Mode: 0o600, Owner: 1000, Group: 77},
		{Data: "x", Mode: 0o600, Group: 77},
	}
	for i, written := range owners {
		name := fmt.Sprint(i)
		if err := writeNew(root, name, written); err != nil {
			t.Fatal(err)
		}
		for j, want := range owners {
			if got := hasFile(root, name, want); got != (i == j) {
				t.Errorf("%+v, where %+v is wanted: found %t", written, want, got)
			}
		}
	}
}

// TestFilesAfterABoot: a boot takes the files, and the next start writes them again.
func TestFilesAfterABoot(t *testing.T) {
	d := filesDirectory(t)
	volumes := map[string]files.Tree{"v": {"a": file("1", 0o400)}}
	for range 2 {
		if err := d.WriteFiles(volumes); err != nil {
			t.Fatal(err)
		}
		if got := shownFiles(t, d.File("files/v")); got != "a 400 1" {
			t.Errorf("found %q", got)
		}
		if err := unix.Unmount(d.File("files"), 0); err != nil {
			t.Fatal(err)
		}
		if differ, err := d.FilesDiffer(volumes); err != nil || !differ {
			t.Errorf("differ after a boot: %v, %v", differ, err)
		}
		if n := entries(t, d.File("files")); n != 0 {
			t.Errorf("found %d entries on the disk", n)
		}
	}
}

// TestFilesChangeAtOnce: who has opened ..data sees the files of one version.
func TestFilesChangeAtOnce(t *testing.T) {
	d := filesDirectory(t)
	tree := func(i int) map[string]files.Tree {
		text := strings.Repeat(fmt.Sprint(i%10), 10_000)
		return map[string]files.Tree{"v": {"a": file(text, 0o644), "b": file(text, 0o644)}}
	}
	if err := d.WriteFiles(tree(0)); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	seen := map[string]bool{}
	limit := time.Now().Add(2 * time.Minute)
	go func() {
		defer close(done)
		for len(seen) < 5 && !t.Failed() {
			if time.Now().After(limit) {
				t.Errorf("found %d versions in two minutes; want 5", len(seen))
				return
			}
			root, err := os.OpenRoot(d.File("files/v/..data"))
			if errors.Is(err, fs.ErrNotExist) { // removed since the link was read
				continue
			}
			if err != nil {
				t.Error(err)
				return
			}
			a, erra := root.ReadFile("a")
			b, errb := root.ReadFile("b")
			_ = root.Close()
			if erra != nil || errb != nil { // that version has been removed since
				continue
			}
			if string(a) != string(b) || len(a) != 10_000 {
				t.Error("found files of two versions")
				return
			}
			seen[string(a[:1])] = true
		}
	}()
	for i := 1; ; i++ {
		select {
		case <-done:
			return
		default:
		}
		if err := d.WriteFiles(tree(i)); err != nil {
			t.Error(err) // the reader ends, too
			<-done
			return
		}
	}
}
