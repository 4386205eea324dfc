// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/binary"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// builder collects steps. Its methods named after system calls add one step each; their flags are
// printed by name.
type builder struct {
	plan  Plan
	field Field
	// args has room for the arguments of further steps: a list of its own for each would cost an
	// allocation a step.
	args []Arg
	// hows are the structures of openat2 that steps share: few differ, and the kernel only reads
	// them.
	hows map[[2]uint64]any
}

// newBuilder begins a plan of about so many steps.
func newBuilder(steps int) *builder {
	b := &builder{}
	b.plan.Steps = make([]Step, 0, steps)
	b.plan.Labels = make([]int, 1, 64)
	b.plan.Regs = 1
	b.plan.Syncs = map[int]Sync{}
	b.hows = map[[2]uint64]any{}
	return b
}

// at names the field that the steps from here on serve.
func (b *builder) at(path string) { b.field = Field{Path: path, Index: -1} }

// atIndex sets the field of the next steps to an element of a list.
func (b *builder) atIndex(path string, i int, note string) {
	b.field = Field{Path: path, Index: i, Note: note}
}

func (b *builder) label() Label {
	b.plan.Labels = append(b.plan.Labels, -1)
	return Label(len(b.plan.Labels) - 1)
}

// mark puts a label before the next step.
func (b *builder) mark(l Label) { b.plan.Labels[l] = len(b.plan.Steps) }

func (b *builder) reg() Reg {
	r := Reg(b.plan.Regs)
	b.plan.Regs++
	return r
}

// stepRef lets a caller say more of a step just added, as in b.mkdirat(…).tolerate(unix.EEXIST).
type stepRef struct {
	b *builder
	i int
}

func (s stepRef) step() *Step { return &s.b.plan.Steps[s.i] }

// tolerate makes the last step ignore these errors.
func (s stepRef) tolerate(errs ...unix.Errno) stepRef {
	s.step().Tolerate = append(s.step().Tolerate, errs...)
	return s
}

// orElse makes the last step continue at l after a tolerated error.
func (s stepRef) orElse(l Label) stepRef { s.step().IfErr = l; return s }

// then makes the last step continue at l after success.
func (s stepRef) then(l Label) stepRef { s.step().IfOK = l; return s }

// must makes the last step fail unless its error occurs, which counts as its success.
func (s stepRef) must(err, as unix.Errno) stepRef {
	s.step().Must, s.step().MustErr = err, as
	return s
}

// into keeps the result in r.
func (s stepRef) into(r Reg) stepRef { s.step().Out = r; return s }

// out keeps the result in a new register.
func (s stepRef) out() Reg {
	r := s.b.reg()
	s.step().Out = r
	return r
}

func (b *builder) call(c Call, args ...Arg) stepRef {
	if len(b.args) < len(args) {
		// which is still a small object to the allocator
		b.args = make([]Arg, min(512, 4*cap(b.plan.Steps)))
	}
	n := copy(b.args, args)
	b.plan.Steps = append(b.plan.Steps, Step{Call: c, Args: b.args[:n:n], Field: b.field})
	b.args = b.args[n:]
	return stepRef{b, len(b.plan.Steps) - 1}
}

func num[T ~int | ~int32 | ~int64 | ~uint | ~uint32 | ~uint64 | ~uintptr](v T) Arg {
	return Arg{kind: argConst, val: uintptr(v)}
}

func flags[T ~int | ~uint | ~uint32 | ~uint64 | ~uintptr](v T, n *names) Arg {
	return Arg{kind: argConst, val: uintptr(v), names: n}
}

func text(s string) Arg   { return Arg{kind: argText, text: s} }
func list(s []string) Arg { return Arg{kind: argStrings, data: s} }
func regArg(r Reg) Arg    { return Arg{kind: argReg, val: uintptr(r)} }
func input(i Input) Arg   { return Arg{kind: argInput, text: string(i)} }
func noPointer() Arg      { return Arg{kind: argConst, names: pointerNames} }
func cwd() Arg {
	v := unix.AT_FDCWD
	return Arg{kind: argConst, val: uintptr(v), names: dirfdNames}
}
func structArg(p []byte, print string) Arg { return Arg{kind: argBytes, data: p, text: print} }

func pointingArg(p []byte, print string, pointers ...Pointer) Arg {
	return Arg{kind: argBytes, data: pointing{p, pointers}, text: print}
}

// --- files

// openHow returns struct open_how of openat2(2).
func openHow(flags, mode, resolve uint64) []byte {
	p := make([]byte, 24)
	binary.NativeEndian.PutUint64(p, flags)
	binary.NativeEndian.PutUint64(p[8:], mode)
	binary.NativeEndian.PutUint64(p[16:], resolve)
	return p
}

func (b *builder) openat2(dir Arg, path string, fl, resolve uint64) stepRef {
	fl |= unix.O_CLOEXEC
	data, ok := b.hows[[2]uint64{fl, resolve}]
	if !ok {
		data = openHow(fl, 0, resolve)
		b.hows[[2]uint64{fl, resolve}] = data
	}
	how := Arg{kind: argBytes, data: data, names: openHowNames}
	return b.call(unix.SYS_OPENAT2, dir, text(path), how, num(24))
}

// inRoot opens a path of the container as an O_PATH descriptor, resolving every component inside
// root.
func (b *builder) inRoot(root Reg, path string, fl uint64) stepRef {
	return b.openat2(regArg(root), relative(path), unix.O_PATH|fl, unix.RESOLVE_IN_ROOT|
		unix.RESOLVE_NO_MAGICLINKS)
}

// relative converts a container's absolute path to one that openat2 resolves below the root's
// descriptor.
func relative(path string) string {
	path = strings.TrimLeft(path, "/")
	if path == "" {
		return "."
	}
	return path
}

func (b *builder) close(fd Reg) stepRef { return b.call(unix.SYS_CLOSE, regArg(fd)) }

func (b *builder) mkdirat(dir Arg, path string, mode uint32) stepRef {
	return b.call(unix.SYS_MKDIRAT, dir, text(path), flags(mode, modeNames))
}

func (b *builder) mknodat(dir Arg, path string, mode uint32, dev uint64) stepRef {
	return b.call(unix.SYS_MKNODAT, dir, text(path), flags(mode, modeNames), flags(dev, devNames))
}

func (b *builder) symlinkat(target string, dir Arg, path string) stepRef {
	return b.call(unix.SYS_SYMLINKAT, text(target), dir, text(path))
}

func (b *builder) fchownat(dir Arg, path string, uid, gid uint32, fl int) stepRef {
	return b.call(unix.SYS_FCHOWNAT, dir, text(path), num(uid), num(gid), flags(uint(fl), atNames))
}

func (b *builder) dup3(from Arg, to Arg, fl int) stepRef {
	return b.call(unix.SYS_DUP3, from, to, flags(uint(fl), openNames))
}

// writeFile opens a file below dir, writes text to it and closes it. A short write cannot go
// unseen: what is written this way goes to procfs, sysfs and cgroupfs, which take a line whole or
// fail.
func (b *builder) writeFile(dir Arg, path, content string, resolve uint64) {
	fd := b.openat2(dir, path, unix.O_WRONLY, resolve).out()
	b.call(unix.SYS_WRITE, regArg(fd), text(content), num(len(content)))
	b.close(fd)
}

// --- mounts

func (b *builder) fsopen(fstype string) Reg {
	return b.call(unix.SYS_FSOPEN, text(fstype), flags(uint(unix.FSOPEN_CLOEXEC), fsopenNames)).out()
}

func (b *builder) fsconfigString(fs Reg, key, value string) stepRef {
	return b.call(unix.SYS_FSCONFIG, regArg(fs), flags(uint(unix.FSCONFIG_SET_STRING), fsconfigNames),
		text(key), text(value), num(0))
}

func (b *builder) fsconfigFlag(fs Reg, key string) stepRef {
	return b.call(unix.SYS_FSCONFIG, regArg(fs), flags(uint(unix.FSCONFIG_SET_FLAG), fsconfigNames),
		text(key), noPointer(), num(0))
}

func (b *builder) fsconfigCreate(fs Reg) stepRef {
	return b.call(unix.SYS_FSCONFIG, regArg(fs), flags(uint(unix.FSCONFIG_CMD_CREATE), fsconfigNames),
		noPointer(), noPointer(), num(0))
}

func (b *builder) fsmount(fs Reg, attr uint64) Reg {
	return b.call(unix.SYS_FSMOUNT, regArg(fs), flags(uint(unix.FSMOUNT_CLOEXEC), fsmountNames),
		flags(attr, attrNames)).out()
}

// moveMount attaches a detached mount at the place that an O_PATH descriptor stands for.
func (b *builder) moveMount(mount, at Reg) stepRef {
	return b.call(unix.SYS_MOVE_MOUNT, regArg(mount), text(""), regArg(at), text(""),
		flags(uint(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH), moveMountNames))
}

func (b *builder) openTree(dir Arg, path string, fl uint) stepRef {
	return b.call(unix.SYS_OPEN_TREE, dir, text(path), flags(fl|unix.OPEN_TREE_CLOEXEC, openTreeNames))
}

// mountAttr is struct mount_attr of mount_setattr(2).
type mountAttr struct {
	set, clear, propagation, usernsFD uint64
}

func (a mountAttr) zero() bool { return a == mountAttr{} }

func (a mountAttr) bytes() []byte {
	p := make([]byte, 32)
	binary.NativeEndian.PutUint64(p, a.set)
	binary.NativeEndian.PutUint64(p[8:], a.clear)
	binary.NativeEndian.PutUint64(p[16:], a.propagation)
	binary.NativeEndian.PutUint64(p[24:], a.usernsFD)
	return p
}

func (b *builder) mountSetattr(dir Arg, path string, fl int, a mountAttr) stepRef {
	arg := Arg{kind: argBytes, data: a.bytes(), names: mountAttrNames}
	return b.call(unix.SYS_MOUNT_SETATTR, dir, text(path), flags(uint(fl), atNames), arg, num(32))
}

// --- process

func (b *builder) prctl(op int, a2 Arg) stepRef {
	return b.call(unix.SYS_PRCTL, flags(uint(op), prctlNames), a2, num(0), num(0), num(0))
}

// sync makes the child report a synchronization point and wait for its parent.
func (b *builder) sync(s Sync) {
	b.plan.Syncs[len(b.plan.Steps)] = s
	b.plan.Waits = true
	b.call(OpSync, text(string(s)), num(1))
}

// syncWith reports a synchronization point with the content of a register: 31 bits, as a descriptor
// has.
func (b *builder) syncWith(s Sync, r Reg) {
	b.sync(s)
	last := &b.plan.Steps[len(b.plan.Steps)-1]
	last.Args = append(last.Args, regArg(r))
}

// report makes the child report a synchronization point, and go on.
func (b *builder) report(s Sync) {
	b.plan.Syncs[len(b.plan.Steps)] = s
	b.call(OpSync, text(string(s)), num(0))
}

func (b *builder) goTo(l Label) { b.call(OpGoto).then(l) }

func (b *builder) set(r Reg, a Arg) stepRef { return b.call(OpSet, regArg(r), a).into(r) }

// native returns the memory of a value without pointers, for a system call to read.
func native[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}
