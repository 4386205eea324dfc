// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/bundle"
)

// TestStateDirOfAnotherSource: an agent does not take the containers of another node, or of
// manifests, for its own that nobody wants.
func TestStateDirOfAnotherSource(t *testing.T) {
	of := func(node, manifests string) options {
		return options{nodeName: node, manifests: manifests, runDir: "/r"}
	}
	for name, tc := range map[string]struct {
		before, now options
		want        string // in the error; empty for none
	}{
		"the same node":            {of("a", ""), of("a", ""), ""},
		"another node":             {of("a", ""), of("b", ""), "found 1 containers of node a in "},
		"an earlier version":       {of("", ""), of("b", ""), ""},
		"the same manifests":       {of("a", "/m"), of("a", "/m"), ""},
		"manifests, another host":  {of("a", "/m"), of("b", "/m"), ""},
		"other manifests":          {of("a", "/m"), of("a", "/n"), ""}, // package folder holds on to what is missing
		"manifests, now a cluster": {of("a", "/m"), of("a", ""), "found 1 containers of the manifests in /m in "},
		"a cluster, now manifests": {of("a", ""), of("a", "/m"), "found 1 containers of a cluster in "},
	} {
		t.Run(name, func(t *testing.T) {
			state := t.TempDir()
			tc.before.stateDir, tc.now.stateDir = state, state
			bundles, err := bundle.Open(state + "/bundles")
			if err != nil {
				t.Fatal(err)
			}
			if err := tc.now.checkSource(bundles); err != nil {
				t.Errorf("a state directory that nobody has used: %v", err)
			}
			if err := tc.before.writeFacts(); err != nil {
				t.Fatal(err)
			}
			if err := tc.now.checkSource(bundles); err != nil {
				t.Errorf("a state directory without containers: %v", err)
			}
			if err := bundles.Dir("x").Make(); err != nil {
				t.Fatal(err)
			}
			err = tc.now.checkSource(bundles)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want+state) {
				t.Errorf("found %v; want %q", err, tc.want)
			}
			if err := os.Remove(factsFile(state)); err != nil { // as the error says
				t.Fatal(err)
			}
			if err := tc.now.checkSource(bundles); err != nil {
				t.Errorf("found %v although it was confirmed", err)
			}
		})
	}
}

// TestClusterAgentLeavesManifestsAlone starts the agent of a cluster's node on the state directory
// of an agent with manifests.
func TestClusterAgentLeavesManifestsAlone(t *testing.T) {
	h := newHost(t)
	h.start()
	h.write("web.yaml", "  image: oci-archive:"+programs+"/busybox.tar\n  command: [sleep, \"1000\"]\n")
	pid := h.untilRunning("web").Status.PID
	h.signal(unix.SIGTERM)
	out, err := exec.Command(programs+"/berth-agent", "--kubeconfig", "/dev/null", "--node-name", "worker-1", "--state-dir", h.path("s"),
		"--run-dir", h.path("r"), "--log-dir", h.path("l"), "--cgroup-parent", h.cgroup).CombinedOutput()
	if want := "found 1 containers of the manifests in " + h.path("m"); err == nil || !strings.Contains(string(out), want) {
		t.Errorf("found %v: %s; want %s", err, out, want)
	}
	h.start()
	if got := h.untilRunning("web").Status; got.PID != pid || got.RestartCount != 0 {
		t.Errorf("found %+v; want process %d as before", got, pid)
	}
	h.remove("web.yaml")
	h.until("web is removed", func() bool { return h.get("web") == nil })
}
