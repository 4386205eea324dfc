// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"math"
	"strings"

	"github.com/opencontainers/cgroups"
	devices "github.com/opencontainers/cgroups/devices/config"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/node-agent/ociruntime/devnode"
)

// Resources turns linux.resources into the library's form, for a host with cgroup v2 alone or
// another. The device rules are those of the document followed by the devices that every container
// may use.
func Resources(r *specs.LinuxResources, unified bool) (*cgroups.Resources, error) {
	out := &cgroups.Resources{}
	if r == nil {
		r = &specs.LinuxResources{}
	}
	for i, d := range r.Devices {
		rules, err := deviceRules(d)
		if err != nil {
			return nil, fmt.Errorf("linux.resources.devices[%d].%w", i, err)
		}
		out.Devices = append(out.Devices, rules...)
	}
	out.Devices = append(out.Devices, defaultDeviceRules()...)
	if m := r.Memory; m != nil {
		set(&out.Memory, m.Limit)
		set(&out.MemoryReservation, m.Reservation)
		set(&out.MemorySwap, m.Swap)
		out.MemorySwappiness = m.Swappiness
		set(&out.OomKillDisable, m.DisableOOMKiller)
		set(&out.MemoryCheckBeforeUpdate, m.CheckBeforeUpdate)
	}
	if c := r.CPU; c != nil {
		set(&out.CpuShares, c.Shares)
		set(&out.CpuQuota, c.Quota)
		set(&out.CpuPeriod, c.Period)
		set(&out.CpuRtRuntime, c.RealtimeRuntime)
		set(&out.CpuRtPeriod, c.RealtimePeriod)
		out.CpuBurst, out.CPUIdle = c.Burst, c.Idle
		out.CpusetCpus, out.CpusetMems = c.Cpus, c.Mems
		// an idle cgroup has no weight: the kernel refuses one
		if c.Shares != nil && unified && (c.Idle == nil || *c.Idle == 0) {
			out.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(*c.Shares)
		}
	}
	if r.Pids != nil {
		out.PidsLimit = r.Pids.Limit
	}
	if b := r.BlockIO; b != nil {
		blockIO(out, b, unified)
	}
	for _, h := range r.HugepageLimits {
		out.HugetlbLimit = append(out.HugetlbLimit, &cgroups.HugepageLimit{
			Pagesize: h.Pagesize,
			Limit:    h.Limit,
		})
	}
	for name, limit := range r.Rdma {
		if out.Rdma == nil {
			out.Rdma = map[string]cgroups.LinuxRdma{}
		}
		out.Rdma[name] = cgroups.LinuxRdma{HcaHandles: limit.HcaHandles, HcaObjects: limit.HcaObjects}
	}
	if n := r.Network; n != nil {
		set(&out.NetClsClassid, n.ClassID)
		for _, p := range n.Priorities {
			out.NetPrioIfpriomap = append(out.NetPrioIfpriomap, &cgroups.IfPrioMap{
				Interface: p.Name,
				Priority:  int64(p.Priority),
			})
		}
	}
	if len(r.Unified) > 0 {
		out.Unified = r.Unified
	}
	return out, nil
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

func blockIO(out *cgroups.Resources, b *specs.LinuxBlockIO, unified bool) {
	set(&out.BlkioWeight, b.Weight)
	set(&out.BlkioLeafWeight, b.LeafWeight)
	for _, d := range b.WeightDevice {
		var weight, leaf uint16
		set(&weight, d.Weight)
		set(&leaf, d.LeafWeight)
		out.BlkioWeightDevice = append(out.BlkioWeightDevice, cgroups.NewWeightDevice(d.Major, d.Minor,
			weight, leaf))
	}
	throttle := func(list []specs.LinuxThrottleDevice) (to []*cgroups.ThrottleDevice) {
		for _, d := range list {
			rate := d.Rate
			if unified && rate == 0 {
				rate = math.MaxUint64 // io.max takes no zero for "no limit", as cgroup v1 does
			}
			to = append(to, cgroups.NewThrottleDevice(d.Major, d.Minor, rate))
		}
		return to
	}
	out.BlkioThrottleReadBpsDevice = throttle(b.ThrottleReadBpsDevice)
	out.BlkioThrottleWriteBpsDevice = throttle(b.ThrottleWriteBpsDevice)
	out.BlkioThrottleReadIOPSDevice = throttle(b.ThrottleReadIOPSDevice)
	out.BlkioThrottleWriteIOPSDevice = throttle(b.ThrottleWriteIOPSDevice)
}

// deviceRules returns the rules of an element of linux.resources.devices. One for all types that is
// not for all devices and every access becomes one a type: the kernel's "a" knows neither numbers
// nor access, and would be wider than what is asked for (devcgroup_update_access in
// security/device_cgroup.c).
func deviceRules(d specs.LinuxDeviceCgroup) ([]*devices.Rule, error) {
	rule := &devices.Rule{
		Major: devices.Wildcard, Minor: devices.Wildcard,
		Permissions: devices.Permissions(strings.ReplaceAll(d.Access, "a", "")), Allow: d.Allow,
	}
	switch d.Type {
	case "", "a":
		rule.Type = devices.WildcardDevice
	case "c", "u":
		rule.Type = devices.CharDevice
	case "b":
		rule.Type = devices.BlockDevice
	default:
		return nil, fmt.Errorf("type: found %q; allowed are a, b, c", d.Type)
	}
	set(&rule.Major, d.Major)
	set(&rule.Minor, d.Minor)
	if rule.Permissions == "" {
		rule.Permissions = "rwm"
	}
	if rule.Type != devices.WildcardDevice || isAll(rule) {
		return []*devices.Rule{rule}, nil
	}
	char, block := *rule, *rule
	char.Type, block.Type = devices.CharDevice, devices.BlockDevice
	return []*devices.Rule{&char, &block}, nil
}

// defaultDeviceRules let a container make any node and use the default devices, its terminals among
// them, and tun(4), whatever the document says, as runc and crun do.
func defaultDeviceRules() []*devices.Rule {
	rule := func(kind devices.Type, major, minor int64, access devices.Permissions) *devices.Rule {
		return &devices.Rule{Type: kind, Major: major, Minor: minor, Permissions: access, Allow: true}
	}
	const any = devices.Wildcard
	rules := []*devices.Rule{
		rule(devices.CharDevice, any, any, "m"), rule(devices.BlockDevice, any, any, "m"),
		rule(devices.CharDevice, 5, 1, "rwm"), // console
		rule(devices.CharDevice, 5, 2, "rwm"), // ptmx
		rule(devices.CharDevice, 136, any, "rwm"),
		rule(devices.CharDevice, 10, 200, "rwm"), // net/tun
	}
	for _, d := range devnode.Default() {
		rules = append(rules, rule(devices.CharDevice, d.Major, d.Minor, "rwm"))
	}
	return rules
}
