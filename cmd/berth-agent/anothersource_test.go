// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestClusterAgentLeavesManifestsAlone starts the agent of a cluster's node on the state directory
// of an agent with manifests.
func TestClusterAgentLeavesManifestsAlone(t *testing.T) {
	h := newHost(t)
	h.start()
	h.write("web.yaml", "  image: oci-archive:"+programs+
		"/busybox.tar\n  command: [sleep, \"1000\"]\n")
	pid := h.untilRunning("web").Status.PID
	h.signal(unix.SIGTERM)
	out, err := h.program("--kubeconfig", "/dev/null", "--node-name", "worker-1", "--state-dir", h.path("s"),
		"--run-dir", h.path("r"), "--log-dir", h.path("l"), "--cgroup-parent", h.cgroup).CombinedOutput()
	if want := "found 1 containers of the manifests in " + h.path("m"); err == nil ||
		!strings.Contains(string(out), want) {
		t.Errorf("found %v: %s; want %s", err, out, want)
	}
	h.start()
	if got := h.untilRunning("web").Status; got.PID != pid || got.RestartCount != 0 {
		t.Errorf("found %+v; want process %d as before", got, pid)
	}
	h.remove("web.yaml")
	h.until("web is removed", func() bool { return h.get("web") == nil })
}
