// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/registration"
)

// sample returns a manifest of config/samples with the image of the tests.
func sample(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../../config/samples/" + name)
	if err != nil {
		t.Fatal(err)
	}
	const archive = "/var/lib/berth/archives/hello.tar"
	if !strings.Contains(string(text), archive) {
		t.Fatalf("%s has no %s", name, archive)
	}
	return strings.ReplaceAll(string(text), archive, programs+"/busybox.tar")
}

// TestEnvironmentOfAddresses: a process has the addresses of its container, also if they change, and
// does not start without one.
func TestEnvironmentOfAddresses(t *testing.T) {
	const variables = "  env:\n  - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}\n" +
		"  - {name: ALL, value: '$(IPS)'}\n" +
		"  - {name: IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}\n" +
		"  - {name: URL, value: 'http://$(IP)/'}\n"
	spec := "  archive: {path: " + programs + "/busybox.tar}\n" + variables +
		"  command: [/bin/sh, -c, 'echo \"$IP|$IPS|$URL|$0|$ALL\"; trap exit TERM; while true; do sleep 0.1; done', $(IPS)]\n"
	h := newHost(t)
	h.start()
	h.write("lo.yaml", spec)
	h.until("a container without an address does not start", func() bool {
		c := h.get("lo")
		return c != nil && c.Status.State.Waiting != nil && strings.Contains(c.Status.State.Waiting.Message,
			"process.env[0].valueFrom: status.podIP: found no address of the container")
	})
	h.write("other.yaml", "  archive: {path: "+programs+"/busybox.tar}\n  command: [/bin/true]\n  restartPolicy: Never\n")
	h.untilSucceeded("other")
	h.remove("lo.yaml")
	h.until("lo is gone", func() bool { return h.get("lo") == nil })
	h.signal(unix.SIGTERM)

	h.ownNetwork()
	h.start()
	h.write("a.yaml", spec)
	shows := func(ips []netip.Addr) {
		t.Helper()
		all := ips[0].String() + "," + ips[1].String()
		want := ips[0].String() + "|" + all + "|http://" + ips[0].String() + "/|" + all + "|$(IPS)\n"
		h.until("a has printed its addresses", func() bool { return h.logs("a") != "" })
		if got := h.logs("a"); got != want {
			t.Errorf("found %q; want %q", got, want)
		}
	}
	ips, pid := h.ips("a", 0)
	shows(ips)

	// Its device and its address go, and its process and the agent end: it is connected anew.
	h.write("b.yaml", pinging())
	h.ips("b", 0)
	h.signal(unix.SIGKILL)
	h.onNode("nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", pid), "ip", "link", "del", "eth0")
	if err := unix.Kill(int(pid), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.start()
	ips, _ = h.ips("a", pid)
	shows(ips)
	h.endClean("a.yaml", "b.yaml", "other.yaml")
}

// TestEnvironmentOfFields: a process has the variables that a Pod's would have, also after its own
// death and the agent's.
func TestEnvironmentOfFields(t *testing.T) {
	h := newHost(t)
	h.start()
	h.raw("environment.yaml", sample(t, "environment.yaml"))
	h.untilRunning("environment")
	h.until("the line of the sample", func() bool {
		return h.logs("environment") == "environment on test as shop with 32 MiB: environment\n"
	})

	addresses, variable := "none", "value: none"
	if found, err := registration.Addresses(); err == nil {
		addresses, variable = found[0].String(), "valueFrom: {fieldRef: {fieldPath: status.hostIP}}"
	} else { // the container could not start
		t.Logf("status.hostIP is not tested: %v", err)
	}
	h.raw("all.yaml", "apiVersion: berth.run/v1alpha1\nkind: Container\n"+
		"metadata: {name: all, annotations: {note: $(ID)}}\nspec:\n  terminationGracePeriodSeconds: 1\n"+
		"  archive: {path: "+programs+"/busybox.tar}\n"+
		"  command: [/bin/sh, -c, 'echo \"$HOME|$ALL|$0|$MIB\"; exec sleep 3600', $(ALL)]\n  env:\n"+
		"  - {name: ADDRESS, "+variable+"}\n"+
		"  - {name: HOME, value: /$(ADDRESS)}\n"+
		"  - {name: ID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}\n"+
		"  - {name: NOTE, valueFrom: {fieldRef: {fieldPath: \"metadata.annotations['note']\"}}}\n"+
		"  - {name: ALL, value: '$(ID) $(ADDRESS) $(NOTE) $(LATER) $$(ID)'}\n"+
		"  - {name: LATER, value: x}\n"+
		"  - {name: MIB, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}\n")
	c := h.untilRunning("all")
	all := string(c.UID) + " " + addresses + " $(ID) $(LATER) $(ID)"
	var line string
	h.until("a line", func() bool {
		line = strings.TrimSuffix(h.logs("all"), "\n")
		return line != ""
	})
	words := strings.Split(line, "|")
	if len(words) != 4 || !slices.Equal(words[:3], []string{"/" + addresses, all, all}) {
		t.Errorf("found %q; want %q", words, []string{"/" + addresses, all, all, "the node's memory"})
	}
	if words[3] == "" || words[3] == "0" {
		t.Errorf("found %q MiB; want the node's memory", words[3])
	}

	// The agent and the process die: the next run has the same.
	h.signal(unix.SIGKILL)
	if err := unix.Kill(int(c.Status.PID), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.until("another run", func() bool {
		c := h.get("all")
		return c.Status.RestartCount == 1 && c.Status.PID != 0
	})
	h.until("the same line", func() bool { return h.logs("all") == line+"\n" })
	if meta.FindStatusCondition(h.get("all").Status.Conditions,
		v1alpha1.ConditionRecompileAvailable) != nil {
		t.Error("what was accepted compiles to something else in the next agent")
	}
	h.removeAll("all.yaml", "environment.yaml")
}
