// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/oci/capability"
)

// names describes how a number is printed: as one of a list, as a set of flags, or by a function.
type names struct {
	render func(uintptr) string
	memory func([]byte) string
}

type bit struct {
	mask uintptr
	name string
}

// The tables are functions of nothing but the kernel's headers. They are built when first printed
// from, so that a launch does not pay for them.
var (
	pointerNames = &names{render: func(v uintptr) string {
		if v == 0 {
			return "NULL"
		}
		return strconv.FormatUint(uint64(v), 16)
	}}
	dirfdNames = &names{render: func(uintptr) string { return "AT_FDCWD" }}
	modeNames  = &names{render: printMode}
	devNames   = &names{render: func(v uintptr) string {
		return fmt.Sprintf("%d:%d", unix.Major(uint64(v)), unix.Minor(uint64(v)))
	}}
	openNames   = &names{render: func(v uintptr) string { return printBits(uint64(v), openBits()) }}
	atNames     = &names{render: func(v uintptr) string { return printBits(uint64(v), atBits()) }}
	attrNames   = &names{render: func(v uintptr) string { return printBits(uint64(v), attrBits()) }}
	fspickNames = &names{render: func(v uintptr) string {
		return printBits(uint64(v), []bit{
			{unix.FSPICK_CLOEXEC, "FSPICK_CLOEXEC"},
			{unix.FSPICK_EMPTY_PATH, "FSPICK_EMPTY_PATH"},
		})
	}}
	fsopenNames = &names{render: func(v uintptr) string {
		return printBits(uint64(v), []bit{{unix.FSOPEN_CLOEXEC, "FSOPEN_CLOEXEC"}})
	}}
	fsmountNames = &names{render: func(v uintptr) string {
		return printBits(uint64(v), []bit{{unix.FSMOUNT_CLOEXEC, "FSMOUNT_CLOEXEC"}})
	}}
	moveMountNames = &names{render: func(v uintptr) string {
		return printBits(uint64(v), []bit{
			{unix.MOVE_MOUNT_F_EMPTY_PATH, "MOVE_MOUNT_F_EMPTY_PATH"},
			{unix.MOVE_MOUNT_T_EMPTY_PATH, "MOVE_MOUNT_T_EMPTY_PATH"},
			{
				unix.MOVE_MOUNT_T_SYMLINKS,
				"MOVE_MOUNT_T_SYMLINKS",
			},
		})
	}}
	openTreeNames = &names{render: func(v uintptr) string {
		return printBits(uint64(v), append([]bit{
			{unix.OPEN_TREE_CLONE, "OPEN_TREE_CLONE"},
			{unix.OPEN_TREE_CLOEXEC, "OPEN_TREE_CLOEXEC"},
		}, atBits()...))
	}}
	fsconfigNames = &names{render: printFsconfig}
	prctlNames    = &names{render: printPrctl}
	cloneNames    = &names{render: func(v uintptr) string { return printBits(uint64(v), cloneBits()) }}
	umountNames   = &names{render: func(v uintptr) string {
		return printBits(uint64(v), []bit{
			{unix.MNT_DETACH, "MNT_DETACH"},
			{unix.UMOUNT_NOFOLLOW, "UMOUNT_NOFOLLOW"},
		})
	}}
	capNames    = &names{render: func(v uintptr) string { return capabilityName(int(v)) }}
	rlimitNames = &names{render: func(v uintptr) string { return rlimitName(int(v)) }}
	accessNames = &names{render: func(v uintptr) string {
		return map[uintptr]string{unix.X_OK: "X_OK", unix.F_OK: "F_OK"}[v]
	}}
	accessFlagNames = &names{render: func(v uintptr) string {
		return map[uintptr]string{unix.AT_EACCESS: "AT_EACCESS"}[v]
	}}
	hexNames = &names{render: func(v uintptr) string {
		return "0x" + strconv.FormatUint(uint64(v), 16)
	}}
	errnoNames  = &names{render: func(v uintptr) string { return unix.ErrnoName(unix.Errno(v)) }}
	ioprioNames = &names{render: func(v uintptr) string {
		return map[uintptr]string{
			1: "IOPRIO_CLASS_RT", 2: "IOPRIO_CLASS_BE",
			3: "IOPRIO_CLASS_IDLE",
		}[v>>13] + " " + strconv.Itoa(int(v&7))
	}}
	recvNames = &names{render: func(v uintptr) string {
		return printBits(uint64(v), []bit{
			{unix.MSG_CMSG_CLOEXEC, "MSG_CMSG_CLOEXEC"},
			{unix.MSG_CTRUNC, "MSG_CTRUNC"},
		})
	}}
	ioprioWhoNames = &names{render: func(uintptr) string { return "IOPRIO_WHO_PGRP" }}
	openHowNames   = &names{memory: printOpenHow}
	mountAttrNames = &names{memory: printMountAttr}
)

func openBits() []bit {
	return []bit{
		{unix.O_PATH, "O_PATH"},
		{unix.O_DIRECTORY, "O_DIRECTORY"},
		{unix.O_NOFOLLOW, "O_NOFOLLOW"},
		{unix.O_CLOEXEC, "O_CLOEXEC"},
		{unix.O_NOCTTY, "O_NOCTTY"},
		{unix.O_WRONLY, "O_WRONLY"},
		{unix.O_RDWR, "O_RDWR"},
		{unix.O_NONBLOCK, "O_NONBLOCK"},
	}
}

func atBits() []bit {
	return []bit{
		{unix.AT_EMPTY_PATH, "AT_EMPTY_PATH"},
		{unix.AT_RECURSIVE, "AT_RECURSIVE"},
		{unix.AT_SYMLINK_NOFOLLOW, "AT_SYMLINK_NOFOLLOW"},
	}
}

func attrBits() []bit {
	return []bit{
		{unix.MOUNT_ATTR_RDONLY, "MOUNT_ATTR_RDONLY"},
		{unix.MOUNT_ATTR_NOSUID, "MOUNT_ATTR_NOSUID"},
		{unix.MOUNT_ATTR_NODEV, "MOUNT_ATTR_NODEV"},
		{unix.MOUNT_ATTR_NOEXEC, "MOUNT_ATTR_NOEXEC"},
		{unix.MOUNT_ATTR__ATIME, "MOUNT_ATTR__ATIME"},
		{unix.MOUNT_ATTR_NOATIME, "MOUNT_ATTR_NOATIME"},
		{unix.MOUNT_ATTR_STRICTATIME, "MOUNT_ATTR_STRICTATIME"},
		{unix.MOUNT_ATTR_NODIRATIME, "MOUNT_ATTR_NODIRATIME"},
		{unix.MOUNT_ATTR_NOSYMFOLLOW, "MOUNT_ATTR_NOSYMFOLLOW"},
		{unix.MOUNT_ATTR_IDMAP, "MOUNT_ATTR_IDMAP"},
	}
}

func cloneBits() []bit {
	return []bit{
		{unix.CLONE_NEWUSER, "CLONE_NEWUSER"},
		{unix.CLONE_NEWNS, "CLONE_NEWNS"},
		{unix.CLONE_NEWPID, "CLONE_NEWPID"},
		{unix.CLONE_NEWNET, "CLONE_NEWNET"},
		{unix.CLONE_NEWIPC, "CLONE_NEWIPC"},
		{unix.CLONE_NEWUTS, "CLONE_NEWUTS"},
		{unix.CLONE_NEWCGROUP, "CLONE_NEWCGROUP"},
		{unix.CLONE_NEWTIME, "CLONE_NEWTIME"},
		{unix.CLONE_PARENT, "CLONE_PARENT"},
		{unix.CLONE_VM, "CLONE_VM"},
		{unix.CLONE_FS, "CLONE_FS"},
		{unix.CLONE_FILES, "CLONE_FILES"},
		{unix.CLONE_SIGHAND, "CLONE_SIGHAND"},
		{unix.CLONE_THREAD, "CLONE_THREAD"},
		{unix.CLONE_SYSVSEM, "CLONE_SYSVSEM"},
	}
}

func printBits(v uint64, bits []bit) string {
	if v == 0 {
		return "0"
	}
	var out []string
	for _, b := range bits {
		if m := uint64(b.mask); m != 0 && v&m == m {
			out = append(out, b.name)
			v &^= m
		}
	}
	if v != 0 {
		out = append(out, "0x"+strconv.FormatUint(v, 16))
	}
	return strings.Join(out, "|")
}

func printMode(v uintptr) string {
	s := "0" + strconv.FormatUint(uint64(v&0o7777), 8)
	switch v & unix.S_IFMT {
	case unix.S_IFCHR:
		return "S_IFCHR|" + s
	case unix.S_IFBLK:
		return "S_IFBLK|" + s
	case unix.S_IFIFO:
		return "S_IFIFO|" + s
	case unix.S_IFREG:
		return "S_IFREG|" + s
	}
	return s
}

func printFsconfig(v uintptr) string {
	switch v {
	case unix.FSCONFIG_SET_FLAG:
		return "FSCONFIG_SET_FLAG"
	case unix.FSCONFIG_SET_STRING:
		return "FSCONFIG_SET_STRING"
	case unix.FSCONFIG_CMD_CREATE:
		return "FSCONFIG_CMD_CREATE"
	case unix.FSCONFIG_CMD_RECONFIGURE:
		return "FSCONFIG_CMD_RECONFIGURE"
	}
	return strconv.Itoa(int(v))
}

func printPrctl(v uintptr) string {
	switch v {
	case unix.PR_SET_NO_NEW_PRIVS:
		return "PR_SET_NO_NEW_PRIVS"
	case unix.PR_CAPBSET_DROP:
		return "PR_CAPBSET_DROP"
	case unix.PR_SET_KEEPCAPS:
		return "PR_SET_KEEPCAPS"
	case unix.PR_CAP_AMBIENT:
		return "PR_CAP_AMBIENT"
	case unix.PR_SET_DUMPABLE:
		return "PR_SET_DUMPABLE"
	case unix.PR_SET_PDEATHSIG:
		return "PR_SET_PDEATHSIG"
	}
	return strconv.Itoa(int(v))
}

func printOpenHow(p []byte) string {
	s := "{flags=" + printBits(binary.NativeEndian.Uint64(p), openBits())
	if r := binary.NativeEndian.Uint64(p[16:]); r != 0 {
		s += ", resolve=" + printBits(r, []bit{
			{unix.RESOLVE_IN_ROOT, "RESOLVE_IN_ROOT"},
			{unix.RESOLVE_NO_MAGICLINKS, "RESOLVE_NO_MAGICLINKS"},
			{unix.RESOLVE_NO_SYMLINKS, "RESOLVE_NO_SYMLINKS"},
			{unix.RESOLVE_BENEATH, "RESOLVE_BENEATH"},
			{unix.RESOLVE_NO_XDEV, "RESOLVE_NO_XDEV"},
		})
	}
	return s + "}"
}

func printMountAttr(p []byte) string {
	var out []string
	if v := binary.NativeEndian.Uint64(p); v != 0 {
		out = append(out, "attr_set="+printBits(v, attrBits()))
	}
	if v := binary.NativeEndian.Uint64(p[8:]); v != 0 {
		out = append(out, "attr_clr="+printBits(v, attrBits()))
	}
	if v := binary.NativeEndian.Uint64(p[16:]); v != 0 {
		out = append(out, "propagation="+printBits(v, []bit{
			{unix.MS_PRIVATE, "MS_PRIVATE"},
			{unix.MS_SLAVE, "MS_SLAVE"},
			{unix.MS_SHARED, "MS_SHARED"},
			{unix.MS_UNBINDABLE, "MS_UNBINDABLE"},
		}))
	}
	return "{" + strings.Join(out, ", ") + "}"
}

func (a Arg) String() string {
	switch a.kind {
	case argText:
		return strconv.Quote(a.text)
	case argStrings:
		list, _ := a.Strings()
		q := make([]string, len(list))
		for i, s := range list {
			q[i] = strconv.Quote(s)
		}
		return "[" + strings.Join(q, ", ") + "]"
	case argBytes:
		memory, _ := a.Bytes()
		switch {
		case a.text != "":
			return a.text
		case a.names != nil && a.names.memory != nil:
			return a.names.memory(memory)
		}
		return fmt.Sprintf("<%d bytes>", len(memory))
	case argReg:
		return "r" + strconv.Itoa(int(a.val))
	case argInput:
		return "<" + a.text + ">"
	}
	if a.names != nil && a.names.render != nil {
		return a.names.render(a.val)
	}
	return strconv.FormatInt(int64(a.val), 10)
}

// String renders a step as strace would, with the register that takes its result.
func (s Step) String() string {
	var b strings.Builder
	if s.Out != 0 && s.Call != OpSet {
		fmt.Fprintf(&b, "r%d = ", s.Out)
	}
	b.WriteString(callName(s.Call))
	b.WriteByte('(')
	for i := range s.Args {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(s.Args[i].String())
	}
	b.WriteByte(')')
	return b.String()
}

// Name of the system call.
func (s Step) Name() string { return callName(s.Call) }

func callName(c Call) string {
	switch c {
	case OpSet:
		return "set"
	case OpStore:
		return "store"
	case OpLoad:
		return "load"
	case OpGoto:
		return "goto"
	case OpReport:
		return "report"
	case OpExpect:
		return "expect"
	case OpFork:
		return "clone3"
	case OpSync:
		return "sync"
	}
	if n, ok := callNames()[c]; ok {
		return n
	}
	return "syscall_" + strconv.Itoa(int(c))
}

func callNames() map[Call]string {
	return map[Call]string{
		unix.SYS_OPENAT2: "openat2", unix.SYS_CLOSE: "close", unix.SYS_MKDIRAT: "mkdirat",
		unix.SYS_MKNODAT: "mknodat", unix.SYS_SYMLINKAT: "symlinkat",
		unix.SYS_FCHOWNAT: "fchownat", unix.SYS_DUP3: "dup3", unix.SYS_WRITE: "write",
		unix.SYS_READ: "read", unix.SYS_FSOPEN: "fsopen", unix.SYS_FSCONFIG: "fsconfig",
		unix.SYS_FSMOUNT: "fsmount", unix.SYS_MOVE_MOUNT: "move_mount", unix.SYS_OPEN_TREE: "open_tree",
		unix.SYS_MOUNT_SETATTR: "mount_setattr", unix.SYS_PRCTL: "prctl",
		unix.SYS_SETNS: "setns", unix.SYS_UNSHARE: "unshare", unix.SYS_PIVOT_ROOT: "pivot_root",
		unix.SYS_UMOUNT2: "umount2", unix.SYS_FCHDIR: "fchdir", unix.SYS_CHDIR: "chdir",
		unix.SYS_SETHOSTNAME: "sethostname", unix.SYS_SETDOMAINNAME: "setdomainname",
		unix.SYS_SETSID: "setsid", unix.SYS_UMASK: "umask", unix.SYS_PRLIMIT64: "prlimit64",
		unix.SYS_SETGROUPS: "setgroups", unix.SYS_SETRESGID: "setresgid", unix.SYS_SETRESUID: "setresuid",
		unix.SYS_SETFSGID: "setfsgid", unix.SYS_SETFSUID: "setfsuid",
		unix.SYS_CAPSET: "capset", unix.SYS_SECCOMP: "seccomp",
		unix.SYS_CLOSE_RANGE: "close_range", unix.SYS_FACCESSAT: "faccessat",
		unix.SYS_FACCESSAT2: "faccessat2", unix.SYS_EXECVE: "execve", unix.SYS_EXIT_GROUP: "exit_group",
		unix.SYS_KEYCTL: "keyctl", unix.SYS_PERSONALITY: "personality",
		unix.SYS_IOCTL: "ioctl", unix.SYS_SOCKET: "socket", unix.SYS_SENDMSG: "sendmsg",
		unix.SYS_RECVMSG: "recvmsg", unix.SYS_PPOLL: "ppoll", unix.SYS_CHROOT: "chroot",
		unix.SYS_UNLINKAT: "unlinkat", unix.SYS_SCHED_SETAFFINITY: "sched_setaffinity",
		unix.SYS_IOPRIO_SET: "ioprio_set", unix.SYS_SCHED_SETATTR: "sched_setattr",
		unix.SYS_MOUNT: "mount", unix.SYS_FCHMOD: "fchmod", unix.SYS_SET_MEMPOLICY: "set_mempolicy",
		unix.SYS_FSTATFS: "fstatfs", unix.SYS_FCHOWN: "fchown", unix.SYS_STATX: "statx",
		unix.SYS_GETCWD: "getcwd", unix.SYS_EXECVEAT: "execveat", unix.SYS_FCNTL: "fcntl",
		unix.SYS_FSETXATTR: "fsetxattr",
		unix.SYS_FSPICK:    "fspick", unix.SYS_READLINKAT: "readlinkat", unix.SYS_SENDFILE: "sendfile",
	}
}

// stepView is a step in the JSON form of `berth plan -o json`.
type stepView struct {
	Step     int      `json:"step"`
	Field    string   `json:"field,omitempty"`
	Call     string   `json:"call"`
	Args     []string `json:"args,omitempty"`
	Result   string   `json:"result,omitempty"`
	Tolerate []string `json:"tolerate,omitempty"`
	IfOK     *int     `json:"ifOK,omitempty"`
	IfErr    *int     `json:"ifErr,omitempty"`
	Must     string   `json:"must,omitempty"`
}

// MarshalJSON renders the plan for programs; the shape is described in docs/plan.md.
func (p *Plan) MarshalJSON() ([]byte, error) {
	views := make([]stepView, len(p.Steps))
	for i, s := range p.Steps {
		v := stepView{Step: i, Field: s.Field.String(), Call: callName(s.Call)}
		for j := range s.Args {
			v.Args = append(v.Args, s.Args[j].String())
		}
		if s.Out != 0 {
			v.Result = "r" + strconv.Itoa(int(s.Out))
		}
		for _, e := range s.Tolerate {
			v.Tolerate = append(v.Tolerate, unix.ErrnoName(e))
		}
		if s.IfOK != 0 {
			v.IfOK = &p.Labels[s.IfOK]
		}
		if s.IfErr != 0 {
			v.IfErr = &p.Labels[s.IfErr]
		}
		if s.Must != 0 {
			v.Must = unix.ErrnoName(s.Must)
		}
		views[i] = v
	}
	return json.Marshal(struct {
		CloneFlags   string     `json:"cloneFlags"`
		PIDNamespace string     `json:"pidNamespace,omitempty"`
		Prefetch     *Plan      `json:"prefetch,omitempty"`
		CPUs         string     `json:"cpus,omitempty"`
		Warnings     []string   `json:"warnings,omitempty"`
		Steps        []stepView `json:"steps"`
	}{
		printBits(p.CloneFlags, cloneBits()), p.pidNamespace(), p.Prefetch, p.CPUs.List, p.Warnings,
		views,
	})
}

func (p *Plan) pidNamespace() string {
	if p.JoinPIDs {
		return "of " + input(InputContainer).String()
	}
	return p.PIDNamespace
}

// WriteText prints the plan for people: one line a step, under a heading for each field.
func (p *Plan) WriteText(w io.Writer) error {
	var b strings.Builder
	if p.Prefetch != nil {
		p.Prefetch.text(&b)
	}
	p.text(&b)
	for _, warning := range p.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", warning)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (p *Plan) text(b *strings.Builder) {
	fmt.Fprintf(b, "clone3 %s\n", printBits(p.CloneFlags, cloneBits()))
	if ns := p.pidNamespace(); ns != "" {
		fmt.Fprintf(b, "  in the pid namespace %s\n", ns)
	}
	if p.CPUs.List != "" {
		fmt.Fprintf(b, "  on the processors %s\n", p.CPUs.List)
	}
	last := ""
	for i, s := range p.Steps {
		if f := s.Field.String(); f != last {
			fmt.Fprintf(b, "%s\n", f)
			last = f
		}
		fmt.Fprintf(b, "%5d  %s", i, s)
		for j, e := range s.Tolerate {
			sep := "|"
			if j == 0 {
				sep = "  ?"
			}
			b.WriteString(sep + unix.ErrnoName(e))
		}
		if s.IfErr != 0 {
			fmt.Fprintf(b, " -> %d", p.Labels[s.IfErr])
		}
		if s.IfOK != 0 {
			fmt.Fprintf(b, "  -> %d", p.Labels[s.IfOK])
		}
		if s.Must != 0 {
			fmt.Fprintf(b, "  must fail with %s", unix.ErrnoName(s.Must))
		}
		b.WriteByte('\n')
	}
}

// capabilityName returns the name of a capability, or its number if it has none.
func capabilityName(number int) string {
	if name := capability.Name(number); name != "" {
		return name
	}
	return strconv.Itoa(number)
}
