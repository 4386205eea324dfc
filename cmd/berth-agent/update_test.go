// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/berth-run/berth/api/v1alpha1"
)

// limits are the values in the cgroup of a process: pids, memory in MiB, and quota and shares of
// cpu. On cgroup v2 quota is that of cpu.max, and shares is the weight.
type limits struct{ pids, memory, quota, shares string }

// cgroupFile returns the content of a file in the cgroup of a process, whose name depends on the
// version of the hierarchy.
func cgroupFile(t *testing.T, pid int64, controller, v1, v2 string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
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

func limitsOf(t *testing.T, pid int64) limits {
	t.Helper()
	read := func(controller, v1, v2 string) string {
		t.Helper()
		return cgroupFile(t, pid, controller, v1, v2)
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
		h.t.Errorf("%s has pid %d and %d restarts; want %d and %d", name, now.Status.PID,
			now.Status.RestartCount, before.Status.PID, before.Status.RestartCount)
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

// TestSwap: a container with a limit of memory has no swap, or as much as its limit says. An edit of
// that applies to the process that runs.
func TestSwap(t *testing.T) {
	h := newHost(t)
	h.start()
	manifest := func(limits string) {
		h.write("swap.yaml", "  archive: {path: "+programs+"/busybox.tar}\n  command: [/bin/sleep, \"100000\"]\n"+
			"  resources: {limits: {"+limits+"}}\n  terminationGracePeriodSeconds: 1\n")
	}
	manifest("memory: 64Mi")
	c := h.untilRunning("swap")
	until := func(swap int) {
		t.Helper()
		want := fmt.Sprint((64 + swap) << 20) // v1 counts both together
		if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
			want = fmt.Sprint(swap << 20)
		}
		h.until(fmt.Sprintf("it may use %d MiB of swap", swap), func() bool {
			return cgroupFile(t, c.Status.PID, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max") == want
		})
	}
	until(0)
	manifest("memory: 64Mi, swap: 48Mi")
	until(48)
	manifest("memory: 64Mi, swap: 16Mi")
	until(16)
	h.untilSeen("swap", 3)
	h.assertSameRun("swap", c)
	h.does("restart", "swap")
	h.until("it has been restarted", func() bool {
		now := h.get("swap")
		return now != nil && now.Status.PID != 0 && now.Status.PID != c.Status.PID
	})
	c = h.untilRunning("swap")
	until(16)
	manifest("memory: 64Mi")
	until(0)
	h.assertSameRun("swap", c)
	h.removeAll("swap.yaml")
}

// TestEditOfLimitsRestartsNothing: an edit of cpu, memory and pids changes the cgroup of the
// process that runs, all or nothing.
func TestEditOfLimitsRestartsNothing(t *testing.T) {
	h := newHost(t)
	image := h.path("busybox.tar")
	if err := os.Link(programs+"/busybox.tar", image); err != nil {
		t.Fatal(err)
	}
	manifest := func(image, resources, more string) string {
		return "  archive: {path: " + image +
			"}\n  command: [\"/bin/sh\", \"-c\", \"dd if=/dev/zero of=/mem/x bs=1M count=24 2>/dev/null; echo ready; exec sleep 100000\"]\n" +
			"  volumes: [{name: mem, emptyDir: {medium: Memory}}]\n  volumeMounts: [{name: mem, mountPath: /mem}]\n  resources: " + resources + "\n" + more
	}
	h.start()
	h.write("x.yaml", manifest(image, "{limits: {cpu: 500m, memory: 64Mi, pids: 50}}", ""))
	c := h.untilRunning("x")
	h.until("it has its memory", func() bool { return strings.Contains(h.logs("x"), "ready") })
	h.untilLimits(c, limits{"50", "64", "50000", "512"})

	h.write("x.yaml",
		manifest(image, "{requests: {cpu: 100m}, limits: {cpu: 250m, memory: 48Mi, pids: 30}}", ""))
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

	// The kernel refuses a limit below what is in use: the others stay, and so does the grace
	// period.
	h.write("x.yaml", manifest(image, "{limits: {cpu: 200m, memory: 8Mi, pids: 20}}",
		"  terminationGracePeriodSeconds: 77\n"))
	refused := func(c *v1alpha1.Container) bool {
		accepted := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionAccepted)
		return accepted != nil && accepted.Status == "False" &&
			accepted.Reason == v1alpha1.ReasonUpdateRefused &&
			strings.Contains(accepted.Message, "config.linux.resources.memory.limit: ")
	}
	h.until("the refusal is reported", func() bool { return refused(h.untilSeen("x", 5)) })
	now := h.get("x")
	ready := meta.FindStatusCondition(now.Status.Conditions, v1alpha1.ConditionReady)
	if ready.Status != "False" || ready.Reason != v1alpha1.ReasonUpdateRefused ||
		now.Status.PID != c.Status.PID {
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

// logSizes returns the sizes of a container's log files, the current one first.
func logSizes(path string) (sizes []int64) {
	for i := 0; ; i++ {
		name := path
		if i > 0 {
			name += fmt.Sprint(".", i)
		}
		fi, err := os.Stat(name)
		if err != nil {
			return sizes
		}
		sizes = append(sizes, fi.Size())
	}
}

// untilLogSizes waits until a container that writes has that many log files, each of at most that
// size.
func (h *host) untilLogSizes(c *v1alpha1.Container, files int, most int64) {
	h.t.Helper()
	var got []int64
	defer func() {
		if h.t.Failed() {
			h.t.Logf("the log files have %v bytes; want %d of at most %d", got, files, most)
		}
	}()
	h.until("the log files are as they should be", func() bool {
		got = logSizes(c.Status.LogPath)
		return len(got) == files && slices.Max(got) <= most
	})
}

// TestEditOfLogLimitsRestartsNothing: an edit of logging changes the log files of the process that
// runs and floods them, also while no agent runs, and holds after the supervisor was killed and
// upgraded. The log is read as before.
func TestEditOfLogLimitsRestartsNothing(t *testing.T) {
	h := newHost(t)
	manifest := func(more string) string {
		return "  archive: {path: " + programs +
			"/busybox.tar}\n  command: [/bin/sh, -c, 'n=0; while true; do seq $n $((n+4999)); n=$((n+5000)); sleep 0.05; done']\n" + more
	}
	h.start()
	h.write("x.yaml", manifest(""))
	c := h.untilRunning("x")
	h.until("it has written more than it may soon", func() bool {
		s := logSizes(c.Status.LogPath)
		return len(s) == 1 && s[0] > 1<<20
	})

	h.write("x.yaml", manifest("  logging: {maxSize: 256Ki, maxFiles: 4}\n"))
	h.untilLogSizes(c, 4, 256<<10)
	h.write("x.yaml", manifest("  logging: {maxSize: 64Ki, maxFiles: 3}\n"))
	h.untilLogSizes(c, 3, 64<<10)
	h.untilSeen("x", 3)
	h.assertSameRun("x", c)

	if err := unix.Kill(h.supervisor(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	rotated := func() {
		t.Helper()
		var before os.FileInfo
		h.until("the log is there", func() bool { // not within a rotation
			var err error
			before, err = os.Stat(c.Status.LogPath)
			return err == nil
		})
		h.until("the log is rotated", func() bool {
			now, err := os.Stat(c.Status.LogPath)
			return err == nil && !os.SameFile(before, now)
		})
		h.untilLogSizes(c, 3, 64<<10)
	}
	h.supervisor()
	rotated()
	rotated()
	h.assertSameRun("x", c)

	// An edit that nobody saw when it was made.
	h.signal(unix.SIGKILL)
	h.write("x.yaml", manifest("  logging: {maxSize: 32Ki, maxFiles: 2}\n"))
	h.start()
	h.untilLogSizes(c, 2, 32<<10)
	h.untilSeen("x", 4)
	h.assertSameRun("x", c)
	lines := strings.Fields(h.logs("x"))
	for i, l := range lines {
		if first, _ := strconv.Atoi(lines[0]); l != fmt.Sprint(first+i) {
			t.Fatalf("line %d of %d is %s; want %d", i, len(lines), l, first+i)
		}
	}

	// The field is removed, and the node's limits hold again.
	h.write("x.yaml", manifest(""))
	h.until("a file grows beyond the limits of before", func() bool {
		return slices.ContainsFunc(logSizes(c.Status.LogPath), func(n int64) bool { return n > 1<<20 })
	})
	h.assertSameRun("x", c)

	h.write("x.yaml", manifest("  logging: {maxSize: 4Ki, maxFiles: 1}\n"))
	h.until("nonsense is refused with its fields", func() bool {
		out, _, _ := h.run("", "status", "-o", "json")
		return strings.Contains(out, "spec.logging.maxSize") &&
			strings.Contains(out, "spec.logging.maxFiles")
	})
	h.removeAll("x.yaml")
}

// TestEditOfBackOff: an edit of the longest back-off ends the wait of a container that would wait
// for an hour.
func TestEditOfBackOff(t *testing.T) {
	h := newHost(t)
	manifest := func(backOff string) string {
		return "  archive: {path: " + programs +
			"/busybox.tar}\n  command: [/bin/sh, -c, exit 3]\n  restartBackOff: " + backOff + "\n"
	}
	h.start()
	h.write("x.yaml", manifest("{initialSeconds: 3600, maxSeconds: 7200}"))
	waits := func(length string) bool {
		c := h.get("x")
		return c != nil && c.Status.State.Waiting != nil &&
			c.Status.State.Waiting.Reason == v1alpha1.ReasonCrashLoopBackOff &&
			strings.Contains(c.Status.State.Waiting.Message, "after a back-off of "+length)
	}
	h.until("it waits for an hour after the restart at once", func() bool {
		return waits("1h0m0s") && h.get("x").Status.RestartCount == 1
	})
	// Another agent waits as long.
	h.signal(unix.SIGKILL)
	h.start()
	h.ready()
	h.write("x.yaml", manifest("{initialSeconds: 3600, maxSeconds: 3601}"))
	h.untilSeen("x", 2)
	if c := h.get("x"); c.Status.RestartCount != 1 || !waits("1h0m0s") {
		t.Errorf("found %d restarts and %+v", c.Status.RestartCount, c.Status.State)
	}
	h.write("x.yaml", manifest("{maxSeconds: 1}"))
	h.until("it is started again and again", func() bool {
		return h.get("x").Status.RestartCount > 3 && waits("1s")
	})
	h.removeAll("x.yaml")
}
