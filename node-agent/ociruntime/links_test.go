// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestFilesThroughLinks: temporary files in a directory that others may write to are not written
// through links with their names.
func TestFilesThroughLinks(t *testing.T) {
	w := newWorld(t)
	victim := filepath.Join(w.dir, "victim")
	w.must(os.WriteFile(victim, []byte("the host's"), 0o600))
	public := filepath.Join(w.dir, "public")
	w.must(os.Mkdir(public, 0o777))
	pidFile := filepath.Join(public, "pid")
	for _, name := range []string{".pid.new", "pid"} {
		w.must(os.Symlink(victim, filepath.Join(public, name)))
	}
	w.save(w.spec("/bin/sleep", "1000"))
	s, err := w.rt.Create(background, w.id, CreateOptions{Bundle: w.bundle(), PidFile: pidFile})
	w.must(err)
	defer func() {
		_ = unix.Kill(s.PID, unix.SIGKILL) // for reap, if the record is broken
		w.end(w.id, s.PID)
	}()
	// The same of the record.
	w.must(os.Symlink(victim, filepath.Join(w.dir, "run", w.id, stateFile+".new")))
	rec, err := w.rt.load(w.id)
	w.must(err)
	w.must(w.rt.save(rec))
	if data, err := os.ReadFile(pidFile); err != nil || string(data) != fmt.Sprint(s.PID) {
		t.Errorf("the pid file has %q, %v", data, err)
	}
	if data, err := os.ReadFile(victim); err != nil || string(data) != "the host's" {
		t.Errorf("the host's file has now %q, %v", data, err)
	}
}

// TestCallersDescriptors: the process inherits a descriptor that is not close-on-exec only as its
// stream.
func TestCallersDescriptors(t *testing.T) {
	w := newWorld(t)
	fd, err := unix.Open("/etc/passwd", unix.O_RDONLY, 0)
	w.must(err)
	stdin := os.NewFile(uintptr(fd), "stdin")
	defer stdin.Close()
	// 3 is the directory that the shell reads.
	w.save(w.sh("for fd in /proc/self/fd/*; do echo ${fd##*/}; done"))
	out, _, err := w.tryWith(CreateOptions{Stdin: stdin})
	if err != nil || out != "0\n1\n2\n3\n" {
		t.Errorf("it has the descriptors %q, %v", out, err)
	}
}

// TestFilesAsStreamsKeepTheirOwner: a process becomes the owner of pipes and terminals that are its standard
// streams, not of files, directories or disks.
func TestFilesAsStreamsKeepTheirOwner(t *testing.T) {
	w := newWorld(t)
	w.must(os.WriteFile(filepath.Join(w.dir, "file"), nil, 0o644))
	// of a loop device
	w.must(unix.Mknod(filepath.Join(w.dir, "disk"), unix.S_IFBLK|0o600, int(unix.Mkdev(7, 0))))
	w.must(os.Mkdir(filepath.Join(w.dir, "folder"), 0o755))
	w.must(unix.Mkfifo(filepath.Join(w.dir, "pipe"), 0o600))
	spec := w.sh("true")
	spec.Process.User = specs.User{UID: 7, GID: 8}
	w.save(spec)
	for name, want := range map[string]specs.User{
		"file": {}, "folder": {}, "disk": {},
		"pipe": {UID: 7, GID: 8},
	} {
		path := filepath.Join(w.dir, name)
		flags := os.O_RDONLY
		if name == "pipe" {
			flags = os.O_RDWR
		}
		f, err := os.OpenFile(path, flags, 0)
		if name == "disk" && err != nil {
			t.Logf("no loop device to try: %v", err)
			continue
		}
		w.must(err)
		_, _, err = w.tryWith(CreateOptions{Stdin: f})
		f.Close()
		w.must(err)
		var st unix.Stat_t
		w.must(unix.Stat(path, &st))
		if st.Uid != want.UID || st.Gid != want.GID {
			t.Errorf("the %s belongs to %d:%d; want %d:%d", name, st.Uid, st.Gid, want.UID, want.GID)
		}
	}
}

const stranger = 4242

// TestRootOfAnotherUser: containers are not recorded where another user could exchange the record.
func TestRootOfAnotherUser(t *testing.T) {
	w := newWorld(t)
	w.save(w.sh("true"))
	run := filepath.Join(w.dir, "run")
	try := func(what, words string) {
		t.Helper()
		_, _, err := w.tryWith(CreateOptions{})
		if words == "" && err != nil || words != "" &&
			(err == nil || !strings.Contains(err.Error(), words)) {
			t.Errorf("%s: found %v; want %q", what, err, words)
		}
	}
	w.must(os.Mkdir(run, 0o700))
	w.must(os.Chown(run, stranger, stranger))
	try("another's folder", "belongs to user 4242")
	w.must(os.Chown(run, 0, stranger))
	w.must(unix.Chmod(run, 0o770))
	try("a folder of another's group", "others may write to")
	w.must(os.Chown(run, 0, 0))
	try("a folder of root's group", "")
	w.must(unix.Chmod(run, 0o777))
	try("a folder of all", "others may write to")
	w.must(unix.Chmod(run, 0o1777))
	try("a folder of all with the sticky bit", "")
	w.must(os.RemoveAll(run))
	elsewhere := filepath.Join(w.dir, "elsewhere")
	w.must(os.Mkdir(elsewhere, 0o700))
	w.must(os.Symlink(elsewhere, run))
	try("a link", "")
	w.must(os.Lchown(run, stranger, stranger))
	try("another's link", "belongs to user 4242")
	w.must(os.RemoveAll(run))
	w.must(os.RemoveAll(elsewhere))
}

// TestRecordOfAnotherUser: hooks in another user's record, in a directory where everybody may create
// files, are not run.
func TestRecordOfAnotherUser(t *testing.T) {
	w := newWorld(t)
	run := filepath.Join(w.dir, "run")
	w.must(os.Mkdir(run, 0o1777))
	w.must(unix.Chmod(run, 0o1777))
	dir := filepath.Join(run, w.id)
	w.must(os.Mkdir(dir, 0o755))
	defer os.RemoveAll(dir)
	proof := filepath.Join(w.dir, "proof")
	record := fmt.Sprintf(
		`{"ociVersion":"1.3.0","id":%q,"pid":0,"cgroups":{},"hooks":{"poststop":[{"path":"/bin/touch","args":["touch",%q]}]}}`, w.id, proof)
	file := filepath.Join(dir, stateFile)
	for name, make := range map[string]func(){
		"file": func() {
			w.must(os.WriteFile(file, []byte(record), 0o644))
			w.must(os.Chown(file, stranger, stranger))
		},
		"link": func() {
			w.must(os.WriteFile(filepath.Join(dir, "own"), []byte(record), 0o644))
			w.must(os.Symlink("own", file))
		},
		"fifo": func() { w.must(unix.Mkfifo(file, 0o666)) },
	} {
		make()
		w.answers(name, func() {
			if s, err := w.rt.State(background, w.id); err == nil {
				t.Errorf("%s: found the state %+v", name, s)
			}
			if list, _ := w.rt.List(background); len(list) != 0 {
				t.Errorf("%s: found the containers %v", name, list)
			}
			for _, force := range []bool{false, true} {
				if err := w.rt.Delete(background, w.id, force); err == nil {
					t.Errorf("%s: deleted, by force %t", name, force)
				}
			}
			if err := w.rt.Kill(background, w.id, unix.SIGKILL, true); err == nil {
				t.Errorf("%s: killed", name)
			}
		})
		if _, err := os.Lstat(proof); err == nil {
			t.Fatalf("%s: the stranger's hook has run", name)
		}
		w.must(os.Remove(file))
	}
}

// TestDestinationIsAMagicLink: no mount covers an open file of a process, or its root or working
// directory, through procfs.
func TestDestinationIsAMagicLink(t *testing.T) {
	w := newWorld(t)
	dir, contents := w.outside()
	before := contents()
	for _, path := range []string{
		"self/fd/0", "self/root/x", "self/cwd/x", "thread-self/fd/7/x",
		"1/root/x", "self/exe", "self/ns/mnt",
	} {
		for _, m := range []specs.Mount{
			{Destination: "/proc/" + path, Type: "tmpfs", Source: "tmpfs"},
			{Destination: "/proc/" + path, Type: "bind", Source: dir, Options: []string{"rbind"}},
			{Destination: "/proc/" + path, Type: "bind", Source: dir + "/file", Options: []string{"bind"}},
		} {
			w.fails(mounted(w.sh("true"), m), "mounts[7] (/proc/"+path+"): ")
		}
		if path == "thread-self/fd/7/x" {
			continue // there is no such descriptor then, and a path that is not there is passed over
		}
		spec := w.sh("true")
		spec.Linux.MaskedPaths = []string{"/proc/" + path}
		w.fails(spec, "linux.maskedPaths[0] (/proc/"+path+"): ")
		spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = nil, []string{"/proc/" + path}
		w.fails(spec, "linux.readonlyPaths[0] (/proc/"+path+"): ")
	}
	if after := contents(); after != before {
		t.Errorf("outside, before:\n%s\nand after:\n%s", before, after)
	}
}

// TestDirectoriesOfTheImageAreLinks: /dev/pts, /dev/shm, /dev/mqueue and /sys/fs/cgroup of an image
// lead out; each is mounted inside, or nowhere.
func TestDirectoriesOfTheImageAreLinks(t *testing.T) {
	w := newWorld(t)
	dir, contents := w.outside()
	before := contents()
	w.must(os.MkdirAll(w.file(dir), 0o755)) // what the link means inside
	for _, path := range []string{"/dev/pts", "/dev/shm", "/dev/mqueue", "/sys/fs/cgroup"} {
		w.must(os.MkdirAll(filepath.Dir(w.file(path)), 0o755))
		w.must(os.Symlink("../../../../../../../../.."+dir, w.file(path)))
	}
	spec := w.sh("test -e " + dir + "/file && echo seen; test -e " + dir + "/ptmx -o -d " + dir +
		"/pids -o -e " + dir + "/cgroup.procs && echo mounted")
	mounts := spec.Mounts
	spec.Mounts = append([]specs.Mount{mounts[0]}, mounts[2:5]...)
	spec.Mounts = append(spec.Mounts, mounts[6])
	if out, _, err := w.try(spec); err != nil || out != "mounted\n" {
		t.Errorf("it printed %q, %v", out, err)
	}
	if after := contents(); after != before {
		t.Errorf("outside, before:\n%s\nand after:\n%s", before, after)
	}
}

// TestProgramWithoutName: no program is executed without an argv[0] (CVE-2021-4034 abused that),
// nor by the name "".
func TestProgramWithoutName(t *testing.T) {
	w := newWorld(t)
	w.fails(w.spec(), "process.args: found ")
	w.fails(w.spec(""), "process.args[0]: found ")
	w.start(w.sleeping(nil))
	w.execFails(ExecOptions{Change: func(p *specs.Process) error {
		p.Args = nil
		return nil
	}}, "process.args: found ")
	w.execFails(ExecOptions{Change: func(p *specs.Process) error {
		p.Args = []string{""}
		return nil
	}}, "process.args[0]: found ")
}

// TestHostileTree lets tmpcopyup copy a tree that a program has built to break the copy: endless,
// too deep to name, or changing.
func TestHostileTree(t *testing.T) {
	m := specs.Mount{
		Destination: "/data", Type: "tmpfs", Source: "tmpfs",
		Options: []string{"tmpcopyup", "size=1m"},
	}
	t.Run("deep", func(t *testing.T) {
		w := newWorld(t)
		w.must(os.Mkdir(w.file("/data"), 0o755))
		dir, err := unix.Open(w.file("/data"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		w.must(err)
		name := strings.Repeat("d", 250)
		for range 20 { // 5,000 bytes, of which a path may have 4,096
			w.must(unix.Mkdirat(dir, name, 0o755))
			next, err := unix.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			w.must(err)
			unix.Close(dir)
			dir = next
		}
		unix.Close(dir)
		w.fails(mounted(w.sh("true"), m), "mounts[7] (/data): tmpcopyup: ", "file name too long")
	})
	t.Run("devices", func(t *testing.T) {
		w := newWorld(t)
		w.must(os.Mkdir(w.file("/data"), 0o755))
		// /dev/zero
		w.must(unix.Mknod(w.file("/data/endless"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
		w.must(unix.Mkfifo(w.file("/data/fifo"), 0o666))
		w.must(os.WriteFile(w.file("/data/sparse"), nil, 0o644))
		w.must(os.Truncate(w.file("/data/sparse"), 1<<40))
		w.fails(mounted(w.sh("true"), m), "mounts[7] (/data: sparse): ")
		w.must(os.Remove(w.file("/data/sparse")))
		w.prints(mounted(w.sh("cd /data; ls; stat -c %F endless fifo"), m),
			"endless\nfifo\ncharacter special file\nfifo\n")
	})
	t.Run("raced", func(t *testing.T) {
		w := newWorld(t)
		outside, contents := w.outside()
		before := contents()
		w.must(os.MkdirAll(w.file("/data/folder"), 0o755))
		w.must(os.WriteFile(w.file("/data/folder/file"), []byte("inside"), 0o644))
		w.must(os.WriteFile(w.file("/data/one"), []byte("inside"), 0o644))
		w.must(os.Symlink(outside, w.file("/data/link")))
		w.must(os.Symlink(outside+"/file", w.file("/data/other")))
		w.exchange(w.file("/data"), [2]string{"folder", "link"}, [2]string{"one", "other"})
		spec := mounted(w.sh("cat /data/* /data/*/* 2>/dev/null; true"), m)
		rounds(t, 60, 6*time.Second, func() bool {
			out, _, err := w.try(spec)
			if strings.Contains(out, "the host's") {
				t.Errorf("the host's file was copied: %q", out)
			}
			return err == nil
		})
		if after := contents(); after != before {
			t.Errorf("outside, before:\n%s\nand after:\n%s", before, after)
		}
	})
}
