// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// root makes the root filesystem a mount of the container's own mount namespace and keeps a
// descriptor of it, which every later path of the container is resolved below.
func (c *container) root() error {
	c.at("linux.rootfsPropagation")
	if p := c.spec.Linux.RootfsPropagation; p != "" {
		if _, ok := propagationOption(p); !ok {
			return &Unsupported{
				Path: "linux.rootfsPropagation", Found: p,
				Reason: "allowed are (r)private, (r)slave, (r)shared, (r)unbindable",
			}
		}
	}
	if !c.hasNamespace(specs.MountNamespace) {
		// The parent has mounted the root filesystem on itself, since it has to be found again when
		// the container is deleted. What the host mounts, and how mounts travel there, is not ours
		// to change.
		if c.rootFD = c.rootAt; c.rootFD == 0 {
			c.at("root.path")
			c.rootFD = c.openat2(cwd(), c.opts.Rootfs, unix.O_PATH|unix.O_DIRECTORY, 0).out()
		}
		return nil
	}
	// Nothing that is mounted in here may travel to the host, whatever the container's root becomes
	// later: not even the unmounting of the old root would stay here. Slave still lets the host's
	// later mounts arrive where a mount asks for them.
	c.mountSetattr(cwd(), "/", unix.AT_RECURSIVE, mountAttr{propagation: unix.MS_SLAVE})
	c.at("root.path")
	if c.rootAt != 0 {
		c.rootFD = c.openTree(regArg(c.rootAt), "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH|
			unix.AT_RECURSIVE).out()
		c.nodes()
		c.at("root.path")
		c.moveMount(c.rootFD, c.rootAt)
		c.close(c.rootAt)
		return nil
	}
	c.rootFD = c.openTree(cwd(), c.opts.Rootfs, unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE).out()
	c.call(unix.SYS_MOVE_MOUNT, regArg(c.rootFD), text(""), cwd(), text(c.opts.Rootfs),
		flags(uint(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS), moveMountNames))
	return nil
}

// pivot changes the root to the container's.
func (c *container) pivot() error {
	c.at("root")
	c.call(unix.SYS_FCHDIR, regArg(c.rootFD))
	switch {
	case !c.hasNamespace(specs.MountNamespace):
		c.call(unix.SYS_CHROOT, text(".")) // the mount namespace is the host's, and so is its root
	case c.opts.NoPivot:
		if p, _ := propagationOption(c.spec.Linux.RootfsPropagation); p.flag == unix.MS_PRIVATE {
			return c.fieldError("linux.rootfsPropagation", c.spec.Linux.RootfsPropagation,
				"--no-pivot leaves the host's mounts below the root, and is not for a private root")
		}
		c.hideKernelMounts()
		c.call(unix.SYS_MOVE_MOUNT, regArg(c.rootFD), text(""), cwd(), text("/"),
			flags(uint(unix.MOVE_MOUNT_F_EMPTY_PATH), moveMountNames))
		c.call(unix.SYS_CHROOT, text("."))
	default:
		// pivot_root(2): "." for both stacks the old root on the new one, where umount2 then finds
		// it. The old root is a slave of the host's, so that its unmounting stays here.
		c.call(unix.SYS_PIVOT_ROOT, text("."), text("."))
		c.call(unix.SYS_UMOUNT2, text("."), flags(uint(unix.MNT_DETACH), umountNames))
	}
	c.call(unix.SYS_CHDIR, text("/"))
	if p := c.spec.Linux.RootfsPropagation; p != "" {
		c.at("linux.rootfsPropagation")
		prop, _ := propagationOption(p) // root has checked it
		fl := 0
		if prop.recursive {
			fl = unix.AT_RECURSIVE
		}
		c.mountSetattr(cwd(), "/", fl, mountAttr{propagation: prop.flag})
	}
	readonly := slices.IndexFunc(c.spec.Linux.ReadonlyPaths, isRoot)
	switch r := c.spec.Root; {
	case r != nil && r.Readonly:
		c.at("root.readonly")
	case readonly >= 0:
		c.atIndex("linux.readonlyPaths", readonly, "/")
	default:
		return nil
	}
	c.mountSetattr(cwd(), "/", 0, mountAttr{set: unix.MOUNT_ATTR_RDONLY})
	return nil
}

// hideKernelMounts takes every whole procfs and sysfs of the host out of the mount namespace that
// the container is about to share with them: with one there, though out of its reach, the kernel
// lets a process that makes a user namespace mount another, without what linux.maskedPaths and
// linux.readonlyPaths cover in the container's (mount_too_revealing in fs/namespace.c). What cannot
// be unmounted, since the runtime is in a user namespace, is covered.
func (c *container) hideKernelMounts() {
	if !c.ownMounts() {
		return
	}
	for _, at := range c.opts.KernelMounts {
		gone := c.label()
		c.call(unix.SYS_UMOUNT2, text(at), flags(uint(unix.MNT_DETACH),
			umountNames)).tolerate(unix.EINVAL, unix.EPERM, unix.ENOENT).then(gone)
		c.call(unix.SYS_MOUNT, text("tmpfs"), text(at), text("tmpfs"), flags(uint(unix.MS_RDONLY),
			hexNames), text("")).tolerate(unix.ENOENT)
		c.mark(gone)
	}
}
