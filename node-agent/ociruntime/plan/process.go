// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"path"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// rlimits of getrlimit(2) by the names of the spec.
var rlimitNumbers = [...]struct {
	name string
	n    int
}{
	{"RLIMIT_CPU", unix.RLIMIT_CPU},
	{"RLIMIT_FSIZE", unix.RLIMIT_FSIZE},
	{"RLIMIT_DATA", unix.RLIMIT_DATA},
	{"RLIMIT_STACK", unix.RLIMIT_STACK},
	{"RLIMIT_CORE", unix.RLIMIT_CORE},
	{"RLIMIT_RSS", unix.RLIMIT_RSS},
	{"RLIMIT_NPROC", unix.RLIMIT_NPROC},
	{"RLIMIT_NOFILE", unix.RLIMIT_NOFILE},
	{"RLIMIT_MEMLOCK", unix.RLIMIT_MEMLOCK},
	{"RLIMIT_AS", unix.RLIMIT_AS},
	{"RLIMIT_LOCKS", unix.RLIMIT_LOCKS},
	{"RLIMIT_SIGPENDING", unix.RLIMIT_SIGPENDING},
	{"RLIMIT_MSGQUEUE", unix.RLIMIT_MSGQUEUE},
	{"RLIMIT_NICE", unix.RLIMIT_NICE},
	{"RLIMIT_RTPRIO", unix.RLIMIT_RTPRIO},
	{"RLIMIT_RTTIME", unix.RLIMIT_RTTIME},
}

// RlimitNumber returns the resource of getrlimit(2) by the spec's name for it.
func RlimitNumber(name string) (int, bool) {
	for _, r := range rlimitNumbers {
		if r.name == name {
			return r.n, true
		}
	}
	return 0, false
}

func rlimitName(n int) string {
	for _, r := range rlimitNumbers {
		if r.n == n {
			return r.name
		}
	}
	return strconv.Itoa(n)
}

// limits sets the resource limits. It comes late, so that a small one of address space or files
// does not stop the plan itself.
func (c *container) limits() error {
	if c.spec.Linux.Personality != nil {
		c.at("linux.personality.domain")
		switch c.spec.Linux.Personality.Domain {
		case specs.PerLinux:
			c.call(unix.SYS_PERSONALITY, num(0))
		case specs.PerLinux32:
			c.call(unix.SYS_PERSONALITY, num(8)) // PER_LINUX32, linux/personality.h
		default:
			return c.fieldError("linux.personality.domain", string(c.spec.Linux.Personality.Domain),
				"allowed are LINUX, LINUX32")
		}
	}
	noFile := false
	for i, r := range c.spec.Process.Rlimits {
		c.atIndex("process.rlimits", i, r.Type)
		number, ok := RlimitNumber(r.Type)
		if !ok {
			return c.fieldError("process.rlimits["+strconv.Itoa(i)+"].type", r.Type, "unknown limit")
		}
		noFile = noFile || number == unix.RLIMIT_NOFILE
		limit := unix.Rlimit{Cur: r.Soft, Max: r.Hard}
		c.prlimit(number, &limit)
	}
	if d := c.opts.DefaultNoFile; d != nil && !noFile {
		c.at("process.rlimits (default)")
		c.prlimit(unix.RLIMIT_NOFILE, d)
	}
	return nil
}

func (c *container) prlimit(number int, limit *unix.Rlimit) {
	c.call(unix.SYS_PRLIMIT64, num(0), flags(uint(number), rlimitNames),
		structArg(native(limit), "{soft="+strconv.FormatUint(limit.Cur, 10)+", hard="+
			strconv.FormatUint(limit.Max, 10)+"}"), noPointer())
}

// standardStreams puts the process's descriptors where it expects them and marks all others
// close-on-exec, but for the first PreserveFDs above them, which are where they are to be already.
func (c *container) standardStreams() error {
	c.at("process")
	if c.tty != 0 {
		for fd := range 3 {
			c.dup3(regArg(c.tty), num(fd), 0)
		}
	} else {
		for fd, in := range []Input{InputStdin, InputStdout, InputStderr} {
			c.dup3(input(in), num(fd), 0)
		}
		c.ownNull()
	}
	c.call(unix.SYS_CLOSE_RANGE, num(3+c.opts.PreserveFDs), num(^uint32(0)),
		num(uint(unix.CLOSE_RANGE_CLOEXEC)))
	return nil
}

// ownNull gives a process whose stream is the host's /dev/null the container's in its place: a file
// of no mount of the container's shows it one of the host's, and criu(8) cannot write down what it
// cannot name. An image without a null device keeps the host's.
func (c *container) ownNull() {
	if len(c.opts.NullStreams) == 0 {
		return
	}
	none := c.label()
	const resolve = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS
	at := c.openat2(regArg(c.rootFD), "dev/null", unix.O_PATH, resolve).tolerate(unix.ENOENT,
		unix.ENOTDIR, unix.ELOOP).orElse(none).out()
	for _, check := range c.expectNode(regArg(at), "", unix.S_IFCHR, 1, 3) {
		check.tolerate(unix.EEXIST).orElse(none)
	}
	null := c.openat2(regArg(c.rootFD), "dev/null", unix.O_RDWR|unix.O_NOCTTY,
		resolve).tolerate(unix.EACCES, unix.EPERM, unix.ENOENT).orElse(none).out()
	for _, fd := range c.opts.NullStreams {
		c.dup3(regArg(null), num(fd), 0)
	}
	c.mark(none)
}

func (c *container) seccomp() {
	f := c.opts.Seccomp
	if f == nil {
		return
	}
	c.at("linux.seccomp")
	prog := &unix.SockFprog{Len: uint16(len(f.Program))}
	filter := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(f.Program))),
		len(f.Program)*unix.SizeofSockFilter)
	// For a plain user the kernel lets the parent fetch a listener only from a child that is
	// dumpable (ptrace(2), PTRACE_MODE_ATTACH).
	early := f.Notify && c.host.PlainUser && !c.spec.Process.NoNewPrivileges
	if f.Notify && c.host.PlainUser {
		c.prctl(unix.PR_SET_DUMPABLE, num(1))
	}
	load := c.call(unix.SYS_SECCOMP, num(uint(unix.SECCOMP_SET_MODE_FILTER)), num(f.Flags),
		pointingArg(native(prog), "{"+strconv.Itoa(len(f.Program))+" instructions}",
			Pointer{unsafe.Offsetof(prog.Filter), structArg(filter, "")}))
	if !f.Notify {
		return
	}
	// The parent fetches the listener (pidfd_getfd(2)) and sends it on, since the filter need not
	// let the child do so. What the child keeps of it would have a notified call wait for good
	// where the agent is gone.
	c.at("linux.seccomp.listenerPath")
	listener := load.out()
	c.syncWith(SyncSeccomp, listener)
	c.close(listener).tolerate(unix.EPERM, unix.EACCES, unix.ENOSYS)
	if early {
		// Where the filter comes last it need not allow this call, and execve is next.
		c.prctl(unix.PR_SET_DUMPABLE, num(0)).tolerate(unix.EPERM, unix.EACCES, unix.ENOSYS)
	}
}

// environment returns process.env without what a later entry of the same name overrides, since
// programs look for the first (getenv(3)), and with HOME, which programs expect and the document
// may leave out or empty.
func (c *container) environment() []string {
	env := c.spec.Process.Env
	seen := make(map[string]bool, len(env)+1)
	out := make([]string, 0, len(env)+1)
	if c.opts.Home != "" && !HasHome(env) {
		seen["HOME"] = true
		out = append(out, "HOME="+c.opts.Home)
	}
	for _, e := range slices.Backward(env) {
		if name, _, _ := strings.Cut(e, "="); !seen[name] {
			seen[name] = true
			out = append(out, e)
		}
	}
	slices.Reverse(out)
	return out
}

// HasHome reports whether an environment says where the user's home is: not where its last word on
// it is nothing.
func HasHome(env []string) bool {
	for _, e := range slices.Backward(env) {
		if value, ok := strings.CutPrefix(e, "HOME="); ok {
			return value != ""
		}
	}
	return false
}

// candidates returns the paths at which args[0] is looked for: itself where it has a slash, else
// below each directory of PATH, as execvp(3) does.
func candidates(arg0 string, env []string) []string {
	if strings.Contains(arg0, "/") {
		return []string{arg0}
	}
	var out []string
	for _, e := range env {
		if dirs, found := strings.CutPrefix(e, "PATH="); found {
			out = nil
			for _, dir := range strings.Split(dirs, ":") {
				if dir == "" {
					dir = "."
				}
				out = append(out, path.Join(dir, arg0))
			}
		}
	}
	return out
}

// exec finds the program, says that the container is ready, waits to be started and becomes the
// program.
func (c *container) exec() error {
	p := c.spec.Process
	env := c.environment()
	c.at("process.args")
	if c.opts.NoProgram {
		c.waitForever()
		return nil
	}
	if len(p.Args) == 0 {
		return c.fieldError("process.args", "none", "a process needs one")
	}
	paths := candidates(p.Args[0], env)
	if c.opts.Program != "" {
		paths = []string{c.opts.Program}
	}
	if len(paths) == 0 {
		return &NotFound{Program: p.Args[0]}
	}
	program := c.findProgram(paths)
	c.awaitStart()
	c.at("process.args")
	c.call(unix.SYS_EXECVE, regArg(program), list(p.Args), list(env))
	return nil
}

// findProgram looks for the first of paths that can be executed, and returns the register that gets
// it.
func (c *container) findProgram(paths []string) Reg {
	found := c.label()
	program := c.reg()
	for i, candidate := range paths {
		next := c.label()
		executable := c.label()
		missing := []unix.Errno{unix.ENOENT, unix.ENOTDIR, unix.EACCES, unix.ELOOP}
		access := c.call(unix.SYS_FACCESSAT, cwd(), text(candidate),
			flags(uint(unix.X_OK), accessNames)).tolerate(unix.EACCES).then(executable)
		// That counts no capability of who is not root (access(2)); execve(2) does. The container's
		// filter may not know the newer call.
		effective := c.call(unix.SYS_FACCESSAT2, cwd(), text(candidate),
			flags(uint(unix.X_OK), accessNames), flags(uint(unix.AT_EACCESS), accessFlagNames))
		last := i == len(paths)-1
		if !last {
			access.tolerate(missing...)
			effective.tolerate(missing...).tolerate(unix.EPERM, unix.ENOSYS).orElse(next)
		} else {
			effective.tolerate(unix.EPERM, unix.ENOSYS)
		}
		c.mark(executable)
		// A directory passes for executable; only one has a ".".
		folder := c.call(unix.SYS_FACCESSAT, cwd(), text(candidate+"/."),
			flags(uint(unix.F_OK), accessNames))
		if last {
			folder.must(unix.ENOTDIR, unix.EISDIR)
		} else {
			folder.tolerate(unix.ENOTDIR, unix.EACCES).then(next)
		}
		c.set(program, text(candidate))
		if !last {
			c.goTo(found)
		}
		c.mark(next)
	}
	c.mark(found)
	return program
}

// awaitStart reports that the container is created and waits for the start, and loads the seccomp
// filter before or after.
func (c *container) awaitStart() {
	// A listener has to reach the parent while there is one: before the container is created.
	late := c.spec.Process.NoNewPrivileges
	h := c.spec.Hooks
	startHooks := c.opts.StartHooks && h != nil && len(h.StartContainer) > 0
	// So has one that startContainer hooks and exec have to be able to join, before they are there:
	// they can look into it.
	joined := (c.opts.Result || startHooks) && c.closedToItsUser()
	if joined {
		c.at("process")
		c.prctl(unix.PR_SET_DUMPABLE, num(1))
	}
	if f := c.opts.Seccomp; late && f != nil && (f.Notify || joined) {
		c.seccomp()
		late = false
	}
	c.at("process")
	switch {
	case c.opts.Result:
		c.report(SyncReady)
		c.call(OpReport, input(InputResult))
	case startHooks:
		c.at("hooks.startContainer")
		c.sync(SyncStart)
		c.at("process")
	}
	c.call(unix.SYS_READ, input(InputStart), structArg(make([]byte, 1), "{}"), num(1))
	if c.opts.Result {
		c.report(SyncExec)
	}
	if late {
		c.seccomp()
	}
}

// waitForever ends the plan of a container without a program: the child reports that it is ready
// and waits for ever.
func (c *container) waitForever() {
	if c.opts.Result {
		c.report(SyncReady)
		c.call(OpReport, input(InputResult))
	}
	c.call(unix.SYS_READ, input(InputStart), structArg(make([]byte, 1), "{}"), num(1))
	c.call(unix.SYS_EXIT_GROUP, num(1))
}

// NotFound is the error of Build where args[0] has no slash and process.env no PATH.
type NotFound struct{ Program string }

// Error has the words that clients of runc look for.
func (e *NotFound) Error() string {
	return "exec: " + strconv.Quote(e.Program) + ": executable file not found in $PATH"
}
