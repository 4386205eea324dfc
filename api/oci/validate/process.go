// SPDX-License-Identifier: Apache-2.0

package validate

import (
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// process checks the container's process (config.md, "Process").
func (c *checker) process() {
	if c.spec.Process == nil {
		// "This property is REQUIRED when start is called", not before.
		c.warn("process", nothing,
			"an object, without which the container can be created but not started")
		return
	}
	c.processAt("process.", c.spec.Process)
}

// processAt checks a process; prefix precedes its fields' names.
func (c *checker) processAt(prefix string, p *specs.Process) {
	if p.ConsoleSize != nil && !p.Terminal {
		// "Runtimes MUST ignore consoleSize if terminal is false or unset."
		c.warn(prefix+"consoleSize", "a size", "nothing, unless terminal is true: it is ignored")
	} else if s := p.ConsoleSize; s != nil {
		// struct winsize of ioctl_tty(2) has 16 bits for each.
		if s.Height > 1<<16-1 {
			c.err(prefix+"consoleSize.height", unsigned(s.Height), "0 to 65535")
		}
		if s.Width > 1<<16-1 {
			c.err(prefix+"consoleSize.width", unsigned(s.Width), "0 to 65535")
		}
	}
	c.absolute(prefix+"cwd", p.Cwd, inContainer)
	c.env(prefix+"env", p.Env)
	switch {
	case len(p.Args) == 0:
		c.err(prefix+"args", nothing, "at least one entry, the program to run")
	case p.Args[0] == "":
		c.err(prefix+"args[0]", `""`, "the program to run")
	}
	c.texts(prefix+"args", p.Args)
	if p.CommandLine != "" {
		c.err(prefix+"commandLine", quote(p.CommandLine), "nothing: it is for windows; on linux use args")
	}
	c.user(prefix+"user", &p.User)
	if p.Capabilities != nil {
		c.capabilities(prefix+"capabilities", p.Capabilities)
	}
	c.rlimits(prefix+"rlimits", p.Rlimits)
	if p.OOMScoreAdj != nil && (*p.OOMScoreAdj < -1000 || *p.OOMScoreAdj > 1000) {
		c.err(prefix+"oomScoreAdj", decimal(*p.OOMScoreAdj), "-1000 to 1000")
	}
	c.label(prefix+"apparmorProfile", p.ApparmorProfile)
	c.label(prefix+"selinuxLabel", p.SelinuxLabel)
	if p.Scheduler != nil {
		c.scheduler(prefix+"scheduler", p.Scheduler)
	}
	if p.IOPriority != nil {
		c.ioPriority(prefix+"ioPriority", p.IOPriority)
	}
	if p.ExecCPUAffinity != nil {
		c.list(prefix+"execCPUAffinity.initial", p.ExecCPUAffinity.Initial)
		c.list(prefix+"execCPUAffinity.final", p.ExecCPUAffinity.Final)
	}
}

// env checks an environment: the semantics are those of POSIX's environ, whose
// strings "have the form name=value". A name may come twice: the last one
// holds.
func (c *checker) env(path string, env []string) {
	for i, e := range env {
		if strings.IndexByte(e, '=') <= 0 || hasNUL(e) {
			c.err(at(path, i), quote(e), `NAME=value, with a name and without NUL bytes`)
		}
	}
}

// label checks a name that is written to a file of /proc/self/attr.
func (c *checker) label(path, s string) {
	if strings.ContainsAny(s, "\x00\n") {
		c.err(path, quote(s), "a label without NUL bytes and newlines")
	}
}

// maxGroups is NGROUPS_MAX of the kernel: the greatest number of groups for setgroups(2).
const maxGroups = 65536

// noID is (uid_t)-1, which setuid(2) and chown(2) do not take for an id.
const noID = 1<<32 - 1

// user checks the user of the process (config.md, "POSIX-platform User").
func (c *checker) user(path string, u *specs.User) {
	c.id(path+".uid", u.UID, "uid", c.linux.UIDMappings)
	c.id(path+".gid", u.GID, "gid", c.linux.GIDMappings)
	if len(u.AdditionalGids) > maxGroups {
		c.err(path+".additionalGids", decimal(len(u.AdditionalGids))+" groups", "at most 65536")
	} else {
		for i, gid := range u.AdditionalGids {
			if !c.validID(gid, c.linux.GIDMappings) {
				c.id(at(path+".additionalGids", i), gid, "gid", c.linux.GIDMappings)
			}
		}
	}
	if u.Umask != nil && *u.Umask > 0o777 {
		c.err(path+".umask", unsigned(*u.Umask), "0 to 511 (octal 0777)")
	}
	if u.Username != "" {
		c.warn(path+".username", quote(u.Username),
			"nothing: it is for windows and ignored on linux; use uid and gid")
	}
}

// id records an error unless the container can have the id.
func (c *checker) id(path string, id uint32, kind string, mappings []specs.LinuxIDMapping) {
	switch {
	case c.validID(id, mappings):
	case id == noID:
		c.err(path, unsigned(id), "0 to 4294967294")
	default:
		c.err(path, unsigned(id), "an id that linux."+kind+
			"Mappings maps, since the container has a user namespace")
	}
}

func (c *checker) validID(id uint32, mappings []specs.LinuxIDMapping) bool {
	if id == noID {
		return false
	}
	// Without mappings, or with too many, the fault is theirs.
	return !c.fresh.contains(specs.UserNamespace) || len(mappings) == 0 ||
		len(mappings) > maxMappings || mapped(mappings, id)
}

// rlimits checks process.rlimits (config.md, "POSIX process").
func (c *checker) rlimits(path string, limits []specs.POSIXRlimit) {
	var seen uint32
	for i := range limits {
		l := &limits[i]
		bit := rlimitBit(l.Type)
		switch {
		case bit == 0:
			c.err(at(path, i)+".type", quoteOrNothing(l.Type), "a resource of getrlimit(2): "+
				"RLIMIT_AS, CORE, CPU, DATA, FSIZE, LOCKS, MEMLOCK, MSGQUEUE, NICE, NOFILE, NPROC, RSS, RTPRIO, RTTIME, SIGPENDING or STACK, each with RLIMIT_")
		case seen&bit != 0:
			c.err(at(path, i)+".type", quote(l.Type)+" again", "each type at most once")
		}
		seen |= bit
		if l.Soft > l.Hard {
			c.err(at(path, i)+".soft", unsigned(l.Soft), "at most the hard limit, "+unsigned(l.Hard))
		}
	}
}

// rlimitBit returns the bit of a resource of getrlimit(2), by its number, or 0.
func rlimitBit(name string) uint32 {
	switch name {
	case "RLIMIT_CPU":
		return 1 << 0
	case "RLIMIT_FSIZE":
		return 1 << 1
	case "RLIMIT_DATA":
		return 1 << 2
	case "RLIMIT_STACK":
		return 1 << 3
	case "RLIMIT_CORE":
		return 1 << 4
	case "RLIMIT_RSS":
		return 1 << 5
	case "RLIMIT_NPROC":
		return 1 << 6
	case "RLIMIT_NOFILE":
		return 1 << 7
	case "RLIMIT_MEMLOCK":
		return 1 << 8
	case "RLIMIT_AS":
		return 1 << 9
	case "RLIMIT_LOCKS":
		return 1 << 10
	case "RLIMIT_SIGPENDING":
		return 1 << 11
	case "RLIMIT_MSGQUEUE":
		return 1 << 12
	case "RLIMIT_NICE":
		return 1 << 13
	case "RLIMIT_RTPRIO":
		return 1 << 14
	case "RLIMIT_RTTIME":
		return 1 << 15
	}
	return 0
}

// ioPriority checks process.ioPriority (config.md, "Linux Process";
// ioprio_set(2)).
func (c *checker) ioPriority(path string, p *specs.LinuxIOPriority) {
	switch p.Class {
	case specs.IOPRIO_CLASS_RT, specs.IOPRIO_CLASS_BE, specs.IOPRIO_CLASS_IDLE:
	default:
		c.err(path+".class", quoteOrNothing(string(p.Class)),
			"one of IOPRIO_CLASS_RT, IOPRIO_CLASS_BE, IOPRIO_CLASS_IDLE")
	}
	if p.Priority < 0 || p.Priority > 7 {
		c.err(path+".priority", decimal(p.Priority), "0 to 7")
	}
}
