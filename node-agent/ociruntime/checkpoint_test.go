// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/needs"
)

// needsCriu skips the test where there is no criu that works: Debian's does not know the newest
// kernels' vDSO, and fails there whoever asks it to. In the virtual machine of hack/vm it has to
// work.
func needsCriu(t *testing.T) {
	t.Helper()
	if os.Getenv("BERTH_VM") != "" {
		return
	}
	if out, err := exec.Command("criu", "check").CombinedOutput(); err != nil {
		t.Skipf("criu does not work on this kernel; it is tested in the virtual machine: %v: %.200s",
			err, out)
	}
}

// counter counts in its memory and prints.
const counter = `i=0; while :; do i=$((i+1)); echo $i; echo $i > /dev/shm/n; sleep 0.05; done`

// counted reads what the counter has written to its tmpfs.
func (w *world) counted() (n int) {
	w.t.Helper()
	r, wr, err := os.Pipe()
	w.must(err)
	defer r.Close()
	e, err := w.rt.Exec(background, w.id,
		ExecOptions{Process: &specs.Process{
			Args: []string{"cat", "/dev/shm/n"}, Cwd: "/",
			Env: []string{"PATH=/bin"},
		}, Stdout: wr})
	wr.Close()
	w.must(err)
	defer e.Wait()
	if _, err := fmt.Fscan(r, &n); err != nil {
		return 0
	}
	return n
}

// restored makes the container again, and removes it when the test ends.
func (w *world) restored(o RestoreOptions) *Process {
	w.t.Helper()
	o.Bundle = w.bundle()
	p, err := w.rt.Restore(background, w.id, o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		w.end(w.id, p.PID)
		p.child.ClosePIDFD()
	})
	return p
}

func TestCheckpointAndRestore(t *testing.T) {
	needsCriu(t)
	w := newWorld(t)
	out, outW, err := os.Pipe()
	w.must(err)
	defer out.Close()
	spec := w.sh(counter)
	spec.Mounts = append(spec.Mounts, specs.Mount{
		Destination: "/data", Type: "bind", Source: w.dir,
		Options: []string{"rbind", "ro"},
	})
	spec.Linux.MaskedPaths = []string{"/proc/kcore", "/proc/acpi"}
	w.save(spec)
	images := filepath.Join(w.dir, "images")
	p, err := w.rt.Run(background, w.id, CreateOptions{Bundle: w.bundle(), Stdout: outW})
	w.must(err)
	outW.Close()
	w.await("the counter counts", func() bool { return w.counted() > 3 })

	w.must(w.rt.Checkpoint(background, w.id,
		CheckpointOptions{
			CriuOptions: CriuOptions{ImagePath: images + "/0"}, PreDump: true,
			StatusFD: -1,
		}))
	w.must(w.rt.Checkpoint(background, w.id,
		CheckpointOptions{
			CriuOptions: CriuOptions{ImagePath: images + "/1"}, ParentPath: "../0",
			LeaveRunning: true, StatusFD: -1,
		}))
	if s, err := w.rt.State(background, w.id); err != nil || s.Status != specs.StateRunning {
		t.Fatalf("it was to be left running: %v, %v", s, err)
	}
	w.must(w.rt.Checkpoint(background, w.id,
		CheckpointOptions{CriuOptions: CriuOptions{
			ImagePath: images + "/2",
			WorkPath:  filepath.Join(w.dir, "work"),
		}, StatusFD: -1}))
	p.Wait()
	if _, err := w.rt.State(background, w.id); err == nil {
		t.Fatal("the container is still there after its checkpoint")
	}
	if _, err := os.Stat(filepath.Join(w.dir, "work", dumpLog)); err != nil {
		t.Errorf("--work-path: %v", err)
	}
	last := 0
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if _, err := fmt.Sscan(lines.Text(), &last); err != nil {
			t.Fatalf("it printed %q", lines.Text())
		}
	}

	// A root filesystem without what the first creation has made in it.
	for _, made := range []string{"data", "proc", "sys", "dev"} {
		w.must(os.RemoveAll(w.file(made)))
	}
	again, againW, err := os.Pipe()
	w.must(err)
	defer again.Close()
	pidFile := filepath.Join(w.dir, "pid")
	p = w.restored(RestoreOptions{
		CreateOptions: CreateOptions{Stdout: againW, PidFile: pidFile},
		CriuOptions:   CriuOptions{ImagePath: images + "/2"},
	})
	againW.Close()
	if data, err := os.ReadFile(pidFile); err != nil || string(data) != fmt.Sprint(p.PID) {
		t.Errorf("--pid-file: found %q, %v; want %d", data, err, p.PID)
	}
	var next int
	if _, err := fmt.Fscan(again, &next); err != nil || next != last+1 {
		t.Errorf("it went on with %d, %v; want %d", next, err, last+1)
	}
	s, err := w.rt.State(background, w.id)
	if err != nil || s.Status != specs.StateRunning || s.PID != p.PID {
		t.Errorf("state of the restored container: %+v, %v", s, err)
	}
	for controller, dir := range s.Cgroups {
		pids, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil || !strings.Contains(string(pids), fmt.Sprintln(p.PID)) {
			t.Errorf("cgroup %s (%s) has the processes %q, %v; want %d among them", dir, controller, pids,
				err, p.PID)
		}
	}
	if w.counted() <= last {
		t.Error("a process executed in it sees another container")
	}
}

// moved checkpoints a running container and restores it.
func (w *world) moved(name string, before *Process) *Process {
	w.t.Helper()
	images := CriuOptions{ImagePath: filepath.Join(w.dir, "images", name)}
	w.must(w.rt.Checkpoint(background, w.id, CheckpointOptions{CriuOptions: images, StatusFD: -1}))
	before.Wait()
	return w.restored(RestoreOptions{CriuOptions: images})
}

// ran runs a container and waits until it says that it is ready.
func (w *world) ran(spec *specs.Spec) *Process {
	w.t.Helper()
	w.save(spec)
	p, err := w.rt.Run(background, w.id, CreateOptions{Bundle: w.bundle()})
	w.must(err)
	w.await("the container is ready", func() bool {
		return w.execOutput("cat /dev/shm/ready") == "ready\n"
	})
	return p
}

// execOutput returns what a shell in the container prints.
func (w *world) execOutput(script string) string {
	w.t.Helper()
	r, wr, err := os.Pipe()
	w.must(err)
	defer r.Close()
	e, err := w.rt.Exec(background, w.id,
		ExecOptions{Process: &specs.Process{
			Args: []string{"sh", "-c", script}, Cwd: "/",
			Env: []string{"PATH=/bin"},
		}, Stdout: wr})
	wr.Close()
	w.must(err)
	defer e.Wait()
	data, err := io.ReadAll(r)
	w.must(err)
	return string(data)
}

// TestCheckpointThroughLinks: criu knows a mount by the place where it lies, not by a destination
// that leads through a symbolic link of the image, such as /var/run.
func TestCheckpointThroughLinks(t *testing.T) {
	needsCriu(t)
	w := newWorld(t)
	w.must(os.MkdirAll(w.file("/var"), 0o755))
	w.must(os.Symlink("/run", w.file("/var/run")))
	w.must(os.MkdirAll(w.file("/run"), 0o755))
	w.must(os.WriteFile(filepath.Join(w.dir, "token"), []byte("secret\n"), 0o644))
	spec := w.sh("echo ready > /dev/shm/ready; while :; do sleep 0.1; done")
	spec.Mounts = append(spec.Mounts,
		specs.Mount{Destination: "/var/run/secrets/token", Type: "bind", Source: filepath.Join(w.dir,
			"token"), Options: []string{"bind", "ro"}},
		specs.Mount{
			Destination: "/var/run/folder", Type: "bind", Source: w.dir,
			Options: []string{"rbind", "ro"},
		})
	p := w.moved("1", w.ran(spec))
	if got := w.execOutput("cat /run/secrets/token /run/folder/token"); got != "secret\nsecret\n" {
		t.Errorf("found %q", got)
	}
	w.moved("2", p)
	if got := w.execOutput("cat /run/secrets/token /run/folder/token"); got != "secret\nsecret\n" {
		t.Errorf("after another checkpoint: found %q", got)
	}
}

// TestCheckpointCgroupMount: without a cgroup namespace a cgroup mount is one of the container's
// own cgroups, in each hierarchy.
func TestCheckpointCgroupMount(t *testing.T) {
	needsCriu(t)
	for _, kind := range []string{"cgroup", "cgroup2"} {
		t.Run(kind, func(t *testing.T) {
			w := newWorld(t)
			host, err := w.rt.Host()
			w.must(err)
			if kind == "cgroup2" && !host.Cgroup.Unified && host.Cgroup.Hybrid == "" {
				t.Skip("no hierarchy of version 2")
			}
			spec := w.sh("echo ready > /dev/shm/ready; while :; do sleep 0.1; done")
			without(specs.CgroupNamespace)(spec)
			spec.Mounts = append(slices.DeleteFunc(spec.Mounts, func(m specs.Mount) bool {
				return strings.HasPrefix(m.Destination, "/sys")
			}),
				specs.Mount{Destination: "/cgroups", Type: kind, Source: "cgroup", Options: []string{"ro"}})
			const look = "cd /cgroups; for d in . *; do test -e $d/cgroup.procs && echo $d $(cat $d/cgroup.procs | grep -c -x 1); done"
			p := w.ran(spec)
			before := w.execOutput(look)
			w.moved("1", p)
			if after := w.execOutput(look); after != before || !strings.Contains(before, " 1\n") {
				t.Errorf("before:\n%safter:\n%s", before, after)
			}
		})
	}
}

// TestExecAfterRestore: criu restores into a time namespace of its own, for the clocks to go on
// where they were. A process that is executed there later joins it, and so the container can be
// checkpointed again with it.
func TestExecAfterRestore(t *testing.T) {
	needsCriu(t)
	w := newWorld(t)
	spec := w.sh("echo ready > /dev/shm/ready; while :; do sleep 0.1; done")
	p := w.moved("1", w.ran(spec))
	own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/time", p.PID))
	w.must(err)
	if got := strings.TrimSpace(w.execOutput("readlink /proc/self/ns/time")); got != own {
		t.Errorf("a process executed after the restore is in %s, the container in %s", got, own)
	}
	w.execOutput("sh -c 'while :; do sleep 0.1; done' <&- >&- 2>&- & true")
	w.moved("2", p)
	if got := w.execOutput("cat /dev/shm/ready; ps | grep -c '[w]hile'"); got != "ready\n2\n" {
		t.Errorf("after another checkpoint: found %q", got)
	}
}

// TestRestoreNetDevices: a network namespace that outlives the container has its devices at the
// restore, or gets them.
func TestRestoreNetDevices(t *testing.T) {
	w := newWorld(t)
	w.inNetwork()
	w.ip("link", "set", "lo", "up") // criu tries TCP there
	holder := w.start(w.spec("/bin/sleep", "1000"))
	id := w.id
	w.id += "-2"
	t.Cleanup(func() { w.id = id }) // after those of what is restored
	network := fmt.Sprintf("/proc/%d/ns/net", holder.PID)
	spec := w.sh("echo ready > /dev/shm/ready; while :; do sleep 0.1; done")
	without(specs.NetworkNamespace)(spec)
	spec.Linux.Namespaces = append(spec.Linux.Namespaces,
		specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: network})
	spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"v0": {Name: "data"}}
	spec.Linux.CgroupsPath = "/" + w.id
	w.veth("v0")
	w.ip("addr", "add", "192.0.2.7/24", "dev", "v0")

	// Where the restore fails, the device is back.
	w.save(spec)
	images := filepath.Join(w.dir, "none")
	w.must(os.Mkdir(images, 0o700))
	if _, err := exec.LookPath("criu"); err == nil {
		_, err := w.rt.Restore(background, w.id,
			RestoreOptions{
				CreateOptions: CreateOptions{Bundle: w.bundle()},
				CriuOptions:   CriuOptions{ImagePath: images},
			})
		if err == nil || !strings.Contains(err.Error(), "--image-path") {
			t.Errorf("without images: %v", err)
		}
		if got := w.ip("addr", "show", "v0"); !strings.Contains(got, "192.0.2.7/24") {
			t.Errorf("the device on the host:\n%s", got)
		}
	}
	needsCriu(t)
	p := w.ran(spec)
	for i := range 2 {
		p = w.moved(fmt.Sprint(i), p)
		if got := w.inContainer(p.PID, "addr", "show", "data"); !strings.Contains(got, "192.0.2.7/24") {
			t.Errorf("after restore %d:\n%s", i, got)
		}
	}
	// As on another host, on which the device is still to be moved.
	copied := CriuOptions{ImagePath: filepath.Join(w.dir, "images/last")}
	w.must(w.rt.Checkpoint(background, w.id, CheckpointOptions{CriuOptions: copied, StatusFD: -1}))
	p.Wait()
	w.inContainer(holder.PID, "link", "del", "data")
	w.veth("v0")
	p = w.restored(RestoreOptions{CriuOptions: copied})
	if got := w.inContainer(p.PID, "addr", "show", "data"); !strings.Contains(got, ",UP") {
		t.Errorf("moved anew:\n%s", got)
	}
}

// TestRestoreTerminal: a terminal's master comes through the console socket again.
func TestRestoreTerminal(t *testing.T) {
	needsCriu(t)
	w := newWorld(t)
	socket := filepath.Join(w.dir, "console.sock")
	listener, err := net.Listen("unix", socket)
	w.must(err)
	defer listener.Close()
	spec := w.sh(`while read x; do echo "got $x"; done`)
	spec.Process.Terminal = true
	w.save(spec)
	fds := received(t, listener)
	s, err := w.rt.Create(background, w.id, CreateOptions{Bundle: w.bundle(), ConsoleSocket: socket})
	w.must(err)
	master := os.NewFile(uintptr(<-fds), "ptmx")
	w.must(w.rt.Start(background, w.id))
	images := filepath.Join(w.dir, "images")
	w.must(w.rt.Checkpoint(background, w.id,
		CheckpointOptions{CriuOptions: CriuOptions{ImagePath: images}, StatusFD: -1}))
	reap(s.PID)
	master.Close()

	fds = received(t, listener)
	w.restored(RestoreOptions{
		CreateOptions: CreateOptions{ConsoleSocket: socket},
		CriuOptions:   CriuOptions{ImagePath: images},
	})
	master = os.NewFile(uintptr(<-fds), "ptmx")
	defer master.Close()
	_, err = master.WriteString("hello\n")
	w.must(err)
	lines := bufio.NewScanner(master)
	for lines.Scan() {
		if strings.TrimSpace(lines.Text()) == "got hello" {
			return
		}
	}
	t.Error("the terminal does not answer")
}

// TestDeleteDuringLazyCheckpoint deletes a container whose memory nobody has come for yet: a
// migration that fails on the other side must not keep the container.
func TestDeleteDuringLazyCheckpoint(t *testing.T) {
	needsCriu(t)
	if out, err := exec.Command("criu", "check", "--feature",
		"uffd-noncoop").CombinedOutput(); err != nil {
		t.Skipf("criu has no lazy pages on this kernel: %v: %.200s", err, out)
	}
	w := newWorld(t)
	w.save(w.sh("sleep 1000"))
	p, err := w.rt.Run(background, w.id, CreateOptions{Bundle: w.bundle()})
	w.must(err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	address := l.Addr().String()
	w.must(l.Close())
	ready, readyW, err := os.Pipe()
	w.must(err)
	defer ready.Close()
	done := make(chan error, 1)
	go func() {
		done <- w.rt.Checkpoint(background, w.id, CheckpointOptions{
			CriuOptions: CriuOptions{ImagePath: filepath.Join(w.dir, "images"), LazyPages: true},
			PageServer:  address, StatusFD: int(readyW.Fd()),
		})
		readyW.Close()
	}()
	if n, err := ready.Read(make([]byte, 1)); n != 1 {
		t.Fatalf("the page server does not start: %v, %v", err, <-done)
	}
	deleted := make(chan error, 1)
	go func() { deleted <- w.rt.Delete(background, w.id, true) }()
	select {
	case err := <-deleted:
		w.must(err)
	case <-time.After(patience):
		t.Error("the container cannot be deleted while its memory is waited for")
	}
	conn, err := net.Dial("tcp", address)
	w.must(err)
	w.must(conn.Close())
	<-done // criu's word on a client that asks for nothing differs between its versions
	p.Wait()
	if _, err := w.rt.State(background, w.id); !errors.Is(err, ErrNotExist) {
		t.Errorf("found %v for the state of the deleted container", err)
	}
}

func TestCheckpointFailures(t *testing.T) {
	w := newWorld(t)
	images := filepath.Join(w.dir, "images")
	has := func(err error, words ...string) {
		t.Helper()
		for _, word := range words {
			if err == nil || !strings.Contains(err.Error(), word) {
				t.Errorf("found the error %v; want it to have %q", err, word)
			}
		}
	}
	o := CheckpointOptions{CriuOptions: CriuOptions{ImagePath: images}, StatusFD: -1}
	has(w.rt.Checkpoint(background, w.id, o), "does not exist")
	w.create(w.spec("/bin/sleep", "1000"))
	has(w.rt.Checkpoint(background, w.id, o), "cannot be checkpointed in created state")
	w.must(w.rt.Start(background, w.id))

	spec, err := w.rt.loadConfig(w.id)
	w.must(err)
	spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth9": {}}
	data, err := json.Marshal(spec)
	w.must(err)
	config := filepath.Join(w.rt.dir(w.id), configFile)
	was, err := os.ReadFile(config)
	w.must(err)
	w.must(os.WriteFile(config, data, 0o600))
	has(w.rt.Checkpoint(background, w.id, o), "linux.netDevices: found devices")
	w.must(os.WriteFile(config, was, 0o600))

	t.Run("no criu", func(t *testing.T) {
		t.Setenv("PATH", w.dir)
		has(w.rt.Checkpoint(background, w.id, o), "criu: ", "not found")
		_, err := w.rt.Restore(background, w.id+"r",
			RestoreOptions{
				CreateOptions: CreateOptions{Bundle: w.bundle()},
				CriuOptions:   CriuOptions{ImagePath: images},
			})
		has(err, "criu: ", "not found")
	})
	needs.Program(t, "criu")
	bad := o
	bad.ManageCgroups = "hard"
	has(w.rt.Checkpoint(background, w.id, bad),
		`--manage-cgroups-mode: found "hard"; allowed are soft, full, strict, ignore`)
	bad = o
	bad.ParentPath = "/tmp"
	has(w.rt.Checkpoint(background, w.id, bad),
		"--parent-path: found /tmp; allowed is a path relative to --image-path")
	bad = o
	bad.PageServer = "here"
	has(w.rt.Checkpoint(background, w.id, bad), `--page-server: found "here"; allowed is ADDRESS:PORT`)

	w.must(w.rt.Delete(background, w.id, true))
	// A restore from a directory without images leaves nothing behind (newWorld counts).
	w.must(os.MkdirAll(images, 0o700))
	restore := RestoreOptions{
		CreateOptions: CreateOptions{Bundle: w.bundle()},
		CriuOptions:   CriuOptions{ImagePath: images},
	}
	_, err = w.rt.Restore(background, w.id+"r", restore)
	has(err, "--image-path: ", descriptorsFile)
	for _, bad := range []string{`{}`, `["a"]`, `[1,2,3]`} {
		w.must(os.WriteFile(filepath.Join(images, descriptorsFile), []byte(bad), 0o600))
		_, err := w.rt.Restore(background, w.id+"r", restore)
		has(err, "allowed are three strings")
	}
	w.must(os.Remove(filepath.Join(images, descriptorsFile)))
	w.must(unix.Mkfifo(filepath.Join(images, descriptorsFile), 0o600))
	_, err = w.rt.Restore(background, w.id+"r", restore)
	has(err, "something other than a regular file")
	w.must(os.Remove(filepath.Join(images, descriptorsFile)))
	w.must(os.WriteFile(filepath.Join(images, descriptorsFile),
		[]byte(`["/dev/null","/dev/null","/dev/null"]`), 0o600))
	// Links of another user's archive: criu would write through one and read through the other, as
	// root.
	victim := filepath.Join(w.dir, "victim")
	w.must(os.WriteFile(victim, []byte("the host's"), 0o600))
	work := filepath.Join(w.dir, "work")
	w.must(os.Mkdir(work, 0o700))
	withWork := restore
	withWork.WorkPath = work
	for file, o := range map[string]RestoreOptions{
		filepath.Join(images, restoreLog):    restore,
		filepath.Join(images, "pages-1.img"): restore, filepath.Join(work, restoreLog): withWork,
	} {
		w.must(os.Symlink(victim, file))
		_, err = w.rt.Restore(background, w.id+"r", o)
		has(err, file+": found something other than a regular file")
		w.must(os.Remove(file))
	}
	if data, err := os.ReadFile(victim); err != nil || string(data) != "the host's" {
		t.Errorf("the host's file has now %q, %v", data, err)
	}
	noProcess := w.sh("true")
	noProcess.Process = nil
	w.save(noProcess)
	_, err = w.rt.Restore(background, w.id+"r", restore)
	has(err, "process: found nothing")
	w.save(w.spec("/bin/sleep", "1000"))
	_, err = w.rt.Restore(background, w.id+"r", restore)
	has(err, "restore container", "criu failed")
	if _, err := w.rt.State(background, w.id+"r"); err == nil {
		t.Error("the container that failed to restore is there")
	}
}
