// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/berth-run/berth/api/v1alpha1"
)

// limits are the values in the cgroup of a process: pids, memory in MiB, and quota and shares of cpu. On cgroup v2 quota is
// that of cpu.max, and shares is the weight.
type limits struct{ pids, memory, quota, shares string }

func limitsOf(t *testing.T, pid int64) limits {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	read := func(controller, v1, v2 string) string {
		root, name, dir := "/sys/fs/cgroup", v2, ""
		for line := range strings.Lines(string(text)) {
			parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
			switch {
			case parts[1] == "" && dir == "":
				dir = parts[2]
			case parts[1] == controller:
				root, name, dir = "/sys/fs/cgroup/"+controller, v1, parts[2]
			}
		}
		data, err := os.ReadFile(filepath.Join(root, dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(data))
	}
	l := limits{
		pids:   read("pids", "pids.max", "pids.max"),
		memory: read("memory", "memory.limit_in_bytes", "memory.max"),
		shares: read("cpu", "cpu.shares", "cpu.weight"),
	}
	l.quota, _, _ = strings.Cut(read("cpu", "cpu.cfs_quota_us", "cpu.max"), " ")
	var bytes int64
	if n, _ := fmt.Sscan(l.memory, &bytes); n == 1 && bytes < 1<<40 {
		l.memory = fmt.Sprint(bytes >> 20)
	} else {
		l.memory = "max"
	}
	if l.quota == "-1" {
		l.quota = "max"
	}
	return l
}

func (h *host) untilLimits(c *v1alpha1.Container, want limits) {
	h.t.Helper()
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		want.shares = limitsOf(h.t, c.Status.PID).shares // in another unit
	}
	var got limits
	defer func() {
		if h.t.Failed() {
			h.t.Logf("the limits are %+v; want %+v", got, want)
		}
	}()
	h.until("the limits are as they should be", func() bool {
		got = limitsOf(h.t, c.Status.PID)
		return got == want
	})
}

// assertSameRun asserts that a container is Ready, and was not started again since.
func (h *host) assertSameRun(name string, before *v1alpha1.Container) {
	h.t.Helper()
	now := h.untilRunning(name)
	if now.Status.PID != before.Status.PID || now.Status.RestartCount != before.Status.RestartCount {
		h.t.Errorf("%s has pid %d and %d restarts; want %d and %d", name, now.Status.PID, now.Status.RestartCount, before.Status.PID, before.Status.RestartCount)
	}
}

// untilSeen waits until the agent has reported on the Container as it is now.
func (h *host) untilSeen(name string, generation int64) *v1alpha1.Container {
	h.t.Helper()
	var c *v1alpha1.Container
	h.until(fmt.Sprintf("%s is reported at generation %d", name, generation), func() bool {
		c = h.get(name)
		return c != nil && c.Generation == generation && c.Status.ObservedGeneration == generation
	})
	return c
}

// TestEditOfLimitsRestartsNothing: an edit of cpu, memory and pids changes the cgroup of the process that runs, all or nothing.
func TestEditOfLimitsRestartsNothing(t *testing.T) {
	h := newHost(t)
	image := h.path("busybox.tar")
	if err := os.Link(programs+"/busybox.tar", image); err != nil {
		t.Fatal(err)
	}
	manifest := func(image, resources, more string) string {
		return "  archive: {path: " + image + "}\n  command: [\"/bin/sh\", \"-c\", \"dd if=/dev/zero of=/mem/x bs=1M count=24 2>/dev/null; echo ready; exec sleep 100000\"]\n" +
			"  volumes: [{name: mem, emptyDir: {medium: Memory}}]\n  volumeMounts: [{name: mem, mountPath: /mem}]\n  resources: " + resources + "\n" + more
	}
	h.start()
	h.write("x.yaml", manifest(image, "{limits: {cpu: 500m, memory: 64Mi, pids: 50}}", ""))
	c := h.untilRunning("x")
	h.until("it has its memory", func() bool { return strings.Contains(h.logs("x"), "ready") })
	h.untilLimits(c, limits{"50", "64", "50000", "512"})

	h.write("x.yaml", manifest(image, "{requests: {cpu: 100m}, limits: {cpu: 250m, memory: 48Mi, pids: 30}}", ""))
	h.untilLimits(c, limits{"30", "48", "25000", "102"})
	h.untilSeen("x", 2)
	h.assertSameRun("x", c)

	// A limit that is removed.
	h.write("x.yaml", manifest(image, "{limits: {pids: 30}}", ""))
	h.untilLimits(c, limits{"30", "max", "max", "2"})

	// An edit that nobody saw when it was made.
	h.signal(unix.SIGKILL)
	h.write("x.yaml", manifest(image, "{limits: {cpu: 500m, memory: 64Mi, pids: 50}}", ""))
	h.start()
	h.untilLimits(c, limits{"50", "64", "50000", "512"})
	h.untilSeen("x", 4)
	h.assertSameRun("x", c)

	// The kernel refuses a limit below what is in use: the others stay, and so does the grace period.
	h.write("x.yaml", manifest(image, "{limits: {cpu: 200m, memory: 8Mi, pids: 20}}", "  terminationGracePeriodSeconds: 77\n"))
	refused := func(c *v1alpha1.Container) bool {
		accepted := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionAccepted)
		return accepted != nil && accepted.Status == "False" && accepted.Reason == v1alpha1.ReasonUpdateRefused &&
			strings.Contains(accepted.Message, "config.linux.resources.memory.limit: ")
	}
	h.until("the refusal is reported", func() bool { return refused(h.untilSeen("x", 5)) })
	now := h.get("x")
	if ready := meta.FindStatusCondition(now.Status.Conditions, v1alpha1.ConditionReady); ready.Status != "False" || ready.Reason != v1alpha1.ReasonUpdateRefused || now.Status.PID != c.Status.PID {
		t.Errorf("pid %d of %d, Ready is %+v", now.Status.PID, c.Status.PID, ready)
	}
	h.untilLimits(c, limits{"50", "64", "50000", "512"})
	// So it is after the agent was killed.
	h.signal(unix.SIGKILL)
	h.start()
	h.until("the refusal is reported again", func() bool { return refused(h.untilSeen("x", 5)) })
	h.untilLimits(c, limits{"50", "64", "50000", "512"})

	// It is tried again, and succeeds once the memory is free.
	if err := os.Remove(fmt.Sprintf("/proc/%d/root/mem/x", c.Status.PID)); err != nil {
		t.Fatal(err)
	}
	h.untilLimits(c, limits{"20", "8", "20000", "204"})
	h.until("nothing is refused any more", func() bool {
		return meta.FindStatusCondition(h.get("x").Status.Conditions, v1alpha1.ConditionAccepted) == nil
	})
	h.assertSameRun("x", c)

	// Another image takes another container.
	other := h.path("other.tar")
	if err := os.Link(programs+"/busybox.tar", other); err != nil {
		t.Fatal(err)
	}
	h.write("x.yaml", manifest(other, "{limits: {cpu: 200m, memory: 64Mi, pids: 20}}", ""))
	h.until("it has been replaced", func() bool {
		now := h.get("x")
		return now.Status.PID != 0 && now.Status.PID != c.Status.PID
	})
	h.untilLimits(h.untilRunning("x"), limits{"20", "64", "20000", "204"})
	h.removeAll("x.yaml")
}
