// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/needs"
)

// TestSizeLimitOnDisk: a container that writes more into an emptyDir on disk than its sizeLimit is
// ended, with the field and both sizes in its status, and finds the volume empty when it is started
// again. One that stays below runs on, and a job that may not be started again is Failed.
func TestSizeLimitOnDisk(t *testing.T) {
	h := newHost(t)
	h.start()
	write := func(name, script, more string) {
		h.write(name+".yaml", "  archive: {path: "+programs+"/busybox.tar}\n"+
			"  command: [/bin/sh, -c, '"+script+"; exec sleep 3600']\n"+
			"  volumes: [{name: cache, emptyDir: {sizeLimit: 2Mi}}]\n"+
			"  volumeMounts: [{name: cache, mountPath: /cache}]\n"+
			"  terminationGracePeriodSeconds: 1\n"+more)
	}
	// At once: a look in between would find another size.
	const fill = "; fallocate -l SIZE /cache/file"
	write("over", "echo found $(ls /cache)"+strings.Replace(fill, "SIZE", "3145728", 1), "")
	write("below", "true"+strings.Replace(fill, "SIZE", "524288", 1), "")
	write("job", "true"+strings.Replace(fill, "SIZE", "3145728", 1), "  restartPolicy: Never\n")
	below := h.untilRunning("below")
	evicted := func(end *corev1.ContainerStateTerminated) bool {
		return end != nil && end.Reason == v1alpha1.ReasonEvicted &&
			strings.HasPrefix(end.Message, "spec.volumes[0].emptyDir.sizeLimit: found 3") &&
			strings.HasSuffix(end.Message, " in the volume cache; allowed: 2Mi")
	}
	h.until("over is started again", func() bool {
		st := h.get("over").Status
		return st.RestartCount > 0 && st.State.Running != nil && evicted(st.LastState.Terminated)
	})
	h.until("it finds nothing", func() bool { return h.logs("over") == "found\n" })
	h.until("the job has failed", func() bool {
		st := h.get("job").Status
		return st.Phase == v1alpha1.ContainerFailed && evicted(st.State.Terminated)
	})
	if out := h.does("status"); !strings.Contains(out, "Evicted") {
		t.Errorf("status shows:\n%s", out)
	}
	if again := h.untilRunning("below"); again.Status.PID != below.Status.PID {
		t.Errorf("below: found pid %d; want %d", again.Status.PID, below.Status.PID)
	}
	h.removeAll("over.yaml", "below.yaml", "job.yaml")
	if left := h.leftovers(); left != (counts{}) {
		t.Errorf("found %+v left", left)
	}
}

// reserveHugePages has the kernel reserve pages of 2 MiB until the test ends.
func reserveHugePages(t *testing.T, n int) {
	t.Helper()
	const file = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
	count := func() int {
		text, err := os.ReadFile(file)
		if err != nil {
			needs.Skip(t, "the kernel has no huge pages of 2 MiB")
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	set := func(n int) {
		if err := os.WriteFile(file, []byte(strconv.Itoa(n)), 0); err != nil {
			t.Error(err)
		}
	}
	before := count()
	t.Cleanup(func() { set(before) })
	set(before + n)
	if got := count(); got < before+n {
		t.Fatalf("found %d huge pages; want %d", got, before+n)
	}
}

// TestHugePages: a volume of huge pages is a hugetlbfs of that size, and the container may have as
// many as its limit says, however many the node has. Without a sizeLimit the volume has no other.
func TestHugePages(t *testing.T) {
	reserveHugePages(t, 4)
	// On a hybrid host, the runtime has the root of version 2 hand the controller down, for good.
	const hybrid = "/sys/fs/cgroup/unified/cgroup.subtree_control"
	if before, err := os.ReadFile(hybrid); err == nil && !strings.Contains(string(before), "hugetlb") {
		t.Cleanup(func() {
			// It cannot be taken back while containers of tests that run beside this one have it.
			err := os.WriteFile(hybrid, []byte("-hugetlb"), 0)
			if err != nil && !errors.Is(err, unix.EBUSY) {
				t.Error(err)
			}
		})
	}
	h := newHost(t)
	h.start()
	h.raw("hugepages.yaml", sample(t, "standalone/hugepages.yaml"))
	h.write("small.yaml", "  archive: {path: "+programs+"/busybox.tar}\n"+
		"  command: [/bin/sh, -c, 'fallocate -l 2097152 /huge/1 && fallocate -l 2097152 /huge/2; exec sleep 3600']\n"+
		"  resources: {limits: {hugepages-2Mi: 4Mi}}\n"+
		"  volumes: [{name: huge, emptyDir: {medium: HugePages-2Mi, sizeLimit: 2Mi}}]\n"+
		"  volumeMounts: [{name: huge, mountPath: /huge}]\n")
	for name, want := range map[string]string{
		"hugepages": "hugetlbfs 2M\npage 1\npage 2\nend\n",
		"small":     "fallocate: fallocate '/huge/2': No space left on device\n",
	} {
		h.until("the log of "+name, func() bool { return h.get(name) != nil && h.logs(name) == want })
	}
	h.write("giant.yaml", "  archive: {path: "+programs+"/busybox.tar}\n"+
		"  command: [/bin/sleep, '3600']\n  resources: {limits: {hugepages-1Gi: 1Gi}}\n"+
		"  volumes: [{name: huge, emptyDir: {medium: HugePages-1Gi}}]\n"+
		"  volumeMounts: [{name: huge, mountPath: /huge}]\n")
	h.until("giant is refused", func() bool {
		c := h.get("giant")
		return c != nil && c.Status.PrintableStatus == v1alpha1.ReasonCreateFailed && strings.Contains(
			c.Status.State.Waiting.Message, "volumes[0].emptyDir.medium: found HugePages-1Gi")
	})
	h.removeAll("hugepages.yaml", "small.yaml", "giant.yaml")
	if left := h.leftovers(); left != (counts{}) {
		t.Errorf("found %+v left", left)
	}
}
