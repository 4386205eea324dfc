// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// BuildExec builds the plan of a process that joins a container, from the container's document with
// process replaced by the new one. The child needs InputContainer. It fails with *Unsupported where
// a field cannot be honoured.
func BuildExec(spec *specs.Spec, host Host, o Options) (*Plan, error) {
	c := &container{builder: newBuilder(64), spec: spec, host: host, opts: o}
	return c.build(
		c.refuse,
		c.undumpable,
		c.joinCgroups,
		c.cpuAffinity,
		c.labels,
		c.joinContainer,
		c.session,
		c.terminal,
		c.workingDirectory,
		c.verifyWorkingDirectory,
		c.process,
	)
}

// anyCPU lets the process run on all processors that its cgroup allows: what the runtime itself is
// bound to is no concern of the container's, and since Linux 6.2 a process keeps that when it joins
// a cgroup (user_cpus_ptr in kernel/sched/core.c).
func (c *container) anyCPU() error {
	c.at("linux.resources.cpu.cpus")
	c.setAffinity(everyCPU(), "all")
	return nil
}

func (c *container) setAffinity(mask []byte, list string) {
	c.call(unix.SYS_SCHED_SETAFFINITY, num(0), num(len(mask)), structArg(mask, "{"+list+"}"))
}

// cpuAffinity sets the processors of the parent until the process is in its cgroup, and those of
// the process from then on (config.md, execCPUAffinity).
func (c *container) cpuAffinity() error {
	a := c.spec.Process.ExecCPUAffinity
	if a == nil {
		return c.anyCPU()
	}
	if a.Initial != "" {
		mask, err := bitMask(a.Initial, MaxCPUs)
		if err != nil {
			return c.fieldError("process.execCPUAffinity.initial", a.Initial, "%s", err)
		}
		c.plan.CPUs = CPUSet{a.Initial, mask}
	}
	if a.Final == "" {
		return c.anyCPU()
	}
	mask, err := bitMask(a.Final, MaxCPUs)
	if err != nil {
		return c.fieldError("process.execCPUAffinity.final", a.Final, "%s", err)
	}
	c.at("process.execCPUAffinity.final")
	c.setAffinity(mask, a.Final)
	return nil
}

// MaxCPUs is the largest NR_CPUS of any architecture (CONFIG_NR_CPUS of the kernel's x86 with
// MAXSMP).
const MaxCPUs = 8192

func everyCPU() []byte {
	mask := make([]byte, MaxCPUs/8)
	for i := range mask {
		mask[i] = math.MaxUint8
	}
	return mask
}

// bitMask turns a list such as "0-3,7" (cpuset(7)) into the argument of sched_setaffinity(2) and
// set_mempolicy(2): bits of unsigned longs, limit of them.
func bitMask(list string, limit uint64) ([]byte, error) {
	const word = 64
	mask := make([]byte, limit/8)
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err := strconv.ParseUint(strings.TrimSpace(first), 10, 16)
		if err != nil {
			return nil, errors.New("a list of numbers such as 0-3,7 is allowed")
		}
		to, err := strconv.ParseUint(strings.TrimSpace(last), 10, 16)
		if err != nil || to < from || to >= limit {
			return nil, fmt.Errorf("a list of numbers such as 0-3,7, each below %d, is allowed", limit)
		}
		for n := from; n <= to; n++ {
			at := mask[n/word*8:]
			binary.NativeEndian.PutUint64(at, binary.NativeEndian.Uint64(at)|1<<(n%word))
		}
	}
	return mask, nil
}

// joinContainer enters the container's namespaces and opens its root.
func (c *container) joinContainer() error {
	var root Reg
	if !c.hasNamespace(specs.MountNamespace) {
		c.at("root.path")
		root = c.openat2(cwd(), c.opts.Rootfs, unix.O_PATH|unix.O_DIRECTORY, 0).out()
	}
	if err := c.joinNamespaces(); err != nil {
		return err
	}
	c.at("root.path")
	if root != 0 {
		// The root in the host's mount namespace is the host's.
		c.call(unix.SYS_FCHDIR, regArg(root))
		c.call(unix.SYS_CHROOT, text("."))
		c.close(root)
	}
	c.rootFD = c.openat2(cwd(), "/", unix.O_PATH|unix.O_DIRECTORY, 0).out()
	return nil
}

// joinNamespaces enters the namespaces of the container's first process: all by one call, which
// checks the right to each before it enters any (setns(2)), but for the pid namespace of one
// without a user namespace, which the parent enters for the length of the fork. With the mount
// namespace the root and the working directory become the container's.
func (c *container) joinNamespaces() error {
	c.at("linux.namespaces")
	var join uint64
	for i, n := range c.spec.Linux.Namespaces {
		flag := cloneFlag(n.Type)
		switch {
		case flag == 0:
			return &Unsupported{
				Path: fmt.Sprintf("linux.namespaces[%d].type", i), Found: string(n.Type),
				Reason: "unknown type",
			}
		case n.Type == specs.PIDNamespace && !c.inUserNamespace():
			c.plan.JoinPIDs = true
		default:
			join |= flag
		}
	}
	if join != 0 {
		c.call(unix.SYS_SETNS, input(InputContainer), flags(join, cloneNames))
	}
	if c.inUserNamespace() {
		// It may be the user namespace alone that gives the right to join the pid namespace, which
		// is then its children's; and in one, the parent could not come back from it.
		c.fork(0)
	}
	if c.hasNamespace(specs.UserNamespace) {
		c.call(unix.SYS_SETRESGID, num(0), num(0), num(0))
		c.call(unix.SYS_SETRESUID, num(0), num(0), num(0))
	}
	return nil
}

// terminal creates a terminal for this process only: /dev/console stays the first process's.
func (c *container) terminal() error {
	if c.spec.Process.Terminal {
		c.sendTerminal(c.openTerminal())
	}
	return nil
}

// verifyWorkingDirectory fails with ENOENT if the working directory does not lie below the root:
// its path then begins with "(unreachable)" (getcwd(2)). CVE-2024-21626 led to such a directory.
func (c *container) verifyWorkingDirectory() error {
	path := make([]byte, unix.PathMax)
	c.call(unix.SYS_GETCWD, structArg(path, "cwd"), num(len(path)))
	first := func(b byte) uint32 { return binary.NativeEndian.Uint32([]byte{b, 0, 0, 0}) }
	c.call(OpExpect, structArg(path[:4], "cwd"), flags(first(math.MaxUint8), hexNames),
		flags(first('/'), hexNames), flags(uint(unix.ENOENT), errnoNames))
	return nil
}
