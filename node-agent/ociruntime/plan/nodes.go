// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"os"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Node is a device node that the parent creates for a child in a user namespace, which cannot
// create any (mknod(2)): in a tmpfs of the host, since the kernel opens no device on a filesystem
// of a user namespace. The name of a node is its index in Plan.Nodes.
type Node struct {
	// Field is the field of the document that it serves; Path is the place in the container.
	Field Field
	Path  string
	// Mode is the type and the permissions, Device the number.
	Mode   uint32
	Device uint64
	// UID and GID are the owner as the container numbers it.
	UID, GID uint32
}

// makesNodes reports whether the parent makes the devices of a container in a user namespace: it
// has to have the right to, and the child a mount namespace of its own, where the tmpfs lies while
// they are cloned from it.
func (c *container) makesNodes() bool {
	return c.hasNamespace(specs.UserNamespace) && c.ownMounts() && !c.host.UserNamespace &&
		!c.host.PlainUser &&
		c.host.Permitted>>unix.CAP_MKNOD&1 == 1
}

// nodes plans the nodes of linux.devices. The tmpfs is attached where root is about to attach the
// root filesystem, which covers it.
func (c *container) nodes() {
	if !c.makesNodes() {
		return
	}
	for i, d := range c.spec.Linux.Devices {
		kind, ok := deviceKind(d.Type)
		if !ok || kind == unix.S_IFIFO || !c.listsDevice(d) {
			continue
		}
		n := Node{Field: Field{Path: "linux.devices", Index: i, Note: d.Path}, Path: d.Path, Mode: kind |
			permissions(d.FileMode), Device: unix.Mkdev(uint32(d.Major), uint32(d.Minor))}
		if d.UID != nil {
			n.UID = *d.UID
		}
		if d.GID != nil {
			n.GID = *d.GID
		}
		if c.node == nil {
			c.node = map[int]int{}
		}
		c.node[i] = len(c.plan.Nodes)
		c.plan.Nodes = append(c.plan.Nodes, n)
	}
	if len(c.plan.Nodes) == 0 {
		return
	}
	if c.labelled("tmpfs", nil) {
		c.plan.NodesContext = [2]string{c.contextType(), c.spec.Linux.MountLabel}
	}
	c.at("linux.devices")
	c.call(unix.SYS_MOVE_MOUNT, input(InputNodes), text(""), regArg(c.rootAt), text(""),
		flags(uint(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH), moveMountNames))
}

// boundDevice bind-mounts a device in a user namespace: the node that the parent has created or, if
// it cannot create any, the host's.
func (c *container) boundDevice(i int, d specs.LinuxDevice, kind uint32) {
	mount, made := c.reg(), c.label()
	n, planned := c.node[i]
	if planned {
		c.call(unix.SYS_OPEN_TREE, input(InputNodes), text(strconv.Itoa(n)),
			flags(uint(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC), openTreeNames)).
			into(mount).tolerate(unix.ENOENT).then(made)
	} else if d.FileMode != nil || d.UID != nil || d.GID != nil {
		c.plan.Warnings = append(c.plan.Warnings, HostDeviceWarning(i, d.Path))
	}
	c.openTree(cwd(), d.Path, unix.OPEN_TREE_CLONE).into(mount)
	c.mark(made)
	c.attachAs(mount, d.Path, 0)
	c.close(mount)
	at := c.inRoot(c.rootFD, d.Path, 0).out()
	c.expectNode(regArg(at), "", kind, uint32(d.Major), uint32(d.Minor))
	c.close(at)
}

// HostDeviceWarning returns the warning for a device that cannot be created.
func HostDeviceWarning(i int, path string) string {
	return fmt.Sprintf(
		"linux.devices[%d]: in a user namespace the host's %s is shown, with the mode and the owner that it has there", i, path)
}

// deviceKind returns the file type of a device of the document.
func deviceKind(kind string) (mode uint32, ok bool) {
	switch kind {
	case "c", "u":
		return unix.S_IFCHR, true
	case "b":
		return unix.S_IFBLK, true
	case "p":
		return unix.S_IFIFO, true
	}
	return 0, false
}

// permissions returns the permissions of a device, or those of the default devices if the document
// has none.
func permissions(mode *os.FileMode) uint32 {
	if mode == nil {
		return 0o666
	}
	return uint32(*mode) & 0o7777
}
