// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
)

func TestRead(t *testing.T) {
	root := t.TempDir()
	for path, content := range map[string]string{
		"etc/os-release":                   "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
		"proc/sys/kernel/random/boot_id":   "b-o-o-t\n",
		"proc/self/cgroup":                 "9:name=systemd:/\n4:memory:/x\n1:cpu,cpuacct:/\n0::/\n",
		"sys/kernel/security/lsm":          "capability,yama,apparmor",
		"sys/devices/system/cpu/online":    "0-2,5\n",
		"proc/meminfo":                     "MemFree: 1 kB\nMemTotal:       16 kB\n",
		"proc/sys/kernel/pid_max":          "400\n",
		"proc/sys/kernel/threads-max":      "300\n",
		"sys/fs/cgroup/memory/placeholder": "",
	} {
		full := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := Read(root, "v1")
	if err != nil {
		t.Fatal(err)
	}
	if f.Info.OSImage != "Debian GNU/Linux 12 (bookworm)" || f.Info.BootID != "b-o-o-t" ||
		f.Info.AgentVersion != "v1" || f.Info.AgentRevision != v1alpha1.AgentRevision ||
		f.Info.KernelVersion == "" {
		t.Errorf("found %+v", f.Info)
	}
	if f.Info.CgroupMode != v1alpha1.CgroupV1 || !reflect.DeepEqual(f.Info.CgroupControllers,
		[]string{"cpu", "cpuacct", "memory"}) {
		t.Errorf("found cgroups %s %v", f.Info.CgroupMode, f.Info.CgroupControllers)
	}
	if !reflect.DeepEqual(f.Info.LSMs, []string{"capability", "yama", "apparmor"}) {
		t.Errorf("found LSMs %v", f.Info.LSMs)
	}
	cpu, memory, pids := f.Capacity[corev1.ResourceCPU], f.Capacity[corev1.ResourceMemory],
		f.Capacity[v1alpha1.ResourcePIDs]
	if cpu.Value() != 4 || memory.Value() != 16<<10 || pids.Value() != 300 {
		t.Errorf("found capacity %v", f.Capacity)
	}
}

func TestReadThisMachine(t *testing.T) {
	f, err := Read("/", "v1")
	if err != nil {
		t.Fatal(err)
	}
	if f.Capacity.Cpu().IsZero() || f.Capacity.Memory().IsZero() || f.Info.CgroupMode == "" ||
		len(f.Info.CgroupControllers) == 0 {
		t.Errorf("found %+v", f)
	}
}

func TestCPUCount(t *testing.T) {
	for in, want := range map[string]int{"0": 1, "0-3": 4, "0-1,4-7\n": 6, "": 0, "x": 0, "3-1": 0} {
		if got, err := cpuCount(in); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: found %d, %v; want %d", in, got, err, want)
		}
	}
}
