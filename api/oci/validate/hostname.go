// SPDX-License-Identifier: Apache-2.0

package validate

import (
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxHostname is the kernel's __NEW_UTS_LEN: the greatest length for sethostname(2) and
// setdomainname(2), in bytes.
const maxHostname = 64

// maxLabel is the greatest length of one label of a name (RFC 1123, 2.1).
const maxLabel = 63

// hostname checks hostname and domainname (config.md, "Hostname" and
// "Domainname").
func (c *checker) hostname() {
	c.utsName("hostname", c.spec.Hostname)
	c.utsName("domainname", c.spec.Domainname)
}

func (c *checker) utsName(path, name string) {
	if name == "" {
		return
	}
	switch {
	case len(name) > maxHostname:
		c.err(path, quote(name), "at most 64 bytes")
	case hasNUL(name):
		c.err(path, quote(name), noNUL)
	case !hostnameLabels(name):
		// The specification refers to the kernel, which takes any bytes, and
		// so do other runtimes. Docker's users have names with a "_".
		c.warn(path, quote(name),
			`labels of letters, digits and inner "-", each 1 to 63 bytes, separated by "." (RFC 1123); some resolvers refuse others`)
	}
	if !c.has.contains(specs.UTSNamespace) {
		// Without one the name of the host itself would change.
		c.err(path, quote(name), "nothing, unless linux.namespaces has one of type uts")
	}
}

// hostnameLabels reports whether a name is made of labels as RFC 1123 has them.
func hostnameLabels(name string) bool {
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := 0; i < len(label); i++ {
			if !alphanumeric(label[i]) && label[i] != '-' {
				return false
			}
		}
	}
	return true
}
