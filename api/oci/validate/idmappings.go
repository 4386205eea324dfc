// SPDX-License-Identifier: Apache-2.0

package validate

import (
	"cmp"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxMappings is the kernel's UID_GID_MAP_MAX_EXTENTS, since Linux 4.15
// (user_namespaces(7)).
const maxMappings = 340

// idMappings checks linux.uidMappings and linux.gidMappings (config-linux.md,
// "User namespace mappings").
func (c *checker) idMappings() {
	c.namespaceMappings("linux.uidMappings", c.linux.UIDMappings)
	c.namespaceMappings("linux.gidMappings", c.linux.GIDMappings)
}

func (c *checker) namespaceMappings(path string, mappings []specs.LinuxIDMapping) {
	switch {
	case len(mappings) > 0 && !c.has.contains(specs.UserNamespace):
		c.err(path, "mappings without a user namespace",
			"nothing, unless linux.namespaces has one of type user")
	case len(mappings) == 0 && c.fresh.contains(specs.UserNamespace):
		// An unmapped process cannot become any user: setuid(2) is EINVAL. A
		// namespace joined by path has its mappings already.
		c.err(path, nothing, "at least one mapping, since linux.namespaces makes a new user namespace")
	}
	c.mappingList(path, mappings)
}

// mappingList checks the kernel's rules for lists of mappings: see map_write() in
// kernel/user_namespace.c and user_namespaces(7).
func (c *checker) mappingList(path string, mappings []specs.LinuxIDMapping) {
	if len(mappings) > maxMappings {
		c.err(path, decimal(len(mappings))+" mappings", "at most 340")
		return
	}
	usable := true
	for i, m := range mappings {
		if m.Size == 0 {
			c.err(at(path, i)+".size", "0", "1 or more")
			usable = false
			continue
		}
		// The last id of the 32 bits is not an id: (uid_t)-1 means "none".
		if uint64(m.ContainerID)+uint64(m.Size) > 1<<32-1 {
			c.err(at(path, i), unsigned(m.ContainerID)+" + "+unsigned(m.Size),
				"containerID + size of at most 4294967295")
			usable = false
		}
		if uint64(m.HostID)+uint64(m.Size) > 1<<32-1 {
			c.err(at(path, i), unsigned(m.HostID)+" + "+unsigned(m.Size),
				"hostID + size of at most 4294967295")
			usable = false
		}
	}
	if !usable || len(mappings) < 2 {
		return
	}
	c.overlaps(path, "containerID", mappings, func(m specs.LinuxIDMapping) uint32 {
		return m.ContainerID
	})
	c.overlaps(path, "hostID", mappings, func(m specs.LinuxIDMapping) uint32 { return m.HostID })
}

// overlaps records the mappings whose ids another mapping has too.
func (c *checker) overlaps(path, field string, mappings []specs.LinuxIDMapping,
	first func(specs.LinuxIDMapping) uint32,
) {
	order := make([]int, len(mappings))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(first(mappings[a]), first(mappings[b]))
	})
	// reach is the mapping that goes furthest of those seen, end its end.
	reach, end := -1, uint64(0)
	for _, i := range order {
		from := uint64(first(mappings[i]))
		if reach >= 0 && from < end {
			later, earlier := max(i, reach), min(i, reach)
			c.err(at(path, later)+"."+field, unsigned(first(mappings[later]))+", an overlap with "+
				at(path, earlier),
				"ranges that no other mapping has ids of")
		}
		if to := from + uint64(mappings[i].Size); to > end {
			reach, end = i, to
		}
	}
}

// mapped reports whether an id is one of the container's.
func mapped(mappings []specs.LinuxIDMapping, id uint32) bool {
	for _, m := range mappings {
		if id >= m.ContainerID && uint64(id) < uint64(m.ContainerID)+uint64(m.Size) {
			return true
		}
	}
	return false
}
