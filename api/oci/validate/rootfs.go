// SPDX-License-Identifier: Apache-2.0

package validate

// rootfsPropagation checks linux.rootfsPropagation (config-linux.md, "Rootfs
// Mount Propagation").
func (c *checker) rootfsPropagation() {
	const (
		path    = "linux.rootfsPropagation"
		allowed = "one of shared, slave, private, unbindable"
	)
	switch p := c.linux.RootfsPropagation; p {
	case "", "shared", "slave", "private", "unbindable":
	case "rshared", "rslave", "rprivate", "runbindable":
		// Not in the specification, but podman and docker write them, and
		// every runtime takes them.
		c.warn(path, quote(p), allowed+"; it is read as the recursive form")
	default:
		c.err(path, quote(p), allowed)
	}
}

// maskedPaths checks linux.maskedPaths and linux.readonlyPaths
// (config-linux.md, "Masked Paths" and "Readonly Paths").
func (c *checker) maskedPaths() {
	for i, p := range c.linux.MaskedPaths {
		c.absoluteAt("linux.maskedPaths", i, p)
		if isRoot(p) {
			c.err(at("linux.maskedPaths", i), quote(p), `a path below "/"`)
		}
	}
	for i, p := range c.linux.ReadonlyPaths {
		c.absoluteAt("linux.readonlyPaths", i, p)
	}
}

// absoluteAt checks an absolute path of an element, and builds the element's path only for a fault.
func (c *checker) absoluteAt(array string, i int, p string) {
	if p == "" || p[0] != '/' || hasNUL(p) {
		c.absolute(at(array, i), p, inContainer)
	}
}

// labels checks linux.mountLabel (config-linux.md, "Mount Label"). Whether the
// label is one of the loaded policy only the kernel knows.
func (c *checker) labels() {
	c.text("linux.mountLabel", c.linux.MountLabel)
}

// personality checks linux.personality (config-linux.md, "Personality").
func (c *checker) personality() {
	p := c.linux.Personality
	if p == nil {
		return
	}
	if p.Domain != "LINUX" && p.Domain != "LINUX32" {
		c.err("linux.personality.domain", quoteOrNothing(string(p.Domain)), "LINUX or LINUX32")
	}
	for i, f := range p.Flags {
		c.err(at("linux.personality.flags", i), quote(string(f)),
			"no flags: the specification has none yet")
	}
}
