// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// UserNamespace is one that the parent opens for the child, since mapped mounts are described by
// user namespaces (mount_setattr(2), ID-mapped mounts).
type UserNamespace struct {
	// Field is whose it is.
	Field Field
	// Path is the path of an existing namespace; empty for a new one with these mappings and
	// without a process.
	Path       string
	UIDs, GIDs []specs.LinuxIDMapping
}

// InputUserNamespace returns the descriptor of an element of Plan.UserNamespaces.
func InputUserNamespace(i int) Input { return Input("userns[" + strconv.Itoa(i) + "]") }

// Source is a part of the host's tree that the parent clones for the child (open_tree(2)): where
// the child sees the host no more, or may not map its ids.
type Source struct {
	// Field is the field of the document that it serves.
	Field Field
	// Path on the host, absolute.
	Path string
	// Recursive reports whether the mounts below are cloned with it, NoFollow whether the path
	// names a symbolic link itself.
	Recursive, NoFollow bool
	// UserNamespace, an index of Plan.UserNamespaces, maps its ids; negative for none. MapAll
	// reports whether it also maps the ids of mounts below.
	UserNamespace int
	MapAll        bool
}

// InputSource returns the descriptor of an element of Plan.Sources.
func InputSource(i int) Input { return Input("source[" + strconv.Itoa(i) + "]") }

// idmapOption is a parsed option idmap or ridmap.
type idmapOption struct {
	set, recursive bool
	uids, gids     []relativeMapping
}

// relativeMapping is a mapping in an option, whose host ids may be those of the container's user
// namespace.
type relativeMapping struct {
	specs.LinuxIDMapping
	relative bool
}

// parse takes an option if it is one of these. Besides those of the runtime-spec there is crun's
// own idmap=uids=CONTAINER-HOST-SIZE#...;gids=..., where @ before the first number makes the second
// one of the container's.
func (o *idmapOption) parse(option string) (ok bool, err error) {
	name, mappings, custom := strings.Cut(option, "=")
	switch name {
	case "idmap":
	case "ridmap":
		o.recursive = true
	default:
		return false, nil
	}
	o.set = true
	if !custom {
		return true, nil
	}
	for part := range strings.SplitSeq(mappings, ";") {
		kind, list, _ := strings.Cut(part, "=")
		var into *[]relativeMapping
		switch kind {
		case "uids":
			into = &o.uids
		case "gids":
			into = &o.gids
		default:
			return false, fmt.Errorf("%q: found %q; allowed are uids= and gids=, with a ; between them",
				option, part)
		}
		for triplet := range strings.SplitSeq(list, "#") {
			m, err := parseMapping(triplet)
			if err != nil {
				return false, fmt.Errorf("%q: %w", option, err)
			}
			*into = append(*into, m)
		}
	}
	return true, nil
}

func parseMapping(triplet string) (m relativeMapping, err error) {
	numbers, relative := strings.CutPrefix(triplet, "@")
	parts := strings.Split(numbers, "-")
	if len(parts) != 3 {
		return m, fmt.Errorf("found %q; allowed are three numbers, as in 0-100000-65536", triplet)
	}
	m.relative = relative
	for i, into := range []*uint32{&m.ContainerID, &m.HostID, &m.Size} {
		n, err := strconv.ParseUint(parts[i], 10, 32)
		if err != nil {
			return m, fmt.Errorf(
				"found %q; allowed are three numbers from 0 to 4294967295, as in 0-100000-65536", triplet)
		}
		*into = uint32(n)
	}
	if m.Size == 0 {
		return m, fmt.Errorf("found %q; the third number is how many ids there are, and cannot be 0",
			triplet)
	}
	return m, nil
}

// absolute converts an option's mappings to mappings of the host's ids.
func absolute(option []relativeMapping, container []specs.LinuxIDMapping) ([]specs.LinuxIDMapping,
	error,
) {
	var out []specs.LinuxIDMapping
	for _, m := range option {
		if m.relative {
			found := false
			for _, c := range container {
				if m.ContainerID >= c.ContainerID && m.ContainerID-c.ContainerID < c.Size {
					m.HostID += c.HostID - c.ContainerID // may wrap around twice, which is none
					found = true
					break
				}
			}
			if !found {
				return nil, fmt.Errorf(
					"@%d is none of the ids that linux.uidMappings and linux.gidMappings give the container",
					m.ContainerID)
			}
		}
		out = append(out, m.LinuxIDMapping)
	}
	return out, nil
}

// idmapped reports whether a mount's ids are to be mapped.
func idmapped(m specs.Mount, o mountOptions) bool {
	return o.idmap.set || len(m.UIDMappings)+len(m.GIDMappings) > 0
}

// mapIDs finds the user namespace that describes how a mount's ids are mapped (config.md, idmap and
// ridmap): the mount's own mappings or else the container's.
func (c *container) mapIDs(i int, m specs.Mount, o *mountOptions) error {
	if !idmapped(m, *o) || c.placesOnly {
		return nil
	}
	l := c.spec.Linux
	ns := UserNamespace{Field: c.field, UIDs: m.UIDMappings, GIDs: m.GIDMappings}
	field := fmt.Sprintf("mounts[%d].uidMappings", i)
	if len(o.idmap.uids)+len(o.idmap.gids) > 0 {
		field = fmt.Sprintf("mounts[%d].options", i)
		var errUIDs, errGIDs error
		ns.UIDs, errUIDs = absolute(o.idmap.uids, l.UIDMappings)
		ns.GIDs, errGIDs = absolute(o.idmap.gids, l.GIDMappings)
		if err := errors.Join(errUIDs, errGIDs); err != nil {
			return c.fieldError(field, strings.Join(m.Options, ","), "%s", err)
		}
	}
	switch uids, gids := len(ns.UIDs), len(ns.GIDs); {
	case uids == 0 && gids == 0:
		own := -1
		for j, n := range l.Namespaces {
			if n.Type == specs.UserNamespace {
				own = j
			}
		}
		if own < 0 {
			return c.fieldError(fmt.Sprintf("mounts[%d].options", i), "idmap",
				"a mount without mappings of its own takes those of the container, which has no user namespace")
		}
		ns.Path, ns.UIDs, ns.GIDs = l.Namespaces[own].Path, l.UIDMappings, l.GIDMappings
	case uids == 0 || gids == 0:
		return c.fieldError(field, "user ids or group ids alone", "mappings are needed for both")
	}
	if c.host.UserNamespace {
		return c.fieldError(field, "mappings",
			"the ids of the host's filesystems can be mapped by the host's root alone, and the runtime is in a user namespace")
	}
	o.userns = ptrTo(c.userNamespace(ns))
	return nil
}

// userNamespace returns the index of a user namespace in the plan, which has each once.
func (c *container) userNamespace(ns UserNamespace) int {
	for i, have := range c.plan.UserNamespaces {
		if have.Path == ns.Path && reflect.DeepEqual(have.UIDs, ns.UIDs) && reflect.DeepEqual(have.GIDs,
			ns.GIDs) {
			return i
		}
	}
	c.plan.UserNamespaces = append(c.plan.UserNamespaces, ns)
	return len(c.plan.UserNamespaces) - 1
}

func ptrTo[T any](v T) *T { return &v }

// setIDMap maps the ids of a detached mount.
func (c *container) setIDMap(mount Reg, o mountOptions) {
	attr := mountAttr{set: unix.MOUNT_ATTR_IDMAP}.bytes()
	const usernsFD = unsafe.Offsetof(unix.MountAttr{}.Userns_fd)
	c.call(OpStore, structArg(attr[usernsFD:usernsFD+4], "mount_attr.userns_fd"),
		input(InputUserNamespace(*o.userns)))
	fl := unix.AT_EMPTY_PATH
	if o.idmap.recursive {
		fl |= unix.AT_RECURSIVE
	}
	c.call(unix.SYS_MOUNT_SETATTR, regArg(mount), text(""), flags(uint(fl), atNames),
		structArg(attr, "{set=MOUNT_ATTR_IDMAP, userns_fd}"), num(len(attr)))
}

// parentSource returns a bind mount's source that the parent has cloned.
func (c *container) parentSource(m specs.Mount, o mountOptions) Reg {
	s := Source{
		Field: c.field, Path: c.hostPath(m.Source), Recursive: o.recursive,
		NoFollow: o.srcNoFollow, UserNamespace: -1,
	}
	if o.userns != nil {
		s.UserNamespace, s.MapAll = *o.userns, o.idmap.recursive
	}
	c.plan.Sources = append(c.plan.Sources, s)
	r := c.reg()
	c.set(r, input(InputSource(len(c.plan.Sources)-1)))
	return r
}

// BuildUserNamespace builds the plan of a process that lives while its user namespace gets its
// mappings, at SyncIDMap, and is opened.
func BuildUserNamespace(f Field) *Plan {
	c := &container{builder: newBuilder(64)}
	c.field = f
	c.plan.CloneFlags = unix.CLONE_NEWUSER
	c.sync(SyncIDMap)
	c.report(SyncReady)
	c.call(unix.SYS_EXIT_GROUP, num(0))
	return &c.plan
}
