// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// Call is the number of a system call on this architecture, or one of the Op constants, which the
// launcher does itself without entering the kernel.
type Call uintptr

// What a step may do besides a system call.
const (
	// OpSet puts its second argument into the register that Step.Out names.
	OpSet Call = 1<<20 + iota
	// OpStore writes its second argument as 32 bits to the address in its first.
	OpStore
	// OpLoad puts the 32 bits at the address in its first argument, those that its second masks,
	// into the register that Step.Out names.
	OpLoad
	// OpGoto continues at Step.IfOK.
	OpGoto
	// OpReport makes the descriptor in its first argument the pipe to which failures are written
	// from here on.
	OpReport
	// OpExpect reads 32 bits at the address in its first argument and, where what its second
	// argument masks of them is not its third, fails with the errno in its fourth.
	OpExpect
	// OpFork creates a child by clone3(2), whose arguments it has, as a sibling. The child
	// continues with the next step; its creator reports the pid and ends.
	OpFork
	// OpSync reports to the parent that this step has been reached, with its third argument if it
	// has one, and, if its second argument is 1, waits for its answer.
	OpSync
)

// Reg is a register of the launcher: it holds the result of a step for a later step. Zero is no
// register.
type Reg uint16

// Label marks a later place in the plan. Zero is no label.
type Label uint16

// Input names a file descriptor that the parent holds and the child inherits.
type Input string

// The inputs a plan may use.
const (
	InputStdin  Input = "stdin"
	InputStdout Input = "stdout"
	InputStderr Input = "stderr"
	// InputStart is the fifo from which the child reads one byte before execve.
	InputStart Input = "start"
	// InputResult is the fifo to which failures are written in place of the launcher's pipe once
	// the container is created: `start` reads it.
	InputResult Input = "result"
	// InputContainer is a pidfd of the container's first process, whose namespaces a process that
	// is executed later joins.
	InputContainer Input = "container"
	// InputProgram is the program of a hook that the container's namespaces need not have.
	InputProgram Input = "program"
	// InputDeferred is a socket through which the parent sends Plan.Deferred.
	InputDeferred Input = "later"
	// InputNetwork is the network namespace of BuildPrefetch.
	InputNetwork Input = "network"
	// InputConsole is the connected console socket that the terminal's master is sent to.
	InputConsole Input = "console-socket"
	// InputHostFiles is a socket by which the child gets Plan.HostFiles from its parent.
	InputHostFiles Input = "host-files"
	// InputNodes is the tmpfs with Plan.Nodes.
	InputNodes Input = "nodes"
	// InputCopyUp is a socket through which the child sends the descriptors of SyncCopyUp to its
	// parent.
	InputCopyUp Input = "copy-socket"
	// InputCopySource and InputCopyTarget are the directories of BuildCopy.
	InputCopySource Input = "copy-source"
	InputCopyTarget Input = "copy-target"
)

// InputCgroup returns the tasks file of a cgroup, by the name of its hierarchy of version 1.
func InputCgroup(hierarchy string) Input { return Input("tasks[" + hierarchy + "]") }

type argKind uint8

const (
	argConst argKind = iota
	argText
	argBytes
	argStrings
	argReg
	argInput
)

// Arg is an argument of a step: a constant, a pointer to prepared memory, a register, or an
// inherited descriptor.
type Arg struct {
	kind  argKind
	val   uintptr
	names *names // how to print val
	text  string
	data  any // []byte, []string or a pointing; few arguments have any, and a plan has a thousand
}

// pointing is memory with addresses of other memory in it.
type pointing struct {
	bytes    []byte
	pointers []Pointer
}

// Pointer is a place in an argument's memory where the address of other memory is to stand.
type Pointer struct {
	// At is its offset in bytes.
	At uintptr
	// To is the argument with Bytes that it points to.
	To Arg
}

// Kind-specific views for the launcher; exactly one of them is meaningful for an Arg.

// Const returns the value of a constant argument.
func (a Arg) Const() (uintptr, bool) { return a.val, a.kind == argConst }

// Text returns the string that the argument points to, without its NUL.
func (a Arg) Text() (string, bool) { return a.text, a.kind == argText }

// Bytes returns the memory that the argument points to. Parts of one array are the same memory to
// all steps.
func (a Arg) Bytes() ([]byte, bool) {
	if p, ok := a.data.(pointing); ok {
		return p.bytes, true
	}
	b, ok := a.data.([]byte)
	return b, ok
}

// Pointers returns the arguments that the memory of Bytes points to, whose addresses only the
// launcher knows.
func (a Arg) Pointers() []Pointer {
	p, _ := a.data.(pointing)
	return p.pointers
}

// Strings returns the strings of a NULL-terminated array of pointers, such as an argv.
func (a Arg) Strings() ([]string, bool) { l, ok := a.data.([]string); return l, ok }

// Reg returns the register whose content the argument is.
func (a Arg) Reg() (Reg, bool) { return Reg(a.val), a.kind == argReg }

// Input returns the inherited descriptor whose number the argument is.
func (a Arg) Input() (Input, bool) { return Input(a.text), a.kind == argInput }

// Field is the purpose of a step: the path of a field in config.json and the value there.
type Field struct {
	// Path of the field, such as "mounts" or "linux.maskedPaths".
	Path string
	// Index is the index in the list that Path names; negative if Path names no list.
	Index int
	// Note is further help for a reader, such as the destination of a mount.
	Note string
}

// String renders "mounts[3] (/dev/shm)".
func (f Field) String() string {
	s := f.Path
	if f.Index >= 0 {
		s += "[" + strconv.Itoa(f.Index) + "]"
	}
	if f.Note != "" {
		s += " (" + f.Note + ")"
	}
	return s
}

// Step is one system call.
type Step struct {
	Call Call
	Args []Arg
	// Out takes the result; zero drops it.
	Out Reg
	// Tolerate are the errors after which the plan goes on, at IfErr or else at the next step.
	Tolerate []unix.Errno
	// IfOK and IfErr are where to go on after success and after a tolerated error; zero is the next
	// step.
	IfOK, IfErr Label
	// Must is an error that has to come unless a tolerated one does; success is then reported as
	// MustErr.
	Must, MustErr unix.Errno
	// Field is the field of the document that the step serves.
	Field Field
}

// Plan has every system call that creates a container, from clone3 to execve.
type Plan struct {
	// CloneFlags are for clone3(2).
	CloneFlags uint64
	// PIDNamespace is the path of a pid namespace to be joined. The parent does it, since setns(2)
	// on a pid namespace takes effect on children only.
	PIDNamespace string
	// JoinPIDs reports whether the child joins the pid namespace of InputContainer.
	JoinPIDs bool
	// Prefetch is the plan of BuildPrefetch; nil if the parent creates no network namespace.
	Prefetch *Plan
	// CPUs are the processors on which the parent runs while it creates the child; without a mask
	// they stay.
	CPUs CPUSet
	// Steps that the child takes, in order. Jumps go forward only.
	Steps []Step
	// Labels[l] is the index of the step that label l stands before.
	Labels []int
	// Regs is the number of registers, the zeroth included.
	Regs int
	// Syncs are the fields of the OpSync steps by the step's index.
	Syncs map[int]Sync
	// HasFork reports whether there is an OpFork.
	HasFork bool
	// Waits reports whether any of Syncs waits for the parent.
	Waits bool
	// Deferred are the inputs that the parent creates after clone3 and sends over InputDeferred, in
	// this order.
	Deferred []Input
	// UserNamespaces and Sources are what the parent opens for the child; CopiesUp is whether the
	// plan has InputCopyUp.
	UserNamespaces []UserNamespace
	Sources        []Source
	CopiesUp       bool
	// HostFiles are files that the parent opens at SyncHostFiles; the plan has InputHostFiles if
	// there are any.
	HostFiles []HostFile
	// Nodes are the device nodes that the parent creates in InputNodes at SyncIDMap or SyncJoined;
	// the plan has that input if there are any. NodesContext is an option of that tmpfs, key and
	// value, for the label of the nodes; empty without one.
	Nodes        []Node
	NodesContext [2]string
	// Warnings name the values that this host cannot grant and that are left out, as the
	// runtime-spec requires for capabilities.
	Warnings []string
}

// Phase returns the phase of the launch to which a step belongs: the next synchronization point of
// the child. The last one is that of execve itself.
func (p *Plan) Phase(step int) Sync {
	for i := step; i < len(p.Steps); i++ {
		if s, ok := p.Syncs[i]; ok {
			return s
		}
	}
	return SyncExec
}

// CPUSet is a set of processors: as a list and as a mask of sched_setaffinity(2).
type CPUSet struct {
	List string
	Mask []byte
}

// Sync is a place at which the child waits for its parent.
type Sync string

const (
	// SyncNetwork is the point at which the namespace of BuildPrefetch exists.
	SyncNetwork Sync = "network"
	// SyncHold is the point at which the process of Hold waits for its end.
	SyncHold Sync = "hold"
	// SyncCgroup is the point at which the parent must have the child moved into its cgroup.
	SyncCgroup Sync = "cgroup"
	// SyncIDMap is the point at which the parent must write uid_map and gid_map.
	SyncIDMap Sync = "idmap"
	// SyncJoined is the point at which the child is in the user namespace that linux.namespaces
	// names by a path, and the parent reads its id maps.
	SyncJoined Sync = "joined"
	// SyncNetDevices is the point at which the parent must move linux.netDevices into the network
	// namespace.
	SyncNetDevices Sync = "netdevices"
	// SyncHostFiles is the point at which the child cannot open a file of the host: it has sent its
	// root through InputHostFiles, and the parent opens Plan.HostFiles there and sends them back,
	// at most MaxDescriptors a message.
	SyncHostFiles Sync = "host-files"
	// SyncCopyUp is the point at which the parent must copy a directory into the tmpfs that will
	// cover it: the child has sent a clone of the directory and the tmpfs through InputCopyUp.
	SyncCopyUp Sync = "copy-up"
	// SyncNamespaces is the point at which the namespaces exist and the hooks of create run.
	SyncNamespaces Sync = "namespaces"
	// SyncStart is the point at which startContainer hooks run, in a plan that does not stop at
	// SyncReady until another process starts it.
	SyncStart Sync = "start"
	// SyncSeccomp is the point at which a filter with SCMP_ACT_NOTIFY is loaded. It carries the
	// descriptor of its listener, which the parent must send to linux.seccomp.listenerPath.
	SyncSeccomp Sync = "seccomp"
	// SyncForked is an OpFork: another process goes on.
	SyncForked Sync = "forked"
	// SyncReady is the point at which everything is done that can be done before start.
	SyncReady Sync = "ready"
	// SyncExec is the point before execve, which the reader of InputResult learns; the parent
	// itself sees the child's step when the child's end of the pipe closes.
	SyncExec Sync = "exec"
)

// The arguments of a plan made by hand: a constant, a string, memory, an array of strings, a
// register, an input.

// Number returns a constant argument.
func Number(v uintptr) Arg { return num(v) }

// Text returns a pointer to a string that ends with a NUL.
func Text(s string) Arg { return text(s) }

// Memory returns a pointer to bytes, which the call may change.
func Memory(p []byte) Arg { return structArg(p, "{}") }

// Strings returns a NULL-terminated array of pointers to strings.
func Strings(s []string) Arg { return list(s) }

// Register returns an argument that is the result of an earlier step.
func Register(r Reg) Arg { return regArg(r) }

// Descriptor returns the number of an input.
func Descriptor(i Input) Arg { return input(i) }
