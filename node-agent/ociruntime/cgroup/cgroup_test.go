// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/cgrouplayout"
	"github.com/berth-run/berth/internal/needs"
)

func ptr[T any](v T) *T { return &v }

// document has nothing but limits, and a cgroup of its own for each test.
func document(t *testing.T, r *specs.LinuxResources) *specs.Spec {
	name := strings.NewReplacer("/", "-", " ", "-", "'", "").Replace(t.Name())
	return &specs.Spec{Linux: &specs.Linux{
		CgroupsPath: fmt.Sprintf("/t%d-%s", os.Getpid(), name),
		Resources:   r,
	}}
}

// layout returns the cgroup layout of this host.
func layout(t testing.TB) cgrouplayout.Layout {
	t.Helper()
	l, err := cgrouplayout.Read("/")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// make makes a cgroup, and fails the test where Destroy leaves a directory of it.
func makeGroup(t *testing.T, spec *specs.Spec) (*Group, error) {
	t.Helper()
	needs.Root(t)
	g, err := New(spec, "unused", layout(t), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Destroy(); err != nil {
			t.Error(err)
		}
		for _, dir := range g.Paths() {
			if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("left: %s", dir)
			}
		}
	})
	return g, g.Create()
}

// file reads a file of a cgroup by the version 1 controller, or "" for version 2.
func (g *Group) file(t *testing.T, controller, name string) string {
	t.Helper()
	if g.unified() {
		controller = ""
	}
	data, err := os.ReadFile(filepath.Join(g.paths[controller], name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// aDisk returns the number of a block device that throttling takes: a whole disk.
func aDisk(t *testing.T) (major, minor int64) {
	t.Helper()
	disks, _ := filepath.Glob("/sys/block/*/dev")
	for _, d := range disks {
		data, err := os.ReadFile(d)
		if _, e := fmt.Sscanf(string(data), "%d:%d", &major, &minor); err == nil && e == nil {
			return major, minor
		}
	}
	t.Skip("the machine has no block device")
	return 0, 0
}

// TestResources: each limit stands in the kernel's file, or is refused with its field where the
// host has no such file.
func TestResources(t *testing.T) {
	type check struct{ controller, v1, want1, v2, want2 string }
	major, minor := aDisk(t)
	device := func(rate uint64) []specs.LinuxThrottleDevice {
		d := specs.LinuxThrottleDevice{Rate: rate}
		d.Major, d.Minor = major, minor
		return []specs.LinuxThrottleDevice{d}
	}
	number := fmt.Sprintf("%d:%d", major, minor)
	weight := specs.LinuxWeightDevice{Weight: ptr(uint16(300))}
	weight.Major, weight.Minor = major, minor
	leaf := specs.LinuxWeightDevice{LeafWeight: ptr(uint16(300))}
	leaf.Major, leaf.Minor = major, minor
	memory := func(m specs.LinuxMemory) specs.LinuxResources {
		return specs.LinuxResources{Memory: &m}
	}
	cpu := func(c specs.LinuxCPU) specs.LinuxResources { return specs.LinuxResources{CPU: &c} }
	io := func(b specs.LinuxBlockIO) specs.LinuxResources { return specs.LinuxResources{BlockIO: &b} }
	const mi = int64(1 << 20)
	for _, c := range []struct {
		field     string
		resources specs.LinuxResources
		checks    []check
	}{
		{
			"memory.limit", memory(specs.LinuxMemory{Limit: ptr(64 * mi)}),
			[]check{{"memory", "memory.limit_in_bytes", "67108864", "memory.max", "67108864"}},
		},
		{
			"memory.limit", memory(specs.LinuxMemory{Limit: ptr(int64(-1))}),
			[]check{{"memory", "memory.limit_in_bytes", "9223372036854771712", "memory.max", "max"}},
		},
		{
			"memory.reservation", memory(specs.LinuxMemory{Reservation: ptr(32 * mi)}),
			[]check{{"memory", "memory.soft_limit_in_bytes", "33554432", "memory.low", "33554432"}},
		},
		{
			"memory.swap", memory(specs.LinuxMemory{Limit: ptr(64 * mi), Swap: ptr(96 * mi)}),
			[]check{{"memory", "memory.memsw.limit_in_bytes", "100663296", "memory.swap.max", "33554432"}},
		},
		{
			"memory.swap", memory(specs.LinuxMemory{Limit: ptr(64 * mi), Swap: ptr(64 * mi)}),
			[]check{{"memory", "memory.memsw.limit_in_bytes", "67108864", "memory.swap.max", "0"}},
		},
		{
			"memory.swap", memory(specs.LinuxMemory{Limit: ptr(64 * mi), Swap: ptr(int64(-1))}),
			[]check{{"memory", "memory.limit_in_bytes", "67108864", "memory.swap.max", "max"}},
		},
		{
			"memory.swappiness", memory(specs.LinuxMemory{Swappiness: ptr(uint64(0))}),
			[]check{{"memory", "memory.swappiness", "0", "", ""}},
		},
		{
			"memory.disableOOMKiller", memory(specs.LinuxMemory{DisableOOMKiller: ptr(true)}),
			[]check{{
				"memory", "memory.oom_control", "oom_kill_disable 1\nunder_oom 0\noom_kill 0",
				"", "",
			}},
		},
		{"memory.kernelTCP", memory(specs.LinuxMemory{KernelTCP: ptr(8 * mi)}), []check{{"memory", "memory.kmem.tcp.limit_in_bytes", "8388608", "", ""}}}, //nolint:staticcheck // deprecated, not gone
		{"memory.useHierarchy", memory(specs.LinuxMemory{UseHierarchy: ptr(false)}), []check{{}}},
		{
			"cpu.shares", cpu(specs.LinuxCPU{Shares: ptr(uint64(512))}),
			[]check{{"cpu", "cpu.shares", "512", "cpu.weight", "59"}},
		},
		{"cpu.quota", cpu(specs.LinuxCPU{Quota: ptr(int64(50000)), Period: ptr(uint64(200000))}), []check{
			{"cpu", "cpu.cfs_quota_us", "50000", "cpu.max", "50000 200000"}, {
				"cpu", "cpu.cfs_period_us",
				"200000", "cpu.max", "50000 200000",
			},
		}},
		{
			"cpu.burst", cpu(specs.LinuxCPU{Quota: ptr(int64(50000)), Burst: ptr(uint64(20000))}),
			[]check{{"cpu", "cpu.cfs_burst_us", "20000", "cpu.max.burst", "20000"}},
		},
		{
			"cpu.idle", cpu(specs.LinuxCPU{Idle: ptr(int64(1))}),
			[]check{{"cpu", "cpu.idle", "1", "cpu.idle", "1"}},
		},
		{"cpu.realtimeRuntime", cpu(specs.LinuxCPU{
			RealtimeRuntime: ptr(int64(5000)),
			RealtimePeriod:  ptr(uint64(500000)),
		}), []check{
			{"cpu", "cpu.rt_runtime_us", "5000", "", ""}, {"cpu", "cpu.rt_period_us", "500000", "", ""},
		}},
		{
			"cpu.cpus", cpu(specs.LinuxCPU{Cpus: "0", Mems: "0"}),
			[]check{{"cpuset", "cpuset.cpus", "0", "cpuset.cpus", "0"}, {
				"cpuset", "cpuset.mems", "0",
				"cpuset.mems", "0",
			}},
		},
		{
			"pids.limit",
			specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(12))}},
			[]check{{"pids", "pids.max", "12", "pids.max", "12"}},
		},
		{
			"pids.limit",
			specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(-1))}},
			[]check{{"pids", "pids.max", "max", "pids.max", "max"}},
		},
		{
			"blockIO.weight", io(specs.LinuxBlockIO{Weight: ptr(uint16(500))}),
			[]check{{"blkio", "blkio.bfq.weight", "500", "io.weight", "default 4950"}},
		},
		{
			"blockIO.leafWeight", io(specs.LinuxBlockIO{LeafWeight: ptr(uint16(500))}),
			[]check{{"blkio", "blkio.leaf_weight", "500", "", ""}},
		},
		{
			"blockIO.weightDevice[0].weight",
			io(specs.LinuxBlockIO{WeightDevice: []specs.LinuxWeightDevice{weight}}),
			[]check{{"blkio", "blkio.bfq.weight_device", number + " 300", "io.weight", "default 100\n" +
				number + " 2930"}},
		},
		{
			"blockIO.weightDevice[0].leafWeight",
			io(specs.LinuxBlockIO{WeightDevice: []specs.LinuxWeightDevice{leaf}}),
			[]check{{"blkio", "blkio.leaf_weight_device", number + " 300", "", ""}},
		},
		{
			"blockIO.throttleReadBpsDevice[0]",
			io(specs.LinuxBlockIO{ThrottleReadBpsDevice: device(1 << 20)}),
			[]check{{"blkio", "blkio.throttle.read_bps_device", number + " 1048576", "io.max", number +
				" rbps=1048576 wbps=max riops=max wiops=max"}},
		},
		{
			"blockIO.throttleWriteBpsDevice[0]",
			io(specs.LinuxBlockIO{ThrottleWriteBpsDevice: device(1 << 20)}),
			[]check{{"blkio", "blkio.throttle.write_bps_device", number + " 1048576", "io.max", number +
				" rbps=max wbps=1048576 riops=max wiops=max"}},
		},
		{
			"blockIO.throttleReadIOPSDevice[0]", io(specs.LinuxBlockIO{ThrottleReadIOPSDevice: device(100)}),
			[]check{{"blkio", "blkio.throttle.read_iops_device", number + " 100", "io.max", number +
				" rbps=max wbps=max riops=100 wiops=max"}},
		},
		{
			"blockIO.throttleWriteIOPSDevice[0]",
			io(specs.LinuxBlockIO{ThrottleWriteIOPSDevice: device(100)}),
			[]check{{"blkio", "blkio.throttle.write_iops_device", number + " 100", "io.max", number +
				" rbps=max wbps=max riops=max wiops=100"}},
		},
		{
			"blockIO.throttleReadBpsDevice[0]", io(specs.LinuxBlockIO{ThrottleReadBpsDevice: device(0)}),
			[]check{{"blkio", "blkio.throttle.read_bps_device", "", "io.max", ""}},
		},
		{
			"network.classID",
			specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: ptr(uint32(0x100001))}},
			[]check{{"net_cls", "net_cls.classid", "1048577", "", ""}},
		},
		{
			"network.priorities[0]",
			specs.LinuxResources{
				Network: &specs.LinuxNetwork{Priorities: []specs.LinuxInterfacePriority{{
					Name:     "lo",
					Priority: 3,
				}}},
			},
			[]check{{"net_prio", "net_prio.ifpriomap", "lo 3", "", ""}},
		},
		{
			`rdma["none0"]`,
			specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"none0": {HcaHandles: ptr(uint32(3))}}},
			[]check{{"rdma", "rdma.max", "none0 hca_handle=3", "rdma.max", "none0 hca_handle=3"}},
		},
		{
			`unified["memory.high"]`,
			specs.LinuxResources{Unified: map[string]string{"memory.high": "33554432"}},
			[]check{{"", "", "", "memory.high", "33554432"}},
		},
		{
			`unified["memory.none"]`,
			specs.LinuxResources{Unified: map[string]string{"memory.none": "1"}},
			[]check{{"", "", "", "", ""}},
		},
		{
			`unified["none.max"]`,
			specs.LinuxResources{Unified: map[string]string{"none.max": "1"}},
			[]check{{"", "", "", "", ""}},
		},
		// The kernel's own refusals are reported with the field, too.
		{"cpu.cpus", cpu(specs.LinuxCPU{Cpus: "4000"}), []check{{}}},
	} {
		t.Run(c.field, func(t *testing.T) {
			g, err := makeGroup(t, document(t, &c.resources))
			if err != nil {
				if !strings.Contains(err.Error(), "linux.resources."+c.field) {
					t.Errorf("the error does not name the field: %v", err)
				}
			}
			for _, k := range c.checks {
				name, want := k.v1, k.want1
				if layout(t).Unified {
					name, want = k.v2, k.want2
				}
				dir := g.paths[k.controller]
				if g.unified() {
					dir = g.paths[""]
				}
				if err != nil {
					// It may be refused for want of the file, or of the device, alone.
					other, e := New(document(t, nil), "unused", layout(t), false)
					if e != nil {
						t.Fatal(e)
					}
					if e := other.Create(); e != nil {
						t.Fatal(e)
					}
					_, e = os.Lstat(filepath.Join(dir, name))
					if name != "" && dir != "" && e == nil && !errors.Is(err, unix.ENODEV) &&
						!errors.Is(err, unix.EOPNOTSUPP) {
						t.Errorf("refused, although there is %s: %v", name, err)
					}
					if e := other.Destroy(); e != nil {
						t.Error(e)
					}
					t.Logf("refused: %v", err)
					continue
				}
				if name == "" {
					t.Errorf("not refused")
				} else if got := g.file(t, k.controller, name); got != want && !strings.Contains("\n"+got+"\n",
					"\n"+want+"\n") {
					t.Errorf("%s is %q; want %q", name, got, want)
				}
			}
		})
	}
}

// TestHugepages: on a hybrid host the controller may be in the version 2 hierarchy alone.
func TestHugepages(t *testing.T) {
	sizes, _ := filepath.Glob("/sys/kernel/mm/hugepages/hugepages-2048kB")
	if len(sizes) == 0 {
		t.Skip("the kernel has no huge pages of 2 MiB")
	}
	// What a cgroup hands down it does for good: leave the host's as it was, after the cgroup below
	// is gone.
	if hybrid := layout(t).Hybrid; hybrid != "" {
		root := filepath.Join(cgrouplayout.Root, hybrid)
		if before, err := readFile(root, "cgroup.subtree_control"); err == nil &&
			!strings.Contains(before, "hugetlb") {
			t.Cleanup(func() {
				if err := writeFile(root, "cgroup.subtree_control", "-hugetlb"); err != nil {
					t.Error(err)
				}
			})
		}
	}
	g, err := makeGroup(t,
		document(t, &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{
			Pagesize: "2MB",
			Limit:    4 << 20,
		}}}))
	if err != nil {
		t.Fatal(err)
	}
	for _, rsvd := range []string{"", ".rsvd"} {
		if dir, ok := g.paths["hugetlb"]; ok {
			if got, err := readFile(dir, "hugetlb.2MB"+rsvd+".limit_in_bytes"); err != nil ||
				got != "4194304" {
				t.Errorf("found %s, %v", got, err)
			}
		} else if got, err := readFile(g.paths[""], "hugetlb.2MB"+rsvd+".max"); err != nil ||
			got != "4194304" {
			t.Errorf("found %s, %v", got, err)
		}
	}
	_, err = makeGroup(t,
		document(t, &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{
			Pagesize: "3MB",
			Limit:    4 << 20,
		}}}))
	if err == nil || !strings.Contains(err.Error(), "linux.resources.hugepageLimits[0]: found 3MB") {
		t.Errorf("a size that there is not: %v", err)
	}
}

// TestDevices: the rules as the kernel lists them on cgroup v1, plain ones and others. On v2
// TestDeviceRules of the runtime sees what they do.
func TestDevices(t *testing.T) {
	if layout(t).Unified {
		t.Skip("cgroup v2 has no list of device rules")
	}
	all := specs.LinuxDeviceCgroup{Access: "rwm"}
	for name, c := range map[string]struct {
		rules []specs.LinuxDeviceCgroup
		want  []string
		not   string
	}{
		"denied but for some": {
			[]specs.LinuxDeviceCgroup{all, {
				Allow: true, Type: "c", Major: ptr(int64(10)),
				Minor: ptr(int64(229)), Access: "rw",
			}},
			[]string{"c 10:229 rw", "c 1:3 rwm", "c *:* m", "b *:* m", "c 136:* rwm", "c 10:200 rwm"},
			"a *:* rwm",
		},
		"one number of any type": {
			[]specs.LinuxDeviceCgroup{all, {
				Allow: true, Type: "a", Major: ptr(int64(10)),
				Minor: ptr(int64(229)), Access: "rw",
			}},
			[]string{"c 10:229 rw", "b 10:229 rw"},
			"a *:* rwm",
		},
		"one access to all": {
			[]specs.LinuxDeviceCgroup{all, {Allow: true, Access: "r"}},
			[]string{"c *:* rm", "b *:* rm"},
			"a *:* rwm",
		},
		"none": {nil, []string{"c 1:3 rwm", "c 5:2 rwm"}, "a *:* rwm"},
		"all allowed": {
			[]specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}},
			[]string{"a *:* rwm"},
			"c 1:3",
		},
		"allowed, and taken back": {
			[]specs.LinuxDeviceCgroup{
				all,
				{Allow: true, Type: "b", Major: ptr(int64(8)), Access: "rwm"},
				{Type: "b", Major: ptr(int64(8)), Access: "w"},
			},
			[]string{"b 8:* rm"},
			"b 8:* rwm",
		},
	} {
		t.Run(name, func(t *testing.T) {
			g, err := makeGroup(t, document(t, &specs.LinuxResources{Devices: c.rules}))
			if err != nil {
				t.Fatal(err)
			}
			list := "\n" + g.file(t, "devices", "devices.list") + "\n"
			for _, want := range c.want {
				if !strings.Contains(list, "\n"+want+"\n") {
					t.Errorf("no %q in %s", want, list)
				}
			}
			if strings.Contains(list, "\n"+c.not+"\n") {
				t.Errorf("%q in %s", c.not, list)
			}
		})
	}
}

// TestPaths: no cgroupsPath leaves the hierarchies.
func TestPaths(t *testing.T) {
	for path, want := range map[string]string{
		"/a/b": "/a/b", "a/b": "/a/b", "": "/id", "/../../a": "/a", "../../etc": "/etc",
		"a/../../b": "/b", "-1": "/-1", "//a//": "/a", "slice:prefix:name": "/slice:prefix:name",
	} {
		g, err := New(&specs.Spec{Linux: &specs.Linux{CgroupsPath: path}}, "id", layout(t), false)
		if err != nil {
			t.Fatalf("%q: %v", path, err)
		}
		for name, dir := range g.Paths() {
			if !strings.HasPrefix(dir, cgrouplayout.Root+"/") || !strings.HasSuffix(dir, want) ||
				strings.Contains(dir, "..") {
				t.Errorf("%q: %q is %s; want it to end in %s", path, name, dir, want)
			}
		}
	}
	for _, path := range []string{"/", "..", "/../..", "."} {
		_, err := New(&specs.Spec{Linux: &specs.Linux{CgroupsPath: path}}, "id", layout(t), false)
		if err == nil || !strings.Contains(err.Error(), "linux.cgroupsPath: found ") {
			t.Errorf("%q: %v", path, err)
		}
	}
}

// TestNested: missing parents are created, and a container's own directories are removed with it.
func TestNested(t *testing.T) {
	spec := document(t, nil)
	top := spec.Linux.CgroupsPath
	spec.Linux.CgroupsPath += "/middle/leaf"
	g, err := makeGroup(t, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		outer, err := New(&specs.Spec{Linux: &specs.Linux{CgroupsPath: top}}, "", layout(t), false)
		if err == nil {
			err = outer.Destroy()
		}
		if err != nil {
			t.Error(err)
		}
	})
	for _, dir := range g.Paths() {
		if err := os.Mkdir(filepath.Join(dir, "below"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := g.paths["cpuset"]; ok || g.unified() {
		root := cgrouplayout.Root + "/cpuset"
		effective := "cpuset.cpus"
		if g.unified() {
			root, effective = cgrouplayout.Root, "cpuset.cpus.effective"
		}
		all, err := readFile(root, effective)
		if err != nil {
			t.Fatal(err)
		}
		if got := g.file(t, "cpuset", effective); got != all {
			t.Errorf("its CPUs are %q; want those of the root, %q", got, all)
		}
	}
}

// TestThawElsewhere: a cgroup whose path is the end of the path of the container's own is another
// one. The own one is left to Freeze. Under version 2 a frozen process ends without help.
func TestThawElsewhere(t *testing.T) {
	needs.Root(t)
	name := fmt.Sprintf("t%d-elsewhere", os.Getpid())
	if l := layout(t); l.Unified {
		dir := filepath.Join(cgrouplayout.Root, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		err := errors.Join(writeFile(dir, "cgroup.procs", fmt.Sprint(cmd.Process.Pid)),
			writeFile(dir, "cgroup.freeze", "1"))
		ours := &Group{paths: map[string]string{"": filepath.Join(cgrouplayout.Root, "above", name)}}
		if err := errors.Join(err, ours.ThawElsewhere(cmd.Process.Pid)); err != nil {
			t.Error(err)
		}
		if frozen, err := readFile(dir, "cgroup.freeze"); frozen != "1" || err != nil {
			t.Errorf("found cgroup.freeze %q, %v; want 1", frozen, err)
		}
		err = cmd.Process.Kill()
		_ = cmd.Wait()
		if err := errors.Join(err, remove(dir)); err != nil {
			t.Error(err)
		}
		return
	}
	freezer := filepath.Join(cgrouplayout.Root, "freezer")
	for _, c := range []struct {
		ours string
		want cgroups.FreezerState
	}{
		{filepath.Join(freezer, name), cgroups.Frozen},
		{filepath.Join(freezer, "above", name), cgroups.Thawed},
	} {
		g, err := Open(map[string]string{"freezer": filepath.Join(freezer, name)})
		if err != nil {
			t.Fatal(err)
		}
		dir := g.paths["freezer"]
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(writeFile(dir, "cgroup.procs", fmt.Sprint(cmd.Process.Pid)),
			g.Freeze(true)); err != nil {
			t.Error(err)
		}
		if err := (&Group{
			paths: map[string]string{"freezer": c.ours},
		}).ThawElsewhere(cmd.Process.Pid); err != nil {
			t.Error(err)
		}
		if state := g.file(t, "freezer", "freezer.state"); state != string(c.want) {
			t.Errorf("the container's is %s: found %s %s; want %s", c.ours, dir, state, c.want)
		}
		err = errors.Join(g.Freeze(false), cmd.Process.Kill())
		_ = cmd.Wait()
		if err := errors.Join(err, remove(dir)); err != nil {
			t.Error(err)
		}
	}
}

// TestFirstLimitsAtOnce sets the first limits of a process in several cgroups at once. The race
// detector fails it if one reads what another looks up.
func TestFirstLimitsAtOnce(t *testing.T) {
	needs.Root(t)
	if os.Getenv("CGROUP_FIRST_LIMITS") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestFirstLimitsAtOnce$")
		cmd.Env = append(os.Environ(), "CGROUP_FIRST_LIMITS=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	const groups = 8
	errs := make(chan error, groups)
	for i := range groups {
		spec := document(t, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(100))}})
		spec.Linux.CgroupsPath += fmt.Sprint("-", i)
		g, err := New(spec, "unused", layout(t), false)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := g.Destroy(); err != nil {
				t.Error(err)
			}
		})
		go func() { errs <- g.Create() }()
	}
	for range groups {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
