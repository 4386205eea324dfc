// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestUpdate: the flags and files of runc's update, in the kernel's files.
func TestUpdate(t *testing.T) {
	root, id := host(t)
	limit, pids := int64(32<<20), int64(20)
	dir := bundle(t, func(s *specs.Spec) {
		s.Process.Args, s.Linux.CgroupsPath = []string{"sleep", "1000"}, "/"+id
		s.Linux.Resources.Memory, s.Linux.Resources.Pids = &specs.LinuxMemory{Limit: &limit},
			&specs.LinuxPids{Limit: &pids}
	})
	berth(t, "--root", root, "run", "-d", "--bundle", dir, id).is(t, 0, "", "")
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	unified := err == nil
	holds := func(controller, v1, want1, v2, want2 string) {
		t.Helper()
		file, want := filepath.Join("/sys/fs/cgroup", controller, id, v1), want1
		if unified {
			file, want = filepath.Join("/sys/fs/cgroup", id, v2), want2
		}
		if data, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(data)) != want {
			t.Errorf("%s is %q, %v; want %s", file, data, err, want)
		}
	}
	quota := func(v1quota, v1period, v2 string) {
		t.Helper()
		holds("cpu", "cpu.cfs_quota_us", v1quota, "cpu.max", v2)
		holds("cpu", "cpu.cfs_period_us", v1period, "cpu.max", v2)
	}
	update := func(code int, stderr string, args ...string) {
		t.Helper()
		berth(t, append([]string{"--root", root, "update"}, args...)...).is(t, code, "", stderr)
	}
	update(0, "", id, "--memory", "64M", "--pids-limit", "10") // flags behind the id, as in runc
	holds("memory", "memory.limit_in_bytes", "67108864", "memory.max", "67108864")
	holds("pids", "pids.max", "10", "pids.max", "10")
	update(0, "", "--pids-limit=-1", id)
	holds("pids", "pids.max", "max", "pids.max", "max")
	update(0, "", "--cpu-period", "900000", "--cpu-quota", "600000", "--cpu-share", "200", id)
	quota("600000", "900000", "600000 900000")
	holds("cpu", "cpu.shares", "200", "cpu.weight", "29")
	update(0, "", "--cpu-quota", "500000", id) // the period is that of the update before
	quota("500000", "900000", "500000 900000")
	update(0, "", "--cpu-burst", "100000", id)
	holds("cpu", "cpu.cfs_burst_us", "100000", "cpu.max.burst", "100000")
	update(0, "", "--cpu-quota", "-1", "--cpu-burst", "0", "--cpu-period", "100000", id)
	quota("-1", "100000", "max 100000")
	for _, idle := range []string{"1", "0"} {
		update(0, "", "--cpu-idle", idle, id)
		holds("cpu", "cpu.idle", idle, "cpu.idle", idle)
	}
	holds("cpu", "cpu.shares", "200", "cpu.weight", "29") // again, after it was idle
	update(0, "", "--cpuset-cpus", "0", "--cpuset-mems", "0", id)
	holds("cpuset", "cpuset.cpus", "0", "cpuset.cpus", "0")
	update(0, "", "--memory", "-1", "--memory-reservation", "16m", id)
	holds("memory", "memory.limit_in_bytes", "9223372036854771712", "memory.max", "max")
	holds("memory", "memory.soft_limit_in_bytes", "16777216", "memory.low", "16777216")
	update(0, "Kernel memory settings are ignored and will be removed", "--kernel-memory", "16M", id)

	file := filepath.Join(t.TempDir(), "resources.json")
	must(t, os.WriteFile(file,
		[]byte(`{"memory":{"limit":50331648},"cpu":{"shares":100},"devices":[{"allow":false,"access":"rwm"}]}`), 0o600))
	update(0, "", "--resources="+file, id) // as podman calls it
	holds("memory", "memory.limit_in_bytes", "50331648", "memory.max", "50331648")
	holds("cpu", "cpu.shares", "100", "cpu.weight", "17")
	cmd := exec.Command(program, "--root", root, "update", "--resources", "-", id) // and containerd
	cmd.Stdin = strings.NewReader(`{"pids":{"limit":7},"CPU":{"Cpus":"0"}}`)
	call(t, cmd).is(t, 0, "", "")
	holds("pids", "pids.max", "7", "pids.max", "7")

	for stdin, want := range map[string]string{
		`{"memory":{"limit":"64M"}}`: "memory.limit: found",
		`{"cpu":{"period":5}}`:       "linux.resources.cpu.period: found 5",
		`not json`:                   "--resources: ",

		`{"memory":{"limit":1048576,"limits":3}}`: `linux.resources.memory.limits: found "3"; allowed: only fields that the specification has`,

		`{"blockIO":{"throttleReadBpsDevice":[{"major":7,"minor":0,"rate":1,"burst":2}]}}`: "linux.resources.blockIO.throttleReadBpsDevice[0].burst: found",
	} {
		cmd := exec.Command(program, "--root", root, "update", "-r", "-", id)
		cmd.Stdin = strings.NewReader(stdin)
		call(t, cmd).is(t, 1, "", want)
	}
	for _, c := range [][]string{
		{"--memory", "lots"},
		{"--memory", "-5"},
		{"--cpu-share", "x"},
		{"--pids-limit", "many"},
		{"--cpu-idle", "2"},
		{"--blkio-weight", "70000"},
		{"--bogus"},
		{"--memory-swap", "1M"},
		{"--resources", "/does/not/exist"},
		{"--l3-cache-schema", "L3:0=f"},
	} {
		update(1, "", append(c, id)...)
	}
	holds("pids", "pids.max", "7", "pids.max", "7")
	holds("memory", "memory.limit_in_bytes", "50331648", "memory.max", "50331648")
	update(1, "container does not exist", "--pids-limit", "3", "none")

	berth(t, "--root", root, "pause", id).is(t, 0, "", "")
	update(0, "", "--pids-limit", "30", id)
	berth(t, "--root", root, "state", id).is(t, 0, `"status": "paused"`, "")
	berth(t, "--root", root, "kill", id, "KILL").is(t, 0, "", "")
}

// TestUpdateDevices: device rules of an update hold, in place of those before; ones that the
// container has already are not set again.
func TestUpdateDevices(t *testing.T) {
	root, id := host(t)
	dir := bundle(t, func(s *specs.Spec) {
		s.Process.Args, s.Linux.CgroupsPath = []string{"sleep", "1000"}, "/"+id
		s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/kmsg", Type: "c", Major: 1, Minor: 11}}
		s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Access: "rwm"}}
	})
	berth(t, "--root", root, "run", "-d", "--bundle", dir, id).is(t, 0, "", "")
	opens := func(device string, want bool) {
		t.Helper()
		r := berth(t, "--root", root, "exec", id, "sh", "-c", "exec 3>"+device)
		if got := r.code == 0; got != want {
			t.Errorf("%s can be opened: %v (%s)", device, got, r.stderr)
		}
	}
	update := func(code int, stderr, rules string) {
		t.Helper()
		cmd := exec.Command(program, "--root", root, "update", "--resources", "-", id)
		cmd.Stdin = strings.NewReader(`{"devices":` + rules + `}`)
		call(t, cmd).is(t, code, "", stderr)
	}
	opens("/dev/kmsg", false)
	const kmsg = `[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":11,"access":"rw"}]`
	update(0, "", kmsg)
	opens("/dev/kmsg", true)
	opens("/dev/null", true)
	update(1, "linux.resources.devices[0].type: found", `[{"allow":true,"type":"x","access":"rwm"}]`)
	opens("/dev/kmsg", true)
	update(0, "", `[{"allow":false,"access":"rwm"}]`)
	opens("/dev/kmsg", false)
	opens("/dev/null", true)
	if _, err := os.Stat("/sys/fs/cgroup/devices"); err == nil {
		allow := filepath.Join("/sys/fs/cgroup/devices", id, "devices.allow")
		// as a hook does that gives a container a device
		must(t, os.WriteFile(allow, []byte("c 1:11 rw"), 0))
		update(0, "", `[{"allow":false,"access":"rwm"}]`)
		opens("/dev/kmsg", true)
	}
}

func TestParseBytes(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "1": 1, "-1": -1, "32b": 32, "1k": 1024, "512K": 512 << 10, "50M": 50 << 20,
		"1.5g": 3 << 29, "2GiB": 2 << 30, "1 kb": 1024, "9223372036854775807": 9223372036854775807,
	} {
		if n, err := parseBytes(s); err != nil || n != want {
			t.Errorf("%q: %d, %v; want %d", s, n, err, want)
		}
	}
	for _, s := range []string{
		"", "-2", "x", "1x", "1kk", "k", "1e3", "0x10", "inf", "NaN",
		"9223372036854775808", "1_0", "1,5", "99999999p",
	} {
		if n, err := parseBytes(s); err == nil {
			t.Errorf("%q is %d", s, n)
		}
	}
}
