// SPDX-License-Identifier: Apache-2.0

package validate

import "github.com/opencontainers/runtime-spec/specs-go"

// namespaceSet is a set of namespace types, a bit each.
type namespaceSet uint8

func (s namespaceSet) contains(t specs.LinuxNamespaceType) bool { return s&namespaceBit(t) != 0 }

// namespaceBit returns the bit of a type, or 0 if there is no such type.
func namespaceBit(t specs.LinuxNamespaceType) namespaceSet {
	switch t {
	case specs.PIDNamespace:
		return 1 << 0
	case specs.NetworkNamespace:
		return 1 << 1
	case specs.MountNamespace:
		return 1 << 2
	case specs.IPCNamespace:
		return 1 << 3
	case specs.UTSNamespace:
		return 1 << 4
	case specs.UserNamespace:
		return 1 << 5
	case specs.CgroupNamespace:
		return 1 << 6
	case specs.TimeNamespace:
		return 1 << 7
	}
	return 0
}

// namespaces checks linux.namespaces (config-linux.md, "Namespaces").
func (c *checker) namespaces() {
	const path = "linux.namespaces"
	var seen namespaceSet
	for i := range c.linux.Namespaces {
		ns := &c.linux.Namespaces[i]
		bit := namespaceBit(ns.Type)
		switch {
		case bit == 0:
			c.err(at(path, i)+".type", quoteOrNothing(string(ns.Type)),
				"one of pid, network, mount, ipc, uts, user, cgroup, time")
		case seen&bit != 0:
			c.err(at(path, i)+".type", quote(string(ns.Type))+" again", "each type at most once")
		}
		seen |= bit
		if ns.Path != "" {
			c.absolute(at(path, i)+".path", ns.Path, onHost)
		}
	}
	if !c.has.contains(specs.MountNamespace) &&
		(len(c.spec.Mounts) > 0 || len(c.linux.MaskedPaths) > 0 || len(c.linux.ReadonlyPaths) > 0) {
		// The specification allows it: the container then inherits the
		// runtime's mount namespace, mounts and all.
		c.warn(path, "no mount namespace",
			"one of type mount, or what the document mounts is mounted on the host")
	}
}
