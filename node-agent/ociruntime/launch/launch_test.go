// SPDX-License-Identifier: Apache-2.0

package launch

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// step is one system call of a plan made by hand; f is the field that its failure names.
func step(f string, call plan.Call, args ...plan.Arg) plan.Step {
	s := plan.Step{Call: call, Args: args, Field: plan.Field{Path: f, Index: -1}}
	return s
}

func tolerate(s plan.Step, errs ...unix.Errno) plan.Step { s.Tolerate = errs; return s }

var n = plan.Number

// ending returns the end of a plan: standard streams, the wait for the start, execve.
func ending(argv ...string) []plan.Step {
	return []plan.Step{
		step("process", unix.SYS_DUP3, plan.Descriptor(plan.InputStdin), n(0), n(0)),
		step("process", unix.SYS_DUP3, plan.Descriptor(plan.InputStdout), n(1), n(0)),
		step("process", unix.SYS_DUP3, plan.Descriptor(plan.InputStderr), n(2), n(0)),
		step("process", unix.SYS_CLOSE_RANGE, n(3), n(0xffffffff), n(unix.CLOSE_RANGE_CLOEXEC)),
		step("process", unix.SYS_READ, plan.Descriptor(plan.InputStart),
			plan.Memory(make([]byte, 1)), n(1)),
		step("process", plan.OpSync, plan.Text("exec"), n(0)),
		step("process.args", unix.SYS_EXECVE, plan.Text(argv[0]), plan.Strings(argv),
			plan.Strings([]string{"PATH=/bin:/usr/bin"})),
	}
}

// tiny returns a plan of steps; the sync steps among them get their names from their text.
func tiny(steps ...plan.Step) *plan.Plan {
	p := &plan.Plan{Steps: steps, Labels: []int{0}, Regs: 4, Syncs: map[int]plan.Sync{}}
	for i, s := range steps {
		if s.Call == plan.OpSync {
			name, _ := s.Args[0].Text()
			p.Syncs[i] = plan.Sync(name)
			if waits, _ := s.Args[1].Const(); waits == 1 {
				p.Waits = true
			}
		}
	}
	return p
}

// sh returns a plan that runs a shell command after some steps of its own.
func sh(command string, before ...plan.Step) *plan.Plan {
	return tiny(append(before, ending("/bin/sh", "-c", command)...)...)
}

// streams are /dev/null in place of each of the child's standard streams, but for stdout, if there
// is one.
func streams(t testing.TB, stdout *os.File) map[plan.Input]int {
	t.Helper()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { null.Close() })
	in := map[plan.Input]int{
		plan.InputStdin: int(null.Fd()), plan.InputStdout: int(null.Fd()),
		plan.InputStderr: int(null.Fd()),
	}
	if stdout != nil {
		in[plan.InputStdout] = int(stdout.Fd())
	}
	return in
}

func descriptors(t testing.TB) map[string]string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			out[e.Name()] = target
		}
	}
	return out
}

func children(t testing.TB) string {
	t.Helper()
	var all []byte
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		c, _ := os.ReadFile("/proc/self/task/" + task.Name() + "/children")
		all = append(all, c...)
	}
	return string(all)
}

// clean fails the test if it leaves a descriptor or a child, a zombie among them.
func clean(t testing.TB) {
	t.Helper()
	warm(t)
	fds, kids := descriptors(t), children(t)
	t.Cleanup(func() {
		if now := descriptors(t); len(now) != len(fds) {
			t.Errorf("descriptors before: %v\nand after: %v", fds, now)
		}
		if now := children(t); now != kids {
			t.Errorf("children before: %q, and after: %q", kids, now)
		}
	})
}

// warm makes the Go runtime open its permanent descriptors, such as that of epoll.
func warm(t testing.TB) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
}

// output launches a plan, waits for its program and returns what it wrote.
func output(t testing.TB, r Request) string {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	if r.Inputs == nil {
		r.Inputs = streams(t, write)
	}
	if r.Reserved == 0 {
		r.Reserved = 3
	}
	c, err := Start(r)
	if err != nil {
		t.Fatal(err)
	}
	write.Close()
	if err := c.Follow(context.Background(), ""); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := io.Copy(&b, read); err != nil {
		t.Fatal(err)
	}
	if status := c.Wait(); status.ExitStatus() != 0 {
		t.Fatalf("the program ended with %d", status.ExitStatus())
	}
	return b.String()
}

func TestRunsTheProgram(t *testing.T) {
	leaktest.Check(t)
	clean(t)
	got := output(t, Request{Plan: sh("echo hello; umask", step("umask", unix.SYS_UMASK, n(0o27)))})
	if got != "hello\n0027\n" {
		t.Errorf("found %q", got)
	}
}

// TestFailingStepIsReported: an error names its field, its call and its errno, and nothing is left
// of the child.
func TestFailingStepIsReported(t *testing.T) {
	leaktest.Check(t)
	for name, c := range map[string]struct {
		plan  *plan.Plan
		errno unix.Errno
		step  int
		text  string
	}{
		"first": {
			sh("true", step("mounts", unix.SYS_CHDIR, plan.Text("/does/not/exist"))), unix.ENOENT,
			0, `mounts: chdir: no such file or directory (step 0: chdir("/does/not/exist"))`,
		},
		"execve": {
			tiny(ending("/does/not/exist")...), unix.ENOENT, 6,
			"process.args: execve: no such file or directory",
		},
		"not tolerated": {
			sh("true", tolerate(step("a", unix.SYS_CHDIR, plan.Text("/nonexistent")), unix.EACCES)),
			unix.ENOENT, 0,
			"a: chdir: no such file",
		},
		"expect": {sh("true", step("a", plan.OpExpect, plan.Memory([]byte{1, 0, 0, 0}), n(0xff), n(2),
			n(uintptr(unix.EEXIST)))), unix.EEXIST, 0, "file exists"},
	} {
		t.Run(name, func(t *testing.T) {
			clean(t)
			child, err := Start(Request{Plan: c.plan, Inputs: streams(t, nil), Reserved: 3})
			if err != nil {
				t.Fatal(err)
			}
			err = child.Follow(context.Background(), "")
			var failed *StepError
			if !errors.As(err, &failed) || !errors.Is(err, c.errno) {
				t.Fatalf("found %v; want a StepError of %v", err, c.errno)
			}
			if failed.Index != c.step || !strings.Contains(err.Error(), c.text) {
				t.Errorf("step %d: %v; want step %d and %q", failed.Index, err, c.step, c.text)
			}
			if unix.Kill(child.PID, 0) != unix.ESRCH {
				t.Error("the child is still there")
			}
		})
	}
}

func TestWhereToGoOn(t *testing.T) {
	leaktest.Check(t)
	clean(t)
	missing := func() plan.Step { return step("a", unix.SYS_CHDIR, plan.Text("/nonexistent")) }
	fatal := step("must not be reached", unix.SYS_CHDIR, plan.Text("/unreachable"))
	jump := func(s plan.Step, ok, onErr plan.Label) plan.Step { s.IfOK, s.IfErr = ok, onErr; return s }
	must := func(s plan.Step, e, as unix.Errno) plan.Step { s.Must, s.MustErr = e, as; return s }

	for name, steps := range map[string][]plan.Step{
		"tolerated":            {tolerate(missing(), unix.ENOENT)},
		"tolerated, elsewhere": {jump(tolerate(missing(), unix.EACCES, unix.ENOENT), 0, 1), fatal},
		"success, elsewhere":   {jump(step("a", unix.SYS_CHDIR, plan.Text("/")), 1, 0), fatal},
		"goto":                 {jump(step("a", plan.OpGoto), 1, 0), fatal},
		"must, and does":       {must(missing(), unix.ENOENT, unix.EISDIR)},
		"expect": {step("a", plan.OpExpect, plan.Memory([]byte{1, 0xff, 0, 0}), n(0xff),
			n(1), n(uintptr(unix.EEXIST)))},
	} {
		t.Run(name, func(t *testing.T) {
			p := sh("echo reached", steps...)
			p.Labels = append(p.Labels, len(steps))
			if got := output(t, Request{Plan: p}); got != "reached\n" {
				t.Errorf("found %q", got)
			}
		})
	}
	for name, c := range map[string]struct {
		s    plan.Step
		want unix.Errno
	}{
		"must, but succeeds": {must(step("a", unix.SYS_CHDIR, plan.Text("/")), unix.ENOENT,
			unix.EISDIR), unix.EISDIR},
		"must, but fails otherwise": {must(missing(), unix.EACCES, unix.EISDIR), unix.ENOENT},
	} {
		t.Run(name, func(t *testing.T) {
			child, err := Start(Request{Plan: sh("true", c.s), Inputs: streams(t, nil), Reserved: 3})
			if err != nil {
				t.Fatal(err)
			}
			if err := child.Follow(context.Background(), ""); !errors.Is(err, c.want) {
				t.Errorf("found %v; want %v", err, c.want)
			}
		})
	}
}

// TestRegisters: a result is handed on, to a later call and through OpSet and OpStore.
func TestRegisters(t *testing.T) {
	leaktest.Check(t)
	clean(t)
	open := step("a", unix.SYS_OPENAT, n(^uintptr(99)), plan.Text("/proc"),
		n(unix.O_RDONLY|unix.O_DIRECTORY), n(0))
	open.Out = 1
	set := step("a", plan.OpSet, plan.Register(2), plan.Text("/proc/self"))
	set.Out = 2
	memory := make([]byte, 4)
	p := sh("pwd", open, step("a", unix.SYS_FCHDIR, plan.Register(1)),
		step("a", plan.OpStore, plan.Memory(memory), n(7)),
		step("a", plan.OpExpect, plan.Memory(memory), n(0xffffffff), n(7), n(uintptr(unix.EIO))), set)
	if got := output(t, Request{Plan: p}); got != "/proc\n" {
		t.Errorf("found %q", got)
	}
	if memory[0] != 0 {
		t.Error("the child has written into its parent's memory")
	}
}

// TestRenamesElsewhere: a path with ".." is opened while others rename unrelated files (openat2(2),
// EAGAIN).
func TestRenamesElsewhere(t *testing.T) {
	leaktest.Check(t)
	clean(t)
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/one", 0o755); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for !stop.Load() {
			_, _ = unix.Rename(dir+"/one", dir+"/two"), unix.Rename(dir+"/two", dir+"/one")
		}
	}()
	defer func() { stop.Store(true); <-ended }()
	how := binary.NativeEndian.AppendUint64(make([]byte, 16, 24), unix.RESOLVE_IN_ROOT)
	binary.NativeEndian.PutUint64(how, unix.O_PATH|unix.O_CLOEXEC)
	opening := step("root.path", unix.SYS_OPENAT2, plan.Register(1), plan.Text("usr/../usr/../etc"),
		plan.Memory(how), n(24))
	opening.Out = 2
	root := step("root.path", unix.SYS_OPENAT2, atCwd, plan.Text("/"),
		plan.Memory(make([]byte, 24)), n(24))
	root.Out = 1
	steps := []plan.Step{root}
	for range 2000 {
		steps = append(steps, opening, step("root.path", unix.SYS_CLOSE, plan.Register(2)))
	}
	for range 5 {
		if got := output(t, Request{Plan: sh("echo opened", steps...)}); got != "opened\n" {
			t.Errorf("found %q", got)
		}
	}
}

func TestSync(t *testing.T) {
	leaktest.Check(t)
	clean(t)
	steps := []plan.Step{
		step("linux.uidMappings", plan.OpSync, plan.Text("idmap"), n(1)),
		step("hooks", plan.OpSync, plan.Text("namespaces"), n(1)),
	}
	var seen []plan.Sync
	got := output(t, Request{Plan: sh("echo done", steps...), OnSync: func(s plan.Sync,
		pid int,
	) error {
		if err := unix.Kill(pid, 0); err != nil {
			t.Errorf("at %s: %v", s, err)
		}
		seen = append(seen, s)
		return nil
	}})
	if got != "done\n" || fmt.Sprint(seen) != "[idmap namespaces]" {
		t.Errorf("found %q, and the points %v", got, seen)
	}

	refusal := errors.New("no")
	child, err := Start(Request{
		Plan: sh("true", steps...), Inputs: streams(t, nil), Reserved: 3,
		OnSync: func(plan.Sync, int) error {
			return refusal
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Follow(context.Background(), ""); !errors.Is(err, refusal) {
		t.Errorf("found %v; want the error of OnSync", err)
	}
}

// TestParentGone: a child that waits for its parent ends when the parent's end of the pipe is
// closed.
func TestParentGone(t *testing.T) {
	leaktest.Check(t)
	clean(t)
	for _, p := range []*plan.Plan{
		sh("true", step("a", plan.OpSync, plan.Text("idmap"), n(1))),
		sh("true"),
	} {
		child, err := Start(Request{Plan: p, Inputs: streams(t, nil), Reserved: 3, Held: true})
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(child.start)
		child.start = -1
		child.closePipes()
		if status := child.Wait(); status.ExitStatus() != childFailed && status.Signal() != unix.SIGPIPE {
			t.Errorf("the child ended with %v", status)
		}
	}
}

func TestKilledBeforeExec(t *testing.T) {
	leaktest.Check(t)
	clean(t)
	for name, c := range map[string]struct {
		end  func(context.CancelCauseFunc, *Child)
		want string
	}{
		"by a signal": {func(_ context.CancelCauseFunc, c *Child) {
			_ = unix.Kill(c.PID, unix.SIGKILL)
		}, "ended by SIGKILL before execve"},
		"by its context": {func(cancel context.CancelCauseFunc, _ *Child) {
			cancel(errors.New("too late"))
		}, "too late"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(context.Background())
			defer cancel(nil)
			child, err := Start(Request{Plan: sh("true"), Inputs: streams(t, nil), Reserved: 3, Held: true})
			if err != nil {
				t.Fatal(err)
			}
			c.end(cancel, child)
			err = child.Follow(ctx, "")
			var killed *KilledError
			if !errors.As(err, &killed) || killed.Status.Signal() != unix.SIGKILL ||
				!strings.Contains(err.Error(), c.want) {
				t.Errorf("found %v; want a KilledError with %q", err, c.want)
			}
		})
	}
}

func TestAbandon(t *testing.T) {
	leaktest.Check(t)
	clean(t)
	child, err := Start(Request{
		Plan:   sh("true", step("a", plan.OpSync, plan.Text("idmap"), n(1))),
		Inputs: streams(t, nil), Reserved: 3, Held: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	child.Abandon()
	if unix.Kill(child.PID, 0) != unix.ESRCH {
		t.Error("the child is still there")
	}
}

// TestNoChild: if no child is created, no descriptor is left.
func TestNoChild(t *testing.T) {
	leaktest.Check(t)
	clean(t)
	missing := sh("true")
	missing.PIDNamespace = "/does/not/exist"
	wrong := sh("true")
	wrong.PIDNamespace = "/proc/self/ns/uts"
	invalid := sh("true")
	invalid.CloneFlags = unix.CLONE_FS | unix.CLONE_NEWNS
	for text, r := range map[string]Request{
		"linux.namespaces (pid, /does/not/exist): open: no such file":   {Plan: missing},
		"linux.namespaces (pid, /proc/self/ns/uts): setns: invalid arg": {Plan: wrong},
		"linux.namespaces: clone3: invalid argument":                    {Plan: invalid},
		`"a\x00b" holds a NUL byte`: {Plan: sh("true",
			step("a", unix.SYS_CHDIR, plan.Text("a\x00b")))},
		"input console-socket has no descriptor": {Plan: sh("true", step("a", unix.SYS_FCHDIR,
			plan.Descriptor(plan.InputConsole)))},
		"fcntl F_DUPFD_CLOEXEC: bad file descriptor": {
			Plan:   sh("true"),
			Inputs: map[plan.Input]int{plan.InputStdin: -1},
		},
	} {
		if r.Inputs == nil {
			r.Inputs = streams(t, nil)
		}
		r.Reserved = 3
		if _, err := Start(r); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("found %v; want %q", err, text)
		}
	}
}

// TestOnlyItsOwnDescriptors: a child that waits for its start holds none of its parent's
// descriptors but its inputs, and its program none but the standard streams and those that are
// preserved.
func TestOnlyItsOwnDescriptors(t *testing.T) {
	leaktest.Check(t)
	clean(t)
	secret, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	high, err := unix.FcntlInt(secret.Fd(), unix.F_DUPFD_CLOEXEC, 500)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(high)
	child, err := Start(Request{
		Plan: sh("true", step("a", plan.OpSync, plan.Text("namespaces"), n(1))), Inputs: streams(t, nil),
		Reserved: 3, Held: true,
		OnSync: func(_ plan.Sync, pid int) error {
			fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
			if err != nil {
				return err
			}
			for _, fd := range fds {
				target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
				number, _ := strconv.Atoi(fd.Name())
				if err != nil || number >= 3 && target != "/dev/null" && !strings.HasPrefix(target, "pipe:") {
					t.Errorf("the waiting child holds %s: %s, %v", fd.Name(), target, err)
				}
			}
			if len(fds) > 3+4 {
				t.Errorf("the waiting child holds %d descriptors; the three of the test, /dev/null and three pipe ends are its own", len(fds))
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	child.Release()
	if err := child.Follow(context.Background(), ""); err != nil {
		t.Fatal(err)
	}
	child.Wait()

	// 3 is the directory that ls reads
	if got := output(t, Request{Plan: sh("ls /proc/self/fd | tr '\\n' ' '")}); got != "0 1 2 3 " {
		t.Errorf("the program holds %q", got)
	}
}

// TestLowDescriptors: inputs among 0 to 2, in any order, end where the program expects them.
func TestLowDescriptors(t *testing.T) {
	if os.Getenv("LAUNCH_LOW") == "" {
		leaktest.Check(t)
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		// A process of its own, whose standard streams may be taken away: without 0 to 2, and with
		// inputs in their places.
		for _, mode := range []string{"closed", "swapped"} {
			out := output(t,
				Request{Plan: tiny(append([]plan.Step{}, ending("/bin/sh", "-c", "exec 2>&1; LAUNCH_LOW="+mode+
					" exec "+self+" -test.run '^TestLowDescriptors$'")...)...)})
			if !strings.Contains(out, "PASS") {
				t.Errorf("%s: %s", mode, out)
			}
		}
		return
	}
	warm(t) // or those of the Go runtime come to lie at 0 to 2
	stdout, err := unix.Dup(1)
	if err != nil {
		t.Fatal(err)
	}
	var p [2]int
	for fd := range 3 {
		unix.Close(fd)
	}
	if os.Getenv("LAUNCH_LOW") == "closed" {
		// The launcher's own pipes would come to lie at 0 to 2, and be overwritten.
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil || p[0] != 0 {
			os.Exit(3)
		}
		p[0], _ = unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 10)
		p[1], _ = unix.FcntlInt(1, unix.F_DUPFD_CLOEXEC, 10)
		unix.Close(0)
		unix.Close(1)
		// stdin is 1, stdout is 0
	} else if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil || p[0] != 0 || p[1] != 1 {
		os.Exit(4)
	}
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		os.Exit(5)
	}
	c, err := Start(Request{
		Plan: sh("echo out; read x || echo end"), Reserved: 3,
		Inputs: map[plan.Input]int{plan.InputStdin: null, plan.InputStdout: p[1], plan.InputStderr: null},
	})
	if err == nil {
		err = c.Follow(context.Background(), "")
	}
	buf := make([]byte, 64)
	k := 0
	if err == nil {
		c.Wait()
		k, err = unix.Read(p[0], buf)
	}
	for fd := range 3 {
		_ = unix.Dup3(stdout, fd, 0)
	}
	if err != nil || string(buf[:max(k, 0)]) != "out\nend\n" {
		t.Fatalf("found %q, %v", buf[:max(k, 0)], err)
	}
}

// TestManyAtOnce launches from many goroutines while the collector and the stacks of goroutines
// move.
func TestManyAtOnce(t *testing.T) {
	leaktest.Check(t)
	clean(t)
	in := streams(t, nil)
	stop := make(chan struct{})
	var collector sync.WaitGroup
	collector.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	})
	errs := make(chan error, 200)
	var wg sync.WaitGroup
	gate := make(chan struct{}, 40)
	for i := range 200 {
		wg.Go(func() {
			gate <- struct{}{}
			defer func() { <-gate }()
			p := sh("exit "+strconv.Itoa(i%100), step("a", plan.OpSync, plan.Text("namespaces"), n(1)))
			c, err := Start(Request{Plan: p, Inputs: in, Reserved: 3, OnSync: func(plan.Sync, int) error {
				return nil
			}})
			if err == nil {
				err = c.Follow(context.Background(), "")
			}
			if err != nil {
				errs <- err
				return
			}
			if status := c.Wait(); status.ExitStatus() != i%100 {
				errs <- fmt.Errorf("child %d ended with %v", i, status)
			}
		})
	}
	wg.Wait()
	close(stop)
	collector.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
}

// TestWaitingChildrenHoldNothingOfOthers: many children that wait for their start do not keep each
// other's reports from ending.
func TestWaitingChildrenHoldNothingOfOthers(t *testing.T) {
	leaktest.Check(t)
	clean(t)
	in := streams(t, nil)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var held []*Child
	for i := range 40 {
		wg.Go(func() {
			c, err := Start(Request{Plan: sh("true"), Inputs: in, Reserved: 3, Held: i%2 == 0})
			if err != nil {
				t.Error(err)
				return
			}
			if i%2 == 0 {
				mu.Lock()
				held = append(held, c)
				mu.Unlock()
				return
			}
			// waits for the end of the report's last writer
			if err := c.Follow(context.Background(), ""); err != nil {
				t.Error(err)
			}
			c.Wait()
		})
	}
	wg.Wait()
	for _, c := range held {
		c.Abandon()
	}
}

func TestEnded(t *testing.T) {
	leaktest.Check(t)
	clean(t)
	for command, want := range map[string]unix.Signal{"kill -9 $$": unix.SIGKILL, "exit 3": 0} {
		c, err := Start(Request{Plan: sh(command), Inputs: streams(t, nil), Reserved: 3, Held: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, ended := c.Ended(); ended {
			t.Error("a held child has ended")
		}
		c.Release()
		if err := c.Follow(context.Background(), ""); err != nil {
			t.Fatal(err)
		}
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(c.PIDFD), Events: unix.POLLIN}}, -1)
		for errors.Is(err, unix.EINTR) { // by a signal of the Go runtime
			_, err = unix.Poll([]unix.PollFd{{Fd: int32(c.PIDFD), Events: unix.POLLIN}}, -1)
		}
		if err != nil {
			t.Fatal(err)
		}
		if sig, ended := c.Ended(); !ended || sig != want {
			t.Errorf("%s: found %v, %v", command, sig, ended)
		}
		c.Wait()
	}
}

func TestReadResult(t *testing.T) {
	leaktest.Check(t)
	message := func(step, errno byte) []byte {
		return []byte{step, 0, 0, 0, 0, 0, 0, 0, errno, 0, 0, 0, 0, 0, 0, 0}
	}
	for name, c := range map[string]struct {
		written []byte
		check   func(error) bool
	}{
		"became its program": {message(9, 0), func(err error) bool { return err == nil }},
		"failed": {append(message(9, 0), message(10, byte(unix.ENOEXEC))...), func(err error) bool {
			var late *LateError
			return errors.As(err, &late) && late.Step == 10 && late.Errno == unix.ENOEXEC
		}},
		"killed": {nil, func(err error) bool { var k *KilledError; return errors.As(err, &k) }},
		"garbage": {[]byte{1}, func(err error) bool {
			return err != nil && strings.Contains(err.Error(), "1 bytes")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var p [2]int
			if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
				t.Fatal(err)
			}
			defer unix.Close(p[0])
			if len(c.written) > 0 {
				if _, err := unix.Write(p[1], c.written); err != nil {
					t.Fatal(err)
				}
			}
			unix.Close(p[1])
			if err := ReadResult(context.Background(), p[0]); !c.check(err) {
				t.Errorf("found %v", err)
			}
		})
	}
}

// TestHiddenFromTheStart: a child in a pid namespace that others are in already cannot be dumped
// even before its first step, and its parent can again afterwards (CVE-2016-9962).
func TestHiddenFromTheStart(t *testing.T) {
	leaktest.Check(t)
	clean(t)
	const dumpable plan.Reg = 1
	value := make([]byte, 4)
	get := step("a", unix.SYS_PRCTL, n(unix.PR_GET_DUMPABLE), n(0), n(0), n(0), n(0))
	get.Out = dumpable
	p := sh("true", get, step("a", plan.OpStore, plan.Memory(value), plan.Register(dumpable)),
		step("b", plan.OpExpect, plan.Memory(value), n(0xffffffff), n(0), n(uintptr(unix.EPERM))))
	for path, hidden := range map[string]bool{"": false, "/proc/self/ns/pid": true} {
		p.PIDNamespace = path
		child, err := Start(Request{Plan: p, Inputs: streams(t, nil), Reserved: 3})
		if err != nil {
			t.Fatal(err)
		}
		err = child.Follow(context.Background(), "")
		if err == nil {
			child.Wait()
		}
		if (err == nil) != hidden {
			t.Errorf("in the pid namespace %q: %v; want it to be hidden: %v", path, err, hidden)
		}
	}
	if v, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); v != 1 || err != nil {
		t.Errorf("this process is left with %d, %v", v, err)
	}
}

// TestForkedReportsFirst: the second process may report before the first one has reported the
// second's pid.
func TestForkedReportsFirst(t *testing.T) {
	leaktest.Check(t)
	for range 300 {
		args := make([]byte, 64)
		binary.NativeEndian.PutUint64(args, unix.CLONE_PARENT)
		p := tiny(step("a", plan.OpFork, plan.Memory(args), n(64)),
			step("a", plan.OpSync, plan.Text(string(plan.SyncReady)), n(0)),
			step("a", unix.SYS_EXIT_GROUP, n(0)))
		p.HasFork, p.Syncs[0] = true, plan.SyncForked
		c, err := Start(Request{Plan: p, Reserved: 3})
		if err != nil {
			t.Fatal(err)
		}
		if c.PID <= 0 {
			t.Fatalf("its pid is %d", c.PID)
		}
		if err := c.Follow(context.Background(), plan.SyncReady); err != nil {
			t.Fatal(err)
		}
		if status := c.Wait(); !status.Exited() || status.ExitStatus() != 0 {
			t.Fatalf("ended with %v", status)
		}
	}
}
