// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups/systemd"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/internal/cgrouplayout"
	"github.com/berth-run/berth/node-agent/ociruntime/cgroup"
)

// needsSystemd begins the connection to the bus, which stays open, before newWorld counts
// descriptors.
func needsSystemd(t *testing.T) {
	t.Helper()
	if !strings.HasPrefix(t.Name(), "TestSystemd") {
		t.Fatal("named TestSystemd… it would run where systemd is pid 1: make test-vm selects by that")
	}
	if !systemd.IsRunningSystemd() {
		t.Skip("systemd is not pid 1 here: run in the VM, hack/vm/test.sh -systemd")
	}
	paths := map[string]string{"": cgrouplayout.Root + "/berth-none.scope"}
	if !unified() {
		paths = map[string]string{"name=systemd": cgrouplayout.Root + "/systemd/berth-none.scope"}
	}
	g, err := cgroup.OpenUnit(paths, cgroup.Unit{Prefix: "berth", Name: "none"})
	if err == nil {
		err = g.Destroy()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// property asks systemd itself.
func property(t *testing.T, unit, name string) string {
	t.Helper()
	out, err := exec.Command("systemctl", "show", "--property="+name, "--value", unit).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// TestSystemd: the container is in a scope in the slice that is asked for, systemd knows its limits
// and properties, update sends it of changes, and the unit goes with the container, whoever removes
// it.
func TestSystemd(t *testing.T) {
	needsSystemd(t)
	w := newWorld(t)
	w.rt.manager = cgroup.Systemd
	spec := w.sh("sleep 1000 & wait")
	spec.Linux.CgroupsPath = "berthtest.slice:berth:" + w.id
	spec.Annotations = map[string]string{
		"org.systemd.property.TimeoutStopSec": "uint32 7",
		"org.systemd.property.CollectMode":    "'inactive-or-failed'",
	}
	spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(64 << 20))}
	spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(int64(20))}
	s := w.start(spec)
	unit := "berth-" + w.id + ".scope"
	dir := s.Cgroups[""]
	if !unified() {
		dir = s.Cgroups["memory"]
	}
	if !strings.HasSuffix(dir, "/berthtest.slice/"+unit) {
		t.Errorf("its cgroup is %s", dir)
	}
	for name, want := range map[string]string{
		"ActiveState": "active", "Slice": "berthtest.slice",
		"TasksMax": "20", "TimeoutStopUSec": "7s", "CollectMode": "inactive-or-failed",
		"Delegate": "yes",
	} {
		if got := property(t, unit, name); got != want {
			t.Errorf("%s is %s; want %s", name, got, want)
		}
	}
	// One process holds the place of the container's until that is there.
	w.await("its processes", func() bool {
		pids, _ := w.rt.Processes(background, w.id)
		return len(pids) == 2
	})
	other, err := New(filepath.Join(w.dir, "run")) // no flag says again that it is systemd
	w.must(err)
	w.must(other.Update(background, w.id,
		Update{Resources: &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(30))}}}))
	if got := property(t, unit, "TasksMax"); got != "30" {
		t.Errorf("after the update TasksMax is %s", got)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "pids.max")); unified() &&
		(err != nil || strings.TrimSpace(string(data)) != "30") {
		t.Errorf("pids.max is %s, %v", data, err)
	}
	// Properties that systemd has only nearly cause a warning.
	var warned []string
	third, err := New(filepath.Join(w.dir, "run"), WithWarnings(func(s string) {
		warned = append(warned, s)
	}))
	w.must(err)
	for quota, want := range map[int64]string{12345: "13000", 20000: "20000"} {
		w.must(third.Update(background, w.id,
			Update{Resources: &specs.LinuxResources{CPU: &specs.LinuxCPU{
				Quota:  ptr(quota),
				Period: ptr(uint64(100000)),
			}}}))
		if data, err := os.ReadFile(filepath.Join(dir, "cpu.max")); unified() &&
			(err != nil || string(data) != want+" 100000\n") {
			t.Errorf("for a quota of %d cpu.max is %s, %v", quota, data, err)
		}
	}
	if len(warned) != 1 ||
		warned[0] != "linux.resources.cpu.quota: found 12345 of 100000; systemd has whole percents of a processor: it is 13000" {
		t.Errorf("warned of %q", warned)
	}
	w.must(other.Pause(background, w.id))
	if got := w.status(); got != "paused" {
		t.Errorf("it is %s", got)
	}
	w.must(other.Delete(background, w.id, true))
	reap(s.PID)
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left: %s", dir)
	}
	w.await("the end of the unit", func() bool {
		return property(t, unit, "ActiveState") == "inactive"
	})

	// Without a path it is in system.slice, and run leaves nothing either.
	spec = w.sh("cat /proc/self/cgroup")
	spec.Linux.Namespaces = spec.Linux.Namespaces[:5] // the host's cgroup namespace
	spec.Linux.CgroupsPath = ""
	if out := w.run(spec); !strings.Contains(out, "/system.slice/berth-"+w.id+".scope\n") {
		t.Errorf("it is in %s", out)
	}
	for _, path := range []string{"/a/b", "a:b", "a:b:c:d", "../x:y:z"} {
		spec.Linux.CgroupsPath = path
		w.fails(spec, "linux.cgroupsPath: found ")
	}
	spec.Linux.CgroupsPath = ""
	for key, value := range map[string]string{
		"org.systemd.property.X":   "1",
		"org.systemd.property.A-b": "1", "org.systemd.property.CollectMode": "nonsense'",
	} {
		spec.Annotations = map[string]string{key: value}
		w.fails(spec, key)
	}
	for key, value := range map[string]string{
		"org.systemd.property.NoSuchThing": "1",
		"org.systemd.property.CollectMode": "'sometimes'", "org.systemd.property.TasksMax": "'many'",
	} {
		spec.Annotations = map[string]string{key: value}
		w.fails(spec, `annotations["`+key+`"]: found `, "systemd refuses it")
	}
	// What fails later takes the scope with it.
	spec.Annotations = nil
	spec.Process.Args = []string{"/nonexistent"}
	w.fails(spec, "/nonexistent")
	w.await("the end of the unit", func() bool {
		return property(t, "berth-"+w.id+".scope", "ActiveState") == "inactive"
	})
}

// TestSystemdUpdateUndone: where the kernel refuses one of several limits, neither the kernel nor
// systemd, which would apply them again, has any of them.
func TestSystemdUpdateUndone(t *testing.T) {
	needsSystemd(t)
	w := newWorld(t)
	w.rt.manager = cgroup.Systemd
	spec := w.sh("sleep 1000 & wait")
	spec.Linux.CgroupsPath = ""
	spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(int64(20))}
	s := w.start(spec)
	unit := "berth-" + w.id + ".scope"
	limits := func() string {
		var out []string
		for _, name := range []string{
			"TasksMax", "MemoryMax", "MemoryLow", "MemorySwapMax", "CPUWeight",
			"CPUQuotaPerSecUSec", "CPUQuotaPeriodUSec", "AllowedCPUs", "AllowedMemoryNodes",
		} {
			out = append(out, name+"="+property(t, unit, name))
		}
		if unified() {
			for _, file := range []string{
				"pids.max", "memory.max", "memory.low", "memory.swap.max",
				"cpu.weight", "cpu.max", "cpuset.cpus.effective",
			} {
				data, err := os.ReadFile(filepath.Join(s.Cgroups[""], file))
				w.must(err)
				out = append(out, file+"="+strings.TrimSpace(string(data)))
			}
		}
		return strings.Join(out, "\n")
	}
	before := limits()
	err := w.rt.Update(background, w.id, Update{Resources: &specs.LinuxResources{
		Memory: &specs.LinuxMemory{
			Limit: ptr(int64(64 << 20)), Reservation: ptr(int64(32 << 20)),
			Swap: ptr(int64(64 << 20)),
		}, Pids: &specs.LinuxPids{Limit: ptr(int64(10))},
		// there is no such memory node
		CPU: &specs.LinuxCPU{
			Shares: ptr(uint64(77)), Quota: ptr(int64(20000)),
			Period: ptr(uint64(40000)), Cpus: "0", Mems: "60",
		},
	}})
	if err == nil || !strings.Contains(err.Error(), "linux.resources.cpu.mems") ||
		strings.Contains(err.Error(), "set it back") {
		t.Errorf("found %v", err)
	}
	if after := limits(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	// Nor when systemd reads its units again.
	w.must(exec.Command("systemctl", "daemon-reload").Run())
	if after := limits(); after != before {
		t.Errorf("before:\n%s\nafter a reload:\n%s", before, after)
	}
	w.must(w.rt.Update(background, w.id,
		Update{Resources: &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(11))}}}))
	if got := property(t, unit, "TasksMax"); got != "11" {
		t.Errorf("after an update that the kernel takes TasksMax is %s", got)
	}
}

// TestNoSystemd: without it the flag is an error, and no half-made container.
func TestNoSystemd(t *testing.T) {
	if systemd.IsRunningSystemd() {
		t.Skip("systemd runs here")
	}
	w := newWorld(t)
	w.rt.manager = cgroup.Systemd
	w.fails(w.sh("true"), "systemd support for managing cgroups is not available")
}

// TestPropertiesWithoutSystemd: without systemd, a property of the scope is a warning.
func TestPropertiesWithoutSystemd(t *testing.T) {
	w := newWorld(t)
	spec := w.sh("echo ran")
	spec.Annotations = map[string]string{"org.systemd.property.TimeoutStopSec": "uint32 7"}
	w.prints(spec, "ran\n")
	if len(w.warned) != 1 || !strings.HasPrefix(w.warned[0],
		`annotations["org.systemd.property.TimeoutStopSec"]: only a scope of systemd`) {
		t.Errorf("warned of %q", w.warned)
	}
}

// TestCgroupsDisabled: the container stays where its maker is.
func TestCgroupsDisabled(t *testing.T) {
	w := newWorld(t)
	w.rt.manager = cgroup.Disabled
	spec := w.sh("cat /proc/self/cgroup")
	spec.Linux.Namespaces = spec.Linux.Namespaces[:5] // the host's cgroup namespace
	own, err := os.ReadFile("/proc/self/cgroup")
	w.must(err)
	w.prints(spec, string(own))
	if len(w.warned) == 0 || !strings.Contains(w.warned[0], "linux.resources.devices") {
		t.Errorf("warned of %q", w.warned)
	}
	spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(int64(20))}
	w.fails(spec, "linux.resources.pids.limit: found 20; without a cgroup")

	spec = w.sh("sleep 1000 & wait")
	w.start(spec)
	if len(w.cgroupDirs()) > 0 {
		t.Errorf("it has made %v", w.cgroupDirs())
	}
	w.rt.manager = cgroup.Cgroupfs // later commands need no flag
	w.await("its processes", func() bool {
		pids, err := w.rt.Processes(background, w.id)
		return err == nil && len(pids) == 2
	})
	if err := w.rt.Pause(background, w.id); err == nil || !strings.Contains(err.Error(), "no cgroup") {
		t.Errorf("to pause it gives %v", err)
	}
}
