// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// booted takes away what a boot does: processes, mounts and the run directory, while no agent runs.
func (h *host) booted() {
	h.t.Helper()
	pid, client := h.supervisor(), protocol.NewClient(h.path("r/supervisor.sock"))
	all, err := client.List(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	for _, st := range all {
		if err := client.Delete(h.t.Context(), st.ID, true); err != nil {
			h.t.Fatal(err)
		}
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		h.t.Fatal(err)
	}
	h.until("the supervisor has ended", func() bool {
		state := procState(pid)
		return state == "" || state == "Z"
	})
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		h.t.Fatal(err)
	}
	lines := strings.Split(string(table), "\n")
	for _, line := range slices.Backward(lines) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], h.dir+"/") {
			if err := unix.Unmount(f[4], unix.MNT_DETACH); err != nil {
				h.t.Fatalf("%s: %v", f[4], err)
			}
		}
	}
	if err := os.RemoveAll(h.path("r")); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(h.path("s/boot"), []byte("another boot"), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// TestStandalonePodAfterBoot: after a boot of the host, which took its network and its volume in
// memory, the init containers of a Pod run again before its other containers start.
func TestStandalonePodAfterBoot(t *testing.T) {
	h := newHost(t)
	h.ownNetwork()
	h.start()
	if err := os.Mkdir(h.path("gate"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.path("gate/go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.raw("pod.yaml", strings.NewReplacer("IMAGE", programs+"/busybox.tar", "GATE", h.path("gate")).Replace(wholePod))
	h.untilRunning("web-app")
	_, before := h.ips("web-other", 0)
	h.signal(unix.SIGKILL)
	h.booted()
	h.start()
	h.ips("web-other", before)
	h.until("the other container finds what both init containers write", func() bool {
		return h.logs("web-other") == "first\nthird\n"
	})
	for _, name := range []string{"web-first", "web-third"} {
		if c := h.get(name); c.Status.RestartCount != 1 || c.Status.Phase != v1alpha1.ContainerSucceeded {
			t.Errorf("found %s %s after %d restarts; want one", name, c.Status.Phase, c.Status.RestartCount)
		}
	}
	// Not once more, if the agent alone is started again.
	h.signal(unix.SIGKILL)
	h.start()
	h.until("the next agent knows the Pod", h.takesSignals)
	h.does("restart", "web-other")
	if c := h.get("web-first"); c.Status.RestartCount != 1 {
		t.Errorf("found %d restarts of web-first; want one", c.Status.RestartCount)
	}
	h.endClean("pod.yaml")
}

// TestStandaloneSidecarAfterBoot: the sidecar of a Pod whose app has ended for good starts again after
// a boot, and both init containers before it, of which the first one has the network. The app does
// not run twice.
func TestStandaloneSidecarAfterBoot(t *testing.T) {
	h := newHost(t)
	h.ownNetwork()
	h.start()
	h.raw("pod.yaml", strings.ReplaceAll(`apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 1
  initContainers:
  - {name: first, image: 'oci-archive:IMAGE', command: [/bin/true]}
  - {name: second, image: 'oci-archive:IMAGE', command: [/bin/true]}
  - {name: side, image: 'oci-archive:IMAGE', command: [/bin/sleep, '3600'], restartPolicy: Always}
  containers:
  - {name: app, image: 'oci-archive:IMAGE', command: [/bin/true]}
`, "IMAGE", programs+"/busybox.tar"))
	h.untilSucceeded("web-app")
	_, before := h.ips("web-side", 0)
	h.signal(unix.SIGKILL)
	h.booted()
	h.start()
	h.ips("web-side", before)
	for name, want := range map[string]int32{"web-first": 1, "web-second": 1, "web-app": 0} {
		if c := h.get(name); c.Status.RestartCount != want || c.Status.Phase != v1alpha1.ContainerSucceeded {
			t.Errorf("found %s %s after %d restarts; want %d", name, c.Status.Phase, c.Status.RestartCount, want)
		}
	}
	h.endClean("pod.yaml")
}
