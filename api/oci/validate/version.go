// SPDX-License-Identifier: Apache-2.0

package validate

import (
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// version checks ociVersion (config.md, "Specification version").
func (c *checker) version() {
	const path = "ociVersion"
	allowed := "a SemVer version of 1.0.0 to " + specs.Version
	v, ok := parseSemVer(c.spec.Version)
	switch {
	case !ok:
		c.err(path, quoteOrNothing(c.spec.Version), allowed)
	case v.major != specs.VersionMajor:
		c.err(path, quote(c.spec.Version), allowed)
	case v.minor > specs.VersionMinor, v.minor == specs.VersionMinor && v.patch > specs.VersionPatch:
		// Engines write the version of the library that they are built with. Releases of one major
		// version are compatible, and a property that is not known "MUST" be ignored (config.md,
		// "Extensibility").
		c.warn(path, quote(c.spec.Version), allowed+"; a newer release is read as "+specs.Version+
			", and its new fields are ignored")
	}
}

// semVer is the part of a version that decides compatibility.
type semVer struct{ major, minor, patch uint64 }

// parseSemVer reads a version as SemVer 2.0.0 writes it.
func parseSemVer(s string) (semVer, bool) {
	s, build, hasBuild := strings.Cut(s, "+")
	if hasBuild && !semVerIdentifiers(build, false) {
		return semVer{}, false
	}
	s, pre, hasPre := strings.Cut(s, "-")
	if hasPre && !semVerIdentifiers(pre, true) {
		return semVer{}, false
	}
	var v semVer
	major, rest, ok1 := strings.Cut(s, ".")
	minor, patch, ok2 := strings.Cut(rest, ".")
	ok := ok1 && ok2 && semVerNumber(major, &v.major) && semVerNumber(minor, &v.minor) &&
		semVerNumber(patch, &v.patch)
	return v, ok
}

// semVerNumber reads a number without leading zeros (SemVer item 2).
func semVerNumber(s string, n *uint64) bool {
	if len(s) > 1 && s[0] == '0' || !digits(s) {
		return false
	}
	var err error
	*n, err = strconv.ParseUint(s, 10, 32)
	return err == nil
}

// semVerIdentifiers reports whether s is a list of identifiers separated by dots
// (SemVer items 9 and 10). Numeric ones of a pre-release have no leading zeros.
func semVerIdentifiers(s string, preRelease bool) bool {
	for id := range strings.SplitSeq(s, ".") {
		if id == "" || preRelease && len(id) > 1 && id[0] == '0' && digits(id) {
			return false
		}
		for i := 0; i < len(id); i++ {
			if !alphanumeric(id[i]) && id[i] != '-' {
				return false
			}
		}
	}
	return true
}

func digits(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

func alphanumeric(b byte) bool {
	return b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
}
