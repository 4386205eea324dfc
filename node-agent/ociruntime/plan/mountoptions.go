// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// mountOptions are the options of one mount, grouped by the system call that sets them.
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
	// make a symbolic link that is the source anew, in place of mounting what it leads to
	copySymlink  bool
	srcNoFollow  bool // mount a symbolic link that is the source itself
	destNoFollow bool // mount on a symbolic link that is the destination itself

	// userns is the user namespace that the mount's ids are mapped by, from Plan.UserNamespaces;
	// nil without one.
	userns *int
}

type propagation struct {
	flag      uint64
	recursive bool
}

// attrOption returns the attributes that an option of a mount sets and clears; ok is false for
// other options. The names are those of mount(8).
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

// MountOptions returns the options that a plan honours besides those that a filesystem takes
// itself, sorted.
func MountOptions() []string {
	attrs := []string{
		"ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "nodiratime", "diratime",
		"nosymfollow", "symfollow",
		"noatime", "atime", "relatime", "norelatime", "strictatime", "nostrictatime",
	}
	out := []string{
		"bind", "rbind", "defaults", "async", "sync", "dirsync", "nodirsync", "mand", "nomand",
		"lazytime", "nolazytime", "iversion", "noiversion",
		"silent", "loud", "private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable",
		"runbindable",
		"remount", "tmpcopyup", "idmap", "ridmap", "copy-symlink", "src-nofollow", "dest-nofollow",
	}
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

// userspaceOption reports whether an option is one that mount(8) keeps from the kernel and that
// asks nothing of a mount that root makes: for fstab(5), or a comment. What X-mount. asks for
// mount(8) itself does, apart from making the destination.
func userspaceOption(name string) bool {
	switch name {
	case "auto", "noauto", "nofail", "_netdev", "nouser", "X-mount.mkdir":
		return true
	}
	return strings.HasPrefix(name, "x-") || strings.HasPrefix(name, "X-") &&
		!strings.HasPrefix(name, "X-mount.") || strings.HasPrefix(name, "comment=")
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
			// mount(8): implied, unless overridden by what follows
			o.attr.merge(unix.MOUNT_ATTR_NOEXEC|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV, 0)
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
