// SPDX-License-Identifier: Apache-2.0

package validate

import "strings"

// cgroupsPath checks linux.cgroupsPath (config-linux.md, "Cgroups Path").
func (c *checker) cgroupsPath() {
	const path = "linux.cgroupsPath"
	p := c.linux.CgroupsPath
	if p == "" {
		return
	}
	if strings.ContainsAny(p, "\x00\n") {
		// The kernel refuses newlines in cgroup names, which would forge
		// lines of /proc/PID/cgroup.
		c.err(path, quote(p), "a path without NUL bytes and newlines")
		return
	}
	if slice, name, ok := systemdForm(p); ok {
		c.systemdPath(path, slice, name)
		return
	}
	if !strings.HasPrefix(p, "/") && strings.Contains(p, ":") {
		c.warn(path, quote(p),
			"a path, or the three parts slice:prefix:name for systemd; this is read as a path")
	}
	for element := range strings.SplitSeq(p, "/") {
		switch {
		case element == "..":
			// "Runtimes MAY consider certain cgroupsPath values to be
			// invalid": these would leave the place that limits the container.
			c.err(path, quote(p), `a path without ".."`)
			return
		case len(element) > 255:
			c.err(path, quote(p), "a path whose elements have at most 255 bytes")
			return
		}
	}
}

// systemdForm splits "slice:prefix:name", the form that runtimes with the
// systemd cgroup driver take. An absolute path is never of that form.
func systemdForm(p string) (slice, unit string, ok bool) {
	if strings.HasPrefix(p, "/") || strings.Count(p, ":") != 2 {
		return "", "", false
	}
	slice, rest, _ := strings.Cut(p, ":")
	prefix, name, _ := strings.Cut(rest, ":")
	if name != "" && !strings.HasSuffix(name, ".slice") && prefix != "" {
		name = prefix + "-" + name
	}
	return slice, name, true
}

// systemdPath checks the two units of the systemd form: the slice, which may
// be empty for the default one, and the scope's name (systemd.unit(5),
// systemd.slice(5)).
func (c *checker) systemdPath(path, slice, unit string) {
	if slice != "" && !sliceName(slice) {
		c.err(path, quote(slice)+" as the slice",
			`nothing, or a slice's name such as "machine.slice" or "a-b.slice"`)
	}
	// ".scope" is added to it, and a unit's name has at most 255 bytes.
	if unit == "" || len(unit)+len(".scope") > 255 || !unitName(unit) {
		c.err(path, quoteOrNothing(unit)+" as the unit",
			`slice:prefix:name with a name of letters, digits and :-_.\@, prefix and name of at most 248 bytes`)
	}
}

// sliceName reports whether s names a slice: elements joined by single dashes,
// then ".slice"; "-.slice" is the root.
func sliceName(s string) bool {
	name, ok := strings.CutSuffix(s, ".slice")
	if !ok || name == "" || len(s) > 255 || !unitName(s) {
		return false
	}
	return name == "-" || name[0] != '-' && name[len(name)-1] != '-' && !strings.Contains(name, "--")
}

// unitName reports whether s has only the bytes of a unit's name.
func unitName(s string) bool {
	for i := 0; i < len(s); i++ {
		if !alphanumeric(s[i]) && strings.IndexByte(`:-_.\@`, s[i]) < 0 {
			return false
		}
	}
	return true
}
