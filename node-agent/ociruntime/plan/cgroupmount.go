// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// cgroupMount shows the container its cgroups. With a cgroup namespace that is a mount of each
// hierarchy, whose root the namespace hides what is above of; without one it is a bind mount of the
// container's own directories, since anything else would show, and let write, those of others. It
// is writable where the document says so, as docker's and podman's --privileged does for docker in
// docker. A container without a cgroup gets an empty directory, which covers what a bind mount of
// /sys may have brought.
func (c *container) cgroupMount(i int, m specs.Mount, o mountOptions) error {
	namespaced := c.hasNamespace(specs.CgroupNamespace)
	if !namespaced {
		c.onlyReadRootless(i, &o)
	}
	if len(o.data) > 0 && !(c.host.Cgroup.Unified && namespaced) {
		return c.fieldError(fmt.Sprintf("mounts[%d].options", i), strings.Join(o.data, ","),
			"no such option of mount(8), and none of the cgroup filesystem's own is taken here: the hierarchies are the host's")
	}
	bind := func(hierarchy string, dest string) {
		if source, ok := c.opts.CgroupPaths[hierarchy]; ok {
			c.bindMount(noIndex, specs.Mount{Destination: dest, Source: source}, mountOptions{
				attr:        o.attr,
				propagation: o.propagation,
			})
		}
	}
	if c.host.Cgroup.Unified {
		if _, ok := c.opts.CgroupPaths[""]; !namespaced && !ok {
			return c.newMount(specs.Mount{Destination: m.Destination, Type: "tmpfs", Source: "tmpfs"},
				mountOptions{attr: o.attr, data: []string{"mode=755"}})
		}
		if !namespaced {
			bind("", m.Destination)
			return nil
		}
		m.Type, m.Source = "cgroup2", "cgroup"
		return c.newMount(m, o)
	}
	// A tmpfs holds the mount points. Each is a name in this new directory, whose descriptor is
	// there already, and no link is followed.
	holder := specs.Mount{Destination: m.Destination, Type: "tmpfs", Source: "tmpfs"}
	ho := mountOptions{attr: o.attr, data: []string{"mode=755"}}
	top, late := c.detached(holder, &ho)
	c.attach(top, holder, ho)
	show := func(fstype string, data []string, hierarchy, name string) {
		if !namespaced {
			bind(hierarchy, path.Join(m.Destination, name))
			return
		}
		mount, _ := c.detached(specs.Mount{Type: fstype, Source: "cgroup"}, &mountOptions{
			attr: o.attr,
			data: data,
		})
		c.mkdirat(regArg(top), name, 0o755)
		c.call(unix.SYS_MOVE_MOUNT, regArg(mount), text(""), regArg(top), text(name),
			flags(uint(unix.MOVE_MOUNT_F_EMPTY_PATH), moveMountNames))
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

// onlyReadRootless makes a cgroup mount read-only where the runtime is not the host's root, and
// warns where the document asks for something else: the cgroups that a plain user may write are his
// login session's (CVE-2023-25809).
func (c *container) onlyReadRootless(i int, o *mountOptions) {
	if !c.host.PlainUser && !c.host.UserNamespace {
		return
	}
	if o.attr.clear&unix.MOUNT_ATTR_RDONLY != 0 {
		c.plan.Warnings = append(c.plan.Warnings,
			fmt.Sprintf(
				"mounts[%d].options: found rw; without a cgroup namespace a plain user's cgroup mount is read-only", i))
	}
	o.attr.merge(unix.MOUNT_ATTR_RDONLY, 0)
}

// cgroup2Mount shows the container its cgroup of version 2, in the one hierarchy or beside those of
// version 1. As with cgroupMount, without a cgroup namespace it is shown its own directory alone.
func (c *container) cgroup2Mount(i int, m specs.Mount, o mountOptions) error {
	if c.hasNamespace(specs.CgroupNamespace) {
		return c.newMount(m, o)
	}
	own, ok := c.opts.CgroupPaths[""]
	switch {
	case len(o.data) > 0:
		return c.fieldError(fmt.Sprintf("mounts[%d].options", i), strings.Join(o.data, ","),
			"options of the filesystem itself need a cgroup namespace")
	case !ok:
		return c.fieldError(fmt.Sprintf("mounts[%d].type", i), "cgroup2",
			"without a cgroup namespace only a container with a cgroup of version 2 can be shown one")
	}
	c.onlyReadRootless(i, &o)
	c.bindMount(noIndex, specs.Mount{Destination: m.Destination, Source: own},
		mountOptions{attr: o.attr, rattr: o.rattr, propagation: o.propagation})
	return nil
}
