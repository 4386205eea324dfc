// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestEvents: the statistics have runc's names, out of memory is reported, and events ends with the
// container.
func TestEvents(t *testing.T) {
	root, id := host(t)
	limit, pids := int64(64<<20), int64(77)
	dir := bundle(t, func(s *specs.Spec) {
		// tail holds a line without an end in memory; the shell outlives it.
		s.Process.Args, s.Linux.CgroupsPath = []string{
			"sh", "-c",
			"while :; do sleep 0.5; /bin/busybox tail /dev/zero; done",
		}, "/"+id
		s.Linux.Resources.Memory, s.Linux.Resources.Pids = &specs.LinuxMemory{Limit: &limit},
			&specs.LinuxPids{Limit: &pids}
	})
	berth(t, "--root", root, "run", "-d", "--bundle", dir, id).is(t, 0, "", "")
	var line struct {
		Type, ID string
		Data     map[string]json.RawMessage
	}
	must(t, json.Unmarshal([]byte(berth(t, "--root", root, "events", "--stats", id).stdout), &line))
	if line.Type != "stats" || line.ID != id {
		t.Errorf("found %+v", line)
	}
	for _, part := range []string{
		"cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt",
		"network_interfaces",
	} {
		if _, ok := line.Data[part]; !ok {
			t.Errorf("no %s in the statistics", part)
		}
	}
	var memory struct {
		Usage struct{ Limit, Usage uint64 }
		Raw   map[string]uint64
	}
	must(t, json.Unmarshal(line.Data["memory"], &memory))
	var cpu struct{ Usage struct{ Total uint64 } }
	must(t, json.Unmarshal(line.Data["cpu"], &cpu))
	if memory.Usage.Limit != uint64(limit) || memory.Usage.Usage == 0 || len(memory.Raw) == 0 ||
		cpu.Usage.Total == 0 {
		t.Errorf("memory %+v, cpu %+v", memory, cpu)
	}
	if s := string(line.Data["pids"]); !strings.Contains(s, `"limit":77`) ||
		!strings.Contains(s, `"current":`) {
		t.Errorf("pids: %s", s)
	}
	if s := string(line.Data["network_interfaces"]) + string(line.Data["intel_rdt"]); s != "null{}" {
		t.Errorf("interfaces and RDT: %s", s)
	}

	cmd := exec.Command(program, "--root", root, "events", "--interval", "100ms", id)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	stuck := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer stuck.Stop()
	found := map[string]int{}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		must(t, json.Unmarshal(lines.Bytes(), &line))
		if line.Type == "oom" && lines.Text() != `{"type":"oom","id":"`+id+`"}` {
			t.Errorf("found %s", lines.Text())
		}
		// A second one may come before the second statistics.
		if found[line.Type]++; found["oom"] >= 1 && found["stats"] >= 2 && found["killed"] == 0 {
			found["killed"]++
			berth(t, "--root", root, "kill", id, "KILL").is(t, 0, "", "")
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		must(t, err)
	case <-time.After(patience):
		t.Error("events does not end with the container")
		_ = cmd.Process.Kill()
	}
	if found["oom"] == 0 || found["stats"] < 2 {
		t.Errorf("found %v", found)
	}
	berth(t, "--root", root, "events", "--stats", id).is(t, 1, "", "container with id "+id+
		" is not running")
	berth(t, "--root", root, "events", "--interval", "0s", id).is(t, 1, "",
		"duration interval must be greater than 0")
	berth(t, "--root", root, "events", "--interval", "-1s", id).is(t, 1, "",
		"duration interval must be greater than 0")
	berth(t, "--root", root, "events", "none").is(t, 1, "", "container does not exist")
}
