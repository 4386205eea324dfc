// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"path/filepath"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// sharedSources clones, where linux.rootfsPropagation asks for it, the sources of bind mounts that
// are to be shared with the host, before everything else of the host turns slave: a clone stays a
// peer of what it was cloned from, so that what either side mounts in it later shows on the other.
// With a user namespace hostFiles clones all.
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

// bindSource clones the source of a bind mount.
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

// hostPath returns a path of the host in the document; a relative one is relative to the bundle.
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
		// The parent's clone is a peer of what it was cloned from. None but what asks for it stays
		// one: what is mounted in here is not to show on the host.
		c.propagate(mount, mountOptions{propagation: []propagation{{unix.MS_SLAVE, true}}})
	}
	c.propagate(mount, o)
	c.close(mount)
	c.mark(done)
}

// setBindFlags gives a bind mount the flags that its options name, and takes all others from it:
// with one flag named, the flags of the source are gone, as runc and crun do it. (CRI always names
// rw or ro; a volume on a noexec /var stays executable.) In a user namespace the source's flags may
// be locked (mount_namespaces(7)), but for nosymfollow: those that no option names stay then. The
// access time is a value of its own, and stays where no option names it.
func (c *container) setBindFlags(mount Reg, i int, attr mountAttr) {
	const lockable = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV |
		unix.MOUNT_ATTR_NOEXEC
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

// sharedWithHost reports whether a bind mount is to be a peer of its source.
func (c *container) sharedWithHost(o mountOptions) bool {
	p, _ := propagationOption(c.spec.Linux.RootfsPropagation)
	return p.flag == unix.MS_SHARED && slices.ContainsFunc(o.propagation, func(p propagation) bool {
		return p.flag == unix.MS_SHARED
	})
}
