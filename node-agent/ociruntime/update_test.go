// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
)

// TestMergeResources: an update starts from the container's limits, and writes only the changed
// ones.
func TestMergeResources(t *testing.T) {
	leaktest.Check(t)
	for name, c := range map[string]struct{ old, change, merged, write string }{
		"another field": {
			`{"memory":{"limit":10}}`, `{"pids":{"limit":3}}`,
			`{"memory":{"limit":10},"pids":{"limit":3}}`, `{"pids":{"limit":3}}`,
		},
		"quota alone": {
			`{"cpu":{"quota":5000,"period":10000,"shares":9}}`, `{"cpu":{"quota":6000}}`,
			`{"cpu":{"shares":9,"quota":6000,"period":10000}}`, `{"cpu":{"quota":6000,"period":10000}}`,
		},
		"swap alone": {
			`{"memory":{"limit":10,"reservation":3}}`, `{"memory":{"swap":20}}`,
			`{"memory":{"limit":10,"reservation":3,"swap":20}}`, `{"memory":{"limit":10,"swap":20}}`,
		},
		"no limit": {
			`{"memory":{"limit":10,"swap":20}}`, `{"memory":{"limit":-1}}`,
			`{"memory":{"limit":-1,"swap":-1}}`, `{"memory":{"limit":-1,"swap":-1}}`,
		},
		"check": {
			`{"memory":{"limit":10,"checkBeforeUpdate":true}}`, `{"memory":{"limit":9}}`,
			`{"memory":{"limit":9,"checkBeforeUpdate":true}}`,
			`{"memory":{"limit":9,"checkBeforeUpdate":true}}`,
		},
		"idle": {
			`{"cpu":{"shares":9}}`, `{"cpu":{"idle":1,"shares":8}}`,
			`{"cpu":{"shares":8,"idle":1}}`, `{"cpu":{"idle":1}}`,
		},
		"no longer": {
			`{"cpu":{"shares":9,"idle":1}}`, `{"cpu":{"idle":0}}`,
			`{"cpu":{"shares":9,"idle":0}}`, `{"cpu":{"shares":9,"idle":0}}`,
		},
		"unified": {
			`{"unified":{"memory.high":"1","pids.max":"3"}}`, `{"unified":{"pids.max":"4"}}`,
			`{"unified":{"memory.high":"1","pids.max":"4"}}`, `{"unified":{"pids.max":"4"}}`,
		},
		"devices": {
			`{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1},{"major":8,"minor":16,"rate":2},{"major":8,"minor":0,"rate":3}],"weightDevice":[{"major":8,"minor":0,"weight":10}]}}`,
			`{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":16,"rate":5},{"major":9,"minor":0,"rate":6}],"weightDevice":[{"major":8,"minor":0,"leafWeight":11}]}}`,
			`{"blockIO":{"weightDevice":[{"major":8,"minor":0,"weight":10,"leafWeight":11}],"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":3},{"major":8,"minor":16,"rate":5},{"major":9,"minor":0,"rate":6}]}}`,
			`{"blockIO":{"weightDevice":[{"major":8,"minor":0,"leafWeight":11}],"throttleReadBpsDevice":[{"major":8,"minor":16,"rate":5},{"major":9,"minor":0,"rate":6}]}}`,
		},
		"lists": {
			`{"hugepageLimits":[{"pageSize":"2MB","limit":1}],"network":{"classID":1,"priorities":[{"name":"lo","priority":1}]}}`,
			`{"hugepageLimits":[{"pageSize":"1GB","limit":2},{"pageSize":"2MB","limit":3}],"network":{"priorities":[{"name":"lo","priority":2}]}}`,
			`{"hugepageLimits":[{"pageSize":"2MB","limit":3},{"pageSize":"1GB","limit":2}],"network":{"classID":1,"priorities":[{"name":"lo","priority":2}]}}`, "",
		},
	} {
		read := func(text string) *specs.LinuxResources {
			r := &specs.LinuxResources{}
			if err := json.Unmarshal([]byte(text), r); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			return r
		}
		old, change := read(c.old), read(c.change)
		merged, err := mergeResources(old, change)
		if err != nil {
			t.Fatal(err)
		}
		text := func(r *specs.LinuxResources) string {
			data, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			return string(data)
		}
		if text(merged) != text(read(c.merged)) {
			t.Errorf("%s: merged is %s; want %s", name, text(merged), c.merged)
		}
		if write := together(change, merged); c.write != "" && text(write) != text(read(c.write)) {
			t.Errorf("%s: written is %s; want %s", name, text(write), c.write)
		}
		if text(old) != text(read(c.old)) || text(change) != text(read(c.change)) {
			t.Errorf("%s: what was merged has changed", name)
		}
	}
}

// TestUpdateMemory: memory, and memory with swap, can be raised and lowered together, and one that
// the kernel refuses changes nothing.
func TestUpdateMemory(t *testing.T) {
	w := newWorld(t)
	const mi = int64(1 << 20)
	spec := w.sh("sleep 1000 & wait")
	spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(64 * mi), Swap: ptr(64 * mi)}
	w.start(spec)
	memory := func(m specs.LinuxMemory) error {
		return w.rt.Update(background, w.id, Update{Resources: &specs.LinuxResources{Memory: &m}})
	}
	is := func(limit, v1swap, v2swap string) {
		t.Helper()
		if got := w.cgroupFile("memory", "memory.limit_in_bytes", "memory.max"); got != limit {
			t.Errorf("the limit is %s; want %s", got, limit)
		}
		want := v1swap
		if unified() {
			want = v2swap
		}
		if got := w.cgroupFile("memory", "memory.memsw.limit_in_bytes", "memory.swap.max"); got != want {
			t.Errorf("the limit with swap is %s; want %s", got, want)
		}
	}
	w.must(memory(specs.LinuxMemory{Limit: ptr(128 * mi), Swap: ptr(192 * mi)}))
	is("134217728", "201326592", "67108864")
	w.must(memory(specs.LinuxMemory{Limit: ptr(32 * mi), Swap: ptr(48 * mi)}))
	is("33554432", "50331648", "16777216")
	w.must(memory(specs.LinuxMemory{Limit: ptr(40 * mi)})) // with the swap of before
	is("41943040", "50331648", "8388608")
	if err := memory(specs.LinuxMemory{Limit: ptr(64 * mi)}); err == nil ||
		!strings.Contains(err.Error(), "linux.resources.memory.swap: found 50331648") {
		t.Errorf("a limit above that with swap: %v", err)
	}
	is("41943040", "50331648", "8388608")
	// Below what is in use: the kernel refuses on cgroup v1, and on v2 would kill.
	err := memory(specs.LinuxMemory{
		Limit: ptr(int64(1024)), Swap: ptr(2 * mi),
		CheckBeforeUpdate: ptr(true),
	})
	if err == nil || !strings.Contains(err.Error(), "linux.resources.memory.limit: ") {
		t.Errorf("a limit below the usage: %v", err)
	}
	is("41943040", "50331648", "8388608")
	if got := w.status(); got != "running" {
		t.Errorf("it is %s", got)
	}
	w.must(memory(specs.LinuxMemory{Limit: ptr(int64(-1))}))
	is(map[bool]string{true: "max", false: "9223372036854771712"}[unified()],
		"9223372036854771712", "max")
	w.must(w.rt.Kill(background, w.id, unix.SIGKILL, true))
	w.await("its end", func() bool { return w.status() == "stopped" })
	if err := memory(specs.LinuxMemory{Limit: ptr(64 * mi)}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("to update what has stopped gives %v", err)
	}
}

// TestUpdateUndone: if one of several limits cannot be set, none has changed. TestUpdateOOMKiller:
// it is enabled again by what says that it is not disabled, unless the update fails. Cgroup v2 has
// it enabled always.
func TestUpdateOOMKiller(t *testing.T) {
	if unified() {
		t.Skip("cgroup v2 has no way to disable the OOM killer")
	}
	w := newWorld(t)
	spec := w.spec("sleep", "1000")
	spec.Linux.Resources.Memory = &specs.LinuxMemory{DisableOOMKiller: ptr(true)}
	w.start(spec)
	disabled := func(want string) {
		t.Helper()
		got, _, _ := strings.Cut(w.cgroupFile("memory", "memory.oom_control", ""), "\n")
		if got != "oom_kill_disable "+want {
			t.Errorf("found %s; want %s", got, want)
		}
	}
	disabled("1")
	enable := specs.LinuxResources{Memory: &specs.LinuxMemory{DisableOOMKiller: ptr(false)}}
	bad := enable
	bad.CPU = &specs.LinuxCPU{Cpus: "4095"}
	if err := w.rt.Update(background, w.id, Update{Resources: &bad}); err == nil {
		t.Error("a processor that there is not was taken")
	}
	disabled("1")
	w.must(w.rt.Update(background, w.id, Update{Resources: &enable}))
	disabled("0")
}

func TestUpdateUndone(t *testing.T) {
	w := newWorld(t)
	spec := w.sh("sleep 1000")
	spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(int64(20))}
	w.start(spec)
	cpus := w.cgroupFile("cpuset", "cpuset.cpus", "cpuset.cpus.effective")
	err := w.rt.Update(background, w.id, Update{Resources: &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20))},
		Pids:   &specs.LinuxPids{Limit: ptr(int64(10))},
		// there is no such memory node
		CPU: &specs.LinuxCPU{Shares: ptr(uint64(77)), Cpus: "0", Mems: "60"},
	}})
	if err == nil || !strings.Contains(err.Error(), "linux.resources.cpu.mems") {
		t.Errorf("found %v", err)
	}
	for _, f := range []struct{ controller, v1, want1, v2, want2 string }{
		{"memory", "memory.limit_in_bytes", "9223372036854771712", "memory.max", "max"},
		{"pids", "pids.max", "20", "pids.max", "20"},
		{"cpu", "cpu.shares", "1024", "cpu.weight", "100"},
		{"cpuset", "cpuset.cpus", cpus, "cpuset.cpus.effective", cpus},
	} {
		want := f.want1
		if unified() {
			want = f.want2
		}
		if got := w.cgroupFile(f.controller, f.v1, f.v2); got != want {
			t.Errorf("%s is %s; want %s", f.v1, got, want)
		}
	}
	w.must(w.rt.Update(background, w.id,
		Update{Resources: &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(11))}}}))

	// A limit that cannot be recorded is set back: the next update would start from another one.
	obstacle := filepath.Join(w.rt.root, w.id, stateFile+".new", "x")
	w.must(os.MkdirAll(obstacle, 0o700))
	if err := w.rt.Update(background, w.id,
		Update{
			Resources: &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(12))}},
		}); err == nil {
		t.Error("an update that cannot be recorded succeeded")
	}
	if got := w.cgroupFile("pids", "pids.max", "pids.max"); got != "11" {
		t.Errorf("pids.max is %s; want 11", got)
	}
	w.must(os.RemoveAll(filepath.Dir(obstacle)))
}
