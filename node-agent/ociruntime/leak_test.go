// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// everything returns a document whose plan has about every stage.
func (w *world) everything() *specs.Spec {
	spec := w.sh("true")
	spec.Mounts = append(spec.Mounts, specs.Mount{
		Destination: "/bound", Type: "bind", Source: "/etc",
		Options: []string{"rbind", "rro"},
	},
		specs.Mount{
			Destination: "/copied", Type: "tmpfs", Source: "tmpfs",
			Options: []string{"tmpcopyup"},
		})
	spec.Linux.Sysctl = map[string]string{"kernel.msgmax": "4242"}
	spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = []string{
		"/proc/kcore", "/proc/fs",
		"/sys/firmware",
	}, []string{"/proc/sys"}
	spec.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Syscalls:      []specs.LinuxSyscall{{Names: []string{"acct"}, Action: specs.ActErrno}},
	}
	spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE"}}
	spec.Process.User = specs.User{UID: 7, GID: 8, AdditionalGids: []uint32{9}}
	spec.Process.OOMScoreAdj = ptr(500)
	return spec
}

// breaking makes a step of a plan fail, as setns(2) does with a file that is no namespace, or end
// the child.
func breaking(step int, ends bool) func(p *plan.Plan) {
	return func(p *plan.Plan) {
		s := &p.Steps[step]
		s.Call, s.Args, s.Tolerate, s.Must = unix.SYS_SETNS, nil, nil, 0
		if ends {
			s.Call = unix.SYS_EXIT_GROUP
		}
	}
}

// TestEveryStepFails: whichever step of a plan fails or is the child's last, the error names it and
// nothing is left; exec likewise, with the container going on.
func TestEveryStepFails(t *testing.T) {
	w := newWorld(t)
	w.write("/copied/file", "content", 0o644)
	spec := w.everything()
	w.save(spec)
	steps, created := 0, 0
	w.rt.change = func(p *plan.Plan) { steps = len(p.Steps) }
	before := w.leftovers()
	_, _, err := w.tryWith(CreateOptions{})
	w.must(err)
	clean := func(what string, step int) {
		t.Helper()
		if after := w.leftovers(); after != before {
			t.Fatalf("%s, step %d left over, before:\n%s\nand after:\n%s", what, step, before, after)
		}
	}
	clean("none", 0)
	failed := 0
	// Where it would take minutes, which steps it are is by chance.
	every := 1
	if testing.Short() || os.Getenv("BERTH_VM") != "" {
		every = 11
	}
	offset := rand.IntN(every)
	pick := func(step int, ends bool) bool {
		if ends { // an end is an end
			return step%(4*every) == offset
		}
		return step%every == offset
	}
	total := 0
	for _, ends := range []bool{false, true} {
		for step := range steps {
			if !pick(step, ends) {
				continue
			}
			total++
			var broken plan.Step
			w.rt.change = func(p *plan.Plan) {
				created = slices.IndexFunc(p.Steps, func(s plan.Step) bool { return s.Call == plan.OpReport })
				breaking(step, ends)(p)
				broken = p.Steps[step]
			}
			_, err := w.rt.Create(background, w.id, CreateOptions{Bundle: w.bundle()})
			if err == nil {
				// A step that is jumped over, or comes after the container is created.
				err = w.rt.Start(background, w.id)
				w.must(w.rt.Delete(background, w.id, true))
				w.reapAll(step, "create")
			}
			if err != nil {
				failed++
				// What fails once the container is created may have ended it, or be about to,
				// before it is started.
				field := broken.Field.Path
				if !ends && step < created && !strings.Contains(err.Error(), field) {
					t.Errorf("step %d serves %s, and the error is: %v", step, field, err)
				}
			}
			clean("create", step)
		}
	}
	// the others jump over the step, or wait for start, which has none of the steps that are broken
	if failed < total/2 {
		t.Errorf("only %d of %d broken plans failed", failed, total)
	}
	t.Logf("%d of %d broken plans failed", failed, total)

	w.rt.change = nil
	spec.Process.Args = []string{"/bin/sleep", "1000"}
	w.start(spec)
	before = w.leftovers()
	run := args("/bin/true")
	w.rt.change = func(p *plan.Plan) { steps = len(p.Steps) }
	p, err := w.rt.Exec(background, w.id, run)
	w.must(err)
	p.Wait()
	clean("exec", -1)
	for _, ends := range []bool{false, true} {
		for step := range steps {
			if !pick(step, ends) {
				continue
			}
			w.rt.change = breaking(step, ends)
			if p, err := w.rt.Exec(background, w.id, run); err == nil {
				p.Wait()
			}
			clean("exec", step)
		}
	}
	if got := w.status(); got != "running" {
		t.Errorf("the container is %s", got)
	}
}

// small mounts a tmpfs that is soon full on a directory, for the length of a function.
func (w *world) small(dir, options string, do func()) {
	w.t.Helper()
	w.must(os.MkdirAll(dir, 0o700))
	w.must(unix.Mount("tmpfs", dir, "tmpfs", 0, options))
	defer func() { w.must(unix.Unmount(dir, 0)) }()
	do()
}

// TestFullDisk: a state directory or a root filesystem without room: an error that says so, and
// nothing left.
func TestFullDisk(t *testing.T) {
	w := newWorld(t)
	w.save(w.everything())
	run := filepath.Join(w.dir, "run")
	failed, made := 0, 0
	try := func(what string) {
		t.Helper()
		before := w.leftovers()
		_, err := w.rt.Create(background, w.id, CreateOptions{Bundle: w.bundle()})
		switch {
		case err == nil:
			made++
			w.must(w.rt.Delete(background, w.id, true))
			w.reapAll(0, "create")
		case !errors.Is(err, unix.ENOSPC):
			t.Errorf("%s: %v", what, err)
		default:
			failed++
		}
		if after := w.leftovers(); after != before {
			t.Fatalf("%s left over, before:\n%s\nand after:\n%s", what, before, after)
		}
	}
	for inodes := 1; inodes <= 12; inodes++ {
		w.small(run, fmt.Sprintf("mode=700,nr_inodes=%d", inodes), func() {
			try(fmt.Sprintf("a state folder of %d files", inodes))
		})
	}
	for pages := 1; pages <= 6; pages++ {
		w.small(run, fmt.Sprintf("mode=700,nr_blocks=%d", pages), func() {
			try(fmt.Sprintf("a state folder of %d pages", pages))
		})
	}
	if failed < 6 || made < 2 {
		t.Errorf("%d failed and %d were made", failed, made)
	}
	failed, made = 0, 0
	busy, err := os.ReadFile(busybox)
	w.must(err)
	rootfs := w.file("/")
	for inodes := 4; inodes <= 16; inodes++ {
		w.small(rootfs, fmt.Sprintf("mode=755,nr_inodes=%d", inodes), func() {
			w.must(os.Mkdir(filepath.Join(rootfs, "bin"), 0o755))
			w.must(os.WriteFile(filepath.Join(rootfs, "bin/sh"), busy, 0o755))
			try(fmt.Sprintf("a root filesystem of %d files", inodes))
		})
	}
	if failed < 3 || made < 2 {
		t.Errorf("in the root filesystem %d failed and %d were made", failed, made)
	}
}

// asHelper runs the test binary as a process that creates a container, prepared by a shell command,
// and returns what it wrote.
func (w *world) asHelper(shell, mode string) (string, error) {
	w.t.Helper()
	self, err := os.Executable()
	w.must(err)
	ctx, cancel := context.WithTimeout(background, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", shell+` exec "$0" "$@"`, self,
		filepath.Join(w.dir, "run"), w.id, w.bundle())
	cmd.Env = append(os.Environ(), helperEnv+"="+mode)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = patience
	err = cmd.Run()
	return out.String(), err
}

// TestFewDescriptors: with any number of descriptors that a process may have, a container is made,
// or there is an error and nothing left.
func TestFewDescriptors(t *testing.T) {
	w := newWorld(t)
	w.must(unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
	defer func() { w.must(unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)) }()
	w.save(w.everything())
	before := w.leftovers()
	failed := 0
	for n := 8; ; n++ {
		out, err := w.asHelper("ulimit -n "+strconv.Itoa(n)+";", "create")
		if err == nil {
			w.must(w.rt.Delete(background, w.id, true))
		} else {
			failed++
			if !strings.Contains(out, "too many open files") {
				t.Errorf("with %d descriptors: %v: %s", n, err, out)
			}
		}
		w.reapAll(n, "create")
		if after := w.leftovers(); after != before {
			t.Fatalf("with %d descriptors left over, before:\n%s\nand after:\n%s\nafter: %s", n, before,
				after, out)
		}
		if err == nil {
			break
		}
		if n > 200 {
			t.Fatalf("it does not work with %d descriptors: %s", n, out)
		}
	}
	if failed < 5 {
		t.Errorf("only %d failed", failed)
	}
	t.Logf("%d failed", failed)
}

// TestClosedHierarchy: a read-only cgroup hierarchy is reported, and directories created before it
// are removed.
func TestClosedHierarchy(t *testing.T) {
	w := newWorld(t)
	w.save(w.spec("/bin/sleep", "1000"))
	mounts := []string{"/sys/fs/cgroup"}
	if !unified() {
		var err error
		mounts, err = filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
		w.must(err)
	}
	before := w.leftovers()
	for _, m := range mounts {
		m = strings.TrimSuffix(m, "/cgroup.procs")
		// The helper has a mount namespace of its own.
		out, err := w.asHelper("exec unshare -m sh -c 'mount --bind "+m+" "+m+
			" && mount -o remount,bind,ro "+m+` && exec "$0" "$@"' "$0" "$@";`, "create")
		if err == nil || !strings.Contains(out, "linux.cgroupsPath: ") ||
			!strings.Contains(out, "read-only file system") {
			t.Errorf("with %s read-only: %v: %s", m, err, out)
		}
		if after := w.leftovers(); after != before {
			t.Fatalf("with %s read-only left over, before:\n%s\nand after:\n%s", m, before, after)
		}
	}
}

// TestKeyringsGo: the session keyring of each container goes with its processes, also where its
// making has failed.
func TestKeyringsGo(t *testing.T) {
	w := newWorld(t)
	count := func() int {
		t.Helper()
		data, err := os.ReadFile("/proc/keys")
		w.must(err)
		return strings.Count(string(data), " _ses."+w.id+":")
	}
	w.create(w.sh("true"))
	if n := count(); n != 1 {
		t.Fatalf("found %d keyrings of a created container; want 1", n)
	}
	w.must(w.rt.Delete(background, w.id, true))
	w.reapAll(0, "create") // a zombie holds its keyring
	broken := w.sh("true")
	broken.Process.Cwd = "/bin/busybox/below"
	for range 10 {
		w.run(w.sh("true"))
		w.fails(broken, "process.cwd: ")
	}
	// The kernel collects them in its own time.
	w.await("the end of the keyrings", func() bool { return count() == 0 })
}

// TestStartWithoutBundle: a created container does not need its bundle's files any more.
func TestStartWithoutBundle(t *testing.T) {
	w := newWorld(t)
	w.save(w.sh("exit 4"))
	s, err := w.rt.Create(background, w.id, CreateOptions{Bundle: w.bundle()})
	w.must(err)
	defer w.end(w.id, s.PID)
	w.must(os.Rename(w.bundle(), w.bundle()+"-moved"))
	defer func() { w.must(os.Rename(w.bundle()+"-moved", w.bundle())) }()
	w.must(w.rt.Start(background, w.id))
	if status := reap(s.PID); status.ExitStatus() != 4 {
		t.Errorf("it ended with %v", status)
	}
}

// TestNoMoreProcesses: a caller who may have no more processes gets an error, and nothing is left.
func TestNoMoreProcesses(t *testing.T) {
	w := newWorld(t)
	w.save(w.spec("/bin/sleep", "1000"))
	var dir string
	if unified() {
		dir = "/sys/fs/cgroup/" + w.id + "-caller"
	} else {
		dir = "/sys/fs/cgroup/pids/caller-of-" + w.id
	}
	w.must(os.Mkdir(dir, 0o755))
	defer func() {
		w.await("the end of the caller", func() bool {
			err := unix.Rmdir(dir)
			return err == nil || errors.Is(err, unix.ENOENT)
		})
	}()
	if _, err := os.Stat(filepath.Join(dir, "pids.max")); err != nil {
		t.Skipf("the host has no limit of processes: %v", err)
	}
	before := w.leftovers()
	failed := 0
	// From so few that the program itself cannot go on (then it is as one that was killed) to
	// enough.
	for limit := 4; limit <= 40; limit++ {
		w.must(os.WriteFile(filepath.Join(dir, "pids.max"), []byte(strconv.Itoa(limit)), 0o644))
		out, err := w.asHelper("echo $$ > "+dir+"/cgroup.procs;", "create")
		if err != nil {
			failed++
			if !strings.Contains(strings.ToLower(out), "resource temporarily unavailable") &&
				!strings.Contains(out, "newosproc") && !strings.Contains(out, "errno=11") {
				t.Errorf("with %d processes: %v: %s", limit, err, out)
			}
		}
		// What it cannot report any more is left to delete, as after a kill.
		crashed := strings.Contains(out, "newosproc") || strings.Contains(out, "errno=11") ||
			strings.Contains(out, "pthread_create")
		if err == nil || crashed {
			w.must(w.rt.Delete(background, w.id, true))
		}
		if after := w.leftovers(); after != before {
			t.Fatalf("with %d processes left over, before:\n%s\nand after:\n%s\nafter: %s", limit, before,
				after, out)
		}
		if err == nil {
			break
		}
	}
	if failed == 0 {
		t.Error("no limit was too low")
	}
}
