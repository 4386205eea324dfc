// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"sort"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/oci/capability"
	"github.com/berth-run/berth/internal/cgrouplayout"
	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
)

const busybox = "/bin/busybox" // Debian's busybox-static

// No test runs on the process's first thread, which is what /proc/self shows: it would stay in what
// a test puts its own thread in, since Go does not end it.
func init() { goruntime.LockOSThread() }

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) != "" {
		helper()
	}
	if code, done := apart(); done {
		os.Exit(code)
	}
	inherited()
	os.Exit(m.Run())
}

// apartEnv is set in the process that runs the tests.
const apartEnv = "BERTH_RUNTIME_TEST_APART"

// apart has the tests run in a process with a mount namespace of its own: they count mounts, of
// which the tests of other packages make some at the same time.
func apart() (code int, done bool) {
	if os.Geteuid() != 0 || os.Getenv(apartEnv) != "" {
		return 0, false
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), apartEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// Package syscall makes all mounts private then. It goes with this process, which go test ends
	// when its time is over.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	goruntime.LockOSThread()
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, err)
		return 1, true
	}
	return cmd.ProcessState.ExitCode(), true
}

// world is a runtime with a root and a bundle of its own.
type world struct {
	t      *testing.T
	dir    string
	rt     *Runtime
	id     string
	warned []string
	// cgroup is the path of the container's cgroup below each hierarchy.
	cgroup string
}

// newWorld fails the test if something is left over when it ends: mounts, cgroups, processes,
// descriptors, directories.
func newWorld(t *testing.T) *world {
	t.Helper()
	leaktest.Check(t)
	needs.Root(t)
	if _, err := os.Stat(busybox); err != nil {
		t.Fatalf("needs Debian's busybox-static: %v", err)
	}
	dir := t.TempDir()
	// A container's user has to be able to walk to its root filesystem.
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w := &world{t: t, dir: dir, id: "t" + fmt.Sprint(os.Getpid()) + "-" + strings.NewReplacer("/", "-",
		"#", "-", ",", "-", " ", "-", "=", "-").Replace(t.Name())}
	w.id = w.id[:min(len(w.id), 100)]
	w.cgroup = "/" + w.id
	rt, err := New(filepath.Join(dir, "run"), WithWarnings(func(s string) {
		w.warned = append(w.warned, s)
	}))
	if err != nil {
		t.Fatal(err)
	}
	w.rt = rt
	w.rootfs(w.bundle())
	before := w.leftovers()
	t.Cleanup(func() {
		if after := w.leftovers(); after != before {
			t.Errorf("left over, before:\n%s\nand after:\n%s", before, after)
		}
	})
	return w
}

func (w *world) bundle() string { return filepath.Join(w.dir, "bundle") }

// file returns a path in the root filesystem, on the host.
func (w *world) file(path string) string { return filepath.Join(w.bundle(), "rootfs", path) }

func (w *world) rootfs(bundle string) {
	w.t.Helper()
	bin := filepath.Join(bundle, "rootfs/bin")
	w.must(os.MkdirAll(bin, 0o755))
	program, err := os.ReadFile(busybox)
	w.must(err)
	w.must(os.WriteFile(filepath.Join(bin, "busybox"), program, 0o755))
	for _, applet := range []string{
		"sh", "cat", "ls", "sleep", "true", "false", "id", "stat", "mount",
		"readlink", "touch", "mkdir", "hostname", "tty", "stty", "kill", "pwd", "test", "grep", "dd",
		"env", "tail", "cut", "tr",
	} {
		w.must(os.Symlink("busybox", filepath.Join(bin, applet)))
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// write makes a file of the root filesystem.
func (w *world) write(path, content string, mode os.FileMode) {
	w.t.Helper()
	w.must(os.MkdirAll(filepath.Dir(w.file(path)), 0o755))
	w.must(os.WriteFile(w.file(path), []byte(content), mode))
	w.must(os.Chmod(w.file(path), mode))
}

// leftovers returns the things that a container may leave behind.
func (w *world) leftovers() string {
	w.t.Helper()
	var b strings.Builder
	data, err := os.ReadFile("/proc/self/mountinfo")
	w.must(err)
	fmt.Fprintf(&b, "mounts: %d\n", ownMounts(string(data)))
	fmt.Fprintf(&b, "cgroups: %v\n", w.cgroupDirs())
	fmt.Fprintf(&b, "children: %v\n", children(w.t))
	fds, err := os.ReadDir("/proc/self/fd")
	w.must(err)
	var open []string
	for _, fd := range fds {
		target, _ := os.Readlink("/proc/self/fd/" + fd.Name())
		// Go has an epoll descriptor and an eventfd, and the library of cgroups one of the
		// hierarchies' directory, for good; that directory is the one being read. Pidfds and
		// detached mounts count.
		if target != "anon_inode:[eventpoll]" && target != "anon_inode:[eventfd]" &&
			target != "/sys/fs/cgroup" && target != fmt.Sprintf("/proc/%d/fd", os.Getpid()) {
			open = append(open, target)
		}
	}
	sort.Strings(open)
	fmt.Fprintf(&b, "descriptors: %v\n", open)
	entries, err := os.ReadDir(filepath.Join(w.dir, "run"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != filterDir {
			fmt.Fprintf(&b, "record: %s\n", e.Name())
		}
	}
	return b.String()
}

// inherited has the mounts that this process began with, each named by mountName.
var inherited = sync.OnceValue(func() map[string]bool {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		panic(err)
	}
	lines := map[string]bool{}
	for line := range strings.Lines(string(data)) {
		lines[mountName(line)] = true
	}
	return lines
})

// mountName returns the id and the mount point of a line of mountinfo: options and propagation of a
// mount may change.
func mountName(line string) string {
	fields := strings.Fields(line)
	return fields[0] + " " + fields[4]
}

// ownMounts counts the mounts that were not inherited. Those that were go when somebody else
// removes the directory that they are on.
func ownMounts(mountinfo string) (n int) {
	for line := range strings.Lines(mountinfo) {
		if !inherited()[mountName(line)] {
			n++
		}
	}
	return n
}

// cgroupDirs returns the directories of the test's cgroup in all hierarchies.
func (w *world) cgroupDirs() (found []string) {
	for _, pattern := range []string{"/sys/fs/cgroup" + w.cgroup + "*", "/sys/fs/cgroup/*" +
		w.cgroup + "*"} {
		dirs, err := filepath.Glob(pattern)
		w.must(err)
		found = append(found, dirs...)
	}
	return found
}

func children(t *testing.T) (pids []string) {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		data, _ := os.ReadFile("/proc/self/task/" + task.Name() + "/children")
		pids = append(pids, strings.Fields(string(data))...)
	}
	return pids
}

var allCapabilities = capability.Names()

// spec returns a document like that of an engine.
func (w *world) spec(args ...string) *specs.Spec {
	caps := []string{"CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
	return &specs.Spec{
		Version: "1.3.0",
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: args, Cwd: "/", NoNewPrivileges: true, Env: []string{"PATH=/bin", "TERM=xterm"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Hostname: "tested",
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{
				"nosuid", "strictatime",
				"mode=755", "size=65536k",
			}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{
				"nosuid", "noexec",
				"newinstance", "ptmxmode=0666", "mode=0620", "gid=5",
			}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{
				"nosuid", "noexec",
				"nodev", "mode=1777", "size=1m",
			}},
			{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{
				"nosuid",
				"noexec", "nodev",
			}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{
				"nosuid", "noexec",
				"nodev", "ro",
			}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{
				"nosuid",
				"noexec", "nodev", "relatime", "ro",
			}},
		},
		Linux: &specs.Linux{
			CgroupsPath: w.cgroup,
			Namespaces: []specs.LinuxNamespace{
				{Type: "pid"},
				{Type: "network"},
				{Type: "ipc"},
				{Type: "uts"},
				{Type: "mount"},
				{Type: "cgroup"},
			},
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{
				Allow:  false,
				Access: "rwm",
			}}},
		},
	}
}

// sh is spec with a shell script as its program.
func (w *world) sh(script string) *specs.Spec { return w.spec("/bin/sh", "-c", script) }

// save writes a document as the bundle's.
func (w *world) save(spec *specs.Spec) {
	w.t.Helper()
	data, err := json.Marshal(spec)
	w.must(err)
	w.must(os.WriteFile(filepath.Join(w.bundle(), "config.json"), data, 0o600))
}

// try runs a container to its end.
func (w *world) try(spec *specs.Spec) (output string, status unix.WaitStatus, err error) {
	w.t.Helper()
	w.save(spec)
	return w.tryWith(CreateOptions{})
}

func (w *world) tryWith(o CreateOptions) (output string, status unix.WaitStatus, err error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var p *Process
	output, err = w.outputOf(func(out *os.File) (err error) {
		o.Bundle, o.Stdout, o.Stderr = w.bundle(), out, out
		p, err = w.rt.Run(ctx, w.id, o)
		return err
	})
	if err != nil {
		return "", 0, err
	}
	status = p.Wait()
	w.must(p.Delete(ctx))
	return output, status, nil
}

// outputOf calls start, whose process writes to out, and returns all that is written until nobody
// has out open any more.
func (w *world) outputOf(start func(out *os.File) error) (string, error) {
	w.t.Helper()
	r, out, err := os.Pipe()
	w.must(err)
	defer r.Close()
	err = start(out)
	out.Close()
	if err != nil {
		return "", err
	}
	all, err := io.ReadAll(r)
	w.must(err)
	return string(all), nil
}

// run runs a container that has to succeed, and returns what it wrote.
func (w *world) run(spec *specs.Spec) string {
	w.t.Helper()
	out, status, err := w.try(spec)
	if err != nil {
		w.t.Fatal(err)
	}
	if status.ExitStatus() != 0 {
		w.t.Fatalf("ended with %d (signal %v): %s", status.ExitStatus(), status.Signal(), out)
	}
	return out
}

// prints fails the test where a container prints something else.
func (w *world) prints(spec *specs.Spec, want string) {
	w.t.Helper()
	if got := w.run(spec); got != want {
		w.t.Errorf("it printed:\n%s\nwant:\n%s", got, want)
	}
}

// fails fails the test where Run does not, or with an error that lacks one of the words.
func (w *world) fails(spec *specs.Spec, words ...string) {
	w.t.Helper()
	out, _, err := w.try(spec)
	if err == nil {
		w.t.Fatalf("it ran, and printed: %s", out)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			w.t.Errorf("found the error: %v\nwant it to have: %s", err, word)
		}
	}
}

// create makes a container from a document, as a child of this process, and removes it when the
// test ends.
func (w *world) create(spec *specs.Spec) *State {
	w.t.Helper()
	w.save(spec)
	s, err := w.rt.Create(context.Background(), w.id, CreateOptions{Bundle: w.bundle()})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { w.end(w.id, s.PID) })
	return s
}

// start creates and starts.
func (w *world) start(spec *specs.Spec) *State {
	w.t.Helper()
	s := w.create(spec)
	w.must(w.rt.Start(context.Background(), w.id))
	return s
}

// end removes a container by force and reaps its first process, if that has not been done.
func (w *world) end(id string, pid int) {
	w.t.Helper()
	if err := w.rt.Delete(context.Background(), id, true); err != nil {
		w.t.Error(err)
	}
	reap(pid)
}

func reap(pid int) (status unix.WaitStatus) {
	for {
		if _, err := unix.Wait4(pid, &status, 0, nil); !errors.Is(err, unix.EINTR) {
			return status
		}
	}
}

// patience is the deadline of each wait. On an idle machine each of them ends at once.
const patience = 2 * time.Minute

// answers calls f and fails the test if f does not return. A failed must inside of f ends only f.
func (w *world) answers(what string, f func()) {
	w.t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(patience):
		w.t.Fatalf("%s hangs", what)
	}
}

// await waits for a condition that another process brings about.
func (w *world) await(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("still not: %s", what)
		}
	}
}

// awaitProgram waits until a process is its program in every respect. A caller learns of it a
// moment before that: execve(2) closes descriptors one by one, and gives the process its name, its
// rights, its arguments and at last its environment, which may not be empty.
func (w *world) awaitProgram(pid int, name string) {
	w.t.Helper()
	w.await("its program", func() bool {
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		return statusLine(w.t, pid, "Name") == name && err == nil && len(environ) > 0
	})
}

// unified reports whether the host has only cgroup v2.
func unified() bool {
	l, err := cgrouplayout.Read("/")
	return err == nil && l.Unified
}

// cgroupFile reads a file of the container's cgroup: the names are those of version 1 (controller,
// file) and of version 2.
func (w *world) cgroupFile(controller, v1, v2 string) string {
	w.t.Helper()
	file := filepath.Join("/sys/fs/cgroup", controller, w.cgroup, v1)
	if unified() {
		file = filepath.Join("/sys/fs/cgroup", w.cgroup, v2)
	}
	data, err := os.ReadFile(file)
	w.must(err)
	return strings.TrimSpace(string(data))
}

// statusLine returns a field of /proc/PID/status.
func statusLine(t *testing.T, pid int, key string) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(data), "\n") {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("no %s in /proc/%d/status", key, pid)
	return ""
}
