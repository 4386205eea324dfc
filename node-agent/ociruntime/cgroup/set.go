// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// set writes limits into the directories that Create has made; the device rules only where they are
// new.
func (g *Group) set(r *specs.LinuxResources, withDevices bool) error {
	// All that is asked for has a place before anything is written.
	files := map[string]string{}
	swapOff := false
	hybrid := &cgroups.Resources{SkipDevices: true}
	found := knobs(r)
	for _, k := range found {
		dir, file, err := g.place(k)
		switch {
		case err != nil && k.off:
			swapOff = true
			continue
		case err != nil:
			return err
		}
		files[filepath.Join(dir, file)] = k.field
	}
	resources, err := Resources(r, g.unified())
	if err != nil {
		return err
	}
	if swapOff {
		resources.MemorySwap = 0
	}
	if err := checkObsolete(r); err != nil {
		return err
	}
	if !g.unified() {
		// What only the version 2 hierarchy of a hybrid host has.
		if g.paths["hugetlb"] == "" {
			hybrid.HugetlbLimit, resources.HugetlbLimit = resources.HugetlbLimit, nil
		}
		if g.paths["rdma"] == "" {
			hybrid.Rdma, resources.Rdma = resources.Rdma, nil
		}
	}
	rules := resources.Devices
	resources.SkipDevices = !withDevices || !g.unified() && g.unit == nil
	if len(found) > 0 || !resources.SkipDevices {
		m, err := g.setter()
		if err != nil {
			return err
		}
		if dir := g.paths["cpu"]; dir != "" && resources.CPUIdle != nil && *resources.CPUIdle == 0 {
			// First, since an idle cgroup takes no shares, which the library writes before.
			if err := writeFile(dir, "cpu.idle", "0"); err != nil {
				return blame(err, files)
			}
		}
		if err := m.Set(resources); err != nil {
			return blame(err, files)
		}
	}
	if len(hybrid.HugetlbLimit)+len(hybrid.Rdma) > 0 {
		m, err := fs2.NewManager(&cgroups.Cgroup{Resources: hybrid}, g.paths[""])
		if err != nil {
			return err
		}
		if err := m.Set(hybrid); err != nil {
			return blame(err, files)
		}
	}
	if withDevices && !g.unified() && g.unit == nil {
		if err := setDevicesV1(g.paths["devices"], rules); err != nil && !(g.rootless && denied(err)) {
			return fmt.Errorf("linux.resources.devices: %w", err)
		}
	}
	if err := g.limitTCP(r); err != nil {
		return blame(err, files)
	}
	if dir := g.oomControl(r); dir != "" {
		if err := writeFile(dir, oomControl, "0"); err != nil {
			return fmt.Errorf("linux.resources.memory.disableOOMKiller: %w", err)
		}
	}
	return g.weighDevices(resources)
}

// limitTCP writes the kernel's TCP limit, which the library no longer supports, since cgroup v2
// does not have it.
func (g *Group) limitTCP(r *specs.LinuxResources) error {
	if r == nil || r.Memory == nil || g.unified() {
		return nil
	}
	limit := r.Memory.KernelTCP //nolint:staticcheck // deprecated, not gone
	if !positive(limit) || *limit == -1 {
		return nil
	}
	return writeFile(g.paths["memory"], "memory.kmem.tcp.limit_in_bytes",
		strconv.FormatInt(*limit, 10))
}

const oomControl = "memory.oom_control"

// oomControl returns the directory in which the OOM killer is to be enabled, which the library
// takes for no wish; "" where it is not asked for or always so. A new cgroup of version 1 has it as
// its parent does.
func (g *Group) oomControl(r *specs.LinuxResources) string {
	if r == nil || r.Memory == nil || r.Memory.DisableOOMKiller == nil || *r.Memory.DisableOOMKiller ||
		g.unified() {
		return ""
	}
	return g.paths["memory"]
}

// setter returns the library's manager that sets limits: systemd has to know those of its scope, or
// it would set them back.
func (g *Group) setter() (cgroups.Manager, error) {
	if g.unit != nil {
		return g.systemd(g.unified())
	}
	m, err := g.manager()
	if err != nil || g.unified() {
		return m, err
	}
	firstSet.Do(func() { err = m.Set(&cgroups.Resources{SkipDevices: true}) })
	return m, err
}

// firstSet sets nothing. At its first Set in a process the library looks up the names of the files
// for the weights of block I/O, and keeps them in variables that all managers of version 1 share,
// without a lock.
var firstSet sync.Once

// checkObsolete refuses a memory.useHierarchy that cannot be had: it cannot be chosen since Linux
// 5.11, nor on cgroup v2. (A limit of kernel memory has had no effect since 5.16; api/oci/validate
// warns of it, as engines still have a flag for it.)
func checkObsolete(r *specs.LinuxResources) error {
	if r == nil || r.Memory == nil {
		return nil
	}
	if h := r.Memory.UseHierarchy; h != nil && !*h {
		return fmt.Errorf(
			"linux.resources.memory.useHierarchy: found false; allowed is true: the kernel always counts what is below a cgroup too")
	}
	return nil
}

// weighDevices writes the weights of single devices on a host without io.bfq.weight, which the
// library leaves out.
func (g *Group) weighDevices(r *cgroups.Resources) error {
	if !g.unified() || len(r.BlkioWeightDevice) == 0 {
		return nil
	}
	dir := g.paths[""]
	if _, err := os.Lstat(filepath.Join(dir, "io.bfq.weight")); err == nil {
		return nil
	}
	for i, d := range r.BlkioWeightDevice {
		line := fmt.Sprintf("%d:%d %d", d.Major, d.Minor, cgroups.ConvertBlkIOToIOWeightValue(d.Weight))
		if err := writeFile(dir, "io.weight", line); err != nil {
			return fmt.Errorf("linux.resources.blockIO.weightDevice[%d].weight: %w", i, err)
		}
	}
	return nil
}
