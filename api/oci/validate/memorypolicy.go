// SPDX-License-Identifier: Apache-2.0

package validate

import "github.com/opencontainers/runtime-spec/specs-go"

// memoryPolicy checks linux.memoryPolicy (config-linux.md, "Memory policy";
// set_mempolicy(2)).
func (c *checker) memoryPolicy() {
	p := c.linux.MemoryPolicy
	if p == nil {
		return
	}
	const path = "linux.memoryPolicy"
	c.list(path+".nodes", p.Nodes)
	mode := string(p.Mode)
	switch p.Mode {
	case specs.MpolDefault, specs.MpolLocal:
		if p.Nodes != "" {
			c.err(path+".nodes", quote(p.Nodes), "nothing with "+mode)
		}
	case specs.MpolBind, specs.MpolInterleave, specs.MpolWeightedInterleave, specs.MpolPreferredMany:
		if p.Nodes == "" {
			c.err(path+".nodes", nothing, "at least one node with "+mode)
		}
	case specs.MpolPreferred:
	default:
		c.err(path+".mode", quoteOrNothing(mode),
			"MPOL_ and one of DEFAULT, BIND, INTERLEAVE, WEIGHTED_INTERLEAVE, PREFERRED, PREFERRED_MANY, LOCAL")
	}
	static, relative := false, false
	for i, f := range p.Flags {
		switch f {
		case specs.MpolFNumaBalancing:
			if p.Mode != specs.MpolBind && p.Mode != specs.MpolPreferredMany {
				c.err(at(path+".flags", i), quote(string(f))+" with "+mode,
					"it only with MPOL_BIND and MPOL_PREFERRED_MANY")
			}
		case specs.MpolFRelativeNodes:
			relative = true
		case specs.MpolFStaticNodes:
			static = true
		default:
			c.err(at(path+".flags", i), quote(string(f)),
				"one of MPOL_F_NUMA_BALANCING, MPOL_F_RELATIVE_NODES, MPOL_F_STATIC_NODES")
		}
	}
	if static && relative {
		c.err(path+".flags", "MPOL_F_STATIC_NODES beside MPOL_F_RELATIVE_NODES", "one of the two")
	}
}
