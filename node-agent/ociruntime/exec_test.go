// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// args executes a command with the other fields of the container's own process.
func args(argv ...string) ExecOptions {
	return ExecOptions{Change: func(p *specs.Process) error { p.Args = argv; return nil }}
}

// tryExec executes a process to its end.
func (w *world) tryExec(o ExecOptions) (output string, status unix.WaitStatus, err error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var p *Executed
	output, err = w.outputOf(func(out *os.File) (err error) {
		o.Stdout, o.Stderr = out, out
		p, err = w.rt.Exec(ctx, w.id, o)
		return err
	})
	if err != nil {
		return "", 0, err
	}
	return output, p.Wait(), nil
}

// execPrints fails the test where a process that is executed in the container prints something
// else.
func (w *world) execPrints(o ExecOptions, want string) {
	w.t.Helper()
	out, status, err := w.tryExec(o)
	if err != nil {
		w.t.Fatal(err)
	}
	if out != want || status.ExitStatus() != 0 {
		w.t.Errorf("it ended with %d and printed:\n%s\nwant:\n%s", status.ExitStatus(), out, want)
	}
}

// execFails expects that Exec fails with an error that has some words.
func (w *world) execFails(o ExecOptions, words string) {
	w.t.Helper()
	out, _, err := w.tryExec(o)
	if err == nil || !strings.Contains(err.Error(), words) {
		w.t.Errorf("found %q, %v; want an error with: %s", out, err, words)
	}
}

// sleeping returns a document whose process does nothing for long.
func (w *world) sleeping(change func(*specs.Spec)) *specs.Spec {
	spec := w.spec("/bin/sleep", "1000")
	if change != nil {
		change(spec)
	}
	return spec
}

// mapped gives a document a user namespace, and the root filesystem to its root.
func (w *world) mapped(spec *specs.Spec) {
	const base = 100000
	w.must(filepath.WalkDir(w.file("/"), func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, base, base)
	}))
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
	spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: base, Size: 65536}}
	spec.Linux.GIDMappings = spec.Linux.UIDMappings
}

func without(kind specs.LinuxNamespaceType) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
			return n.Type == kind
		})
	}
}

// likeness has the properties that two processes of a container share.
func (w *world) likeness(pid int) string {
	w.t.Helper()
	var b strings.Builder
	for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"} {
		target, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
		w.must(err)
		fmt.Fprintln(&b, target)
	}
	for _, key := range []string{
		"Uid", "Gid", "Groups", "Umask", "CapInh", "CapPrm", "CapEff",
		"CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
	} {
		fmt.Fprintln(&b, key, statusLine(w.t, pid, key))
	}
	for _, file := range []string{
		"cgroup", "limits", "environ", "oom_score_adj", "personality",
		"cmdline", "uid_map",
	} {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		w.must(err)
		fmt.Fprintf(&b, "%s %s\n", file, data)
	}
	for _, link := range []string{"root", "cwd"} {
		var st unix.Stat_t
		w.must(unix.Stat(fmt.Sprintf("/proc/%d/%s", pid, link), &st))
		fmt.Fprintln(&b, link, st.Dev, st.Ino)
	}
	return b.String()
}

// TestExecIsLikeTheFirst: with nothing said, a process that is executed in a container has all that
// its first process has: namespaces, cgroups, root, user, capabilities, limits.
func TestExecIsLikeTheFirst(t *testing.T) {
	for name, change := range map[string]func(*world, *specs.Spec){
		"default": func(*world, *specs.Spec) {},
		"user namespace": func(w *world, s *specs.Spec) {
			w.mapped(s)
			s.Process.User = specs.User{UID: 3, GID: 4}
		},
		"pids of the host":    func(_ *world, s *specs.Spec) { without(specs.PIDNamespace)(s) },
		"cgroups of the host": func(_ *world, s *specs.Spec) { without(specs.CgroupNamespace)(s) },
		"mount namespace and no more": func(_ *world, s *specs.Spec) {
			s.Hostname, s.Linux.Namespaces = "", []specs.LinuxNamespace{{Type: "mount"}}
		},
		"everything of the process": func(w *world, s *specs.Spec) {
			w.must(os.MkdirAll(w.file("/srv/dir"), 0o755))
			p := s.Process
			p.Cwd, p.OOMScoreAdj = "/srv/dir", ptr(500)
			p.User = specs.User{UID: 5, GID: 6, AdditionalGids: []uint32{7, 8}, Umask: ptr(uint32(0o27))}
			p.Rlimits = []specs.POSIXRlimit{
				{Type: "RLIMIT_NOFILE", Soft: 33, Hard: 44},
				{Type: "RLIMIT_CORE", Soft: 1, Hard: 2},
			}
			p.Capabilities.Inheritable, p.Capabilities.Ambient = p.Capabilities.Permitted,
				p.Capabilities.Permitted[:1]
			s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
			s.Linux.Seccomp = &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow,
				Syscalls: []specs.LinuxSyscall{{
					Names:  []string{"mkdirat", "mkdir"},
					Action: specs.ActErrno,
				}},
			}
		},
		"privileges left": func(_ *world, s *specs.Spec) {
			s.Process.NoNewPrivileges, s.Process.Capabilities = false, nil
			s.Linux.Seccomp = &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow,
				Syscalls: []specs.LinuxSyscall{{
					Names:  []string{"mkdirat", "mkdir"},
					Action: specs.ActErrno,
				}},
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			spec := w.sleeping(nil)
			change(w, spec)
			first := w.start(spec)
			p, err := w.rt.Exec(background, w.id, ExecOptions{})
			w.must(err)
			w.awaitProgram(first.PID, "sleep")
			w.awaitProgram(p.PID, "sleep")
			if got, want := w.likeness(p.PID), w.likeness(first.PID); got != want {
				t.Errorf("it is:\n%s\nand the first:\n%s", got, want)
			}
			p.Kill()
		})
	}
}

// TestExecInJoinedNamespaces executes a process in a container that has joined another's
// namespaces.
func TestExecInJoinedNamespaces(t *testing.T) {
	w := newWorld(t)
	first := w.start(w.sleeping(nil))
	second := &world{t: t, dir: w.dir, rt: w.rt, id: w.id + "-2", cgroup: w.cgroup + "-2"}
	pid := second.start(second.sleeping(func(s *specs.Spec) {
		for i, n := range s.Linux.Namespaces {
			if n.Type == "network" || n.Type == "pid" || n.Type == "ipc" {
				s.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/%s", first.PID,
					map[specs.LinuxNamespaceType]string{"network": "net", "pid": "pid", "ipc": "ipc"}[n.Type])
			}
		}
	})).PID
	p, err := w.rt.Exec(background, second.id, ExecOptions{})
	w.must(err)
	w.awaitProgram(pid, "sleep")
	w.awaitProgram(p.PID, "sleep")
	if got, want := w.likeness(p.PID), w.likeness(pid); got != want {
		t.Errorf("it is:\n%s\nand the first:\n%s", got, want)
	}
	p.Kill()
}

// TestExecProcess: the fields of process.json apply, and absent ones have the container's values.
func TestExecProcess(t *testing.T) {
	w := newWorld(t)
	w.start(w.sleeping(func(s *specs.Spec) {
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 33, Hard: 44}}
		s.Process.User.Umask = ptr(uint32(0o27))
	}))
	process := func(script string) *specs.Process {
		return &specs.Process{Args: []string{"sh", "-c", script}, Cwd: "/bin", Env: []string{
			"PATH=/bin",
			"A=b",
		}}
	}
	w.execPrints(ExecOptions{Process: process(
		"pwd; echo $PATH $HOME $A; umask; ulimit -n; grep CapEff /proc/self/status; id -u")},
		"/bin\n/bin / b\n0027\n33\nCapEff:\t0000000000000421\n0\n")
	own := process("umask; ulimit -n; grep -E 'CapEff|CapInh|NoNew|Groups' /proc/self/status; id -u")
	own.Capabilities = &specs.LinuxCapabilities{
		Bounding:  []string{"CAP_KILL"},
		Effective: []string{"CAP_KILL"}, Permitted: []string{"CAP_KILL"},
	}
	own.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 20, Hard: 20}}
	own.NoNewPrivileges = true
	own.User = specs.User{UID: 0, GID: 9, AdditionalGids: []uint32{12}, Umask: ptr(uint32(0o77))}
	w.execPrints(ExecOptions{Process: own},
		"0077\n20\nGroups:\t12 \nCapInh:\t0000000000000000\nCapEff:\t0000000000000020\nNoNewPrivs:\t1\n0\n")
	for words, change := range map[string]func(*specs.Process){
		"process.args: found nothing": func(p *specs.Process) {
			p.Args = nil
		},
		`process.args[0]: found ""`: func(p *specs.Process) {
			p.Args = []string{""}
		},
		`exec: "": executable file not found in $PATH`: func(p *specs.Process) {
			p.Args = []string{""}
		},
		`process.cwd: found "dir"`: func(p *specs.Process) {
			p.Cwd = "dir"
		},
		"process.cwd: openat2: no such file or directory": func(p *specs.Process) {
			p.Cwd = "/none"
		},
		"process.user.uid: found 4294967295": func(p *specs.Process) {
			p.User.UID = 1<<32 - 1
		},
		"process.rlimits[0].type: found": func(p *specs.Process) {
			p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}}
		},
		`exec: "none": executable file not found in $PATH`: func(p *specs.Process) {
			p.Args = []string{"none"}
		},
		`exec: "/none": stat /none: no such file or directory`: func(p *specs.Process) {
			p.Args = []string{"/none"}
		},
		`exec: "/bin": is a directory`: func(p *specs.Process) {
			p.Args = []string{"/bin"}
		},
		`exec: "/etc-passwd": permission denied`: func(p *specs.Process) {
			p.Args = []string{"/etc-passwd"}
		},
		"process.terminal: found true; a detached container with a ter": func(p *specs.Process) {
			p.Terminal = true
		},
	} {
		w.write("/etc-passwd", "x", 0o644)
		p := process("true")
		change(p)
		w.execFails(ExecOptions{Process: p}, words)
	}
	unknown := process("grep CapEff /proc/self/status")
	unknown.Capabilities = &specs.LinuxCapabilities{Effective: []string{"CAP_NONE"}}
	w.warned = nil
	w.execPrints(ExecOptions{Process: unknown}, "CapEff:\t0000000000000000\n")
	if len(w.warned) != 1 || !strings.Contains(w.warned[0],
		`process.capabilities.effective[0]: found "CAP_NONE"`) {
		t.Errorf("warned: %q", w.warned)
	}
}

// TestExecOfUnmappedUser names the field.
func TestExecOfUnmappedUser(t *testing.T) {
	w := newWorld(t)
	w.start(w.sleeping(w.mapped))
	w.execFails(ExecOptions{Process: &specs.Process{
		Args: []string{"/bin/true"}, Cwd: "/",
		User: specs.User{UID: 70000},
	}},
		"process.user.uid: found 70000; allowed: an id that linux.uidMappings maps")
}

// TestExecStates: a created container takes a process, as runc's does; a stopped or paused one does
// not.
func TestExecStates(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	if _, err := w.rt.Exec(ctx, w.id, args("true")); !errors.Is(err, ErrNotExist) {
		t.Errorf("without a container: %v", err)
	}
	s := w.create(w.sleeping(nil))
	w.execPrints(args("/bin/sh", "-c", "pwd; echo $$"), "/\n2\n")
	if got := w.status(); got != string(specs.StateCreated) {
		t.Errorf("then its status is %s", got)
	}
	w.must(w.rt.Start(ctx, w.id))
	w.execPrints(args("/bin/sh", "-c", "cat /proc/1/comm"), "sleep\n")

	w.must(w.rt.Pause(ctx, w.id))
	if _, err := w.rt.Exec(ctx, w.id, args("true")); !errors.Is(err, ErrExecPaused) {
		t.Errorf("in a paused one: %v", err)
	}
	late := make(chan string)
	go func() {
		o := args("/bin/sh", "-c", "echo resumed")
		o.IgnorePaused = true
		// which is no limit here
		rt, err := New(filepath.Join(w.dir, "run"), WithDeadline(50*time.Millisecond))
		w.must(err)
		other := &world{t: t, dir: w.dir, rt: rt, id: w.id}
		out, _, err := other.tryExec(o)
		late <- fmt.Sprint(out, err)
	}()
	select {
	case out := <-late:
		t.Errorf("in a paused one it ran: %s", out)
	case <-time.After(100 * time.Millisecond):
	}
	w.must(w.rt.Resume(ctx, w.id))
	if out := <-late; out != "resumed\n<nil>" {
		t.Errorf("after it has been resumed: %s", out)
	}
	// Who gives up leaves nothing.
	w.must(w.rt.Pause(ctx, w.id))
	o := args("true")
	o.IgnorePaused = true
	short, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error)
	go func() { _, err := w.rt.Exec(short, w.id, o); done <- err }()
	others := func() []string {
		return slices.DeleteFunc(children(t), func(pid string) bool { return pid == strconv.Itoa(s.PID) })
	}
	w.await("its process", func() bool { return len(others()) == 1 })
	cancel()
	// On cgroup v1 what is frozen cannot be killed before it is resumed.
	w.await("its being killed", func() bool {
		return !slices.ContainsFunc(others(), func(pid string) bool { return !killed(pid) })
	})
	w.must(w.rt.Resume(ctx, w.id))
	if err := <-done; err == nil {
		t.Error("it ran after it had been given up")
	}

	w.must(w.rt.Kill(ctx, w.id, unix.SIGKILL, false))
	w.await("its end", func() bool { return w.status() == string(specs.StateStopped) })
	if _, err := w.rt.Exec(ctx, w.id, args("true")); !errors.Is(err, ErrExecStopped) {
		t.Errorf("in a stopped one: %v", err)
	}
	w.end(w.id, s.PID)
}

// killed reports whether SIGKILL was sent to a process, which has ended then or is frozen.
func killed(pid string) bool {
	status, err := os.ReadFile("/proc/" + pid + "/status")
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		pending, _ := strconv.ParseUint(value, 16, 64)
		if (key == "SigPnd" || key == "ShdPnd") && pending>>(unix.SIGKILL-1)&1 == 1 || key == "State" &&
			value[0] == 'Z' {
			return true
		}
	}
	return err != nil
}

// TestExecWithoutBundle: the bundle may change or go once the container is made.
func TestExecWithoutBundle(t *testing.T) {
	w := newWorld(t)
	w.start(w.sleeping(func(s *specs.Spec) { s.Process.Env = append(s.Process.Env, "A=first") }))
	w.save(w.sleeping(func(s *specs.Spec) {
		s.Process.Env, s.Process.NoNewPrivileges = append(s.Process.Env, "A=second"), false
	}))
	o := args("/bin/sh", "-c", "echo $A; grep NoNewPrivs /proc/self/status")
	w.execPrints(o, "first\nNoNewPrivs:\t1\n")
	w.must(os.Remove(filepath.Join(w.bundle(), "config.json")))
	w.execPrints(o, "first\nNoNewPrivs:\t1\n")
}

// TestExecIsHidden: CVE-2016-9962: until its execve the process holds resources of the runtime, in
// the container's pid namespace. The container's root sees neither its memory nor its descriptors
// nor its program.
func TestExecIsHidden(t *testing.T) {
	w := newWorld(t)
	first := w.start(w.sleeping(nil))
	x := &execution{session: w.rt.newSession(), id: w.id}
	defer x.end(nil)
	w.must(x.begin(background))
	defer x.child.Abandon()
	w.await("its namespaces", func() bool {
		its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", x.child.PID))
		w.must(err)
		containers, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", first.PID))
		w.must(err)
		return its == containers && statusLine(t, x.child.PID, "NoNewPrivs") == "1"
	})
	pids := strings.Fields(statusLine(t, x.child.PID, "NSpid"))
	pid := pids[len(pids)-1]
	script := `for f in exe cwd root fd/0 fd/1 fd/2 fd/9 fd/11; do readlink /proc/` + pid +
		`/$f > /dev/null && echo $f; done
for f in environ maps auxv mem; do dd if=/proc/` + pid + `/$f bs=1 count=0 2>/dev/null && echo $f; done
grep Name /proc/` + pid + `/status > /dev/null && echo seen`
	w.execPrints(args("/bin/sh", "-c", script), "seen\n")
	// And it holds no directory or file of the host but its program's standard streams and what it
	// waits on.
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", x.child.PID))
	w.must(err)
	for _, fd := range fds {
		n, err := strconv.Atoi(fd.Name())
		w.must(err)
		target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", x.child.PID, n))
		w.must(err)
		info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", x.child.PID, n))
		w.must(err)
		var flags uint64
		_, err = fmt.Sscanf(string(info[bytes.Index(info, []byte("flags:")):]), "flags: %o", &flags)
		w.must(err)
		if n > 2 && flags&unix.O_CLOEXEC == 0 {
			t.Errorf("descriptor %d, %s, is not close-on-exec", n, target)
		}
	}
}

// TestExecDescriptors: the program gets its standard streams and the preserved descriptors, and no
// other.
func TestExecDescriptors(t *testing.T) {
	w := newWorld(t)
	w.start(w.sleeping(nil))
	// 3 is the directory that the shell reads
	w.execPrints(args("/bin/sh", "-c", "for fd in /proc/self/fd/*; do echo ${fd##*/}; done"),
		"0\n1\n2\n3\n")
}

// TestExecWorkingDirectoryIsADescriptor: CVE-2024-21626.
func TestExecWorkingDirectoryIsADescriptor(t *testing.T) {
	w := newWorld(t)
	w.must(os.Symlink("/proc/self/fd/7", w.file("/cwd")))
	w.start(w.sleeping(nil))
	try := func(cwd string) {
		t.Helper()
		o := args("/bin/sh", "-c", "pwd; ls")
		change := o.Change
		o.Change = func(p *specs.Process) error { p.Cwd = cwd; return change(p) }
		w.execFails(o, "process.cwd: ")
	}
	for n := 3; n <= 64; n++ {
		try(fmt.Sprintf("/proc/self/fd/%d", n))
	}
	try("/proc/thread-self/fd/8")
	try("/cwd")
}

// TestExecHome: HOME is that of the user in the container's files as they are now; a hostile file
// hangs nothing.
func TestExecHome(t *testing.T) {
	w := newWorld(t)
	w.must(os.MkdirAll(w.file("/etc"), 0o755))
	w.start(w.sleeping(nil))
	home := func(uid uint32) ExecOptions {
		return ExecOptions{Process: &specs.Process{
			Args: []string{"/bin/sh", "-c", "echo $HOME"},
			Cwd:  "/", User: specs.User{UID: uid},
		}}
	}
	w.write("/etc/passwd", "root:x:0:0::/r:/bin/sh\nu:x:5:5::/home/u:/bin/sh\n", 0o644)
	w.execPrints(home(0), "/r\n")
	w.execPrints(home(5), "/home/u\n")
	w.execPrints(home(6), "/\n")
	for name, make := range map[string]func(path string) error{
		"fifo": func(path string) error { return unix.Mkfifo(path, 0o666) },
		"device": func(path string) error {
			return unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5)))
		},
		"sparse": func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o644), os.Truncate(path, 1<<40))
		},
		"outside": func(path string) error {
			file := filepath.Join(w.dir, "passwd")
			return errors.Join(os.WriteFile(file, []byte("root:x:0:0::/stolen:/bin/sh\n"), 0o644),
				os.Symlink("../../../../../../../../.."+file, path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w.must(os.Remove(w.file("/etc/passwd")))
			w.must(make(w.file("/etc/passwd")))
			w.execPrints(home(0), "/\n")
		})
	}
	w.execPrints(ExecOptions{Process: &specs.Process{
		Args: []string{"/bin/sh", "-c", "echo $HOME"},
		Cwd:  "/", Env: []string{"HOME=/own"},
	}}, "/own\n")
	w.execPrints(ExecOptions{Process: &specs.Process{
		Args: []string{"/bin/sh", "-c", "echo $HOME"},
		Cwd:  "/", Env: []string{"HOME="},
	}}, "/\n")
}

// TestExecTerminal has one of its own, whose master goes through the console socket, and leaves
// /dev/console to the first.
func TestExecTerminal(t *testing.T) {
	w := newWorld(t)
	w.start(w.sleeping(nil))
	socket := filepath.Join(w.dir, "s")
	listener, err := net.Listen("unix", socket)
	w.must(err)
	defer listener.Close()
	fds := received(t, listener)
	p, err := w.rt.Exec(background, w.id, ExecOptions{ConsoleSocket: socket, Process: &specs.Process{
		Args: []string{
			"/bin/sh", "-c",
			`tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all; stat -c %u /dev/pts/0; test -e /dev/console || echo none; read x; echo "got $x"`,
		},
		Cwd: "/", Env: []string{"PATH=/bin"}, Terminal: true, ConsoleSize: &specs.Box{
			Width:  91,
			Height: 37,
		}, User: specs.User{UID: 7, GID: 5},
	}})
	w.must(err)
	master := os.NewFile(uintptr(<-fds), "ptmx")
	defer master.Close()
	_, err = master.WriteString("input\n")
	w.must(err)
	out, _ := io.ReadAll(master) // EIO: the last process has gone
	if status := p.Wait(); status.ExitStatus() != 0 {
		t.Errorf("it ended with %d", status.ExitStatus())
	}
	for _, want := range []string{
		"/dev/pts/0\r\n", "37 91\r\n", "all\r\n", "\n7\r\n", "none\r\n",
		"got input\r\n",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("found %q; want it to have %q", out, want)
		}
	}
}

// TestExecReportsItsProcess: by a pid file and a pidfd, neither of which is left where it fails.
func TestExecReportsItsProcess(t *testing.T) {
	w := newWorld(t)
	w.start(w.sleeping(nil))
	socket, file := filepath.Join(w.dir, "s"), filepath.Join(w.dir, "pid")
	listener, err := net.Listen("unix", socket)
	w.must(err)
	defer listener.Close()
	fds := received(t, listener)
	p, err := w.rt.Exec(background, w.id, ExecOptions{PidFile: file, PidfdSocket: socket})
	w.must(err)
	data, err := os.ReadFile(file)
	w.must(err)
	if string(data) != strconv.Itoa(p.PID) {
		t.Errorf("the pid file has %q; want %d", data, p.PID)
	}
	fd := <-fds
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	w.must(err)
	if want := fmt.Sprintf("Pid:\t%d\n", p.PID); !strings.Contains(string(info), want) {
		t.Errorf("found %q; want it to have %q", info, want)
	}
	w.must(unix.Close(fd))
	p.Kill()

	failing := args("/none")
	failing.PidFile = file
	w.execFails(failing, "/none")
	lost := ExecOptions{PidFile: file, PidfdSocket: socket + "-none"}
	w.execFails(lost, "--pidfd-socket: ")
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pid file of a process that has failed: %v", err)
	}
	w.execFails(ExecOptions{PidFile: "/does/not/exist"}, "--pid-file: ")
}

// TestExecCgroup: a process may be put below the container's cgroup, and never beside or above it.
func TestExecCgroup(t *testing.T) {
	w := newWorld(t)
	w.start(w.sleeping(nil))
	var dirs []string
	for _, dir := range w.cgroupDirs() {
		w.must(os.Mkdir(filepath.Join(dir, "sub"), 0o755))
		dirs = append(dirs, filepath.Join(dir, "sub"))
		// on cgroup v1 empty at first (cpuset(7))
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if data, err := os.ReadFile(filepath.Join(dir, file)); err == nil && !unified() {
				w.must(os.WriteFile(filepath.Join(dir, "sub", file), data, 0))
			}
		}
	}
	in := func(o ExecOptions) (paths []string) {
		t.Helper()
		p, err := w.rt.Exec(background, w.id, o)
		w.must(err)
		defer p.Kill()
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.PID))
		w.must(err)
		for _, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
			parts := strings.SplitN(line, ":", 3)
			paths = append(paths, parts[1]+":"+parts[2])
		}
		return paths
	}
	for _, path := range in(ExecOptions{Cgroups: []string{"sub"}}) {
		if !strings.HasSuffix(path, ":"+w.cgroup+"/sub") {
			t.Errorf("with --cgroup sub it is in %s", path)
		}
	}
	if !unified() {
		for _, path := range in(ExecOptions{Cgroups: []string{"pids:/sub"}}) {
			want := ":" + w.cgroup
			if strings.HasPrefix(path, "pids:") {
				want += "/sub"
			}
			if !strings.HasSuffix(path, want) {
				t.Errorf("with --cgroup pids:/sub it is in %s", path)
			}
		}
	}
	// runc's #5457 (1.5.2): a cgroup beside the container's whose name begins with the container's.
	sibling := filepath.Base(w.cgroup) + "2"
	for _, dir := range w.cgroupDirs() {
		w.must(os.Mkdir(dir+"2", 0o755))
		dirs = append(dirs, dir+"2")
	}
	for _, c := range []struct {
		cgroups []string
		words   string
	}{
		{[]string{"../" + sibling}, "--cgroup: found ../" + sibling + ", which is not below"},
		{[]string{"/../" + sibling}, "--cgroup: found /../" + sibling + ", which is not below"},
		{[]string{"sub/../../" + sibling}, "which is not below"},
		{[]string{"pids:../" + sibling}, "--cgroup: found pids:../" + sibling + ", which is not below"},
		{[]string{"../x"}, "--cgroup: found ../x, which is not below"},
		{[]string{"/sub/../.."}, "--cgroup: found /sub/../.., which is not below"},
		{[]string{"none"}, "no such file or directory"},
		{[]string{"nosuch:sub"}, `no cgroup of a controller "nosuch"`},
		{[]string{":sub"}, ""},
		{[]string{"sub", "sub"}, "holds for all"},
	} {
		w.execFails(ExecOptions{Process: &specs.Process{Args: []string{"/bin/true"}, Cwd: "/"}, Cgroups: c.cgroups}, c.words)
	}
	for _, dir := range dirs {
		w.await("the end of what was in "+dir, func() bool {
			err := unix.Rmdir(dir)
			return err == nil || errors.Is(err, unix.ENOENT)
		})
	}
}

// TestExecBesideDomains: a container that has given its own cgroups controllers, as systemd does,
// can have no process beside them (cgroups(7)); a new one goes where the first is.
func TestExecBesideDomains(t *testing.T) {
	if !unified() {
		t.Skip("needs cgroup v2")
	}
	w := newWorld(t)
	s := w.start(w.sleeping(nil))
	top := filepath.Join("/sys/fs/cgroup", w.cgroup)
	w.must(os.Mkdir(filepath.Join(top, "init"), 0o755))
	w.must(os.WriteFile(filepath.Join(top, "init/cgroup.procs"), []byte(strconv.Itoa(s.PID)), 0))
	w.must(os.WriteFile(filepath.Join(top, "cgroup.subtree_control"), []byte("+pids"), 0))
	w.execPrints(args("/bin/sh", "-c", "cat /proc/self/cgroup"), "0::/init\n")
	w.execFails(ExecOptions{Cgroups: []string{"/"}}, "device or resource busy")
}

// TestExecCPUAffinity: config.md, execCPUAffinity; the container does not inherit the caller's
// processors.
func TestExecCPUAffinity(t *testing.T) {
	w := newWorld(t)
	s := w.start(w.sleeping(nil))
	allowed := statusLine(t, s.PID, "Cpus_allowed_list")
	var all unix.CPUSet
	w.must(unix.SchedGetaffinity(s.PID, &all))
	last := -1
	for n := range 1024 {
		if all.IsSet(n) {
			last = n
		}
	}
	cpu := strconv.Itoa(last)
	affinity := func(a *specs.CPUAffinity) ExecOptions {
		o := args("/bin/sh", "-c", "grep Cpus_allowed_list /proc/self/status | cut -f 2")
		change := o.Change
		o.Change = func(p *specs.Process) error { p.ExecCPUAffinity = a; return change(p) }
		return o
	}
	w.execPrints(affinity(&specs.CPUAffinity{Initial: cpu}), allowed+"\n")
	w.execPrints(affinity(&specs.CPUAffinity{Final: cpu}), cpu+"\n")
	w.execPrints(affinity(&specs.CPUAffinity{Initial: "0-8000", Final: cpu + "-8000,8191"}), cpu+"\n")
	w.execFails(affinity(&specs.CPUAffinity{Initial: "8000"}),
		"process.execCPUAffinity.initial: found 8000: sched_setaffinity: invalid argument")
	w.execFails(affinity(&specs.CPUAffinity{Final: "8000"}),
		"process.execCPUAffinity.final: sched_setaffinity: invalid argument")
	boundTo(t, last, func() { w.execPrints(affinity(nil), allowed+"\n") })
}

// boundTo calls f on a thread that runs on one processor alone.
func boundTo(t *testing.T, cpu int, f func()) {
	var one unix.CPUSet
	one.Set(cpu)
	done := make(chan struct{})
	onThread(func() {
		defer close(done)
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			t.Error(err)
		}
		f()
	})
	<-done
}

// TestCallersProcessors: the container does not inherit the runtime's processors.
func TestCallersProcessors(t *testing.T) {
	w := newWorld(t)
	spec := w.sh("grep Cpus_allowed_list /proc/self/status | cut -f 2")
	free := w.run(spec)
	var all unix.CPUSet
	w.must(unix.SchedGetaffinity(0, &all))
	for cpu := range 1024 {
		if all.IsSet(cpu) {
			boundTo(t, cpu, func() { w.prints(spec, free) })
			return
		}
	}
}
