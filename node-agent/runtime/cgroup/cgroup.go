// SPDX-License-Identifier: Apache-2.0

// Package cgroup makes, limits, reads and removes the cgroups of one container, on cgroup v1, hybrid and v2 hosts. The
// kernel's files are written by opencontainers/cgroups; what is here is the way from the runtime-spec to that library,
// and how a process gets in without its parent waiting for it.
package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // lets the library set device rules
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/runtime/plan"
)

// Root is where the hierarchies are mounted.
const Root = "/sys/fs/cgroup"

// Group is the cgroup of one container, in every hierarchy of the host.
type Group struct {
	manager cgroups.Manager
	unified bool
	config  *cgroups.Cgroup
}

// Layout reads how the hierarchies of this host lie.
func Layout() plan.CgroupLayout {
	if cgroups.IsCgroup2UnifiedMode() {
		return plan.CgroupLayout{Unified: true}
	}
	var l plan.CgroupLayout
	entries, err := os.ReadDir(Root)
	if err != nil {
		return l
	}
	links := map[string][]string{}
	for _, e := range entries {
		if e.Type()&os.ModeSymlink != 0 {
			if target, err := os.Readlink(filepath.Join(Root, e.Name())); err == nil {
				links[target] = append(links[target], e.Name())
			}
			continue
		}
		var st unix.Statfs_t
		if unix.Statfs(filepath.Join(Root, e.Name()), &st) != nil {
			continue
		}
		switch st.Type {
		case unix.CGROUP_SUPER_MAGIC:
			options := e.Name()
			if e.Name() == "systemd" {
				options = "none,name=systemd"
			}
			l.V1 = append(l.V1, plan.Hierarchy{Dir: e.Name(), Options: options})
		case unix.CGROUP2_SUPER_MAGIC:
			l.Hybrid = e.Name()
		}
	}
	for i := range l.V1 {
		l.V1[i].Links = links[l.V1[i].Dir]
	}
	return l
}

// New prepares the cgroup that a document asks for; nothing is made yet. The path is relative to the mount of each
// hierarchy. An empty linux.cgroupsPath becomes /ID.
func New(spec *specs.Spec, id string) (*Group, error) {
	resources, err := Resources(spec)
	if err != nil {
		return nil, err
	}
	path := spec.Linux.CgroupsPath
	if path == "" {
		path = "/" + id
	}
	// A relative path is the runtime's to place (config-linux.md, Cgroups Path); below the root it cannot depend on where the
	// caller happens to stand.
	path = filepath.Clean("/" + path)
	if path == "/" {
		return nil, fmt.Errorf("linux.cgroupsPath: found %q; the root cgroup cannot be a container's", spec.Linux.CgroupsPath)
	}
	return open(&cgroups.Cgroup{Path: path, Resources: resources}, nil)
}

// Open takes up the cgroup of a container by the paths that Paths gave when it was made.
func Open(paths map[string]string) (*Group, error) {
	return open(&cgroups.Cgroup{Path: "/unused", Resources: &cgroups.Resources{SkipDevices: true}}, paths)
}

func open(config *cgroups.Cgroup, paths map[string]string) (*Group, error) {
	g := &Group{config: config, unified: cgroups.IsCgroup2UnifiedMode()}
	var err error
	if g.unified {
		g.manager, err = fs2.NewManager(config, paths[""])
	} else {
		g.manager, err = fs.NewManager(config, paths)
	}
	if err != nil {
		return nil, fmt.Errorf("linux.cgroupsPath: %w", err)
	}
	return g, nil
}

// Create makes the cgroup in every hierarchy and sets its limits. On an error nothing is left.
func (g *Group) Create() (err error) {
	if g.populated() {
		return fmt.Errorf("linux.cgroupsPath: found %s, which has processes of another container; each container needs its own", g.config.Path)
	}
	defer func() {
		if err != nil {
			_ = g.Destroy()
		}
	}()
	if err := g.manager.Apply(-1); err != nil {
		return fmt.Errorf("linux.cgroupsPath: make the cgroup %s: %w", g.config.Path, err)
	}
	if err := g.manager.Set(g.config.Resources); err != nil {
		return fmt.Errorf("linux.resources: %w", err)
	}
	return nil
}

// populated is whether a process is in the cgroup already. To share one by mistake would mean to be killed with the
// other container.
func (g *Group) populated() bool {
	for _, dir := range g.manager.GetPaths() {
		if dir == "" {
			continue
		}
		if pids, err := cgroups.GetPids(dir); err == nil && len(pids) > 0 {
			return true
		}
	}
	return false
}

// Paths are the folders of the cgroup by controller, "" for the unified hierarchy. They are what Open takes.
func (g *Group) Paths() map[string]string { return g.manager.GetPaths() }

// Add moves a process into the cgroup, in every hierarchy.
func (g *Group) Add(pid int) error {
	for _, dir := range g.Paths() {
		if dir == "" {
			continue
		}
		if err := cgroups.WriteCgroupProc(dir, pid); err != nil {
			return fmt.Errorf("linux.cgroupsPath: move process %d to %s: %w", pid, dir, err)
		}
	}
	return nil
}

// Tasks opens the tasks file of each cgroup v1 hierarchy once, for a process with one thread to write itself into. It is not
// cgroup.procs: a write there waits for an RCU grace period, some 10 ms, to keep other threads from forking, while a
// thread that moves itself alone does not (cgroup_procs_write_start in kernel/cgroup/cgroup.c). The names are in a fixed
// order. The caller closes the files.
func (g *Group) Tasks() (names []string, files []*os.File, err error) {
	seen := map[string]bool{}
	paths := g.Paths()
	for name := range paths {
		names = append(names, name)
	}
	sort.Strings(names)
	kept := names[:0]
	for _, name := range names {
		dir := paths[name]
		if name == "" || dir == "" || seen[dir] {
			continue
		}
		seen[dir] = true
		fd, err := unix.Open(filepath.Join(dir, "tasks"), unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			return nil, nil, fmt.Errorf("linux.cgroupsPath: open %s/tasks: %w", dir, err)
		}
		kept, files = append(kept, name), append(files, os.NewFile(uintptr(fd), "tasks"))
	}
	return kept, files, nil
}

// Unified opens the cgroup's folder in the hierarchy of version 2, for clone3 to make a child in it (CLONE_INTO_CGROUP). It
// returns nil where the host has none. The caller closes it.
func (g *Group) Unified() (*os.File, error) {
	dir := g.Paths()[""]
	if dir == "" {
		return nil, nil
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("linux.cgroupsPath: open %s: %w", dir, err)
	}
	return os.NewFile(uintptr(fd), dir), nil
}

// HostPaths are the folders by the name of the hierarchy's folder, as a cgroup mount shows them.
func (g *Group) HostPaths() map[string]string {
	out := map[string]string{}
	for name, dir := range g.Paths() {
		if name == "" {
			out[""] = dir
			continue
		}
		rest := strings.TrimPrefix(dir, Root+"/")
		hierarchy, _, _ := strings.Cut(rest, "/")
		out[hierarchy] = dir
	}
	return out
}

// Kill sends SIGKILL to every process in the cgroup and below it.
func (g *Group) Kill() error { return g.Signal(unix.SIGKILL) }

// Signal sends a signal to every process in the cgroup and below it. It is meant for a container that has no pid
// namespace of its own: with one, the end of its first process ends the others.
func (g *Group) Signal(sig unix.Signal) error {
	if sig == unix.SIGKILL && g.unified {
		// cgroup.kill ends even what forks meanwhile (cgroups(7), Linux 5.14).
		err := os.WriteFile(filepath.Join(g.Paths()[""], "cgroup.kill"), []byte("1"), 0)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("kill the cgroup: %w", err)
	}
	// Without cgroup.kill a process may fork between the list and the signal: freeze first. What was paused before stays so,
	// unless it is to die, which a frozen process of version 1 does only once it thaws.
	thaw := sig == unix.SIGKILL || !g.Frozen()
	_ = g.manager.Freeze(cgroups.Frozen)
	pids, err := g.manager.GetAllPids()
	for _, pid := range pids {
		if e := unix.Kill(pid, sig); e != nil && !errors.Is(e, unix.ESRCH) {
			err = errors.Join(err, fmt.Errorf("kill %d: %w", pid, e))
		}
	}
	if thaw {
		err = errors.Join(err, g.manager.Freeze(cgroups.Thawed))
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Pids are the processes in the cgroup and below it, as the host numbers them.
func (g *Group) Pids() ([]int, error) {
	pids, err := g.manager.GetAllPids()
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return pids, err
}

// Freeze stops (true) or continues all processes of the cgroup.
func (g *Group) Freeze(frozen bool) error {
	state := cgroups.Thawed
	if frozen {
		state = cgroups.Frozen
	}
	return g.manager.Freeze(state)
}

// Frozen is whether the processes are stopped by the freezer.
func (g *Group) Frozen() bool {
	state, err := g.manager.GetFreezerState()
	return err == nil && state == cgroups.Frozen
}

// OOMKills is how many processes of the cgroup the kernel's out-of-memory killer has ended; 0 where that is not counted.
func (g *Group) OOMKills() uint64 {
	n, err := g.manager.OOMKillCount()
	if err != nil {
		return 0
	}
	return n
}

// Destroy removes the cgroup in every hierarchy. It waits a moment for processes that are ending.
func (g *Group) Destroy() error {
	var err error
	for _, dir := range g.Paths() {
		err = errors.Join(err, remove(dir))
	}
	return err
}

// remove removes a cgroup and those that the container made below it. A process that has just ended holds its cgroup for
// a moment more.
func remove(dir string) error {
	if dir == "" {
		return nil
	}
	delay := 100 * time.Microsecond
	for {
		err := unix.Rmdir(dir)
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EBUSY) || delay > time.Second:
			return fmt.Errorf("remove the cgroup %s: %w", dir, err)
		}
		if delay > 400*time.Microsecond {
			entries, err := os.ReadDir(dir)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("remove the cgroup %s: %w", dir, err)
			}
			for _, e := range entries {
				if e.IsDir() {
					if err := remove(filepath.Join(dir, e.Name())); err != nil {
						return err
					}
				}
			}
		}
		time.Sleep(delay)
		delay *= 2
	}
}

// Resources turns linux.resources into the library's form. The device rules are those of the document followed by the
// devices that every container may use.
func Resources(spec *specs.Spec) (*cgroups.Resources, error) {
	out := &cgroups.Resources{}
	r := spec.Linux.Resources
	if r == nil {
		r = &specs.LinuxResources{}
	}
	for i, d := range r.Devices {
		rule, err := deviceRule(d)
		if err != nil {
			return nil, fmt.Errorf("linux.resources.devices[%d].%w", i, err)
		}
		out.Devices = append(out.Devices, rule)
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
		if c.Shares != nil {
			out.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(*c.Shares)
		}
	}
	if r.Pids != nil {
		out.PidsLimit = r.Pids.Limit
	}
	if b := r.BlockIO; b != nil {
		blockIO(out, b)
	}
	for _, h := range r.HugepageLimits {
		out.HugetlbLimit = append(out.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: h.Pagesize, Limit: h.Limit})
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
			out.NetPrioIfpriomap = append(out.NetPrioIfpriomap, &cgroups.IfPrioMap{Interface: p.Name, Priority: int64(p.Priority)})
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

func blockIO(out *cgroups.Resources, b *specs.LinuxBlockIO) {
	set(&out.BlkioWeight, b.Weight)
	set(&out.BlkioLeafWeight, b.LeafWeight)
	for _, d := range b.WeightDevice {
		var weight, leaf uint16
		set(&weight, d.Weight)
		set(&leaf, d.LeafWeight)
		out.BlkioWeightDevice = append(out.BlkioWeightDevice, cgroups.NewWeightDevice(d.Major, d.Minor, weight, leaf))
	}
	throttle := func(list []specs.LinuxThrottleDevice) (to []*cgroups.ThrottleDevice) {
		for _, d := range list {
			to = append(to, cgroups.NewThrottleDevice(d.Major, d.Minor, d.Rate))
		}
		return to
	}
	out.BlkioThrottleReadBpsDevice = throttle(b.ThrottleReadBpsDevice)
	out.BlkioThrottleWriteBpsDevice = throttle(b.ThrottleWriteBpsDevice)
	out.BlkioThrottleReadIOPSDevice = throttle(b.ThrottleReadIOPSDevice)
	out.BlkioThrottleWriteIOPSDevice = throttle(b.ThrottleWriteIOPSDevice)
}

func deviceRule(d specs.LinuxDeviceCgroup) (*devices.Rule, error) {
	rule := &devices.Rule{Major: devices.Wildcard, Minor: devices.Wildcard, Permissions: devices.Permissions(d.Access), Allow: d.Allow}
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
	return rule, nil
}

// defaultDeviceRules let a container make any node and use the default devices, its terminals among them, whatever the
// document says, as runc does.
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
	}
	for _, d := range plan.DefaultDevices() {
		rules = append(rules, rule(devices.CharDevice, d.Major, d.Minor, "rwm"))
	}
	return rules
}
