// SPDX-License-Identifier: Apache-2.0

package plan

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// BuildHook builds the plan of a hook that runs in the runtime's namespaces. Its working directory
// is the bundle.
func BuildHook(h specs.Hook, f Field, o Options) *Plan {
	c := &container{builder: newBuilder(64), opts: o}
	c.field = f
	c.hookProcess(o.Bundle)
	c.call(unix.SYS_EXECVE, text(h.Path), list(hookArgs(h)), list(hookEnv(h, o)))
	return &c.plan
}

// BuildCreateContainerHook builds the plan of a hook that runs in the container's namespaces before
// the root changes, but whose program is the runtime's (config.md, CreateContainer Hooks): the
// child needs InputContainer, and InputProgram from the runtime's mount namespace. Its working
// directory is the root filesystem, as with runc; it has the privileges of the runtime, and those
// of root in a user namespace.
func BuildCreateContainerHook(spec *specs.Spec, h specs.Hook, f Field, o Options) (*Plan, error) {
	c := &container{builder: newBuilder(64), spec: spec, opts: o}
	if err := c.stages(c.undumpable, c.joinCgroups, c.joinNamespaces); err != nil {
		return nil, err
	}
	c.field = f
	c.hookProcess(o.Rootfs)
	execveat := func() stepRef {
		return c.call(unix.SYS_EXECVEAT, input(InputProgram), text(""), list(hookArgs(h)),
			list(hookEnv(h, o)), flags(uint(unix.AT_EMPTY_PATH), atNames))
	}
	// A script fails with ENOENT, since its interpreter could not open a descriptor that is closed
	// (execveat(2), BUGS).
	execveat().tolerate(unix.ENOENT)
	if c.ownMounts() {
		// The root is still the runtime's, and so is the path; this way the script knows its name.
		c.call(unix.SYS_EXECVE, text(h.Path), list(hookArgs(h)), list(hookEnv(h, o)))
		return &c.plan, nil
	}
	c.call(unix.SYS_FCNTL, input(InputProgram), num(uint(unix.F_SETFD)), num(0))
	execveat()
	return &c.plan, nil
}

// ownMounts reports whether the container has a new mount namespace, and not one that it has joined
// by a path.
func (c *container) ownMounts() bool {
	for _, n := range c.spec.Linux.Namespaces {
		if n.Type == specs.MountNamespace {
			return n.Path == ""
		}
	}
	return false
}

// hookArgs returns the arguments of a hook, or its path if the document has none.
func hookArgs(h specs.Hook) []string {
	if len(h.Args) > 0 {
		return h.Args
	}
	return []string{h.Path}
}

// hookEnv returns the environment of a hook outside of the container, or the runtime's if the
// document has none, as with runc and crun. The specification refers to execv(3), which keeps the
// caller's, and hooks of engines depend on its PATH and XDG_RUNTIME_DIR.
func hookEnv(h specs.Hook, o Options) []string {
	if len(h.Env) > 0 {
		return h.Env
	}
	return o.Environment
}

// hookProcess makes the child a session of its own, so that all of a hook can be ended, and gives
// it its streams and the limit of files that the runtime was started with.
func (c *container) hookProcess(dir string) {
	c.call(unix.SYS_SETSID)
	c.call(unix.SYS_CHDIR, text(dir))
	for fd, in := range []Input{InputStdin, InputStdout, InputStderr} {
		c.dup3(input(in), num(fd), 0)
	}
	c.call(unix.SYS_CLOSE_RANGE, num(3), num(^uint32(0)), num(uint(unix.CLOSE_RANGE_CLOEXEC)))
	if d := c.opts.DefaultNoFile; d != nil {
		c.prlimit(unix.RLIMIT_NOFILE, d)
	}
}
