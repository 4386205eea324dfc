// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"path"
	"sort"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/oci/validate"
)

// sysctl writes the kernel parameters of the container's namespaces, into a procfs of its own that
// nothing in the image can have put another file over (CVE-2025-52881).
//
// In a user namespace the kernel mounts no procfs for a pid namespace that is not that user
// namespace's, as the host's is, nor one that shows more than those that are there. There the /proc
// of the runtime's mount namespace serves, which is still in reach: it is checked to be a procfs,
// and no mount below it is passed. Whose parameters a file has depends on the namespaces of who
// opens it, not on the procfs (proc_sys_lookup in the kernel's fs/proc/proc_sysctl.c).
func (c *container) sysctl() error {
	if len(c.spec.Linux.Sysctl) == 0 {
		return nil
	}
	c.at("linux.sysctl")
	proc := c.reg()
	resolve := uint64(unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS)
	fs := c.fsopen("proc")
	create := c.fsconfigCreate(fs)
	const attr = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	mount := c.call(unix.SYS_FSMOUNT, regArg(fs), flags(uint(unix.FSMOUNT_CLOEXEC), fsmountNames),
		flags(uint64(attr), attrNames)).into(proc)
	if c.inUserNamespace() {
		resolve |= unix.RESOLVE_NO_XDEV
		refused, done := c.label(), c.label()
		create.tolerate(unix.EPERM).orElse(refused)
		mount.tolerate(unix.EPERM).orElse(refused).then(done)
		c.mark(refused)
		c.runtimeProc(proc)
		c.mark(done)
	}
	c.close(fs)
	keys := make([]string, 0, len(c.spec.Linux.Sysctl))
	for k := range c.spec.Linux.Sysctl {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		c.at("linux.sysctl." + k)
		file, ok := validate.SysctlFile(k)
		if !ok {
			return c.fieldError("linux.sysctl."+k, k, "it names no file below /proc/sys")
		}
		c.writeFile(regArg(proc), "sys/"+file, c.spec.Linux.Sysctl[k], resolve)
	}
	c.close(proc)
	return nil
}

// readonlyPaths puts each path on a mount of its own that is read-only. A path that is not there is
// passed over, as the peers do: the lists of engines name what only some kernels have.
func (c *container) readonlyPaths() error {
	for i, p := range c.spec.Linux.ReadonlyPaths {
		if isRoot(p) {
			continue // pivot does it: what is mounted over the root is not seen
		}
		c.atIndex("linux.readonlyPaths", i, p)
		next := c.label()
		at := c.inRoot(c.rootFD, p, 0).tolerate(unix.ENOENT, unix.ENOTDIR).orElse(next).out()
		mount := c.openTree(regArg(at), "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH|
			unix.AT_RECURSIVE).out()
		c.mountSetattr(regArg(mount), "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE,
			mountAttr{set: unix.MOUNT_ATTR_RDONLY})
		c.moveMount(mount, at)
		c.close(mount)
		c.close(at)
		c.mark(next)
	}
	return nil
}

// isRoot reports whether a path of the container is its root.
func isRoot(p string) bool { return path.Clean("/"+p) == "/" }

// maskedPaths covers files with the host's null device and directories with one empty read-only
// tmpfs that they share. It is done while the host's root is still there, so that nothing in the
// image is trusted to be /dev/null (CVE-2025-31133).
//
// Which of the two a path is, is asked before a mount is made for it: to close one that has not
// been attached takes an RCU grace period, up to some milliseconds on a busy machine. So the first
// directory gets the tmpfs itself and the others a clone of it, which before Linux 6.15 only an
// attached mount has anyway.
func (c *container) maskedPaths() error {
	paths := c.spec.Linux.MaskedPaths
	if len(paths) == 0 {
		return nil
	}
	masked := make(map[string]bool, len(paths))
	c.at("linux.maskedPaths")
	null := c.openat2(cwd(), "/dev/null", unix.O_PATH|unix.O_NOFOLLOW, 0).out()
	fs := c.fsopen("tmpfs")
	c.fsconfigString(fs, "source", "tmpfs")
	c.fsconfigString(fs, "nr_blocks", "1")
	c.fsconfigString(fs, "nr_inodes", "1")
	c.labelFilesystem(fs, "tmpfs", nil)
	c.fsconfigCreate(fs)
	empty := c.fsmount(fs, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|
		unix.MOUNT_ATTR_NOEXEC)
	c.close(fs)
	// No descriptor, until empty is attached.
	attached := c.reg()
	c.set(attached, num(-1))
	for i, p := range paths {
		if p = path.Clean(p); masked[p] {
			continue // what is covered once is covered
		}
		masked[p] = true
		c.atIndex("linux.maskedPaths", i, p)
		next, file, first, done := c.label(), c.label(), c.label(), c.label()
		at := c.inRoot(c.rootFD, p, 0).tolerate(unix.ENOENT, unix.ENOTDIR).orElse(next).out()
		for _, check := range c.expectNode(regArg(at), "", unix.S_IFDIR, 0, 0) {
			check.tolerate(unix.EEXIST).orElse(file)
		}
		mount := c.openTree(regArg(attached), "", unix.OPEN_TREE_CLONE|
			unix.AT_EMPTY_PATH).tolerate(unix.EBADF).orElse(first).out()
		c.moveMount(mount, at)
		c.close(mount).then(done)
		c.mark(first)
		c.moveMount(empty, at)
		c.set(attached, regArg(empty)).then(done)
		c.mark(file)
		c.openTree(regArg(null), "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH).into(mount)
		c.moveMount(mount, at)
		c.close(mount)
		c.mark(done)
		c.close(at)
		c.mark(next)
	}
	c.at("linux.maskedPaths")
	c.close(empty)
	c.close(null)
	return nil
}

// makeWorkingDirectory creates process.cwd if necessary, while the root can still be written to.
func (c *container) makeWorkingDirectory() error {
	c.at("process.cwd")
	dir := c.reg()
	c.ensureDirectory(dir, c.spec.Process.Cwd, unix.O_DIRECTORY)
	c.close(dir)
	return nil
}

// workingDirectory enters process.cwd. No magic link is followed, so that /proc/self/fd/N cannot
// name a directory of the host (CVE-2024-21626). A directory that root may not search, as of a user
// namespace or of NFS, is entered as process.user.
func (c *container) workingDirectory() error {
	c.at("process.cwd")
	dir := c.inRoot(c.rootFD, c.spec.Process.Cwd, unix.O_DIRECTORY).out()
	enter := c.call(unix.SYS_FCHDIR, regArg(dir))
	if u := c.spec.Process.User; u.UID != 0 {
		entered := c.label()
		enter.tolerate(unix.EACCES).then(entered)
		c.call(unix.SYS_SETFSGID, num(u.GID))
		c.call(unix.SYS_SETFSUID, num(u.UID))
		c.call(unix.SYS_FCHDIR, regArg(dir))
		c.call(unix.SYS_SETFSUID, num(0))
		c.call(unix.SYS_SETFSGID, num(0))
		c.mark(entered)
	}
	c.close(dir)
	return nil
}

func (c *container) fieldError(path, found, reason string, args ...any) error {
	return &Unsupported{Path: path, Found: found, Reason: fmt.Sprintf(reason, args...)}
}
