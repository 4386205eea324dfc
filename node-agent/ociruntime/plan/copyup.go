// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/binary"
	"math"
	"strconv"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// likeWhatItCovers gives a tmpfs the permissions of the directory that it covers, as runc does if
// the options have none, and with tmpcopyup its content. The directory is left open in at; one that
// was not there has nothing to give.
func (c *container) likeWhatItCovers(mount, at Reg, m specs.Mount, o mountOptions) {
	missing, done := c.label(), c.label()
	c.inRoot(c.rootFD, m.Destination, unix.O_DIRECTORY).into(at).tolerate(unix.ENOENT).orElse(missing)
	if !hasKey(o.data, "mode") {
		st := &unix.Statx_t{}
		const statxMode = unsafe.Offsetof(unix.Statx_t{}.Mode)
		memory := structArg(native(st), "statx")
		c.call(unix.SYS_STATX, regArg(at), text(""), flags(uint(unix.AT_EMPTY_PATH), atNames),
			num(uint(unix.STATX_MODE)), memory)
		mode := c.reg()
		c.call(OpLoad, structArg(native(st)[statxMode:statxMode+4], "statx.mode"),
			flags(uint32(0o7777), modeNames)).into(mode)
		top := c.openat2(regArg(mount), ".", unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_BENEATH).out()
		c.call(unix.SYS_FCHMOD, regArg(top), regArg(mode))
		c.close(top)
	}
	if o.copyUp && !c.placesOnly {
		c.copyUp(mount, at)
	}
	c.goTo(done)
	c.mark(missing)
	c.ensureDirectory(at, m.Destination, unix.O_DIRECTORY)
	c.mark(done)
}

// copyUp has the parent copy the content of a directory into a mount that is not attached yet. The
// child hands it a clone of the directory, and what is mounted in it, in which no device can be
// opened and no symbolic link be followed, whatever others do to the directory during the copy.
func (c *container) copyUp(mount, from Reg) {
	clone := c.openTree(regArg(from), "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH|
		unix.AT_RECURSIVE).out()
	c.mountSetattr(regArg(clone), "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE,
		mountAttr{set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID |
			unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOSYMFOLLOW})
	c.sendDescriptors(input(InputCopyUp), []byte(strconv.Itoa(c.field.Index)), clone, mount)
	c.sync(SyncCopyUp)
	c.close(clone)
	c.plan.CopiesUp = true
}

// waitClosed waits until the other end of a unix socket is closed, and not for a message there: who
// sends a message has the receiver woken on his own processor, to wait there until he gives way,
// though another may be idle (WF_SYNC in the kernel's scheduler).
func (c *container) waitClosed(socket Arg) {
	closed := &unix.PollFd{Events: unix.POLLRDHUP}
	c.call(OpStore, structArg(native(closed)[:4], "pollfd.fd"), socket)
	c.call(unix.SYS_PPOLL, structArg(native(closed), "{POLLRDHUP}"), num(1), noPointer(), noPointer(),
		num(0))
}

// receiveDescriptors receives as many descriptors as want, in registers of their own, through a
// unix socket by SCM_RIGHTS.
func (c *container) receiveDescriptors(socket Arg, want int) []Reg {
	payload := make([]byte, 1)
	iov := &unix.Iovec{Len: uint64(len(payload))}
	control := make([]byte, unix.CmsgSpace(4*want))
	msg := &unix.Msghdr{Iovlen: 1, Controllen: uint64(len(control))}
	c.call(unix.SYS_RECVMSG, socket, pointingArg(native(msg), "{SCM_RIGHTS}",
		Pointer{unsafe.Offsetof(msg.Iov), pointingArg(native(iov), "", Pointer{
			unsafe.Offsetof(iov.Base),
			structArg(payload, ""),
		})},
		Pointer{unsafe.Offsetof(msg.Control), structArg(control, "")}), flags(uint(unix.MSG_CMSG_CLOEXEC),
		recvNames))
	// The kernel leaves out those that the process has no number left for.
	at := unsafe.Offsetof(msg.Flags)
	c.call(OpExpect, structArg(native(msg)[at:at+4], "msg_flags"), flags(uint(unix.MSG_CTRUNC),
		recvNames), num(0), flags(uint(unix.EMFILE), errnoNames))
	fds := make([]Reg, want)
	for i := range fds {
		fds[i] = c.call(OpLoad, structArg(control[unix.CmsgLen(0)+4*i:][:4], "SCM_RIGHTS"),
			flags(uint32(math.MaxUint32), hexNames)).out()
	}
	return fds
}

// sendDescriptors sends descriptors through a unix socket by SCM_RIGHTS, with a payload of at least
// one byte (cmsg(3), unix(7)).
func (c *container) sendDescriptors(socket Arg, payload []byte, fds ...Reg) {
	iov := &unix.Iovec{Len: uint64(len(payload))}
	control := make([]byte, unix.CmsgSpace(4*len(fds)))
	header := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	header.Level, header.Type = unix.SOL_SOCKET, unix.SCM_RIGHTS
	header.SetLen(unix.CmsgLen(4 * len(fds)))
	msg := &unix.Msghdr{Iovlen: 1, Controllen: uint64(len(control))}
	for i, fd := range fds {
		slot := control[unix.CmsgLen(0)+4*i:][:4]
		binary.NativeEndian.PutUint32(slot, math.MaxUint32)
		c.call(OpStore, structArg(slot, "SCM_RIGHTS"), regArg(fd))
	}
	c.call(unix.SYS_SENDMSG, socket, pointingArg(native(msg), "{SCM_RIGHTS}",
		Pointer{unsafe.Offsetof(msg.Iov), pointingArg(native(iov), "", Pointer{
			unsafe.Offsetof(iov.Base),
			structArg(payload, ""),
		})},
		Pointer{unsafe.Offsetof(msg.Control), structArg(control, "")}), num(0))
}

// CopyEntry is a file to copy, by its path below the directory that is copied; "." is the directory
// itself.
type CopyEntry struct {
	Path string
	// Mode is a mode of stat(2); UID and GID are ids inside the container.
	Mode, UID, GID uint32
	// Size of a regular file, target of a symbolic link, number of a device.
	Size   int64
	Target string
	Device uint64
}

// BuildCopy builds the plan of a process that copies files from InputCopySource to InputCopyTarget:
// directories before their content. It is in the container's cgroup, so that the memory is the
// container's, and in its user namespace, so that the owners are. A source that is not what the
// entry says ends it.
func BuildCopy(spec *specs.Spec, f Field, o Options, entries []CopyEntry) *Plan {
	c := &container{builder: newBuilder(64), spec: spec, opts: o}
	c.plan.Steps = make([]Step, 0, 10*len(entries)+8)
	c.field = f
	c.prctl(unix.PR_SET_DUMPABLE, num(0))
	for _, h := range o.Cgroups {
		c.call(unix.SYS_WRITE, input(InputCgroup(h)), text("0"), num(1))
	}
	if c.hasNamespace(specs.UserNamespace) {
		c.call(unix.SYS_SETNS, input(InputContainer), flags(uint64(unix.CLONE_NEWUSER), cloneNames))
		c.call(unix.SYS_SETRESGID, num(0), num(0), num(0))
		c.call(unix.SYS_SETRESUID, num(0), num(0), num(0))
	}
	c.call(unix.SYS_UMASK, flags(uint(0), modeNames))
	for _, e := range entries {
		c.field.Note = f.Note + ": " + e.Path
		c.copyEntry(e)
	}
	c.field = f
	c.report(SyncReady)
	c.call(unix.SYS_EXIT_GROUP, num(0))
	return &c.plan
}

func (c *container) copyEntry(e CopyEntry) {
	// No component is a symbolic link: this copy has created the directories, but another file may
	// have taken the name.
	const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS
	target := input(InputCopyTarget)
	dir, base := splitLast(e.Path)
	parent := func() Reg { return c.openat2(target, dir, unix.O_PATH|unix.O_DIRECTORY, resolve).out() }
	own := func(fd Reg) {
		c.call(unix.SYS_FCHOWN, regArg(fd), num(e.UID), num(e.GID))
		// after chown(2), which takes set-id bits away
		c.call(unix.SYS_FCHMOD, regArg(fd), flags(e.Mode&0o7777, modeNames))
		c.close(fd)
	}
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if e.Path != "." {
			at := parent()
			c.mkdirat(regArg(at), base, 0o700)
			c.close(at)
		}
		fd := c.openat2(target, e.Path, unix.O_RDONLY|unix.O_DIRECTORY, resolve).out()
		if e.Path == "." {
			c.call(unix.SYS_FCHOWN, regArg(fd), num(e.UID), num(e.GID))
			c.close(fd)
			return
		}
		own(fd)
	case unix.S_IFREG:
		in := c.openat2(input(InputCopySource), e.Path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW,
			resolve).out()
		c.expectNode(regArg(in), "", unix.S_IFREG, 0, 0)
		at := parent()
		c.mknodat(regArg(at), base, unix.S_IFREG|0o600, 0)
		c.close(at)
		out := c.openat2(target, e.Path, unix.O_WRONLY|unix.O_NOFOLLOW, resolve).out()
		// sendfile(2) moves at most 0x7ffff000 bytes at a time.
		const most = 0x7ffff000
		for left := e.Size; left > 0; left -= most {
			n := min(left, most)
			moved, have := make([]byte, 4), c.reg()
			c.call(unix.SYS_SENDFILE, regArg(out), regArg(in), num(0), num(n)).into(have)
			c.call(OpStore, structArg(moved, "moved"), regArg(have))
			c.call(OpExpect, structArg(moved, "moved"), flags(uint32(math.MaxUint32), hexNames),
				flags(uint32(n), hexNames), flags(uint(unix.EIO), errnoNames))
		}
		c.close(in)
		own(out)
	default:
		at := parent()
		if e.Mode&unix.S_IFMT == unix.S_IFLNK {
			c.symlinkat(e.Target, regArg(at), base)
		} else {
			c.mknodat(regArg(at), base, e.Mode&(unix.S_IFMT|0o7777), e.Device)
		}
		c.fchownat(regArg(at), base, e.UID, e.GID, unix.AT_SYMLINK_NOFOLLOW)
		c.close(at)
	}
}

// splitLast splits a relative path before its last component.
func splitLast(p string) (dir, base string) {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i] == '/' {
			return p[:i], p[i+1:]
		}
	}
	return ".", p
}
