// SPDX-License-Identifier: Apache-2.0

package validate

import (
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/oci/capability"
)

// capabilities checks process.capabilities (config.md, "Linux Process").
func (c *checker) capabilities(path string, caps *specs.LinuxCapabilities) {
	bounding := c.capabilitySet(path+".bounding", caps.Bounding)
	effective := c.capabilitySet(path+".effective", caps.Effective)
	inheritable := c.capabilitySet(path+".inheritable", caps.Inheritable)
	permitted := c.capabilitySet(path+".permitted", caps.Permitted)
	ambient := c.capabilitySet(path+".ambient", caps.Ambient)
	// What follows is what the kernel does not grant: capset(2) an inheritable one that is not
	// bounding, and an effective one that is not permitted, and prctl(2) PR_CAP_AMBIENT_RAISE an
	// ambient one that is not both permitted and inheritable. "Runtimes SHOULD NOT fail if the
	// container configuration requests capabilities that cannot be granted."
	c.notGranted(path+".inheritable", caps.Inheritable, inheritable&^bounding,
		"only what is in bounding, too: the kernel does not grant it")
	c.notGranted(path+".effective", caps.Effective, effective&^permitted,
		"only what is in permitted, too: the kernel does not grant it")
	// runc's words
	const noAmbient = "only what is in permitted and in inheritable, too: can't raise ambient capability "
	refused := ambient &^ (permitted & inheritable & bounding)
	for i, name := range caps.Ambient {
		if capabilityBit(name)&refused != 0 {
			c.warn(at(path+".ambient", i), quote(name), noAmbient+name+": the kernel does not grant it")
		}
	}
}

// capabilitySet checks the names of one set and returns their bits.
func (c *checker) capabilitySet(path string, names []string) uint64 {
	var set uint64
	for i, name := range names {
		bit := capabilityBit(name)
		set |= bit
		if bit == 0 {
			// "Any value which cannot be mapped to a relevant kernel interface, or cannot be
			// granted otherwise MUST be logged as a warning by the runtime." A Container names them
			// in another place, where compile refuses them.
			c.warn(at(path, i), quoteOrNothing(name), capabilityAllowed(name)+"; this one is left out")
		}
	}
	return set
}

// capabilityAllowed suggests a name in place of one that is no capability.
func capabilityAllowed(name string) string {
	if len(name) <= maxCapability {
		fixed := "CAP_" + strings.TrimPrefix(strings.ToUpper(name), "CAP_")
		if capabilityBit(fixed) != 0 {
			return "a name of capabilities(7); write " + fixed
		}
	}
	return "a name of capabilities(7), such as CAP_CHOWN"
}

// notGranted warns of the names whose bits are in refused.
func (c *checker) notGranted(path string, names []string, refused uint64, allowed string) {
	if refused == 0 {
		return
	}
	for i, name := range names {
		if capabilityBit(name)&refused != 0 {
			c.warn(at(path, i), quote(name), allowed)
		}
	}
}

// maxCapability is the length of the longest name, CAP_CHECKPOINT_RESTORE.
const maxCapability = 22

// capabilityBit returns the bit of a capability in a set, or 0 for a name that is no capability.
func capabilityBit(name string) uint64 {
	if n, ok := capability.Number(name); ok {
		return 1 << n
	}
	return 0
}
