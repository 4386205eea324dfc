// SPDX-License-Identifier: Apache-2.0

package validate

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxOptions is up to how many options are held against one another: there are
// fewer than that to be had.
const maxOptions = 128

// mounts checks the mounts (config.md, "Mounts", "Linux mount options" and
// "POSIX-platform Mounts").
func (c *checker) mounts() {
	for i := range c.spec.Mounts {
		c.mount(i, &c.spec.Mounts[i])
	}
}

func (c *checker) mount(i int, m *specs.Mount) {
	const list = "mounts"
	switch {
	case m.Destination == "" || hasNUL(m.Destination):
		c.err(at(list, i)+".destination", quoteOrNothing(m.Destination),
			"an absolute path in the container")
	case !strings.HasPrefix(m.Destination, "/"):
		c.warn(at(list, i)+".destination", quote(m.Destination),
			`an absolute path in the container; a relative one is deprecated and read as relative to "/"`)
	}
	if isRoot(m.Destination) && !slices.Contains(m.Options, "remount") {
		// What is mounted over the root is never seen: the root stays what is below.
		c.err(at(list, i)+".destination", quote(m.Destination),
			`a path below "/", or "remount" in options; what the root is say root and linux.rootfsPropagation`)
	}

	var bind, remount, propagation, idmap, ridmap, custom, copyUp bool
	// bindOnly are options that a bind mount alone has a use for.
	var bindOnly []int
	for j, o := range m.Options {
		if hasNUL(o) {
			c.err(at(at(list, i)+".options", j), quote(o), noNUL)
			continue
		}
		switch o {
		case "bind", "rbind":
			bind = true
		case "remount":
			remount = true
		case "idmap":
			idmap = true
		case "ridmap":
			ridmap = true
		case "tmpcopyup":
			copyUp = true
		case "copy-symlink", "src-nofollow", "dest-nofollow":
			bindOnly = append(bindOnly, j)
		default:
			if name, mappings, ok := strings.Cut(o, "="); ok && (name == "idmap" || name == "ridmap") {
				c.idmapOption(at(at(list, i)+".options", j), o, mappings)
				idmap, custom = true, true
			}
		}
		propagation = propagation || isPropagation(o)
	}
	for j, o := range m.Options {
		other := opposite(o)
		if other != "" && len(m.Options) <= maxOptions && slices.Contains(m.Options, other) {
			c.warn(at(at(list, i)+".options", j), quote(o)+" beside "+quote(other),
				"one of the two; the later one holds")
		}
		switch {
		case bind && !knownMountOption(o):
			// config.md: unknown options are the filesystem's own. A bind
			// mount makes no filesystem that could read them, and
			// mount(8), runc and crun take them all the same.
			c.warn(at(at(list, i)+".options", j), quote(o),
				"an option of mount(8) for bind mounts: this one has no effect, it is a filesystem's, and a bind mount makes none")
		case bind && !remount && superblockOption(o):
			c.warn(at(at(list, i)+".options", j), quote(o),
				"an option of the mount itself: this one is the filesystem's, which a bind mount leaves as it is")
		}
	}

	switch {
	case hasNUL(m.Source):
		c.err(at(list, i)+".source", quote(m.Source), noNUL)
	case bind && m.Source == "":
		c.err(at(list, i)+".source", nothing, "the path to bind, absolute or relative to the bundle")
	}
	switch {
	case hasNUL(m.Type):
		c.err(at(list, i)+".type", quote(m.Type), noNUL)
	case bind:
		// The type of a bind mount is a dummy.
	case m.Type == "bind" || m.Type == "rbind":
		c.err(at(list, i)+".type", quote(m.Type),
			`a filesystem of /proc/filesystems; for a bind mount add "bind" or "rbind" to options`)
	case m.Type == "" && !remount && !propagation:
		c.err(at(list, i)+".type", nothing,
			`a filesystem of /proc/filesystems, or "bind" or "rbind" in options`)
	}
	if copyUp && (bind || remount || m.Type != "tmpfs") {
		c.err(at(list, i)+".options", `"tmpcopyup" on `+describeMount(m, bind),
			`"tmpcopyup" only with type tmpfs`)
	}
	for _, j := range bindOnly {
		if !bind || remount {
			c.err(at(at(list, i)+".options", j), quote(m.Options[j])+" on "+describeMount(m, bind),
				"this option only with bind or rbind, and without remount")
		}
	}
	if (idmap || ridmap || len(m.UIDMappings)+len(m.GIDMappings) > 0) && remount {
		c.err(at(list, i)+".options", `"remount" of a mount with mapped ids`,
			"remount without idmap, ridmap and mappings: the ids of a mount that is there cannot be mapped")
	}
	if !bind {
		c.mountOwner(i, m)
	}
	if !custom {
		c.mountMappings(i, m, idmap || ridmap)
	} else if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
		c.err(at(list, i)+".options", "mappings in an option beside uidMappings or gidMappings",
			"one of the two")
	}
}

// idmapOption checks crun's extension: idmap=uids=CONTAINER-HOST-SIZE#...;gids=..., where @ before
// the first number makes the second one of the container's (crun(1), idmap mount options).
func (c *checker) idmapOption(path, option, mappings string) {
	const allowed = "idmap=uids=0-100000-65536;gids=0-100000-65536, with # between several, and @ before those that are relative to the container's"
	kinds := map[string][]specs.LinuxIDMapping{}
	for part := range strings.SplitSeq(mappings, ";") {
		kind, list, _ := strings.Cut(part, "=")
		if kind != "uids" && kind != "gids" {
			c.err(path, quote(option), allowed)
			return
		}
		for triplet := range strings.SplitSeq(list, "#") {
			numbers := strings.Split(strings.TrimPrefix(triplet, "@"), "-")
			var ids [3]uint32
			for i, n := range numbers {
				id, err := strconv.ParseUint(n, 10, 32)
				if err != nil || len(numbers) != len(ids) {
					c.err(path, quote(option), allowed)
					return
				}
				ids[i] = uint32(id)
			}
			kinds[kind] = append(kinds[kind], specs.LinuxIDMapping{
				ContainerID: ids[0], HostID: ids[1],
				Size: ids[2],
			})
		}
	}
	if len(kinds) != 2 {
		c.err(path, quote(option), "both uids= and gids=")
	}
	for _, kind := range []string{"uids", "gids"} {
		c.mappingList(path+"."+kind, kinds[kind])
	}
}

// mountOwner checks the ids in the options of a filesystem that the container's user namespace
// mounts: the kernel fails with EINVAL for those that it does not map, as with the gid=5 that is
// usual for devpts.
func (c *checker) mountOwner(i int, m *specs.Mount) {
	if m.Type != "devpts" && m.Type != "tmpfs" {
		return
	}
	for j, o := range m.Options {
		for _, kind := range []struct {
			name     string
			mappings []specs.LinuxIDMapping
		}{{"uid", c.linux.UIDMappings}, {"gid", c.linux.GIDMappings}} {
			value, found := strings.CutPrefix(o, kind.name+"=")
			if id, err := strconv.ParseUint(value, 10, 32); found && err == nil &&
				!c.validID(uint32(id), kind.mappings) {
				c.err(at(at("mounts", i)+".options", j), quote(o), "an id that linux."+kind.name+
					"Mappings maps, since the container has a user namespace; or no such option")
			}
		}
	}
}

// mountMappings checks an idmapped mount's mappings.
func (c *checker) mountMappings(i int, m *specs.Mount, option bool) {
	uids, gids := len(m.UIDMappings), len(m.GIDMappings)
	if uids == 0 && gids == 0 {
		if option && !c.has.contains(specs.UserNamespace) {
			c.err(at("mounts", i)+".options", `"idmap" or "ridmap" without mappings`,
				"uidMappings and gidMappings, or a user namespace whose mappings are taken")
		}
		return
	}
	path := at("mounts", i)
	if uids == 0 {
		c.err(path+".uidMappings", nothing, "mappings, since gidMappings are given")
	}
	if gids == 0 {
		c.err(path+".gidMappings", nothing, "mappings, since uidMappings are given")
	}
	if !option {
		c.warn(path+".options", `mappings without "idmap" or "ridmap"`,
			`"idmap" or "ridmap", lest an older runtime ignores the mappings`)
	}
	c.mappingList(path+".uidMappings", m.UIDMappings)
	c.mappingList(path+".gidMappings", m.GIDMappings)
}

func describeMount(m *specs.Mount, bind bool) string {
	if bind {
		return "a bind mount"
	}
	return "type " + quote(m.Type)
}

// isPropagation reports whether an option changes a mount's propagation.
func isPropagation(option string) bool {
	switch option {
	case "shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable":
		return true
	}
	return false
}

// knownMountOption reports whether an option is one that does not depend on the
// filesystem: those of the table in config.md, and those that mount(8) itself
// acts upon and never hands to the kernel.
func knownMountOption(option string) bool {
	if isPropagation(option) || opposite(option) != "" {
		return true
	}
	switch option {
	case "bind", "rbind", "remount", "defaults", "tmpcopyup", "idmap", "ridmap", "silent", "loud",
		"copy-symlink", "src-nofollow", "dest-nofollow",
		// The other side of what opposite knows.
		"rw", "suid", "dev", "exec", "async", "nodirsync", "atime", "diratime", "norelatime",
		"nostrictatime",
		"noiversion", "nolazytime", "nomand", "symfollow",
		"rrw", "rsuid", "rdev", "rexec", "ratime", "rdiratime", "rnorelatime", "rnostrictatime",
		"rsymfollow",
		"dirsync",
		// mount(8), "FILESYSTEM-INDEPENDENT MOUNT OPTIONS", kept in userspace.
		"auto", "noauto", "nofail", "_netdev", "user", "nouser", "users", "group", "owner":
		return true
	}
	// mount(8): options with these prefixes are comments, but for those that
	// it acts upon itself.
	return strings.HasPrefix(option, "idmap=") || strings.HasPrefix(option, "ridmap=") ||
		strings.HasPrefix(option, "x-") || strings.HasPrefix(option, "comment=") ||
		strings.HasPrefix(option, "X-") && (!strings.HasPrefix(option, "X-mount.") ||
			option == "X-mount.mkdir")
}

// superblockOption reports whether an option is one of the filesystem whatever
// its type: mount(2) has a flag for it that no mount has of its own.
func superblockOption(option string) bool {
	switch option {
	case "sync", "dirsync", "lazytime", "mand", "iversion":
		return true
	}
	return false
}

// isRoot reports whether a path of the container is its root.
func isRoot(p string) bool { return p != "" && path.Clean("/"+p) == "/" }

// opposite returns the option that undoes one, or "". It knows one direction
// only, so that a contradiction is said once.
func opposite(option string) string {
	switch option {
	case "ro":
		return "rw"
	case "nosuid":
		return "suid"
	case "nodev":
		return "dev"
	case "noexec":
		return "exec"
	case "sync":
		return "async"
	case "noatime":
		return "atime"
	case "nodiratime":
		return "diratime"
	case "relatime":
		return "norelatime"
	case "strictatime":
		return "nostrictatime"
	case "iversion":
		return "noiversion"
	case "lazytime":
		return "nolazytime"
	case "mand":
		return "nomand"
	case "nosymfollow":
		return "symfollow"
	case "silent":
		return "loud"
	case "rro":
		return "rrw"
	case "rnosuid":
		return "rsuid"
	case "rnodev":
		return "rdev"
	case "rnoexec":
		return "rexec"
	case "rnoatime":
		return "ratime"
	case "rnodiratime":
		return "rdiratime"
	case "rrelatime":
		return "rnorelatime"
	case "rstrictatime":
		return "rnostrictatime"
	case "rnosymfollow":
		return "rsymfollow"
	case "bind":
		return "rbind"
	case "idmap":
		return "ridmap"
	}
	return ""
}
