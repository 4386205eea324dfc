// SPDX-License-Identifier: Apache-2.0

package validate

import "strings"

// root checks the root filesystem (config.md, "Root").
func (c *checker) root() {
	r := c.spec.Root
	if r == nil {
		c.err("root", nothing, "an object with the path of the root filesystem")
		return
	}
	const path = "root.path"
	switch {
	case r.Path == "" || hasNUL(r.Path):
		c.err(path, quoteOrNothing(r.Path), "an absolute path, or one relative to the bundle")
	case leaves(r.Path):
		// The specification is silent here. A bundle that says ../../ is
		// either a mistake or an attempt to run on someone else's files, and
		// whoever means it can write the absolute path.
		c.err(path, quote(r.Path),
			`an absolute path, or one relative to the bundle whose ".." does not leave it`)
	}
}

// leaves reports whether a relative path's ".." elements lead above where it
// starts, at any point of it.
func leaves(path string) bool {
	if strings.HasPrefix(path, "/") {
		return false
	}
	depth := 0
	for element := range strings.SplitSeq(path, "/") {
		switch element {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return true
			}
		default:
			depth++
		}
	}
	return false
}
