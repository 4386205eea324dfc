// SPDX-License-Identifier: Apache-2.0

package validate

// platforms refuses the sections of other platforms (config.md,
// "Platform-specific configuration": each MAY be set if it is the target
// platform; "Valid values": unsupported ones are an error).
func (c *checker) platforms() {
	refuse := func(section string, set bool) {
		if set {
			c.err(section, "a section of another platform", "nothing: this platform is linux")
		}
	}
	refuse("freebsd", c.spec.FreeBSD != nil)
	refuse("solaris", c.spec.Solaris != nil)
	refuse("windows", c.spec.Windows != nil)
	refuse("zos", c.spec.ZOS != nil)
}

// vm checks the section for virtual machines (config-vm.md).
func (c *checker) vm() {
	vm := c.spec.VM
	if vm == nil {
		return
	}
	if !c.options.VM {
		c.err("vm", "a section for virtual machines", "nothing, unless the handler runs virtual machines")
		return
	}
	if vm.Hypervisor.Path != "" || len(vm.Hypervisor.Parameters) > 0 {
		c.absolute("vm.hypervisor.path", vm.Hypervisor.Path, onHost)
	}
	c.texts("vm.hypervisor.parameters", vm.Hypervisor.Parameters)
	c.absolute("vm.kernel.path", vm.Kernel.Path, onHost)
	c.texts("vm.kernel.parameters", vm.Kernel.Parameters)
	if vm.Kernel.InitRD != "" {
		c.absolute("vm.kernel.initrd", vm.Kernel.InitRD, onHost)
	}
	if vm.Image.Path != "" || vm.Image.Format != "" {
		c.absolute("vm.image.path", vm.Image.Path, onHost)
	}
	if hw := vm.HwConfig; hw != nil {
		if hw.VCPUs != nil && *hw.VCPUs == 0 {
			c.err("vm.hwConfig.vcpus", "0", "1 or more")
		}
		if hw.Memory != nil && *hw.Memory == 0 {
			c.err("vm.hwConfig.memory", "0", "1 or more")
		}
		for i := range hw.IOMems {
			m := &hw.IOMems[i]
			if m.FirstMFN == nil {
				c.err(at("vm.hwConfig.iomems", i)+".firstMFN", nothing, "the number of the first page")
			}
			if m.NrMFNs == nil || *m.NrMFNs == 0 {
				c.err(at("vm.hwConfig.iomems", i)+".nrMFNs", "no pages", "1 or more")
			}
		}
	}
}
