// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// HostFile is a file of the host that the parent opens for a child that may not pass a directory on
// the way to it.
type HostFile struct {
	// Field is the field of the document that it serves.
	Field Field
	// Path is absolute, in the child's mount namespace.
	Path string
	// NoFollow reports whether the path names a symbolic link itself.
	NoFollow bool
}

// MaxDescriptors is the number of descriptors that one message carries (SCM_MAX_FD in the kernel's
// net/scm.h).
const MaxDescriptors = 253

// hostFiles opens, in a user namespace, the root filesystem and clones the sources of bind mounts.
// Outside of that namespace its root has only the rights of a user id, so that a directory of mode
// 0700 closes the way for it. Where that happens the parent opens all of them in the child's mount
// namespace: what is cloned from there keeps the flags that the kernel locks for a user namespace
// (mount_namespaces(7), Restrictions on mount namespaces), which a clone made by the parent would
// lose.
func (c *container) hostFiles() error {
	type source struct {
		field Field
		mount specs.Mount
		opts  mountOptions
		clone Reg
	}
	var sources []source
	for i, m := range c.spec.Mounts {
		if o, ok := c.clonedEarly(m); ok {
			c.atIndex("mounts", i, m.Destination)
			sources = append(sources, source{c.field, m, o, c.reg()})
			c.set(sources[len(sources)-1].clone, num(-1))
		}
	}
	refused, done := c.label(), c.label()
	c.at("root.path")
	c.rootAt = c.openat2(cwd(), c.opts.Rootfs, unix.O_PATH|unix.O_DIRECTORY,
		0).tolerate(unix.EACCES).orElse(refused).out()
	c.plan.HostFiles = []HostFile{{Field: c.field, Path: c.opts.Rootfs}}
	for _, s := range sources {
		c.field = s.field
		c.bindSource(s.mount, s.opts).into(s.clone).tolerate(unix.EACCES).orElse(refused)
		c.plan.HostFiles = append(c.plan.HostFiles,
			HostFile{Field: s.field, Path: c.hostPath(s.mount.Source), NoFollow: s.opts.srcNoFollow})
	}
	c.goTo(done)

	c.mark(refused)
	c.at("linux.uidMappings")
	for _, s := range sources {
		c.close(s.clone).tolerate(unix.EBADF)
	}
	root := c.openat2(cwd(), "/", unix.O_PATH|unix.O_DIRECTORY, 0).out()
	c.sendDescriptors(input(InputHostFiles), []byte{0}, root)
	c.sync(SyncHostFiles)
	c.close(root)
	var files []Reg
	for part := range slices.Chunk(c.plan.HostFiles, MaxDescriptors) {
		files = append(files, c.receiveDescriptors(input(InputHostFiles), len(part))...)
	}
	c.set(c.rootAt, regArg(files[0]))
	for i, s := range sources {
		c.field = s.field
		c.openTree(regArg(files[i+1]), "", cloneFlags(s.opts)|unix.AT_EMPTY_PATH).into(s.clone)
		c.close(files[i+1])
	}
	c.mark(done)
	c.at("root.path")
	c.call(unix.SYS_CLOSE, input(InputHostFiles))
	c.shared = map[int]Reg{}
	for _, s := range sources {
		c.shared[s.field.Index] = s.clone
	}
	return nil
}

// clonedEarly reports whether hostFiles or sharedSources clones the source of a mount. Whatever is
// wrong with its options, mounts reports; and the parent opens a source that gets other ids.
func (c *container) clonedEarly(m specs.Mount) (mountOptions, bool) {
	o, err := parseMountOptions(m.Options)
	return o, err == nil && (m.Type == "bind" || o.bind) && !o.remount && !o.copySymlink &&
		!idmapped(m, o)
}
