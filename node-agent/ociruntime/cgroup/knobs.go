// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/internal/cgrouplayout"
)

// knob is a field of linux.resources with a value, and the files of the kernel that take it. It
// serves to refuse what the host cannot do, which the library passes over in part, and to name the
// field where the kernel refuses a value.
type knob struct {
	field, value string
	// controller of cgroup v1 and its file; the file of cgroup v2. Without a file, that version has
	// no such limit; "a|b" is the first of the two that there is.
	controller, v1, v2 string
	// off reports whether the value asks for the state that holds if the file does not exist.
	off bool
}

// knobs returns the fields of linux.resources that ask for something, but for the device rules.
// Zero and an empty list are what engines write for "unset" where the kernel has no such value.
func knobs(r *specs.LinuxResources) []knob {
	if r == nil {
		return nil
	}
	var out knobList
	out.memory(r.Memory)
	out.cpu(r.CPU)
	if r.Pids != nil {
		out.add(r.Pids.Limit != nil, "pids.limit", show(r.Pids.Limit), "pids", "pids.max", "pids.max")
	}
	out.blockIO(r.BlockIO)
	for i, h := range r.HugepageLimits {
		out.add(true, "hugepageLimits["+strconv.Itoa(i)+"]", h.Pagesize, "hugetlb", "hugetlb."+h.Pagesize+
			".limit_in_bytes", "hugetlb."+h.Pagesize+".max")
	}
	out.network(r.Network)
	for _, name := range slices.Sorted(maps.Keys(r.Rdma)) {
		out.add(true, "rdma["+strconv.Quote(name)+"]", "a limit", "rdma", "rdma.max", "rdma.max")
	}
	for _, name := range slices.Sorted(maps.Keys(r.Unified)) {
		out.add(true, "unified["+strconv.Quote(name)+"]", strconv.Quote(r.Unified[name]), "", "", name)
	}
	return out
}

// knobList collects knobs, in the order of the specification.
type knobList []knob

func (l *knobList) add(set bool, field string, value any, controller, v1, v2 string) {
	if set {
		*l = append(*l, knob{
			field: "linux.resources." + field, value: fmt.Sprint(value),
			controller: controller, v1: v1, v2: v2,
		})
	}
}

func (l *knobList) memory(m *specs.LinuxMemory) {
	if m == nil {
		return
	}
	const controller = "memory"
	l.add(positive(m.Limit), "memory.limit", show(m.Limit), controller, "memory.limit_in_bytes",
		"memory.max")
	l.add(positive(m.Reservation), "memory.reservation", show(m.Reservation), controller,
		"memory.soft_limit_in_bytes", "memory.low")
	if positive(m.Swap) {
		l.add(true, "memory.swap", *m.Swap, controller, "memory.memsw.limit_in_bytes", "memory.swap.max")
		(*l)[len(*l)-1].off = *m.Swap == -1
	}
	l.add(positive(m.KernelTCP) && *m.KernelTCP != -1, "memory.kernelTCP", show(m.KernelTCP),
		controller, "memory.kmem.tcp.limit_in_bytes", "")
	l.add(m.Swappiness != nil, "memory.swappiness", show(m.Swappiness), controller,
		"memory.swappiness", "")
	l.add(m.DisableOOMKiller != nil && *m.DisableOOMKiller, "memory.disableOOMKiller", true,
		controller, "memory.oom_control", "")
}

func (l *knobList) cpu(c *specs.LinuxCPU) {
	if c == nil {
		return
	}
	l.add(positive(c.Shares), "cpu.shares", show(c.Shares), "cpu", "cpu.shares", "cpu.weight")
	l.add(positive(c.Quota), "cpu.quota", show(c.Quota), "cpu", "cpu.cfs_quota_us", "cpu.max")
	l.add(positive(c.Period), "cpu.period", show(c.Period), "cpu", "cpu.cfs_period_us", "cpu.max")
	l.add(c.Burst != nil, "cpu.burst", show(c.Burst), "cpu", "cpu.cfs_burst_us", "cpu.max.burst")
	l.add(positive(c.RealtimeRuntime), "cpu.realtimeRuntime", show(c.RealtimeRuntime), "cpu",
		"cpu.rt_runtime_us", "")
	l.add(positive(c.RealtimePeriod), "cpu.realtimePeriod", show(c.RealtimePeriod), "cpu",
		"cpu.rt_period_us", "")
	l.add(c.Cpus != "", "cpu.cpus", c.Cpus, "cpuset", "cpuset.cpus", "cpuset.cpus")
	l.add(c.Mems != "", "cpu.mems", c.Mems, "cpuset", "cpuset.mems", "cpuset.mems")
	l.add(c.Idle != nil, "cpu.idle", show(c.Idle), "cpu", "cpu.idle", "cpu.idle")
}

func (l *knobList) blockIO(b *specs.LinuxBlockIO) {
	if b == nil {
		return
	}
	const controller = "blkio"
	l.add(positive(b.Weight), "blockIO.weight", show(b.Weight), controller,
		"blkio.weight|blkio.bfq.weight", "io.bfq.weight|io.weight")
	l.add(positive(b.LeafWeight), "blockIO.leafWeight", show(b.LeafWeight), controller,
		"blkio.leaf_weight", "")
	for i, d := range b.WeightDevice {
		field := "blockIO.weightDevice[" + strconv.Itoa(i) + "]"
		l.add(positive(d.Weight), field+".weight", show(d.Weight), controller,
			"blkio.weight_device|blkio.bfq.weight_device", "io.bfq.weight|io.weight")
		l.add(positive(d.LeafWeight), field+".leafWeight", show(d.LeafWeight), controller,
			"blkio.leaf_weight_device", "")
	}
	for _, t := range []struct {
		field, file string
		list        []specs.LinuxThrottleDevice
	}{
		{"throttleReadBpsDevice", "read_bps", b.ThrottleReadBpsDevice},
		{"throttleWriteBpsDevice", "write_bps", b.ThrottleWriteBpsDevice},
		{"throttleReadIOPSDevice", "read_iops", b.ThrottleReadIOPSDevice},
		{"throttleWriteIOPSDevice", "write_iops", b.ThrottleWriteIOPSDevice},
	} {
		for i, d := range t.list {
			l.add(true, "blockIO."+t.field+"["+strconv.Itoa(i)+"]", fmt.Sprintf("%d:%d %d", d.Major, d.Minor,
				d.Rate), controller, "blkio.throttle."+t.file+"_device", "io.max")
		}
	}
}

func (l *knobList) network(n *specs.LinuxNetwork) {
	if n == nil {
		return
	}
	l.add(positive(n.ClassID), "network.classID", show(n.ClassID), "net_cls", "net_cls.classid", "")
	for i, p := range n.Priorities {
		l.add(true, "network.priorities["+strconv.Itoa(i)+"]", p.Name, "net_prio",
			"net_prio.ifpriomap", "")
	}
}

// positive reports whether a limit is given: not nil, and not 0.
func positive[T int64 | uint64 | uint32 | uint16](v *T) bool { return v != nil && *v != 0 }

func show[T any](v *T) any {
	if v == nil {
		return nil
	}
	return *v
}

// place finds the directory and the file for a knob's value, or returns the reason why there is
// none.
func (g *Group) place(k knob) (dir, file string, err error) {
	refuse := func(reason string, args ...any) (string, string, error) {
		return "", "", fmt.Errorf("%s: found %s; %s", k.field, k.value, fmt.Sprintf(reason, args...))
	}
	files := k.v1
	switch unified := g.paths[""]; {
	case g.unified():
		if dir, files = unified, k.v2; files == "" {
			return refuse("cgroup v2, which this host has, knows no such limit")
		}
	case k.v1 == "":
		return refuse(
			"invalid configuration: only a host with cgroup v2 alone has the files of linux.resources.unified")
	default:
		if dir = g.paths[k.controller]; dir == "" && unified != "" {
			// Of what version 1 lacks a hybrid host may have it in version 2.
			have, _ := readFile(filepath.Join(cgrouplayout.Root, hierarchy(unified)), "cgroup.controllers")
			if slices.Contains(strings.Fields(have), k.controller) {
				if err := enableHybrid(unified, k.controller); err != nil {
					return refuse("the controller %s cannot be handed down: %v", k.controller, err)
				}
				dir, files = unified, k.v2
			}
		}
		if dir == "" {
			return refuse("the host has no cgroup hierarchy of the controller %s", k.controller)
		}
	}
	for name := range strings.SplitSeq(files, "|") {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return dir, name, nil
		}
	}
	controller, _, _ := strings.Cut(files, ".")
	return refuse(
		"the kernel has no %s in %s: it lacks that feature, or the controller %s is not available there",
		strings.ReplaceAll(files, "|", " or "), dir, controller)
}

// blame puts the field before an error of one of the files that take its value.
func blame(err error, files map[string]string) error {
	var path *os.PathError
	if errors.As(err, &path) {
		if field, ok := files[path.Path]; ok {
			return fmt.Errorf("%s: %w", field, err)
		}
	}
	// The library names no file where memory in use stands above a new limit (fs/memory.go,
	// fs2/memory.go).
	switch text := err.Error(); {
	case strings.Contains(text, "rejecting memory+swap limit"):
		return fmt.Errorf("linux.resources.memory.swap: %w", err)
	case strings.Contains(text, "rejecting memory limit"),
		strings.Contains(text, "unable to set memory limit"):
		return fmt.Errorf("linux.resources.memory.limit: %w", err)
	}
	return fmt.Errorf("linux.resources: %w", err)
}
