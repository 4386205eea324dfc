// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/berth-run/berth/api/v1alpha1"
)

// untilNetworkNotReady returns once a container waits for the network of another one, with a message
// that has the text.
func (h *host) untilNetworkNotReady(name, text string) {
	h.t.Helper()
	h.until(name+" waits: "+text, func() bool {
		c := h.get(name)
		if c == nil || c.Status.PrintableStatus != v1alpha1.ReasonNetworkNotReady {
			return false
		}
		running := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionRunning)
		return running != nil && strings.Contains(running.Message, text)
	})
}

// A container is in the network of another one, which may be restarted or killed with the agent. One
// that loses its network has the container leave it first; it is started again in the next one.
func TestStandaloneJoin(t *testing.T) {
	h := newHost(t)
	h.ownNetwork()
	h.start()
	h.write("side.yaml", pinging()+"  network: {container: web}\n")
	h.untilNetworkNotReady("side", "no Container of that name in the namespace default")
	h.write("web.yaml", pinging()+"  hostAliases: [{ip: 192.0.2.7, hostnames: [db]}]\n")
	web, webPID := h.ips("web", 0)
	side, sidePID := h.ips("side", 0)
	if netns(sidePID) != netns(webPID) || len(web) != 2 || !slices.Equal(side, web) {
		t.Errorf("found the namespaces %d and %d, the addresses %v and %v; want one of each",
			netns(webPID), netns(sidePID), web, side)
	}
	for _, want := range []string{web[0].String() + "\tweb side\n", "192.0.2.7\tdb\n"} {
		if hosts := h.does("exec", "side", "--", "cat", "/etc/hosts"); !strings.Contains(hosts, want) {
			t.Errorf("/etc/hosts of side: found %q; want %q", hosts, want)
		}
	}

	// The other one ends while no agent is there, and comes back in the same namespace.
	h.signal(unix.SIGKILL)
	if err := unix.Kill(int(webPID), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.start()
	_, webPID = h.ips("web", webPID)
	if c := h.get("side"); c.Status.PID != sidePID || c.Status.RestartCount != 0 ||
		netns(sidePID) != netns(webPID) {
		t.Errorf("found side with pid %d after %d restarts, in another namespace than web: %t",
			c.Status.PID, c.Status.RestartCount, netns(sidePID) != netns(webPID))
	}

	// It gets another network.
	h.write("web.yaml", pinging()+"  ports: [{containerPort: 80, hostPort: 8080}]\n")
	_, webPID = h.ips("web", webPID)
	_, sidePID = h.ips("side", sidePID)
	if netns(sidePID) != netns(webPID) {
		t.Error("web has another network: found side in a namespace of its own")
	}
	log, err := os.ReadFile(h.path("agent.log"))
	if !strings.Contains(string(log), "default/web, in whose network it is, loses that network") {
		t.Errorf("found no reason for the restart of side in the log, %v", err)
	}

	// The agent is killed while the other one waits for the container to leave.
	h.write("side.yaml", "  terminationGracePeriodSeconds: 60\n  archive: {path: "+programs+
		"/busybox.tar}\n  command: [/bin/sh, -c, 'trap \"touch /notes/term\" TERM; while [ ! -e /notes/go ]; do sleep 0.1; done']\n"+
		"  volumes: [{name: notes, hostPath: {path: "+h.path("")+"}}]\n  volumeMounts: [{name: notes, mountPath: /notes}]\n"+
		"  network: {container: web}\n")
	h.ips("side", sidePID)
	h.remove("web.yaml")
	h.until("side is told to stop", func() bool { _, err := os.Stat(h.path("term")); return err == nil })
	h.signal(unix.SIGKILL)
	h.start()
	h.until("the next agent knows of both", func() bool { return h.takesSignals() && h.get("web") != nil })
	pinned, _ := filepath.Glob(h.path("r/netns/*_web_*"))
	if c := h.get("side"); len(pinned) != 1 || netns(c.Status.PID) == 0 {
		t.Errorf("found %v pinned while side runs with pid %d", pinned, c.Status.PID)
	}
	if err := os.WriteFile(h.path("go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.until("web is gone", func() bool { return h.get("web") == nil })
	h.untilNetworkNotReady("side", "no Container of that name")
	if pinned, _ := filepath.Glob(h.path("r/netns/*")); len(pinned) > 0 {
		t.Errorf("web is gone: found %v pinned", pinned)
	}

	for name, spec := range map[string]string{
		"itself in the network of side": "  network: {container: side}\n", "is in the node's network": "  hostNetwork: true\n",
	} {
		h.write("web.yaml", pinging()+spec)
		h.untilNetworkNotReady("side", name)
	}
	h.endClean("web.yaml", "side.yaml")
}

// The helper of the sample finds the server on its own loopback.
func TestStandaloneSampleJoin(t *testing.T) {
	h := newHost(t)
	h.start()
	h.raw("join.yaml", sample(t, "standalone/join.yaml"))
	h.untilSucceeded("helper")
	// It asks until the server listens.
	if out := h.logs("helper"); !strings.HasSuffix(out, "server\n") {
		t.Errorf("found the log %q; want the hostname of the server", out)
	}
	h.removeAll("join.yaml")
	h.signal(unix.SIGTERM)
}

// joinedNetwork is a job in the network of another container, which goes on. Only the agent has it.
var joinedNetwork = stepScenario{
	name: "network of another container",
	before: func(r *stepRun) {
		if _, err := os.Stat(r.path("m/shared.yaml")); err != nil {
			r.write("shared.yaml", pinging())
		}
		r.untilRunning("shared")
	},
	act: func(r *stepRun) {
		r.manifest("Never",
			"echo start >>$NOTES; while [ ! -e $NOTES.go ]; do sleep 0.02; done; exit 7",
			"  network: {container: shared}\n")
	},
	over: func(r *stepRun) bool {
		c := r.get(r.name)
		if r.notes() == "" || c == nil {
			return false
		}
		own, other := netns(c.Status.PID), netns(r.get("shared").Status.PID)
		if own != 0 && own != other {
			r.t.Errorf("found it in another namespace than the other one")
		}
		if err := os.WriteFile(filepath.Join(r.path("notes"), r.name+".go"), nil, 0o600); err != nil {
			r.t.Fatal(err)
		}
		return r.ended(v1alpha1.ContainerFailed) && r.takesSignals()
	},
	check: func(r *stepRun) {
		r.noted("start")
		r.remove(r.name + ".yaml")
		r.until("it is gone", func() bool { return r.get(r.name) == nil })
		if pinned, _ := filepath.Glob(r.path("r/netns/*")); len(pinned) != 1 {
			r.t.Errorf("found %v pinned; want the namespace of the other one alone", pinned)
		}
	},
}
