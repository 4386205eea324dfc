// SPDX-License-Identifier: Apache-2.0

package validate

import (
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxHostname is the kernel's __NEW_UTS_LEN: what sethostname(2) and
// setdomainname(2) take, in bytes.
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
	if len(name) > maxHostname {
		c.err(path, quote(name), "at most 64 bytes")
	} else if ok, odd := hostnameLabels(name); !ok {
		c.err(path, quote(name), `labels of letters, digits and inner "-", each 1 to 63 bytes, separated by "." (RFC 1123)`)
	} else if odd {
		// The kernel takes it, and users of docker have such names.
		c.warn(path, quote(name), `labels of letters, digits and inner "-", each 1 to 63 bytes (RFC 1123); some resolvers refuse others`)
	}
	if !c.has.contains(specs.UTSNamespace) {
		// Without one the name of the host itself would change.
		c.err(path, quote(name), "nothing, unless linux.namespaces has one of type uts")
	}
}

// hostnameLabels tells whether a name is made of labels nearly as RFC 1123 has
// them, and whether only nearly: with a "_", or a label of 64 bytes.
func hostnameLabels(name string) (ok, odd bool) {
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false, false
		}
		odd = odd || len(label) > maxLabel
		for i := 0; i < len(label); i++ {
			switch b := label[i]; {
			case b == '_':
				odd = true
			case !alphanumeric(b) && b != '-':
				return false, false
			}
		}
	}
	return true, odd
}
