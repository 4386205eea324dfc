// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/cgrouplayout"
	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
	"github.com/berth-run/berth/node-agent/handler"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// The test program is also the supervisor that the tests start, and a client of another user.
const (
	roleVariable = "BERTH_SUPERVISOR_TEST_ROLE"
	runcPath     = "/usr/sbin/runc"
)

// A supervisor needs the process's main thread, which the main goroutine has for certain only while
// packages are initialized.
func init() {
	if os.Getenv(roleVariable) == "supervise" {
		runtime.LockOSThread()
	}
}

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "":
		os.Exit(leaktest.Run(m))
	case "supervise":
		supervise(os.Args[1:])
	case "list":
		_, err := protocol.NewClient(os.Args[1]).List(context.Background())
		fmt.Print(err)
	}
}

// supervise runs `berth supervise`: args are the run dir and the cgroup parent.
func supervise(args []string) {
	os.Unsetenv(roleVariable)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	fail := func(err error) {
		log.Error(err.Error())
		os.Exit(1)
	}
	handlers := handler.Set{}
	native, err := handler.NewNative(filepath.Join(args[0], "native"))
	if err != nil {
		fail(err)
	}
	if err := handlers.Add(handler.NativeName, native); err != nil {
		fail(err)
	}
	if err := handlers.AddExternal("runc="+runcPath, filepath.Join(args[0], "handlers")); err != nil {
		fail(err)
	}
	if slices.Contains(args, "--check-records") {
		if err := CheckRecords(args[0]); err != nil {
			fail(err)
		}
		return
	}
	o := Options{
		RunDir: args[0], Handlers: handlers, Log: log, Program: "test",
		Command: append([]string{"supervisor"}, args...),
	}
	for i, a := range o.Command {
		if a == "--held" {
			o.Command = slices.Delete(o.Command, i, i+2)
			break
		}
	}
	os.Setenv(roleVariable, "supervise") // for the program that it becomes
	if step := os.Getenv(killVariable); step != "" {
		os.Unsetenv(killVariable)
		o.step = killAt(step)
	}
	for i := 1; i < len(args); i++ {
		if args[i] == "--held" {
			i++
			o.Held, _ = strconv.Atoi(args[i])
			continue
		}
		o.CgroupParent = args[i]
	}
	if err := Run(context.Background(), o); err != nil {
		fail(err)
	}
}

// node is a supervisor with a run dir, and bundles to run.
type node struct {
	t      *testing.T
	dir    string
	cgroup string // the cgroup that its containers are below, "/name"
	client *protocol.Client
	cmd    *exec.Cmd
	rootfs string
	// holder holds descriptors for the next supervisor, as an agent does; nil if none is to.
	holder *protocol.Holder
}

// newNode starts a supervisor that ends, with all containers, when the test does.
func newNode(t *testing.T, args ...string) *node {
	t.Helper()
	leaktest.Check(t)
	needs.Root(t)
	dir, err := os.MkdirTemp("", "berth") // t.TempDir's paths may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	n := &node{
		t: t, dir: dir, cgroup: "/berth-test-" + filepath.Base(dir),
		client: protocol.NewClient(filepath.Join(dir, "supervisor.sock")),
	}
	n.rootfs = filepath.Join(dir, "rootfs")
	busyboxTree(t, n.rootfs)
	t.Cleanup(func() {
		n.sweep()
		os.RemoveAll(dir)
		removeCgroup(t, n.cgroup)
	})
	n.start(args...)
	return n
}

// start starts a supervisor on the run dir and waits until it answers.
func (n *node) start(args ...string) {
	n.t.Helper()
	n.cmd = exec.Command("/proc/self/exe", append([]string{n.dir}, args...)...)
	n.cmd.Env = append(os.Environ(), roleVariable+"=supervise")
	log, err := os.OpenFile(filepath.Join(n.dir, "supervisor.log"), os.O_CREATE|os.O_APPEND|
		os.O_WRONLY, 0o600)
	if err != nil {
		n.t.Fatal(err)
	}
	defer log.Close()
	n.cmd.Stdout, n.cmd.Stderr = log, log
	if n.holder != nil {
		done, err := n.holder.Pass(n.cmd)
		if err != nil {
			n.t.Fatal(err)
		}
		defer done()
	}
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.eventually("the supervisor answers", func() error {
		// A supervisor that was killed may have left its socket to a child (see EnsureRunning).
		short, cancel := context.WithTimeout(n.ctx(), 2*time.Second)
		defer cancel()
		pid, err := n.client.Ping(short)
		if err == nil && pid != n.cmd.Process.Pid {
			err = fmt.Errorf("pid %d", pid)
		}
		return err
	})
}

// end ends the supervisor by a signal.
func (n *node) end(sig syscall.Signal) {
	n.t.Helper()
	if err := n.cmd.Process.Signal(sig); err != nil {
		n.t.Fatal(err)
	}
	err := n.cmd.Wait()
	if sig == unix.SIGTERM && err != nil {
		n.t.Fatalf("the supervisor ended with %v", err)
	}
}

// sweep removes all containers and ends the supervisor.
func (n *node) sweep() {
	if n.t.Failed() {
		if b, err := os.ReadFile(filepath.Join(n.dir, "supervisor.log")); err == nil {
			n.t.Logf("supervisor.log:\n%s", b)
		}
	}
	if n.cmd.ProcessState != nil {
		n.start()
	}
	all, err := n.client.List(n.ctx())
	if err != nil {
		n.t.Error(err)
	}
	for _, c := range all {
		if err := n.client.Delete(n.ctx(), c.ID, true); err != nil {
			n.t.Error(err)
		}
	}
	n.end(unix.SIGTERM)
}

// ctx is not the test's own, which has ended when sweep runs.
func (n *node) ctx() context.Context { return context.Background() }

func (n *node) eventually(what string, f func() error) {
	n.t.Helper()
	err := errors.New("never tried")
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	n.t.Fatalf("not so: %s: %v", what, err)
}

// busyboxTree makes a rootfs of busybox, which must be static.
func busyboxTree(t *testing.T, dir string) {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal("busybox (Debian: busybox-static) is needed: ", err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"bin", "dev", "proc", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{
		"sh", "cat", "echo", "sleep", "true", "kill", "seq", "dd", "head",
		"setsid", "tail",
	} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", a)); err != nil {
			t.Fatal(err)
		}
	}
}

// bundle writes a bundle that runs a command, and returns its directory.
func (n *node) bundle(id string, change func(*specs.Spec), args ...string) string {
	n.t.Helper()
	spec := &specs.Spec{
		Version: "1.0.2",
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}},
		Root:    &specs.Root{Path: n.rootfs},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{
				"nosuid", "mode=755",
				"size=64k",
			}},
		},
		Linux: &specs.Linux{
			CgroupsPath: n.cgroup + "/" + id,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.IPCNamespace},
			},
		},
	}
	if change != nil {
		change(spec)
	}
	dir := filepath.Join(n.dir, "bundles", id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		n.t.Fatal(err)
	}
	b, err := json.Marshal(spec)
	if err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600); err != nil {
		n.t.Fatal(err)
	}
	return dir
}

func (n *node) socket() string { return filepath.Join(n.dir, "supervisor.sock") }

func (n *node) logPath(id string) string { return filepath.Join(n.dir, "logs", id, "0.log") }

// create makes a container that runs a shell script.
func (n *node) create(h, id, script string) protocol.Status {
	n.t.Helper()
	st, err := n.client.Create(n.ctx(), protocol.CreateRequest{
		ID: id, Handler: h, Bundle: n.bundle(id, nil, "/bin/sh", "-c", script),
		Log: protocol.Log{Path: n.logPath(id)},
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return st
}

// run creates and starts a container.
func (n *node) run(h, id, script string) protocol.Status {
	n.t.Helper()
	st := n.create(h, id, script)
	if _, err := n.client.Start(n.ctx(), id); err != nil {
		n.t.Fatal(err)
	}
	return st
}

// stopped waits until the container has ended.
func (n *node) stopped(id string) protocol.Status {
	n.t.Helper()
	var st protocol.Status
	n.eventually(id+" has stopped", func() (err error) {
		st, err = n.client.Get(n.ctx(), id)
		if err == nil && st.State != protocol.Stopped {
			err = fmt.Errorf("it is %s", st.State)
		}
		return err
	})
	return st
}

// lines returns the lines of a stream that are in the container's log.
func (n *node) lines(id, stream string) []string {
	n.t.Helper()
	return join(parseAll(n.t, n.logPath(id)), stream)
}

// removeCgroup removes the directories of a cgroup in every hierarchy, and fails where processes
// are left.
func removeCgroup(t *testing.T, path string) {
	t.Helper()
	l, err := cgrouplayout.Read("/")
	if err != nil {
		t.Error(err)
	}
	for _, top := range l.Dirs() {
		// Children first.
		var dirs []string
		filepath.WalkDir(filepath.Join(top, path), func(p string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, p)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			if err := os.Remove(dirs[i]); err != nil {
				t.Error(err)
			}
		}
	}
}

// warm runs a container, so that what is opened once for all is open.
func (n *node) warm(h string) {
	n.t.Helper()
	n.run(h, "warm", "true")
	n.stopped("warm")
	if err := n.client.Delete(n.ctx(), "warm", false); err != nil {
		n.t.Fatal(err)
	}
}

// descriptors returns the supervisor's open files.
func (n *node) descriptors() []string {
	n.t.Helper()
	dir := "/proc/" + strconv.Itoa(n.cmd.Process.Pid) + "/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		n.t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		// Connections come and go with each call of the test.
		if err == nil && !strings.HasPrefix(target, "socket:") {
			out = append(out, strings.TrimRight(target, "0123456789[]"))
		}
	}
	return out
}

// children returns the processes whose parent is the supervisor.
func (n *node) children() []string {
	n.t.Helper()
	var out []string
	tasks, err := filepath.Glob("/proc/" + strconv.Itoa(n.cmd.Process.Pid) + "/task/*/children")
	if err != nil {
		n.t.Fatal(err)
	}
	for _, p := range tasks {
		b, err := os.ReadFile(p)
		if err == nil {
			out = append(out, strings.Fields(string(b))...)
		}
	}
	return out
}
