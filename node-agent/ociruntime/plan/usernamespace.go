// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"path"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// sysfsMount mounts a sysfs or, where the network namespace is none of the user namespace's and the
// kernel refuses, shows the host's with all that is mounted in it.
func (c *container) sysfsMount(m specs.Mount, o mountOptions) {
	fs, mount := c.reg(), c.reg()
	refused, bind, done := c.label(), c.label(), c.label()
	c.call(unix.SYS_FSOPEN, text(m.Type), flags(uint(unix.FSOPEN_CLOEXEC),
		fsopenNames)).into(fs).tolerate(unix.EPERM).orElse(bind)
	if m.Source != "" {
		c.fsconfigString(fs, "source", m.Source)
	}
	c.fsconfigOptions(fs, o.data, o.sb)
	c.fsconfigCreate(fs).tolerate(unix.EPERM).orElse(refused)
	c.call(unix.SYS_FSMOUNT, regArg(fs), flags(uint(unix.FSMOUNT_CLOEXEC), fsmountNames),
		flags(o.attr.set, attrNames)).into(mount).tolerate(unix.EPERM).orElse(refused)
	c.close(fs)
	c.attach(mount, m, o)
	c.close(mount).then(done)
	c.mark(refused)
	c.close(fs)
	c.mark(bind)
	if whole := (specs.Mount{Source: "/sys"}); c.live {
		c.set(mount, regArg(c.parentSource(whole, mountOptions{recursive: true})))
	} else {
		c.openTree(cwd(), whole.Source, unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE).into(mount)
	}
	o = c.wholeSys(specs.Mount{Source: "/sys", Destination: m.Destination},
		mountOptions{recursive: true, attr: o.attr, rattr: o.rattr, propagation: o.propagation})
	if !o.attr.zero() {
		c.mountSetattr(regArg(mount), "", unix.AT_EMPTY_PATH, o.attr)
	}
	c.attach(mount, m, o)
	c.close(mount)
	c.mark(done)
}

// wholeSys makes a read-only bind mount of the host's /sys read-only as a whole: a plain user's
// container may own cgroups of the host in /sys/fs/cgroup, a mount of its own that "ro" leaves
// writable (CVE-2023-25809).
func (c *container) wholeSys(m specs.Mount, o mountOptions) mountOptions {
	if c.inUserNamespace() && o.recursive && path.Clean(m.Source) == "/sys" &&
		o.attr.set&unix.MOUNT_ATTR_RDONLY != 0 {
		o.rattr.merge(unix.MOUNT_ATTR_RDONLY, 0)
	}
	return o
}
