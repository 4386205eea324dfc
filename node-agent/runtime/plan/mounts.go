// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mountOptions are the options of one mount, sorted by what takes them.
type mountOptions struct {
	bind, recursive bool
	attr            mountAttr // of the mount itself
	rattr           mountAttr // of all mounts below it as well
	propagation     []propagation
	sb              []string // flags of the superblock
	data            []string // options of the filesystem: key or key=value
}

type propagation struct {
	flag      uint64
	recursive bool
}

// attrOption returns what an option of a mount sets and clears; ok is false for one that is not of this kind.
// The names are those of mount(8).
func attrOption(name string) (set, clear uint64, ok bool) {
	switch name {
	case "ro":
		return unix.MOUNT_ATTR_RDONLY, 0, true
	case "rw":
		return 0, unix.MOUNT_ATTR_RDONLY, true
	case "nosuid":
		return unix.MOUNT_ATTR_NOSUID, 0, true
	case "suid":
		return 0, unix.MOUNT_ATTR_NOSUID, true
	case "nodev":
		return unix.MOUNT_ATTR_NODEV, 0, true
	case "dev":
		return 0, unix.MOUNT_ATTR_NODEV, true
	case "noexec":
		return unix.MOUNT_ATTR_NOEXEC, 0, true
	case "exec":
		return 0, unix.MOUNT_ATTR_NOEXEC, true
	case "nodiratime":
		return unix.MOUNT_ATTR_NODIRATIME, 0, true
	case "diratime":
		return 0, unix.MOUNT_ATTR_NODIRATIME, true
	case "nosymfollow":
		return unix.MOUNT_ATTR_NOSYMFOLLOW, 0, true
	case "symfollow":
		return 0, unix.MOUNT_ATTR_NOSYMFOLLOW, true
	// The access time is one value of a field, not a flag: setting one clears the field.
	case "noatime":
		return unix.MOUNT_ATTR_NOATIME, unix.MOUNT_ATTR__ATIME, true
	case "atime", "relatime", "nostrictatime":
		return unix.MOUNT_ATTR_RELATIME, unix.MOUNT_ATTR__ATIME, true
	case "strictatime", "norelatime":
		return unix.MOUNT_ATTR_STRICTATIME, unix.MOUNT_ATTR__ATIME, true
	}
	return 0, 0, false
}

func propagationOption(name string) (propagation, bool) {
	p := propagation{}
	if strings.HasPrefix(name, "r") {
		p.recursive, name = true, name[1:]
	}
	switch name {
	case "private":
		p.flag = unix.MS_PRIVATE
	case "slave":
		p.flag = unix.MS_SLAVE
	case "shared":
		p.flag = unix.MS_SHARED
	case "unbindable":
		p.flag = unix.MS_UNBINDABLE
	default:
		return p, false
	}
	return p, true
}

// MountOptions are the options that a plan honours besides those that a filesystem takes itself, sorted.
func MountOptions() []string {
	attrs := []string{"ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "nodiratime", "diratime", "nosymfollow", "symfollow",
		"noatime", "atime", "relatime", "norelatime", "strictatime", "nostrictatime"}
	out := []string{"bind", "rbind", "defaults", "async", "sync", "dirsync", "nodirsync", "mand", "nomand", "lazytime", "nolazytime", "iversion", "noiversion",
		"silent", "loud", "private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"}
	for _, a := range attrs {
		out = append(out, a, "r"+a)
	}
	sort.Strings(out)
	return out
}

// merge lets the last of contradicting options win, as mount(8) does.
func (a *mountAttr) merge(set, clear uint64) {
	a.set = a.set&^clear | set
	a.clear = a.clear&^set | clear
	if clear&unix.MOUNT_ATTR__ATIME != 0 {
		a.clear |= unix.MOUNT_ATTR__ATIME
	}
}

func parseMountOptions(options []string) (mountOptions, error) {
	var o mountOptions
	for _, name := range options {
		if set, clear, ok := attrOption(name); ok {
			o.attr.merge(set, clear)
			continue
		}
		if p, ok := propagationOption(name); ok {
			o.propagation = append(o.propagation, p)
			continue
		}
		if rest, found := strings.CutPrefix(name, "r"); found {
			if set, clear, ok := attrOption(rest); ok {
				o.rattr.merge(set, clear)
				continue
			}
		}
		switch name {
		case "bind":
			o.bind = true
		case "rbind":
			o.bind, o.recursive = true, true
		case "defaults", "", "async", "nodirsync", "nomand", "nolazytime", "noiversion", "loud":
			// What the kernel does unasked.
		case "sync", "dirsync", "mand", "lazytime", "iversion", "silent":
			o.sb = append(o.sb, name)
		case "remount", "tmpcopyup", "idmap", "ridmap", "copy-symlink", "src-nofollow", "dest-nofollow":
			return o, fmt.Errorf("%q is not supported", name)
		default:
			if strings.HasPrefix(name, "idmap=") || strings.HasPrefix(name, "ridmap=") {
				return o, fmt.Errorf("%q is not supported", name)
			}
			o.data = append(o.data, name)
		}
	}
	return o, nil
}

// sharedSources clones, where linux.rootfsPropagation asks for it, the sources of bind mounts that are to be shared with
// the host, before everything else of the host turns slave: a clone stays a peer of what it was cloned from, so that what
// either side mounts in it later shows on the other. With a user namespace it clones all, as the runtime's user, who may
// reach more of them than the container's root.
func (c *container) sharedSources() error {
	p, _ := propagationOption(c.spec.Linux.RootfsPropagation)
	for i, m := range c.spec.Mounts {
		o, err := parseMountOptions(m.Options)
		if err != nil || !(m.Type == "bind" || o.bind) {
			continue // mounts says what is wrong
		}
		early := c.hasNamespace(specs.UserNamespace) || p.flag == unix.MS_SHARED && slices.ContainsFunc(o.propagation, func(p propagation) bool { return p.flag == unix.MS_SHARED })
		if early {
			if c.shared == nil {
				c.shared = map[int]Reg{}
			}
			c.atIndex("mounts", i, m.Destination)
			c.shared[i] = c.bindSource(m, o)
		}
	}
	return nil
}

// root makes the root filesystem a mount of the container's own mount namespace and keeps a descriptor of it, which
// every later path of the container is resolved below.
func (c *container) root() error {
	c.at("linux.rootfsPropagation")
	if p := c.spec.Linux.RootfsPropagation; p != "" {
		if _, ok := propagationOption(p); !ok {
			return &Unsupported{Path: "linux.rootfsPropagation", Found: p, Reason: "allowed are (r)private, (r)slave, (r)shared, (r)unbindable"}
		}
	}
	if !c.hasNamespace(specs.MountNamespace) {
		// The parent has mounted the root filesystem on itself, since it has to be found again when the container is deleted. What
		// the host mounts, and how mounts travel there, is not ours to change.
		c.at("root.path")
		c.rootFD = c.openat2(cwd(), c.opts.Rootfs, unix.O_PATH|unix.O_DIRECTORY, 0).out()
		return nil
	}
	// Nothing that is mounted in here may travel to the host, whatever the container's root becomes later: not even the
	// unmounting of the old root would stay here. Slave still lets the host's later mounts arrive where a mount asks for them.
	c.mountSetattr(cwd(), "/", unix.AT_RECURSIVE, mountAttr{propagation: unix.MS_SLAVE})
	c.at("root.path")
	c.rootFD = c.openTree(cwd(), c.opts.Rootfs, unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE).out()
	c.call(unix.SYS_MOVE_MOUNT, regArg(c.rootFD), text(""), cwd(), text(c.opts.Rootfs), flags(uint(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS), moveMountNames))
	return nil
}

// pivot makes the container's root the root.
func (c *container) pivot() error {
	c.at("root")
	c.call(unix.SYS_FCHDIR, regArg(c.rootFD))
	switch {
	case !c.hasNamespace(specs.MountNamespace):
		c.call(unix.SYS_CHROOT, text(".")) // the mount namespace is the host's, and so is its root
	case c.opts.NoPivot:
		c.call(unix.SYS_MOVE_MOUNT, regArg(c.rootFD), text(""), cwd(), text("/"), flags(uint(unix.MOVE_MOUNT_F_EMPTY_PATH), moveMountNames))
		c.call(unix.SYS_CHROOT, text("."))
	default:
		// pivot_root(2): "." for both stacks the old root on the new one, where umount2 then finds it. The old root is a slave of
		// the host's, so that its unmounting stays here.
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
	if r := c.spec.Root; r != nil && r.Readonly {
		c.at("root.readonly")
		c.mountSetattr(cwd(), "/", 0, mountAttr{set: unix.MOUNT_ATTR_RDONLY})
	}
	return nil
}

// mounts makes every mount of the document, in its order.
func (c *container) mounts() error {
	for i, m := range c.spec.Mounts {
		c.atIndex("mounts", i, m.Destination)
		o, err := parseMountOptions(m.Options)
		if err != nil {
			return &Unsupported{Path: fmt.Sprintf("mounts[%d].options", i), Found: strings.Join(m.Options, ","), Reason: err.Error()}
		}
		if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
			return &Unsupported{Path: fmt.Sprintf("mounts[%d].uidMappings", i), Found: "mappings", Reason: "idmapped mounts are not supported"}
		}
		switch {
		case m.Type == "bind" || o.bind:
			c.bindMount(i, m, c.wholeSys(m, o))
		case m.Type == "cgroup":
			err = c.cgroupMount(m, o)
		case m.Type == "sysfs" && c.inUserNamespace():
			c.sysfsMount(m, o)
		default:
			c.newMount(m, o)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// kernelFilesystem is whether a mount of this type must not be led astray by a symbolic link in the image: a procfs that
// ends up elsewhere leaves masked paths unmasked (CVE-2019-19921, CVE-2023-27561).
func kernelFilesystem(fstype string) bool { return fstype == "proc" || fstype == "sysfs" }

func (c *container) newMount(m specs.Mount, o mountOptions) {
	fs := c.fsopen(m.Type)
	if m.Source != "" {
		c.fsconfigString(fs, "source", m.Source)
	}
	for _, option := range o.data {
		if key, value, found := strings.Cut(option, "="); found {
			c.fsconfigString(fs, key, value)
		} else {
			c.fsconfigFlag(fs, key)
		}
	}
	for _, flag := range o.sb {
		c.fsconfigFlag(fs, flag)
	}
	c.labelFilesystem(fs, m.Type, o.data)
	c.fsconfigCreate(fs)
	attr := o.attr.set
	late := m.Type == "tmpfs" && attr&unix.MOUNT_ATTR_RDONLY != 0
	if late {
		attr &^= unix.MOUNT_ATTR_RDONLY
	}
	mount := c.fsmount(fs, attr)
	c.close(fs)
	c.labelQueue(mount, m)
	c.attach(mount, m, o)
	if late {
		// What is mounted or made in it, such as the devices in /dev, needs its place first.
		c.readonly = append(c.readonly, lateMount{c.field, mount})
		return
	}
	c.close(mount)
}

// readonlyMounts makes those mounts read-only that had to be filled first.
func (c *container) readonlyMounts() error {
	for _, l := range c.readonly {
		c.field = l.field
		c.mountSetattr(regArg(l.mount), "", unix.AT_EMPTY_PATH, mountAttr{set: unix.MOUNT_ATTR_RDONLY})
		c.close(l.mount)
	}
	return nil
}

// attach sets what must be set on a detached mount and attaches it at its destination, which is made if need be. The
// mount's descriptor stays open.
func (c *container) attach(mount Reg, m specs.Mount, o mountOptions) {
	if !o.rattr.zero() {
		c.mountSetattr(regArg(mount), "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, o.rattr)
	}
	at := c.reg()
	if kernelFilesystem(m.Type) {
		c.ensureDirectoryNoSymlink(at, m.Destination)
	} else {
		c.ensureDirectory(at, m.Destination, unix.O_DIRECTORY)
	}
	c.moveMount(mount, at)
	c.close(at)
	c.propagate(mount, o)
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

// noIndex is in place of the index of a bind mount that is none of the document's.
const noIndex = -1

// bindSource clones what is to be shown elsewhere.
func (c *container) bindSource(m specs.Mount, o mountOptions) Reg {
	source := m.Source
	if !filepath.IsAbs(source) {
		source = filepath.Join(c.opts.Bundle, source)
	}
	fl := uint(unix.OPEN_TREE_CLONE)
	if o.recursive {
		fl |= unix.AT_RECURSIVE
	}
	return c.openTree(cwd(), source, fl).out()
}

func (c *container) bindMount(i int, m specs.Mount, o mountOptions) {
	mount, cloned := c.shared[i]
	if !cloned {
		mount = c.bindSource(m, o)
	}
	if !o.attr.zero() {
		c.mountSetattr(regArg(mount), "", unix.AT_EMPTY_PATH, o.attr)
	}
	if !o.rattr.zero() {
		c.mountSetattr(regArg(mount), "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, o.rattr)
	}
	// The destination is made as what the source is: asking for "." below it succeeds on a directory alone.
	at := c.reg()
	have, dir, reopen := c.label(), c.label(), c.label()
	c.inRoot(c.rootFD, m.Destination, 0).into(at).tolerate(unix.ENOENT).then(have)
	parent, base := path.Split(path.Clean(m.Destination))
	p := c.reg()
	c.ensureDirectory(p, parent, unix.O_DIRECTORY)
	c.call(unix.SYS_FACCESSAT, regArg(mount), text("."), flags(uint(unix.F_OK), accessNames)).tolerate(unix.ENOTDIR).then(dir)
	c.mknodat(regArg(p), base, unix.S_IFREG|0o644, 0).tolerate(unix.EEXIST)
	c.goTo(reopen)
	c.mark(dir)
	c.mkdirat(regArg(p), base, 0o755).tolerate(unix.EEXIST)
	c.mark(reopen)
	c.close(p)
	c.inRoot(c.rootFD, m.Destination, 0).into(at)
	c.mark(have)
	c.moveMount(mount, at)
	c.close(at)
	c.propagate(mount, o)
	c.close(mount)
}

// ensureDirectory opens a folder of the container into at, making what of it is missing, mode 0755. Every prefix is
// resolved inside the root, so that no symbolic link of the image leads out.
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

// ensureDirectoryNoSymlink is ensureDirectory for a path in which no component may be a symbolic link.
func (c *container) ensureDirectoryNoSymlink(at Reg, dir string) {
	done := c.label()
	dir = path.Clean("/" + dir)
	const resolve = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS
	c.openat2(regArg(c.rootFD), relative(dir), unix.O_PATH|unix.O_DIRECTORY, resolve).into(at).tolerate(unix.ENOENT).then(done)
	c.makePath(at, dir, resolve)
	c.mark(done)
}

// makePath makes each folder of dir below the one before, and leaves the last open in at.
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
			c.openat2(regArg(c.rootFD), prefix, unix.O_PATH|unix.O_DIRECTORY, resolve).into(here).tolerate(unix.ENOENT).then(there)
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

// cgroupMount shows the container its cgroups. With a cgroup namespace that is a mount of each hierarchy, whose root the
// namespace hides what is above of; without one it is a read-only bind mount of the container's own folders, since
// anything else would show, and let write, those of others (CVE-2023-25809). A container without a cgroup gets an empty folder, which
// covers what a bind mount of /sys may have brought.
func (c *container) cgroupMount(m specs.Mount, o mountOptions) error {
	namespaced := c.hasNamespace(specs.CgroupNamespace)
	if !namespaced {
		o.attr.merge(unix.MOUNT_ATTR_RDONLY, 0)
	}
	bind := func(hierarchy string, dest string) {
		if source, ok := c.opts.CgroupPaths[hierarchy]; ok {
			c.bindMount(noIndex, specs.Mount{Destination: dest, Source: source}, mountOptions{attr: o.attr, propagation: o.propagation})
		}
	}
	if c.host.Cgroup.Unified {
		if _, ok := c.opts.CgroupPaths[""]; !namespaced && !ok {
			c.newMount(specs.Mount{Destination: m.Destination, Type: "tmpfs", Source: "tmpfs"}, mountOptions{attr: o.attr, data: []string{"mode=755"}})
			return nil
		}
		if !namespaced {
			bind("", m.Destination)
			return nil
		}
		m.Type, m.Source, o.data = "cgroup2", "cgroup", nil
		c.newMount(m, o)
		return nil
	}
	// A tmpfs holds the mount points.
	top := specs.Mount{Destination: m.Destination, Type: "tmpfs", Source: "tmpfs"}
	c.newMount(top, mountOptions{attr: o.attr, data: []string{"mode=755"}})
	for _, h := range c.host.Cgroup.V1 {
		dest := path.Join(m.Destination, h.Dir)
		if namespaced {
			c.newMount(specs.Mount{Destination: dest, Type: "cgroup", Source: "cgroup"}, mountOptions{attr: o.attr, data: strings.Split(h.Options, ","), propagation: o.propagation})
		} else {
			bind(h.Dir, dest)
		}
		for _, link := range h.Links {
			at := c.inRoot(c.rootFD, m.Destination, unix.O_DIRECTORY).out()
			c.symlinkat(h.Dir, regArg(at), link).tolerate(unix.EEXIST)
			c.close(at)
		}
	}
	if d := c.host.Cgroup.Hybrid; d != "" {
		dest := path.Join(m.Destination, d)
		if namespaced {
			c.newMount(specs.Mount{Destination: dest, Type: "cgroup2", Source: "cgroup"}, mountOptions{attr: o.attr, propagation: o.propagation})
		} else {
			bind("", dest)
		}
	}
	return nil
}
