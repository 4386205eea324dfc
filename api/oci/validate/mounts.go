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
		c.mount(at("mounts", i), &c.spec.Mounts[i])
	}
}

func (c *checker) mount(path string, m *specs.Mount) {
	c.mountDestination(path, m)
	o := c.mountOptions(path, m)
	c.ineffectiveOptions(path, m, o)
	c.mountSource(path, m, o)
	c.mountType(path, m, o)
	c.mountCombinations(path, m, o)
	if !o.bind {
		c.mountOwner(path, m)
	}
	if !o.ownMappings {
		c.mountMappings(path, m, o.idmap)
	} else if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
		c.err(path+".options", "mappings in an option beside uidMappings or gidMappings",
			"one of the two")
	}
}

func (c *checker) mountDestination(path string, m *specs.Mount) {
	switch {
	case m.Destination == "" || hasNUL(m.Destination):
		c.err(path+".destination", quoteOrNothing(m.Destination), "an absolute path in the container")
	case !strings.HasPrefix(m.Destination, "/"):
		c.warn(path+".destination", quote(m.Destination),
			`an absolute path in the container; a relative one is deprecated and read as relative to "/"`)
	}
	if isRoot(m.Destination) && !slices.Contains(m.Options, "remount") {
		// What is mounted over the root is never seen: the root stays what is below.
		c.err(path+".destination", quote(m.Destination),
			`a path below "/", or "remount" in options; what the root is say root and linux.rootfsPropagation`)
	}
}

// mountOptions are the options of a mount on which its other checks depend.
type mountOptions struct {
	bind, remount, propagation, copyUp bool
	// idmap reports an idmapped mount, ownMappings one whose option has the mappings.
	idmap, ownMappings bool
	// bindOnly has the indexes of options that only a bind mount can use.
	bindOnly []int
}

// mountOptions checks each option of a mount by itself, and returns those that matter to others.
func (c *checker) mountOptions(path string, m *specs.Mount) (out mountOptions) {
	for j, o := range m.Options {
		if hasNUL(o) {
			c.err(at(path+".options", j), quote(o), noNUL)
			continue
		}
		switch o {
		case "bind", "rbind":
			out.bind = true
		case "remount":
			out.remount = true
		case "idmap", "ridmap":
			out.idmap = true
		case "tmpcopyup":
			out.copyUp = true
		case "copy-symlink", "src-nofollow", "dest-nofollow":
			out.bindOnly = append(out.bindOnly, j)
		default:
			if name, mappings, ok := strings.Cut(o, "="); ok && (name == "idmap" || name == "ridmap") {
				c.idmapOption(at(path+".options", j), o, mappings)
				out.idmap, out.ownMappings = true, true
			}
		}
		out.propagation = out.propagation || isPropagation(o)
	}
	return out
}

// ineffectiveOptions warns of options that another one undoes, and of those that do nothing on a
// bind mount.
func (c *checker) ineffectiveOptions(path string, m *specs.Mount, has mountOptions) {
	for j, o := range m.Options {
		other := opposite(o)
		if other != "" && len(m.Options) <= maxOptions && slices.Contains(m.Options, other) {
			c.warn(at(path+".options", j), quote(o)+" beside "+quote(other),
				"one of the two; the later one holds")
		}
		switch {
		case has.bind && !knownMountOption(o):
			// config.md: unknown options are the filesystem's own. A bind
			// mount makes no filesystem that could read them, and
			// mount(8), runc and crun take them all the same.
			c.warn(at(path+".options", j), quote(o),
				"an option of mount(8) for bind mounts: this one has no effect, it is a filesystem's, and a bind mount makes none")
		case has.bind && !has.remount && superblockOption(o):
			c.warn(at(path+".options", j), quote(o),
				"an option of the mount itself: this one is the filesystem's, which a bind mount leaves as it is")
		}
	}
}

func (c *checker) mountSource(path string, m *specs.Mount, has mountOptions) {
	switch {
	case hasNUL(m.Source):
		c.err(path+".source", quote(m.Source), noNUL)
	case has.bind && m.Source == "":
		c.err(path+".source", nothing, "the path to bind, absolute or relative to the bundle")
	}
}

func (c *checker) mountType(path string, m *specs.Mount, has mountOptions) {
	switch {
	case hasNUL(m.Type):
		c.err(path+".type", quote(m.Type), noNUL)
	case has.bind:
		// The type of a bind mount is a dummy.
	case m.Type == "bind" || m.Type == "rbind":
		c.err(path+".type", quote(m.Type),
			`a filesystem of /proc/filesystems; for a bind mount add "bind" or "rbind" to options`)
	case m.Type == "" && !has.remount && !has.propagation:
		c.err(path+".type", nothing,
			`a filesystem of /proc/filesystems, or "bind" or "rbind" in options`)
	}
}

// mountCombinations checks options that go with some kinds of mounts only.
func (c *checker) mountCombinations(path string, m *specs.Mount, has mountOptions) {
	if has.copyUp && (has.bind || has.remount || m.Type != "tmpfs") {
		c.err(path+".options", `"tmpcopyup" on `+describeMount(m, has.bind),
			`"tmpcopyup" only with type tmpfs`)
	}
	for _, j := range has.bindOnly {
		if !has.bind || has.remount {
			c.err(at(path+".options", j), quote(m.Options[j])+" on "+describeMount(m, has.bind),
				"this option only with bind or rbind, and without remount")
		}
	}
	if (has.idmap || len(m.UIDMappings)+len(m.GIDMappings) > 0) && has.remount {
		c.err(path+".options", `"remount" of a mount with mapped ids`,
			"remount without idmap, ridmap and mappings: the ids of a mount that is there cannot be mapped")
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
func (c *checker) mountOwner(path string, m *specs.Mount) {
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
				c.err(at(path+".options", j), quote(o), "an id that linux."+kind.name+
					"Mappings maps, since the container has a user namespace; or no such option")
			}
		}
	}
}

// mountMappings checks an idmapped mount's mappings.
func (c *checker) mountMappings(path string, m *specs.Mount, option bool) {
	uids, gids := len(m.UIDMappings), len(m.GIDMappings)
	if uids == 0 && gids == 0 {
		if option && !c.has.contains(specs.UserNamespace) {
			c.err(path+".options", `"idmap" or "ridmap" without mappings`,
				"uidMappings and gidMappings, or a user namespace whose mappings are taken")
		}
		return
	}
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
