// SPDX-License-Identifier: Apache-2.0

package validate

import "strings"

// intelRdt checks linux.intelRdt (config-linux.md, "IntelRdt").
func (c *checker) intelRdt() {
	r := c.linux.IntelRdt
	if r == nil {
		return
	}
	const path = "linux.intelRdt"
	// The id becomes a directory's name in resctrl; "/" alone is its root.
	if id := r.ClosID; id == "." || id == ".." || id != "/" && strings.ContainsAny(id, "/\x00\n") {
		c.err(path+".closID", quote(id), `the name of a directory in resctrl, or "/" for its root`)
	}
	if s := r.L3CacheSchema; s != "" && (!strings.HasPrefix(s, "L3:") || strings.Contains(s, "\n")) {
		// SHOULD only, unlike the next.
		c.warn(path+".l3CacheSchema", quote(s), `one line that starts with "L3:"`)
	}
	c.text(path+".l3CacheSchema", r.L3CacheSchema)
	s := r.MemBwSchema
	if s != "" && (!strings.HasPrefix(s, "MB:") || strings.ContainsAny(s, "\x00\n")) {
		c.err(path+".memBwSchema", quote(s), `one line that starts with "MB:"`)
	}
	for i, s := range r.Schemata {
		if strings.ContainsAny(s, "\x00\n") {
			c.err(at(path+".schemata", i), quote(s), "one line without a newline")
		}
	}
}
