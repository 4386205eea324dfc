// SPDX-License-Identifier: Apache-2.0

package validate

import (
	"sort"
	"strconv"
	"strings"

	"github.com/berth-run/berth/api/oci/document"
)

// nothing is the found value of a missing field.
const nothing = "nothing"

// quote shows a string in a fault.
func quote(s string) string { return document.Quote(s) }

// quoteOrNothing quotes s, or returns the word for a missing value if s is empty.
func quoteOrNothing(s string) string {
	if s == "" {
		return nothing
	}
	return quote(s)
}

// at returns the path of an array's element.
func at(array string, i int) string { return array + "[" + strconv.Itoa(i) + "]" }

// in returns the path of a map's entry. The key is quoted since such keys (sysctls,
// annotations) have dots of their own.
func in(object, key string) string { return object + "[" + quote(key) + "]" }

func decimal[T int | int32 | int64](n T) string { return strconv.FormatInt(int64(n), 10) }

func unsigned[T uint | uint16 | uint32 | uint64](n T) string {
	return strconv.FormatUint(uint64(n), 10)
}

// hasNUL reports whether a string cannot be handed to the kernel, whose strings
// end at the first NUL byte: what follows would be dropped silently.
func hasNUL(s string) bool { return strings.IndexByte(s, 0) >= 0 }

const noNUL = "a string without NUL bytes"

// text records an error if the string has a NUL byte.
func (c *checker) text(path, s string) {
	if hasNUL(s) {
		c.err(path, quote(s), noNUL)
	}
}

// texts checks each text of a list.
func (c *checker) texts(path string, list []string) {
	for i, s := range list {
		if hasNUL(s) {
			c.err(at(path, i), quote(s), noNUL)
		}
	}
}

// absolute records an error unless the path is absolute; where names the mount namespace, such as
// "on the host".
func (c *checker) absolute(path, value, where string) {
	if !strings.HasPrefix(value, "/") || hasNUL(value) {
		c.err(path, quoteOrNothing(value), "an absolute path "+where)
	}
}

const (
	onHost      = "on the host"
	inContainer = "in the container"
)

// sortedKeys returns a map's keys in order, so that faults come in the same
// order each time.
func sortedKeys[V any](m map[string]V) []string {
	if len(m) == 0 {
		return nil
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

// cpuList reports whether s is a list of numbers as cpuset(7), "List format",
// has it: decimal numbers and ranges of them, separated by commas, such as
// "0-3,7". Blanks around the items are allowed, as runtime-spec's schema does.
func cpuList(s string) bool {
	for item := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(item), "-")
		from, err := strconv.ParseUint(strings.TrimSpace(first), 10, 31)
		if err != nil {
			return false
		}
		if isRange {
			to, err := strconv.ParseUint(strings.TrimSpace(last), 10, 31)
			if err != nil || to < from {
				return false
			}
		}
	}
	return true
}

const cpuListAllowed = `numbers and ascending ranges separated by commas, such as "0-3,7"`

// list records an error unless s is empty or a list of numbers.
func (c *checker) list(path, s string) {
	if s != "" && !cpuList(s) {
		c.err(path, quote(s), cpuListAllowed)
	}
}

// interfaceName reports whether s can name a network device: the kernel's
// dev_valid_name() wants 1 to 15 bytes (IFNAMSIZ less the NUL), no '/', ':'
// or white space, and neither "." nor "..".
func interfaceName(s string) bool {
	if s == "" || len(s) > 15 || s == "." || s == ".." {
		return false
	}
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '/', ':', 0, ' ', '\t', '\n', '\v', '\f', '\r', 0xA0:
			return false
		}
	}
	return true
}

const interfaceNameAllowed = `a network device's name: 1 to 15 bytes without "/", ":" or white space`
