// SPDX-License-Identifier: Apache-2.0

package validate

import (
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/oci/document"
)

// resources checks linux.resources (config-linux.md, "Control groups").
func (c *checker) resources() {
	if c.linux.Resources != nil {
		c.resourcesAt("linux.resources", c.linux.Resources)
	}
}

// resourcesAt checks the limits at a path.
func (c *checker) resourcesAt(path string, r *specs.LinuxResources) {
	c.deviceRules(path+".devices", r.Devices)
	if r.Memory != nil {
		c.memory(path+".memory", r.Memory)
	}
	if r.CPU != nil {
		c.cpu(path+".cpu", r.CPU)
	}
	if r.Pids != nil && r.Pids.Limit != nil && (*r.Pids.Limit < -1 || *r.Pids.Limit > maxPids) {
		c.err(path+".pids.limit", decimal(*r.Pids.Limit), "0 to 4194304, or -1 for no limit")
	}
	if r.BlockIO != nil {
		c.blockIO(path+".blockIO", r.BlockIO)
	}
	for i := range r.HugepageLimits {
		if !pageSize(r.HugepageLimits[i].Pagesize) {
			c.err(at(path+".hugepageLimits", i)+".pageSize", quoteOrNothing(r.HugepageLimits[i].Pagesize),
				"<size><K, M or G>B, such as 64KB, 2MB or 1GB")
		}
	}
	if r.Network != nil {
		for i := range r.Network.Priorities {
			if name := r.Network.Priorities[i].Name; !interfaceName(name) {
				c.err(at(path+".network.priorities", i)+".name", quoteOrNothing(name), interfaceNameAllowed)
			}
		}
	}
	c.rdma(path+".rdma", r.Rdma)
	c.unified(path+".unified", r.Unified)
}

// maxPids is the greatest limit that the pids controller takes: PID_MAX_LIMIT.
const maxPids = 1 << 22

// deviceRules checks the allowed device list (config-linux.md, "Allowed Device
// list").
func (c *checker) deviceRules(path string, rules []specs.LinuxDeviceCgroup) {
	for i := range rules {
		r := &rules[i]
		switch r.Type {
		case "", "a", "b", "c":
		default:
			c.err(at(path, i)+".type", quote(r.Type),
				"a (all), c (character), b (block), or nothing for all")
		}
		// Docker writes -1 where the specification would have nothing: "all".
		if r.Major != nil && (*r.Major < -1 || *r.Major > maxMajor) {
			c.err(at(path, i)+".major", decimal(*r.Major), "0 to 4095, or nothing for all")
		}
		if r.Minor != nil && (*r.Minor < -1 || *r.Minor > maxMinor) {
			c.err(at(path, i)+".minor", decimal(*r.Minor), "0 to 1048575, or nothing for all")
		}
		const access = "a composition of r (read), w (write) and m (mknod)"
		switch rest := strings.Trim(r.Access, "rwm"); {
		case rest == "":
		// the word for all types of device in another place: runc passes over it
		case rest == "a" && r.Access != rest:
			c.warn(at(path, i)+".access", quote(r.Access), access+"; the a is left out")
		default:
			c.err(at(path, i)+".access", quote(r.Access), access)
		}
	}
}

// memory checks the memory limits (config-linux.md, "Memory"). That
// reservation is at most limit is no rule: the section's own example of
// "Control groups" has it the other way round.
func (c *checker) memory(path string, m *specs.LinuxMemory) {
	c.bytes(path+".limit", m.Limit)
	c.bytes(path+".reservation", m.Reservation)
	c.bytes(path+".swap", m.Swap)
	c.bytes(path+".kernel", m.Kernel) //nolint:staticcheck // deprecated, and still in documents
	c.bytes(path+".kernelTCP", m.KernelTCP)
	if k := m.Kernel; k != nil && *k > 0 { //nolint:staticcheck // as above
		c.warn(path+".kernel", decimal(*k),
			"nothing: Linux has no such limit any more, and it is ignored; limit counts kernel memory, too")
	}
	if m.Swap != nil && *m.Swap > 0 {
		// Memory and swap together: the kernel refuses memsw below memory on
		// cgroup v1, and on v2 the runtime writes their difference.
		switch {
		case m.Limit == nil || *m.Limit <= 0:
			c.err(path+".swap", decimal(*m.Swap),
				"-1 or nothing, unless limit is given: it limits memory and swap together")
		case *m.Swap < *m.Limit:
			c.err(path+".swap", decimal(*m.Swap), "at least the limit, "+decimal(*m.Limit)+
				": it limits memory and swap together")
		}
	}
	if m.Swappiness != nil && *m.Swappiness > 100 {
		c.err(path+".swappiness", unsigned(*m.Swappiness), "0 to 100")
	}
}

func (c *checker) bytes(path string, n *int64) {
	if n != nil && *n < -1 {
		c.err(path, decimal(*n), "a number of bytes, or -1 for no limit")
	}
}

// cpu checks the limits of CPU (config-linux.md, "CPU"). Zero is what runtimes
// write for "unset" and changes nothing.
func (c *checker) cpu(path string, cpu *specs.LinuxCPU) {
	// The kernel's min_cfs_quota_period and max_cfs_quota_period.
	const shortest, longest = 1_000, 1_000_000
	if q := cpu.Quota; q != nil && *q > 0 && *q < shortest {
		c.err(path+".quota", decimal(*q), "1000 microseconds or more, or -1 for no limit")
	}
	if p := cpu.Period; p != nil && *p != 0 && (*p < shortest || *p > longest) {
		c.err(path+".period", unsigned(*p), "1000 to 1000000 microseconds")
	}
	if cpu.Burst != nil && cpu.Quota != nil && *cpu.Quota > 0 && *cpu.Burst > uint64(*cpu.Quota) {
		c.err(path+".burst", unsigned(*cpu.Burst), "at most the quota, "+decimal(*cpu.Quota))
	}
	if r := cpu.RealtimeRuntime; r != nil {
		switch {
		case *r < -1:
			c.err(path+".realtimeRuntime", decimal(*r), "a number of microseconds, or -1 for no limit")
		case cpu.RealtimePeriod != nil && *cpu.RealtimePeriod != 0 && *r > 0 &&
			uint64(*r) > *cpu.RealtimePeriod:
			c.err(path+".realtimeRuntime", decimal(*r), "at most the realtimePeriod, "+
				unsigned(*cpu.RealtimePeriod))
		}
	}
	c.list(path+".cpus", cpu.Cpus)
	c.list(path+".mems", cpu.Mems)
	if cpu.Idle != nil && *cpu.Idle != 0 && *cpu.Idle != 1 {
		c.err(path+".idle", decimal(*cpu.Idle), "0 or 1")
	}
}

// blockIO checks the limits of block devices (config-linux.md, "Block IO").
func (c *checker) blockIO(path string, b *specs.LinuxBlockIO) {
	c.weight(path+".weight", b.Weight)
	c.weight(path+".leafWeight", b.LeafWeight)
	for i := range b.WeightDevice {
		d := &b.WeightDevice[i]
		c.blockDevice(path+".weightDevice", i, d.Major, d.Minor)
		if d.Weight == nil && d.LeafWeight == nil {
			c.err(at(path+".weightDevice", i), "neither weight nor leafWeight",
				"at least one of weight and leafWeight")
		}
		c.weight(at(path+".weightDevice", i)+".weight", d.Weight)
		c.weight(at(path+".weightDevice", i)+".leafWeight", d.LeafWeight)
	}
	c.throttle(path+".throttleReadBpsDevice", b.ThrottleReadBpsDevice)
	c.throttle(path+".throttleWriteBpsDevice", b.ThrottleWriteBpsDevice)
	c.throttle(path+".throttleReadIOPSDevice", b.ThrottleReadIOPSDevice)
	c.throttle(path+".throttleWriteIOPSDevice", b.ThrottleWriteIOPSDevice)
}

// weight checks a weight: BFQ takes 1 to 1000 (CFQ took 10 to 1000), and zero
// is "unset".
func (c *checker) weight(path string, w *uint16) {
	if w != nil && *w > 1000 {
		c.err(path, unsigned(*w), "1 to 1000")
	}
}

func (c *checker) throttle(path string, devices []specs.LinuxThrottleDevice) {
	for i := range devices {
		c.blockDevice(path, i, devices[i].Major, devices[i].Minor)
	}
}

func (c *checker) blockDevice(path string, i int, major, minor int64) {
	c.deviceNumber(path, i, ".major", major, maxMajor)
	c.deviceNumber(path, i, ".minor", minor, maxMinor)
}

// pageSize reports whether s is a huge page's size as the schema has it:
// ^[1-9][0-9]*[KMG]B$.
func pageSize(s string) bool {
	n, ok := strings.CutSuffix(s, "B")
	if !ok || len(n) < 2 || strings.IndexByte("KMG", n[len(n)-1]) < 0 {
		return false
	}
	n = n[:len(n)-1]
	return n[0] != '0' && digits(n)
}

// rdma checks the limits of RDMA devices (config-linux.md, "RDMA").
func (c *checker) rdma(path string, limits map[string]specs.LinuxRdma) {
	for _, device := range sortedKeys(limits) {
		if device == "" || strings.ContainsAny(device, " \t\n\x00") {
			c.err(in(path, device), "the device "+quote(device), "a device's name without white space")
		}
		if l := limits[device]; l.HcaHandles == nil && l.HcaObjects == nil {
			c.err(in(path, device), "neither hcaHandles nor hcaObjects",
				"at least one of hcaHandles and hcaObjects")
		}
	}
}

// unified checks the files of cgroup v2 (config-linux.md, "Unified"). Unknown
// ones "MUST still be written", but each is one file of the container's own
// cgroup: a key with a slash would name another's.
func (c *checker) unified(path string, files map[string]string) {
	for _, name := range sortedKeys(files) {
		switch {
		case name == "" || name == "." || name == ".." || len(name) > 255 || strings.ContainsAny(name,
			"/\x00"):
			c.err(in(path, name), "the file "+quote(name),
				`the name of a file in the container's cgroup, such as "memory.high"`)
		case name == "cgroup.procs" || name == "cgroup.threads":
			c.warn(in(path, name), quote(files[name]),
				"nothing: it moves the host's processes into the container's limits")
		}
		c.text(in(path, name), files[name])
	}
}

// Resources returns every fault of limits alone, as `update` takes them. Paths begin with
// linux.resources.
func Resources(r *specs.LinuxResources) document.Faults {
	c := newChecker(&specs.Spec{Linux: &specs.Linux{Resources: r}}, Options{})
	c.resources()
	return c.all()
}
