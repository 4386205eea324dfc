// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// needsCRIU: Debian's criu fails on some kernels, the guest of hack/vm has one that it knows.
func needsCRIU(t *testing.T) {
	t.Helper()
	if os.Getenv("BERTH_VM") == "" {
		t.Skip("runs in a guest of hack/vm, whose kernel is one that Debian's criu knows: make test-clients-vm")
	}
}

// counting counts in its memory and prints each number: one that continues differs from one that
// begins anew.
var counting = []string{"sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.2; done"}

// last returns the last number of a log.
func last(log string) int {
	fields := strings.Fields(log)
	if len(fields) == 0 {
		return 0
	}
	n, _ := strconv.Atoi(fields[len(fields)-1])
	return n
}

// TestCheckpointPodman: a container that podman has checkpointed goes on where it was, by the same
// id and from an archive.
func TestCheckpointPodman(t *testing.T) {
	needsCRIU(t)
	p := newPodman(t)
	id := p.must(append([]string{"run", "-d", "--network", "none", busybox}, counting...)...)
	logs := func() int { return last(p.must("logs", id)) }
	eventually(t, "it counts", func() bool { return logs() >= 3 })
	p.must("container", "checkpoint", id)
	equal(t, "state", p.must("inspect", "-f", "{{.State.Running}} {{.State.Checkpointed}}", id),
		"false true")
	before := logs()
	p.must("container", "restore", id)
	equal(t, "state", p.must("inspect", "-f", "{{.State.Running}}", id), "true")
	eventually(t, "it counts on", func() bool { return logs() >= before+2 })
	if first := strings.Fields(p.must("logs", id))[before]; first != strconv.Itoa(before+1) {
		t.Errorf("after %d it counted %s", before, first)
	}
	archive := filepath.Join(work, "checkpoint.tar.gz")
	p.must("container", "checkpoint", "--leave-running", "--export", archive, id)
	equal(t, "state", p.must("inspect", "-f", "{{.State.Running}}", id), "true")
	before = logs()
	p.must("rm", "-f", "-t", "0", id)
	id = p.must("container", "restore", "--import", archive)
	eventually(t, "the one from the archive counts on", func() bool { return logs() >= before })
}

// TestCheckpointContainerd checkpoints a container with ctr into an image of containerd and
// restores it.
func TestCheckpointContainerd(t *testing.T) {
	needsCRIU(t)
	ctr := startContainerd(t, "default")
	output := filepath.Join(t.TempDir(), "log")
	ctr.must("run", "-d", "--runc-binary", berth, "--snapshotter", "overlayfs", "--log-uri", "file://"+
		output, busybox, "cp", counting[0], counting[1], counting[2])
	logs := func() int {
		data, err := os.ReadFile(output)
		if err != nil {
			return 0
		}
		return last(string(data))
	}
	t.Cleanup(func() {
		ctr.run("task", "rm", "-f", "cp")
		ctr.run("container", "rm", "cp")
	})
	eventually(t, "it counts", func() bool { return logs() >= 3 })
	ctr.must("container", "checkpoint", "--rw", "--image", "--task", "cp", "checkpoint/cp")
	ctr.must("task", "rm", "-f", "cp")
	ctr.must("container", "rm", "cp")
	ctr.must("container", "restore", "--rw", "--live", "cp", "checkpoint/cp")
	pid := strings.Fields(ctr.must("task", "ps", "cp"))
	if len(pid) < 3 {
		t.Fatalf("no process: %v", pid)
	}
	line, err := os.ReadFile("/proc/" + pid[2] + "/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the process", strings.ReplaceAll(strings.TrimRight(string(line), "\x00"), "\x00", " "),
		strings.Join(counting, " "))
}
