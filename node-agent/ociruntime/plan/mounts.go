// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mounts adds the steps for every mount of the document, in its order.
func (c *container) mounts() error {
	for i, m := range c.spec.Mounts {
		c.atIndex("mounts", i, m.Destination)
		if inside, ok := strings.CutPrefix(m.Destination, c.opts.Rootfs+"/"); ok {
			// As in runc and crun, a destination below the host's path of the root filesystem lies
			// in it.
			m.Destination = "/" + inside
			c.plan.Warnings = append(c.plan.Warnings,
				fmt.Sprintf(
					"mounts[%d].destination: found the host's path of the root filesystem; it is read as %s", i,
					m.Destination))
		}
		if target, ok := c.opts.Dangling[i]; ok {
			m.Destination = target
		}
		if err := c.mount(i, m); err != nil {
			return err
		}
	}
	return nil
}

func (c *container) mount(i int, m specs.Mount) error {
	o, err := parseMountOptions(m.Options)
	if err != nil {
		return &Unsupported{Path: fmt.Sprintf("mounts[%d].options", i), Found: strings.Join(m.Options,
			","), Reason: err.Error()}
	}
	o.bind = o.bind || m.Type == "bind"
	if !canPrecedeDeferred(m, o) {
		if err := c.receiveDeferred(); err != nil {
			return err
		}
		c.atIndex("mounts", i, m.Destination)
	}
	if err := c.mapIDs(i, m, &o); err != nil {
		return err
	}
	if err := c.checkOptions(i, m, o); err != nil {
		return err
	}
	switch {
	case o.remount:
		c.remount(m, o)
	case o.bind:
		c.bindMount(i, m, c.wholeSys(m, o))
	case m.Type == "":
		c.propagateMount(m, o)
	case m.Type == "cgroup":
		return c.cgroupMount(i, m, o)
	case m.Type == "cgroup2":
		return c.cgroup2Mount(i, m, o)
	case m.Type == "sysfs" && c.inUserNamespace():
		c.sysfsMount(m, o)
	case m.Type == "overlay":
		o.data = c.overlayData(o.data)
		return c.newMount(m, o)
	default:
		return c.newMount(m, o)
	}
	return nil
}

// checkOptions refuses options that the mount has no use for, rather than drop them.
func (c *container) checkOptions(i int, m specs.Mount, o mountOptions) error {
	for _, f := range []struct {
		wrong         bool
		found, reason string
	}{
		{
			o.copyUp && (m.Type != "tmpfs" || o.bind || o.remount), "tmpcopyup",
			"only a new tmpfs has what it covers copied into it",
		},
		{
			o.copySymlink && (!o.bind || o.remount), "copy-symlink",
			"only a bind mount has a source that can be a symbolic link",
		},
		{o.copySymlink && c.live, "copy-symlink", "a running container gets mounts alone"},
		{
			o.srcNoFollow && (!o.bind || o.remount), "src-nofollow",
			"only a bind mount has a source that can be a symbolic link",
		},
		{
			o.destNoFollow && (!o.bind || o.remount), "dest-nofollow",
			"only a bind mount can be on a symbolic link",
		},
		{
			len(o.data)+len(o.sb) > 0 && (o.remount && o.bind || m.Type == "" && !o.bind && !o.remount),
			strings.Join(append(o.data, o.sb...), ","),
			"it is an option of a filesystem, and the mount makes or changes none",
		},
		{
			o.userns != nil && o.remount, "idmap",
			"the ids of a mount that is there already cannot be mapped",
		},
		{
			o.userns != nil && !o.bind && c.hasNamespace(specs.UserNamespace), "idmap",
			"in a user namespace only bind mounts can have their ids mapped",
		},
		{
			o.userns != nil && (m.Type == "cgroup" || m.Type == "cgroup2" || m.Type == "proc" ||
				m.Type == "sysfs" || m.Type == "") && !o.bind, "idmap",
			"a mount of this type has no ids to map",
		},
	} {
		if f.wrong {
			return c.fieldError(fmt.Sprintf("mounts[%d].options", i), f.found, "%s", f.reason)
		}
	}
	return nil
}

// kernelFilesystem reports whether a mount of this type must not be led astray by a symbolic link
// in the image: a procfs that ends up elsewhere leaves masked paths unmasked (CVE-2019-19921,
// CVE-2023-27561).
func kernelFilesystem(fstype string) bool { return fstype == "proc" || fstype == "sysfs" }

// maxValue is the longest key or value that fsconfig(2) takes, in bytes.
const maxValue = 255

func (c *container) newMount(m specs.Mount, o mountOptions) error {
	if tooLongForFsconfig(m, o) {
		if c.fitsMountData(m, o) && !o.copyUp && o.userns == nil {
			c.mountByData(m, o)
			return nil
		}
		var err error
		if o.data, err = c.shortOptions(m, o.data); err != nil {
			return err
		}
	}
	mount, late := c.detached(m, &o)
	c.attach(mount, m, o)
	c.leave(mount, late)
	return nil
}

// tooLongForFsconfig reports whether fsconfig(2) cannot take the source or an option of a mount.
func tooLongForFsconfig(m specs.Mount, o mountOptions) bool {
	return len(m.Source) > maxValue || slices.Contains(o.sb, "iversion") || slices.ContainsFunc(o.data,
		func(s string) bool {
			key, value, _ := strings.Cut(s, "=")
			return max(len(key), len(value)) > maxValue
		})
}

// detached creates a mount that is attached nowhere yet. A late one becomes read-only after its
// content is created.
func (c *container) detached(m specs.Mount, o *mountOptions) (mount Reg, late bool) {
	fs := c.fsopen(m.Type)
	if m.Source != "" {
		c.fsconfigString(fs, "source", m.Source)
	}
	c.fsconfigOptions(fs, o.data, o.sb)
	c.labelFilesystem(fs, m.Type, o.data)
	c.fsconfigCreate(fs)
	attr := o.attr.set
	late = m.Type == "tmpfs" && (attr|o.rattr.set)&unix.MOUNT_ATTR_RDONLY != 0
	if late {
		attr &^= unix.MOUNT_ATTR_RDONLY
		o.rattr.set &^= unix.MOUNT_ATTR_RDONLY
	}
	mount = c.fsmount(fs, attr)
	c.close(fs)
	c.labelQueue(mount, m)
	return mount, late
}

// leave closes a mount that is attached, unless readonlyMounts still needs it.
func (c *container) leave(mount Reg, late bool) {
	if late {
		// What is mounted or made in it, such as the devices in /dev, needs its place first.
		c.readonly = append(c.readonly, lateMount{c.field, mount})
		return
	}
	c.close(mount)
}

// fsconfigOptions gives a filesystem its own options and the flags of its superblock.
func (c *container) fsconfigOptions(fs Reg, data, sb []string) {
	for _, option := range data {
		key, value, found := strings.Cut(option, "=")
		switch {
		case !found:
			c.fsconfigFlag(fs, key)
		case len(value) > maxValue: // a directory: shortOptions refuses all else
			c.call(unix.SYS_CHDIR, text(value))
			c.fsconfigString(fs, key, ".")
			c.call(unix.SYS_FCHDIR, regArg(c.rootFD))
		default:
			c.fsconfigString(fs, key, value)
		}
	}
	for _, flag := range sb {
		c.fsconfigFlag(fs, flag)
	}
}

// readonlyMounts makes mounts read-only that had to be filled first.
func (c *container) readonlyMounts() error {
	for _, l := range c.readonly {
		c.field = l.field
		c.mountSetattr(regArg(l.mount), "", unix.AT_EMPTY_PATH, mountAttr{set: unix.MOUNT_ATTR_RDONLY})
		c.close(l.mount)
	}
	return nil
}

// attach sets the attributes of a detached mount and attaches it at its destination, which is
// created if necessary. The mount's descriptor stays open.
func (c *container) attach(mount Reg, m specs.Mount, o mountOptions) {
	if !o.rattr.zero() {
		c.mountSetattr(regArg(mount), "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, o.rattr)
	}
	if o.userns != nil {
		c.setIDMap(mount, o)
	}
	at := c.reg()
	switch {
	case kernelFilesystem(m.Type):
		c.ensureDirectoryNoSymlink(at, m.Destination)
	case m.Type == "tmpfs" && (o.copyUp || !hasKey(o.data, "mode")):
		c.likeWhatItCovers(mount, at, m, o)
	default:
		c.ensureDirectory(at, m.Destination, unix.O_DIRECTORY)
	}
	c.moveMount(mount, at)
	c.close(at)
	c.propagate(mount, o)
}

func hasKey(data []string, key string) bool {
	return slices.ContainsFunc(data, func(s string) bool { return strings.HasPrefix(s, key+"=") })
}

// propagate sets the propagation of an attached mount: a detached one takes none but private.
func (c *container) propagate(mount Reg, o mountOptions) {
	for _, p := range o.propagation {
		fl := unix.AT_EMPTY_PATH
		if p.recursive {
			fl |= unix.AT_RECURSIVE
		}
		c.mountSetattr(regArg(mount), "", fl, mountAttr{propagation: p.flag})
	}
}

// noIndex stands for the index of a bind mount that the document does not have.
const noIndex = -1

// attachAs attaches a clone at a destination, which is created with the source's type if necessary.
func (c *container) attachAs(mount Reg, destination string, nofollow uint64) {
	// The destination is made as what the source is: asking for "." below it succeeds on a
	// directory alone.
	at := c.reg()
	have, dir, reopen := c.label(), c.label(), c.label()
	c.inRoot(c.rootFD, destination, nofollow).into(at).tolerate(unix.ENOENT).then(have)
	parent, base := path.Split(path.Clean(destination))
	p := c.reg()
	c.ensureDirectory(p, parent, unix.O_DIRECTORY)
	c.call(unix.SYS_FACCESSAT, regArg(mount), text("."),
		flags(uint(unix.F_OK), accessNames)).tolerate(unix.ENOTDIR, unix.EACCES).then(dir)
	// EACCES is a directory as well, one that not even the container's root may search: its owner
	// has no id in there.
	c.call(unix.SYS_FACCESSAT, regArg(mount), text("."),
		flags(uint(unix.F_OK), accessNames)).tolerate(unix.ENOTDIR).must(unix.EACCES,
		unix.EAGAIN).then(dir)
	c.mknodat(regArg(p), base, unix.S_IFREG|0o644, 0).tolerate(unix.EEXIST)
	c.goTo(reopen)
	c.mark(dir)
	c.mkdirat(regArg(p), base, 0o755).tolerate(unix.EEXIST)
	c.mark(reopen)
	c.close(p)
	c.inRoot(c.rootFD, destination, nofollow).into(at)
	c.mark(have)
	c.moveMount(mount, at)
	c.close(at)
}

// ensureDirectory opens a directory of the container into at, creating missing parts with mode
// 0755. Every prefix is resolved inside the root, so that no symbolic link of the image leads out.
func (c *container) ensureDirectory(at Reg, dir string, fl uint64) {
	done := c.label()
	dir = path.Clean("/" + dir)
	open := c.inRoot(c.rootFD, dir, fl).into(at)
	if dir != "/" {
		open.tolerate(unix.ENOENT).then(done)
		c.makePath(at, dir, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	}
	c.mark(done)
}

// ensureDirectoryNoSymlink creates a directory as ensureDirectory does, and refuses symbolic links
// in the path.
func (c *container) ensureDirectoryNoSymlink(at Reg, dir string) {
	done := c.label()
	dir = path.Clean("/" + dir)
	const resolve = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS
	c.openat2(regArg(c.rootFD), relative(dir), unix.O_PATH|unix.O_DIRECTORY,
		resolve).into(at).tolerate(unix.ENOENT).then(done)
	c.makePath(at, dir, resolve)
	c.mark(done)
}

// makePath creates each missing directory of a path below the one before, and leaves the last open
// in at.
func (c *container) makePath(at Reg, dir string, resolve uint64) {
	above := c.rootFD
	components := strings.Split(relative(dir), "/")
	for i := range components {
		prefix := strings.Join(components[:i+1], "/")
		last := i == len(components)-1
		there := c.label()
		here := at
		if !last {
			here = c.reg()
			c.openat2(regArg(c.rootFD), prefix, unix.O_PATH|unix.O_DIRECTORY,
				resolve).into(here).tolerate(unix.ENOENT).then(there)
		}
		c.mkdirat(regArg(above), components[i], 0o755).tolerate(unix.EEXIST)
		c.openat2(regArg(c.rootFD), prefix, unix.O_PATH|unix.O_DIRECTORY, resolve).into(here)
		c.mark(there)
		if above != c.rootFD {
			c.close(above)
		}
		above = here
	}
}
