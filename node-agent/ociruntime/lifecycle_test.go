// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/containerid"
)

var background = context.Background()

// status returns the status of State, as a word.
func (w *world) status() string {
	w.t.Helper()
	s, err := w.rt.State(background, w.id)
	if errors.Is(err, ErrNotExist) {
		return "gone"
	}
	w.must(err)
	return string(s.Status)
}

func TestLifecycle(t *testing.T) {
	w := newWorld(t)
	w.write("/go", "", 0o644)
	spec := w.sh(`trap 'exit 7' TERM; echo started > /go; while :; do sleep 0.01; done`)
	spec.Annotations = map[string]string{"a": "b"}
	w.save(spec)
	pidFile := filepath.Join(w.dir, "pid")
	created, err := w.rt.Create(background, w.id, CreateOptions{Bundle: w.bundle(), PidFile: pidFile})
	w.must(err)
	t.Cleanup(func() { w.end(w.id, created.PID) })

	if data, err := os.ReadFile(pidFile); err != nil || string(data) != strconv.Itoa(created.PID) {
		t.Errorf("the pid file has %q, %v; want %d", data, err, created.PID)
	}
	s, err := w.rt.State(background, w.id)
	w.must(err)
	if s.Status != specs.StateCreated || s.PID != created.PID || s.Bundle != w.bundle() ||
		s.Rootfs != w.file("") || s.ID != w.id ||
		s.OCIVersion != "1.3.0" || s.Annotations["a"] != "b" || s.Created.IsZero() {
		t.Errorf("after create: %+v", s)
	}
	if data, _ := os.ReadFile(w.file("/go")); len(data) > 0 {
		t.Error("the program runs before it is started")
	}
	if _, err := w.rt.Create(background, w.id, CreateOptions{Bundle: w.bundle()}); !errors.Is(err,
		ErrExist) || !strings.Contains(err.Error(), "container with given ID already exists") {
		t.Errorf("the id is in use: %v", err)
	}

	w.must(w.rt.Start(background, w.id))
	if got := w.status(); got != "running" {
		t.Errorf("after start: %s", got)
	}
	if err := w.rt.Start(background, w.id); err == nil ||
		err.Error() != "cannot start an already running container" {
		t.Errorf("start of a running container: %v", err)
	}
	if err := w.rt.Delete(background, w.id, false); err == nil ||
		err.Error() != "cannot delete container "+w.id+
			" that is not stopped: running (kill it first, or use --force)" {
		t.Errorf("delete of a running container: %v", err)
	}
	list, err := w.rt.List(background)
	if err != nil || len(list) != 1 || list[0].ID != w.id || list[0].Status != specs.StateRunning ||
		list[0].Owner != "root" {
		t.Errorf("list: %+v, %v", list, err)
	}
	w.await("started", func() bool { data, _ := os.ReadFile(w.file("/go")); return len(data) > 0 })
	w.must(w.rt.Kill(background, w.id, unix.SIGTERM, false))
	w.await("stopped", func() bool { return w.status() == "stopped" }) // a zombie is
	if got := reap(created.PID); got.ExitStatus() != 7 {
		t.Errorf("ended with %v; want 7", got)
	}

	s, err = w.rt.State(background, w.id)
	if err != nil || s.Status != specs.StateStopped || s.PID != 0 {
		t.Errorf("after its end: %+v, %v", s, err)
	}
	for _, sig := range []unix.Signal{0, unix.SIGTERM, unix.SIGKILL} {
		if err := w.rt.Kill(background, w.id, sig, false); !errors.Is(err, ErrNotRunning) ||
			err.Error() != "container not running" {
			t.Errorf("kill %d of a stopped container: %v", sig, err)
		}
	}
	if err := w.rt.Start(background, w.id); err == nil ||
		err.Error() != "cannot start a container that has stopped" {
		t.Errorf("start of a stopped container: %v", err)
	}
	w.must(w.rt.Delete(background, w.id, false))
	if got := w.status(); got != "gone" {
		t.Errorf("after delete: %s", got)
	}
}

func TestUnknown(t *testing.T) {
	w := newWorld(t)
	for name, f := range map[string]func() error{
		"state":  func() error { _, err := w.rt.State(background, "none"); return err },
		"start":  func() error { return w.rt.Start(background, "none") },
		"kill":   func() error { return w.rt.Kill(background, "none", unix.SIGKILL, false) },
		"delete": func() error { return w.rt.Delete(background, "none", false) },
	} {
		if err := f(); !errors.Is(err, ErrNotExist) || err.Error() != "container does not exist" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := w.rt.Delete(background, "none", true); err != nil {
		t.Errorf("delete by force: %v", err)
	}
	if list, err := w.rt.List(background); err != nil || list != nil {
		t.Errorf("list: %v, %v", list, err)
	}
}

func TestInvalidID(t *testing.T) {
	w := newWorld(t)
	w.save(w.sh("true"))
	for _, id := range []string{
		"", ".", "..", "a/b", "../x", "a b", "a\x00", "ä",
		strings.Repeat("a", 1025),
	} {
		_, err := w.rt.Create(background, id, CreateOptions{Bundle: w.bundle()})
		_, stateErr := w.rt.State(background, id)
		for _, err := range []error{
			err, stateErr, w.rt.Kill(background, id, 9, false),
			w.rt.Delete(background, id, true), w.rt.Start(background, id),
		} {
			if !errors.Is(err, containerid.ErrInvalid) {
				t.Errorf("%q: %v", id, err)
			}
		}
	}
	for _, id := range []string{".a", "..a", "..."} {
		_, err := w.rt.Create(background, id, CreateOptions{Bundle: w.bundle()})
		if !errors.Is(err, containerid.ErrInvalid) {
			t.Errorf("create %q: %v", id, err)
		}
		if err := w.rt.Delete(background, id, true); err != nil {
			t.Errorf("delete %q, of an older version: %v", id, err)
		}
	}
	if err := containerid.Check("a/b"); err == nil ||
		err.Error() != "invalid container ID format: invalid character `/` in the ID" {
		t.Errorf("a/b: %v", err)
	}
}

func TestExitCodes(t *testing.T) {
	w := newWorld(t)
	for script, want := range map[string]int{"exit 0": 0, "exit 42": 42, "exit 255": 255} {
		if _, status, err := w.try(w.sh(script)); err != nil || status.ExitStatus() != want {
			t.Errorf("%s: %v, %v", script, status, err)
		}
	}
	// The first process of a pid namespace is not killed by a signal from within: one without such
	// a namespace can be.
	spec := w.sh("kill -9 $$")
	spec.Linux.Namespaces = spec.Linux.Namespaces[1:]
	if _, status, err := w.try(spec); err != nil || status.Signal() != unix.SIGKILL {
		t.Errorf("killed: %v, %v", status, err)
	}
}

func TestDeleteOfCreated(t *testing.T) {
	w := newWorld(t)
	s := w.create(w.sh("true"))
	if err := w.rt.Delete(background, w.id, false); err == nil ||
		err.Error() != "cannot delete container "+w.id+
			" that is not stopped: created (kill it first, or use --force)" {
		t.Errorf("delete of a created container: %v", err)
	}
	// It has had no effect (runtime.md, Delete).
	if got := w.status(); got != "created" {
		t.Errorf("after that the container is %s", got)
	}
	w.must(w.rt.Kill(background, w.id, unix.SIGKILL, false))
	w.await("stopped", func() bool { return w.status() == "stopped" })
	reap(s.PID)
	w.must(w.rt.Delete(background, w.id, false))
}

func TestDeleteByForceOfRunning(t *testing.T) {
	w := newWorld(t)
	w.start(w.spec("/bin/sleep", "1000"))
	w.must(w.rt.Delete(background, w.id, true))
}

// TestWithoutPIDNamespace: forked processes of the container are found by its cgroup.
func TestWithoutPIDNamespace(t *testing.T) {
	w := newWorld(t)
	w.write("/go", "", 0o644)
	spec := w.sh("sleep 1000 & sleep 1000 & echo > /go; wait")
	spec.Linux.Namespaces = spec.Linux.Namespaces[1:]
	w.start(spec)
	w.await("forked", func() bool { data, _ := os.ReadFile(w.file("/go")); return len(data) > 0 })
	w.must(w.rt.Delete(background, w.id, true))
}

func TestKillAll(t *testing.T) {
	w := newWorld(t)
	w.write("/go", "", 0o644)
	spec := w.sh("sleep 1000 & sleep 1000 & echo > /go; wait")
	spec.Linux.Namespaces = spec.Linux.Namespaces[1:]
	s := w.start(spec)
	w.await("forked", func() bool { data, _ := os.ReadFile(w.file("/go")); return len(data) > 0 })
	rec, err := w.rt.load(w.id)
	w.must(err)
	w.must(w.rt.Kill(background, w.id, unix.SIGKILL, true))
	reap(s.PID)
	w.await("no process left", func() bool {
		for _, dir := range rec.Cgroups {
			if data, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs")); len(data) > 0 {
				return false
			}
		}
		return true
	})
}

// TestProgramCannotBeExecuted has the words that clients of runc turn into the exit codes 126 and
// 127.
func TestProgramCannotBeExecuted(t *testing.T) {
	w := newWorld(t)
	w.write("/data", "x", 0o644)
	w.write("/bin/data", "x", 0o644)
	w.must(os.Mkdir(w.file("/bin/folder"), 0o755))
	for program, words := range map[string]string{
		"/nonexistent": `exec: "/nonexistent": stat /nonexistent: no such file or directory`,
		"/data/x":      `exec: "/data/x": stat /data/x: not a directory`,
		"/data":        `exec: "/data": permission denied`,
		"/bin":         `exec: "/bin": is a directory`,
		"nonexistent":  `exec: "nonexistent": executable file not found in $PATH`,
		"data":         `exec: "data": executable file not found in $PATH`,
		"folder":       `exec: "folder": executable file not found in $PATH`,
	} {
		w.fails(w.spec(program), "unable to start container process: "+words)
		w.save(w.spec(program))
		if _, err := w.rt.Create(background, w.id, CreateOptions{Bundle: w.bundle()}); err == nil ||
			!strings.Contains(err.Error(), words) {
			t.Errorf("create: %v", err)
		}
	}
}

// TestWordsOfRunc has failures that engines recognise by runc's words: dockerd gives a hint, podman
// and dockerd an exit code.
func TestWordsOfRunc(t *testing.T) {
	w := newWorld(t)
	w.write("/file", "", 0o644)
	cwd := func(dir string) *specs.Spec {
		spec := w.sh("true")
		spec.Process.Cwd = dir
		return spec
	}
	readonly := cwd("/new/folder")
	readonly.Mounts = append(readonly.Mounts, specs.Mount{
		Destination: "/new", Type: "bind",
		Source: w.file("/bin"), Options: []string{"bind", "ro"},
	})
	file := func(source, destination string) *specs.Spec {
		return mounted(w.sh("true"), specs.Mount{
			Destination: destination, Type: "bind", Source: source,
			Options: []string{"rbind"},
		})
	}
	for words, spec := range map[string]*specs.Spec{
		`unable to start container process: chdir to cwd ("/file/below") set in config.json failed: not a directory (process.cwd: `:       cwd("/file/below"),
		`unable to start container process: chdir to cwd ("/new/folder") set in config.json failed: read-only file system (process.cwd: `: readonly,
		"mounts[7] (/file): move_mount: invalid argument (":                                                                               file(w.dir, "/file"),
		"likely cause: not a directory": file(w.file("/file"), "/bin"),
		`process.args[0]: found ""; allowed: the program to run: unable to start container process: exec: "": executable file not found in $PATH`: w.spec(""),
	} {
		w.fails(spec, words)
	}
}

// TestStartReportsExecFailure: that the kernel refuses a program shows only when it is started.
func TestStartReportsExecFailure(t *testing.T) {
	w := newWorld(t)
	w.write("/script", "#!/no/interpreter\n", 0o755)
	w.write("/garbage", "\x01\x02", 0o755)
	for program, words := range map[string]string{
		"/script":  "exec /script: no such file or directory (its interpreter or loader is missing",
		"/garbage": "exec /garbage: exec format error",
	} {
		w.fails(w.spec(program), words)
		w.save(w.spec(program))
		s, err := w.rt.Create(background, w.id, CreateOptions{Bundle: w.bundle()})
		w.must(err)
		if err := w.rt.Start(background, w.id); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("start: %v; want %q", err, words)
		}
		if got := w.status(); got != "stopped" {
			t.Errorf("after that: %s", got)
		}
		w.must(w.rt.Delete(background, w.id, false))
		reap(s.PID)
	}
}

func TestPathLookup(t *testing.T) {
	w := newWorld(t)
	w.write("/a/tool", "", 0o644) // is passed over, since it cannot be executed
	w.must(os.MkdirAll(w.file("/b/tool"), 0o755))
	w.write("/c/tool", "#!/bin/sh\necho c\n", 0o755)
	w.write("/d/tool", "#!/bin/sh\necho d\n", 0o755)
	spec := w.spec("tool")
	spec.Process.Env = []string{"PATH=/nonexistent:/a:/b:/c:/d"}
	w.prints(spec, "c\n")
}

func TestBadBundle(t *testing.T) {
	w := newWorld(t)
	try := func(words string) {
		t.Helper()
		if _, err := w.rt.Create(background, w.id, CreateOptions{Bundle: w.bundle()}); err == nil ||
			!strings.Contains(err.Error(), words) {
			t.Errorf("found %v; want %q", err, words)
		}
	}
	try("config.json not found")
	config := filepath.Join(w.bundle(), "config.json")
	w.must(unix.Mkfifo(config, 0o600))
	try("something other than a regular file")
	w.must(os.Remove(config))
	w.must(os.WriteFile(config, []byte("{"), 0o600))
	try("config.json")
	w.must(os.Truncate(config, MaxConfig+1))
	try("found more than 16777216 bytes")
	w.must(os.WriteFile(config,
		[]byte(`{"ociVersion":"1.3.0","root":{"path":"rootfs"},"process":{"args":["/bin/true"],"cwd":"/"}}`), 0o600))
	try("linux: found nothing; a Linux container needs this section")
	spec := w.sh("true")
	spec.Root.Path = "nonexistent"
	w.save(spec)
	try("root.path: ")
	spec = w.sh("true")
	spec.Process.Cwd = "relative"
	spec.Process.Args = nil
	w.save(spec)
	try("process.args: found ")
	try("process.cwd: found ")
	spec = w.sh("true")
	spec.Process.ApparmorProfile = "x"
	w.save(spec)
	if enabled, _ := os.ReadFile(
		"/sys/module/apparmor/parameters/enabled"); strings.HasPrefix(string(enabled), "Y") {
		try("process.apparmorProfile (x): write: no such file or directory")
	} else {
		try("process.apparmorProfile: found ")
	}
	spec = w.sh("true")
	spec.Linux.CgroupsPath = "/"
	w.save(spec)
	try("linux.cgroupsPath: found ")
}

// TestCgroupInUse: a container never shares its cgroup with one that could be killed with it.
func TestCgroupInUse(t *testing.T) {
	w := newWorld(t)
	w.start(w.spec("/bin/sleep", "1000"))
	_, err := w.rt.Create(background, w.id+"-2", CreateOptions{Bundle: w.bundle()})
	if err == nil || !strings.Contains(err.Error(), "linux.cgroupsPath: found /sys/fs/cgroup") ||
		!strings.Contains(err.Error(), w.cgroup+", which has processes") {
		t.Errorf("found %v", err)
	}
	if got := w.status(); got != "running" {
		t.Errorf("the first container is %s", got)
	}
}

func TestPidFileCannotBeWritten(t *testing.T) {
	w := newWorld(t)
	w.save(w.sh("true"))
	_, err := w.rt.Create(background, w.id, CreateOptions{
		Bundle:  w.bundle(),
		PidFile: "/nonexistent/pid",
	})
	if err == nil || !strings.Contains(err.Error(), "--pid-file: ") {
		t.Errorf("found %v", err)
	}
}

// TestCreating: a container that is being made is neither started nor taken for a created one.
func TestCreating(t *testing.T) {
	w := newWorld(t)
	marker := filepath.Join(w.dir, "hook")
	spec := w.sh("true")
	spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{
		"sh", "-c",
		"echo > " + marker + "; while [ -e " + marker + " ]; do sleep 0.01; done",
	}}}}
	w.save(spec)
	type result struct {
		s   *State
		err error
	}
	made := make(chan result)
	go func() {
		s, err := w.rt.Create(background, w.id, CreateOptions{Bundle: w.bundle()})
		made <- result{s, err}
	}()
	w.await("in the hook", func() bool { _, err := os.Stat(marker); return err == nil })
	if got := w.status(); got != "creating" {
		t.Errorf("found %s", got)
	}
	if err := w.rt.Start(background, w.id); err == nil ||
		err.Error() != "cannot start a container that is being created" {
		t.Errorf("start: %v", err)
	}
	err := w.rt.Delete(background, w.id, false)
	if err == nil || !strings.Contains(err.Error(), "that is not stopped: creating") {
		t.Errorf("delete: %v", err)
	}
	w.must(os.Remove(marker))
	r := <-made
	w.must(r.err)
	w.end(w.id, r.s.PID)
}

// TestForcedDeleteWhileCreating ends the creation.
func TestForcedDeleteWhileCreating(t *testing.T) {
	w := newWorld(t)
	marker := filepath.Join(w.dir, "hook")
	spec := w.sh("true")
	spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{
		"sh", "-c",
		"echo > " + marker + "; while [ -e " + marker + " ]; do sleep 0.01; done",
	}}}}
	w.save(spec)
	made := make(chan error)
	go func() {
		_, err := w.rt.Create(background, w.id, CreateOptions{Bundle: w.bundle()})
		made <- err
	}()
	w.await("in the hook", func() bool { _, err := os.Stat(marker); return err == nil })
	w.must(w.rt.Delete(background, w.id, true))
	w.must(os.Remove(marker))
	if err := <-made; err == nil {
		t.Error("a container that was deleted meanwhile has been created")
	}
}

// TestCreateIsCancelled by its context, in the middle of a hook.
func TestCreateIsCancelled(t *testing.T) {
	w := newWorld(t)
	marker := filepath.Join(w.dir, "hook")
	spec := w.sh("true")
	spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{
		"sh", "-c",
		"echo > " + marker + "; exec sleep 1000",
	}}}}
	w.save(spec)
	ctx, cancel := context.WithCancelCause(background)
	go func() {
		for {
			if _, err := os.Stat(marker); err == nil {
				cancel(errors.New("changed my mind"))
				return
			}
		}
	}()
	if _, err := w.rt.Create(ctx, w.id, CreateOptions{Bundle: w.bundle()}); err == nil ||
		!strings.Contains(err.Error(), "changed my mind") {
		t.Errorf("found %v", err)
	}
}

// TestConcurrentStartAndDelete: whoever comes first, nothing is left and nobody hangs.
func TestConcurrentStartAndDelete(t *testing.T) {
	w := newWorld(t)
	w.save(w.spec("/bin/sleep", "1000"))
	for range 20 {
		s, err := w.rt.Create(background, w.id, CreateOptions{Bundle: w.bundle()})
		w.must(err)
		var wg sync.WaitGroup
		wg.Go(func() { _ = w.rt.Start(background, w.id) })
		wg.Go(func() {
			if err := w.rt.Delete(background, w.id, true); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() { _ = w.rt.Kill(background, w.id, unix.SIGTERM, false) })
		wg.Wait()
		w.end(w.id, s.PID)
	}
}

// TestManyAtOnce: containers that are made and started by one process at the same time do not wait
// for each other.
func TestManyAtOnce(t *testing.T) {
	w := newWorld(t)
	spec := w.spec("/bin/true")
	spec.Linux.CgroupsPath = "" // below the root, by id
	w.save(spec)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			id := w.id + "-" + strconv.Itoa(i)
			s, err := w.rt.Create(background, id, CreateOptions{Bundle: w.bundle()})
			if err != nil {
				t.Error(err)
				return
			}
			if i%4 != 0 { // the others stay created, and hold nothing of the rest
				if err := w.rt.Start(background, id); err != nil {
					t.Error(err)
				}
				if got := reap(s.PID); got.ExitStatus() != 0 {
					t.Errorf("ended with %v", got)
				}
			}
		})
	}
	wg.Wait()
	list, err := w.rt.List(background)
	if err != nil || len(list) != 16 {
		t.Errorf("list: %d, %v", len(list), err)
	}
	for i, s := range list {
		if i > 0 && list[i-1].ID >= s.ID {
			t.Error("the list is not sorted")
		}
		pid := s.PID
		w.must(w.rt.Delete(background, s.ID, true))
		if pid != 0 {
			reap(pid)
		}
	}
}

// TestForeignPID: a record whose pid belongs to another process by now is a stopped container, and
// nobody is killed.
func TestForeignPID(t *testing.T) {
	w := newWorld(t)
	s := w.create(w.sh("true"))
	rec, err := w.rt.load(w.id)
	w.must(err)
	w.must(unix.Kill(s.PID, unix.SIGKILL))
	reap(s.PID)
	rec.PID = os.Getpid() // with another start time
	w.must(w.rt.save(rec))
	if got := w.status(); got != "stopped" {
		t.Errorf("found %s", got)
	}
	if err := w.rt.Kill(background, w.id, unix.SIGKILL, false); !errors.Is(err, ErrNotRunning) {
		t.Errorf("kill: %v", err)
	}
	w.must(w.rt.Delete(background, w.id, true))
}

// TestBrokenRecord: it is reported, and no other container suffers.
func TestBrokenRecord(t *testing.T) {
	w := newWorld(t)
	w.create(w.sh("true"))
	other := filepath.Join(w.dir, "run", "broken")
	w.must(os.Mkdir(other, 0o700))
	w.must(os.WriteFile(filepath.Join(other, stateFile), []byte("{"), 0o600))
	list, err := w.rt.List(background)
	if err != nil || len(list) != 1 || len(w.warned) == 0 {
		t.Errorf("found %v, %v, warnings %q", list, err, w.warned)
	}
	w.must(os.RemoveAll(other))
}

// TestDirectoryWithoutRecord: the leftovers of a killed runtime are removed; other directories are not
// touched.
func TestDirectoryWithoutRecord(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		files []string
		stays bool
	}{
		"empty":      {nil, false},
		"unfinished": {[]string{stateFile + ".new"}, false},
		"supervisor": {[]string{"lock", "web.json"}, true},
	} {
		dir := filepath.Join(w.dir, "run", name)
		w.must(os.MkdirAll(dir, 0o700))
		for _, f := range c.files {
			w.must(os.WriteFile(filepath.Join(dir, f), nil, 0o600))
		}
		err := w.rt.Delete(background, name, false)
		if c.stays != errors.Is(err, ErrNotExist) || !c.stays && err != nil {
			t.Errorf("%s: delete: %v", name, err)
		}
		if err := w.rt.Delete(background, name, true); err != nil {
			t.Errorf("%s: delete by force: %v", name, err)
		}
		if entries, err := os.ReadDir(dir); c.stays && len(entries) != len(c.files) || !c.stays &&
			err == nil {
			t.Errorf("%s: found %v, %v", name, entries, err)
		}
		w.must(os.RemoveAll(dir))
	}
}

// TestModes: only the owner can read records.
func TestModes(t *testing.T) {
	w := newWorld(t)
	w.create(w.sh("true"))
	for path, want := range map[string]os.FileMode{"run": 0o700, "run/" + w.id: 0o700, "run/" + w.id +
		"/" + stateFile: 0o600, "run/" + w.id + "/" + startFIFO: 0o600} {
		st, err := os.Lstat(filepath.Join(w.dir, path))
		w.must(err)
		if st.Mode().Perm() != want {
			t.Errorf("%s: mode %o; want %o", path, st.Mode().Perm(), want)
		}
	}
}
