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
	remount         bool
	attr            mountAttr // of the mount itself
	rattr           mountAttr // of all mounts below it as well
	propagation     []propagation
	sb              []string // flags of the superblock
	sbClear         []string // flags that a remount takes from it; a new one has none of them
	data            []string // options of the filesystem: key or key=value
	copyUp          bool
	idmap           idmapOption
	copySymlink     bool // make a symbolic link that is the source anew, in place of mounting what it leads to
	srcNoFollow     bool // mount a symbolic link that is the source itself
	destNoFollow    bool // mount on a symbolic link that is the destination itself

	// userns is the user namespace that the mount's ids are mapped by, from Plan.UserNamespaces; nil without one.
	userns *int
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
		"silent", "loud", "private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable",
		"remount", "tmpcopyup", "idmap", "ridmap", "copy-symlink", "src-nofollow", "dest-nofollow"}
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

// userspaceOption is whether an option is one that mount(8) keeps from the kernel and that asks nothing of a mount that root makes: for
// fstab(5), or a comment. What X-mount. asks for mount(8) itself does, apart from making the destination.
func userspaceOption(name string) bool {
	switch name {
	case "auto", "noauto", "nofail", "_netdev", "nouser", "X-mount.mkdir":
		return true
	}
	return strings.HasPrefix(name, "x-") || strings.HasPrefix(name, "X-") && !strings.HasPrefix(name, "X-mount.") || strings.HasPrefix(name, "comment=")
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
		case "remount":
			o.remount = true
		case "defaults", "", "nodirsync", "noiversion", "loud", "silent":
			// What the kernel does unasked; silent is about its log alone.
		case "async", "nolazytime", "nomand":
			o.sbClear = append(o.sbClear, name)
		case "sync", "dirsync", "mand", "lazytime", "iversion":
			o.sb = append(o.sb, name)
		case "user", "users":
			o.attr.merge(unix.MOUNT_ATTR_NOEXEC|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV, 0) // mount(8): implied, unless overridden by what follows
		case "group", "owner":
			o.attr.merge(unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV, 0) // likewise
		case "tmpcopyup":
			o.copyUp = true
		case "copy-symlink":
			o.copySymlink = true
		case "src-nofollow":
			o.srcNoFollow = true
		case "dest-nofollow":
			o.destNoFollow = true
		default:
			if ok, err := o.idmap.parse(name); err != nil {
				return o, err
			} else if ok {
				continue
			}
			if !userspaceOption(name) {
				o.data = append(o.data, name)
			}
		}
	}
	return o, nil
}

// sharedSources clones, where linux.rootfsPropagation asks for it, the sources of bind mounts that are to be shared with
// the host, before everything else of the host turns slave: a clone stays a peer of what it was cloned from, so that what
// either side mounts in it later shows on the other. With a user namespace hostFiles clones all.
func (c *container) sharedSources() error {
	if c.hasNamespace(specs.UserNamespace) {
		return c.hostFiles()
	}
	c.shared = map[int]Reg{}
	for i, m := range c.spec.Mounts {
		if o, ok := c.clonedEarly(m); ok && c.sharedWithHost(o) {
			c.atIndex("mounts", i, m.Destination)
			c.shared[i] = c.bindSource(m, o).out()
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
		if c.rootFD = c.rootAt; c.rootFD == 0 {
			c.at("root.path")
			c.rootFD = c.openat2(cwd(), c.opts.Rootfs, unix.O_PATH|unix.O_DIRECTORY, 0).out()
		}
		return nil
	}
	// Nothing that is mounted in here may travel to the host, whatever the container's root becomes later: not even the
	// unmounting of the old root would stay here. Slave still lets the host's later mounts arrive where a mount asks for them.
	c.mountSetattr(cwd(), "/", unix.AT_RECURSIVE, mountAttr{propagation: unix.MS_SLAVE})
	c.at("root.path")
	if c.rootAt != 0 {
		c.rootFD = c.openTree(regArg(c.rootAt), "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE).out()
		c.nodes()
		c.at("root.path")
		c.moveMount(c.rootFD, c.rootAt)
		c.close(c.rootAt)
		return nil
	}
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
		if p, _ := propagationOption(c.spec.Linux.RootfsPropagation); p.flag == unix.MS_PRIVATE {
			return c.fieldError("linux.rootfsPropagation", c.spec.Linux.RootfsPropagation, "--no-pivot leaves the host's mounts below the root, and is not for a private root")
		}
		c.hideKernelMounts()
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

// hideKernelMounts takes every whole procfs and sysfs of the host out of the mount namespace that the container is about to share with
// them: with one there, though out of its reach, the kernel lets a process that makes a user namespace mount another, without what
// linux.maskedPaths and linux.readonlyPaths cover in the container's (mount_too_revealing in fs/namespace.c). What cannot be unmounted, since
// the runtime is in a user namespace, is covered.
func (c *container) hideKernelMounts() {
	if !c.ownMounts() {
		return
	}
	for _, at := range c.opts.KernelMounts {
		gone := c.label()
		c.call(unix.SYS_UMOUNT2, text(at), flags(uint(unix.MNT_DETACH), umountNames)).tolerate(unix.EINVAL, unix.EPERM, unix.ENOENT).then(gone)
		c.call(unix.SYS_MOUNT, text("tmpfs"), text(at), text("tmpfs"), flags(uint(unix.MS_RDONLY), hexNames), text("")).tolerate(unix.ENOENT)
		c.mark(gone)
	}
}

// mounts makes every mount of the document, in its order.
func (c *container) mounts() error {
	for i, m := range c.spec.Mounts {
		c.atIndex("mounts", i, m.Destination)
		if inside, ok := strings.CutPrefix(m.Destination, c.opts.Rootfs+"/"); ok {
			// As in runc and crun, a destination below the host's path of the root filesystem lies in it.
			m.Destination = "/" + inside
			c.plan.Warnings = append(c.plan.Warnings, fmt.Sprintf("mounts[%d].destination: found the host's path of the root filesystem; it is read as %s", i, m.Destination))
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
		return &Unsupported{Path: fmt.Sprintf("mounts[%d].options", i), Found: strings.Join(m.Options, ","), Reason: err.Error()}
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
		{o.copyUp && (m.Type != "tmpfs" || o.bind || o.remount), "tmpcopyup", "only a new tmpfs has what it covers copied into it"},
		{o.copySymlink && (!o.bind || o.remount), "copy-symlink", "only a bind mount has a source that can be a symbolic link"},
		{o.copySymlink && c.live, "copy-symlink", "a running container gets mounts alone"},
		{o.srcNoFollow && (!o.bind || o.remount), "src-nofollow", "only a bind mount has a source that can be a symbolic link"},
		{o.destNoFollow && (!o.bind || o.remount), "dest-nofollow", "only a bind mount can be on a symbolic link"},
		{len(o.data)+len(o.sb) > 0 && (o.remount && o.bind || m.Type == "" && !o.bind && !o.remount), strings.Join(append(o.data, o.sb...), ","), "it is an option of a filesystem, and the mount makes or changes none"},
		{o.userns != nil && o.remount, "idmap", "the ids of a mount that is there already cannot be mapped"},
		{o.userns != nil && !o.bind && c.hasNamespace(specs.UserNamespace), "idmap", "in a user namespace only bind mounts can have their ids mapped"},
		{o.userns != nil && (m.Type == "cgroup" || m.Type == "cgroup2" || m.Type == "proc" || m.Type == "sysfs" || m.Type == "") && !o.bind, "idmap", "a mount of this type has no ids to map"},
	} {
		if f.wrong {
			return c.fieldError(fmt.Sprintf("mounts[%d].options", i), f.found, "%s", f.reason)
		}
	}
	return nil
}

// kernelFilesystem is whether a mount of this type must not be led astray by a symbolic link in the image: a procfs that
// ends up elsewhere leaves masked paths unmasked (CVE-2019-19921, CVE-2023-27561).
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
	return len(m.Source) > maxValue || slices.Contains(o.sb, "iversion") || slices.ContainsFunc(o.data, func(s string) bool {
		key, value, _ := strings.Cut(s, "=")
		return max(len(key), len(value)) > maxValue
	})
}

// detached makes a mount that is attached nowhere yet. One that is late becomes read-only once all that lies in it is made.
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

// leave is the end of what there is to do with a mount for now.
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

// noIndex is in place of the index of a bind mount that is none of the document's.
const noIndex = -1

// bindSource clones what is to be shown elsewhere.
func (c *container) bindSource(m specs.Mount, o mountOptions) stepRef {
	return c.openTree(cwd(), c.hostPath(m.Source), cloneFlags(o))
}

// cloneFlags returns the flags of open_tree(2) that clone the source of a bind mount.
func cloneFlags(o mountOptions) uint {
	fl := uint(unix.OPEN_TREE_CLONE)
	if o.recursive {
		fl |= unix.AT_RECURSIVE
	}
	if o.srcNoFollow {
		fl |= unix.AT_SYMLINK_NOFOLLOW
	}
	return fl
}

// hostPath is a path of the document that is the host's: where it is relative, to the bundle.
func (c *container) hostPath(p string) string {
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.opts.Bundle, p)
}

func (c *container) bindMount(i int, m specs.Mount, o mountOptions) {
	done := c.label()
	if o.copySymlink {
		c.symlinkOfSource(m, done)
	}
	mount, cloned := c.shared[i]
	opened := false
	switch {
	case cloned:
	case o.userns != nil || c.live:
		mount, opened = c.parentSource(m, o), true
	default:
		mount = c.bindSource(m, o).out()
	}
	if !o.attr.zero() {
		c.setBindFlags(mount, i, o.attr)
	}
	if !o.rattr.zero() {
		c.mountSetattr(regArg(mount), "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, o.rattr)
	}
	var nofollow uint64
	if o.destNoFollow {
		nofollow = unix.O_NOFOLLOW
	}
	c.attachAs(mount, m.Destination, nofollow)
	if opened && !c.sharedWithHost(o) {
		// The parent's clone is a peer of what it was cloned from. None but what asks for it stays one: what is mounted in here
		// is not to show on the host.
		c.propagate(mount, mountOptions{propagation: []propagation{{unix.MS_SLAVE, true}}})
	}
	c.propagate(mount, o)
	c.close(mount)
	c.mark(done)
}

// attachAs attaches a clone at a destination, which is made as what the source is if need be.
func (c *container) attachAs(mount Reg, destination string, nofollow uint64) {
	// The destination is made as what the source is: asking for "." below it succeeds on a directory alone.
	at := c.reg()
	have, dir, reopen := c.label(), c.label(), c.label()
	c.inRoot(c.rootFD, destination, nofollow).into(at).tolerate(unix.ENOENT).then(have)
	parent, base := path.Split(path.Clean(destination))
	p := c.reg()
	c.ensureDirectory(p, parent, unix.O_DIRECTORY)
	c.call(unix.SYS_FACCESSAT, regArg(mount), text("."), flags(uint(unix.F_OK), accessNames)).tolerate(unix.ENOTDIR, unix.EACCES).then(dir)
	// EACCES is a directory as well, one that not even the container's root may search: its owner has no id in there.
	c.call(unix.SYS_FACCESSAT, regArg(mount), text("."), flags(uint(unix.F_OK), accessNames)).tolerate(unix.ENOTDIR).must(unix.EACCES, unix.EAGAIN).then(dir)
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

// setBindFlags gives a bind mount the flags that its options name, and takes all others from it: with one flag named, the flags of
// the source are gone, as runc and crun do it. (CRI always names rw or ro; a volume on a noexec /var stays executable.) In a
// user namespace the source's flags may be locked (mount_namespaces(7)), but for nosymfollow: those that no option
// names stay then. The access time is a value of its own, and stays where no option names it.
func (c *container) setBindFlags(mount Reg, i int, attr mountAttr) {
	const lockable = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	exact := attr
	if i != noIndex {
		attr.clear |= unix.MOUNT_ATTR_NOSYMFOLLOW &^ attr.set
		exact.clear |= attr.clear | lockable&^attr.set
	}
	if exact == attr || !c.inUserNamespace() {
		c.mountSetattr(regArg(mount), "", unix.AT_EMPTY_PATH, exact)
		return
	}
	done := c.label()
	c.mountSetattr(regArg(mount), "", unix.AT_EMPTY_PATH, exact).tolerate(unix.EPERM).then(done)
	c.mountSetattr(regArg(mount), "", unix.AT_EMPTY_PATH, attr)
	c.mark(done)
}

// sharedWithHost is whether a bind mount is to be a peer of its source.
func (c *container) sharedWithHost(o mountOptions) bool {
	p, _ := propagationOption(c.spec.Linux.RootfsPropagation)
	return p.flag == unix.MS_SHARED && slices.ContainsFunc(o.propagation, func(p propagation) bool { return p.flag == unix.MS_SHARED })
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
// namespace hides what is above of; without one it is a bind mount of the container's own directories, since anything else would
// show, and let write, those of others. It is writable where the document says so, as docker's and podman's --privileged does for
// docker in docker. A container without a cgroup gets an empty directory, which covers what a bind mount of /sys may have brought.
func (c *container) cgroupMount(i int, m specs.Mount, o mountOptions) error {
	namespaced := c.hasNamespace(specs.CgroupNamespace)
	if !namespaced {
		c.onlyReadRootless(i, &o)
	}
	if len(o.data) > 0 && !(c.host.Cgroup.Unified && namespaced) {
		return c.fieldError(fmt.Sprintf("mounts[%d].options", i), strings.Join(o.data, ","), "no such option of mount(8), and none of the cgroup filesystem's own is taken here: the hierarchies are the host's")
	}
	bind := func(hierarchy string, dest string) {
		if source, ok := c.opts.CgroupPaths[hierarchy]; ok {
			c.bindMount(noIndex, specs.Mount{Destination: dest, Source: source}, mountOptions{attr: o.attr, propagation: o.propagation})
		}
	}
	if c.host.Cgroup.Unified {
		if _, ok := c.opts.CgroupPaths[""]; !namespaced && !ok {
			return c.newMount(specs.Mount{Destination: m.Destination, Type: "tmpfs", Source: "tmpfs"}, mountOptions{attr: o.attr, data: []string{"mode=755"}})
		}
		if !namespaced {
			bind("", m.Destination)
			return nil
		}
		m.Type, m.Source = "cgroup2", "cgroup"
		return c.newMount(m, o)
	}
	// A tmpfs holds the mount points. Each is a name in this new folder, whose descriptor is there already, and no link is followed.
	holder := specs.Mount{Destination: m.Destination, Type: "tmpfs", Source: "tmpfs"}
	ho := mountOptions{attr: o.attr, data: []string{"mode=755"}}
	top, late := c.detached(holder, &ho)
	c.attach(top, holder, ho)
	show := func(fstype string, data []string, hierarchy, name string) {
		if !namespaced {
			bind(hierarchy, path.Join(m.Destination, name))
			return
		}
		mount, _ := c.detached(specs.Mount{Type: fstype, Source: "cgroup"}, &mountOptions{attr: o.attr, data: data})
		c.mkdirat(regArg(top), name, 0o755)
		c.call(unix.SYS_MOVE_MOUNT, regArg(mount), text(""), regArg(top), text(name), flags(uint(unix.MOVE_MOUNT_F_EMPTY_PATH), moveMountNames))
		c.propagate(mount, mountOptions{propagation: o.propagation})
		c.close(mount)
	}
	for _, h := range c.host.Cgroup.V1 {
		show("cgroup", strings.Split(h.Options, ","), h.Dir, h.Dir)
		for _, link := range h.Links {
			c.symlinkat(h.Dir, regArg(top), link).tolerate(unix.EEXIST)
		}
	}
	if d := c.host.Cgroup.Hybrid; d != "" {
		show("cgroup2", nil, "", d)
	}
	c.leave(top, late)
	return nil
}

// onlyReadRootless makes a cgroup mount read-only where the runtime is not the host's root, and warns where the document asks
// for something else: the cgroups that a plain user may write are his login session's (CVE-2023-25809).
func (c *container) onlyReadRootless(i int, o *mountOptions) {
	if !c.host.PlainUser && !c.host.UserNamespace {
		return
	}
	if o.attr.clear&unix.MOUNT_ATTR_RDONLY != 0 {
		c.plan.Warnings = append(c.plan.Warnings, fmt.Sprintf("mounts[%d].options: found rw; without a cgroup namespace a plain user's cgroup mount is read-only", i))
	}
	o.attr.merge(unix.MOUNT_ATTR_RDONLY, 0)
}

// cgroup2Mount shows the container its cgroup of version 2, in the one hierarchy or beside those of version 1. As with cgroupMount,
// without a cgroup namespace it is shown its own directory alone.
func (c *container) cgroup2Mount(i int, m specs.Mount, o mountOptions) error {
	if c.hasNamespace(specs.CgroupNamespace) {
		return c.newMount(m, o)
	}
	own, ok := c.opts.CgroupPaths[""]
	switch {
	case len(o.data) > 0:
		return c.fieldError(fmt.Sprintf("mounts[%d].options", i), strings.Join(o.data, ","), "options of the filesystem itself need a cgroup namespace")
	case !ok:
		return c.fieldError(fmt.Sprintf("mounts[%d].type", i), "cgroup2", "without a cgroup namespace only a container with a cgroup of version 2 can be shown one")
	}
	c.onlyReadRootless(i, &o)
	c.bindMount(noIndex, specs.Mount{Destination: m.Destination, Source: own}, mountOptions{attr: o.attr, rattr: o.rattr, propagation: o.propagation})
	return nil
}
