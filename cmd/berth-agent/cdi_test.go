// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// commentedSpec returns the CDI spec in the comment of the sample, with the paths of this test.
func commentedSpec(t *testing.T, replace *strings.Replacer) string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(sample(t, "standalone/cdi.yaml")) {
		if text, ok := strings.CutPrefix(line, "#   "); ok {
			lines = append(lines, text)
		}
	}
	return replace.Replace(strings.Join(lines, ""))
}

// TestCDI: a container has what the CDI specs of the node say of its devices: variables, mounts,
// device nodes and hooks. A changed spec counts from the next start on. A container whose device
// the node does not have is not started, and neither an annotation nor a label of an image is a
// request for one.
func TestCDI(t *testing.T) {
	h := newHost(t)
	h.flags = []string{"--cdi-spec-dir", h.path("cdi")}
	dir := newDevices(t, map[string]uint32{"gadget": unix.S_IFCHR | 0o640})
	if err := os.Mkdir(h.path("cdi"), 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	spec := commentedSpec(t, strings.NewReplacer("/dev/loop-control", dir+"/gadget",
		"/etc/os-release", h.path("shared"), "/run/gadget.json", h.path("hook.json")))
	write(h.path("cdi/gadget.yaml"), spec)
	write(h.path("shared"), "shared\n")
	h.start()
	h.raw("cdi.yaml", strings.Replace(sample(t, "standalone/cdi.yaml"), "  name: cdi\n",
		"  name: cdi\n  annotations: {cdi.k8s.io/x: vendor.example/gadget=two}\n", 1))
	c := h.untilRunning("cdi")
	reports := func(name string) string {
		t.Helper()
		h.until(name+" reports", func() bool { return strings.Contains(h.logs(name), "touch: ") })
		return h.logs(name)
	}
	want := "gadget one\n" + listed(t, dir+"/gadget", "/dev/gadget") +
		`/bin/sh: can't open /dev/gadget: No such device or address
/bin/sh: can't create /dev/gadget: Operation not permitted
gadget is not open for writing
shared
touch: /usr/share/gadget: Read-only file system
`
	if got := reports("cdi"); got != want {
		t.Errorf("found %q; want %q", got, want)
	}
	var state specs.State
	text, err := os.ReadFile(h.path("hook.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &state); err != nil || state.ID == "" ||
		filepath.Dir(state.Bundle) != h.path("s/bundles") {
		t.Errorf("the hook found %s (%v); want the state of the container", text, err)
	}

	write(h.path("cdi/gadget.yaml"), strings.Replace(spec, "GADGET=one", "GADGET=changed", 1))
	h.does("restart", "cdi")
	h.until("it has been restarted", func() bool {
		now := h.get("cdi")
		return now != nil && now.Status.PID != 0 && now.Status.PID != c.Status.PID
	})
	if got := reports("cdi"); !strings.HasPrefix(got, "gadget changed\n") {
		t.Errorf("after the spec has changed: found %q", got)
	}

	// Its root may not enter the agent's directories, and so cannot be a createContainer hook.
	write(h.path("cdi/gadget.yaml"), spec[:strings.Index(spec, "    hooks:")])
	h.raw("mapped.yaml", strings.Replace(strings.Replace(sample(t, "standalone/cdi.yaml"), "name: cdi\n",
		"name: mapped\n", 1), "\n  devices:", "\n  hostUsers: false\n  devices:", 1))
	mapped(t, h.untilRunning("mapped").Status.PID)
	if got := reports("mapped"); got != want {
		t.Errorf("in a user namespace: found %q; want %q", got, want)
	}
	h.removeAll("cdi.yaml", "mapped.yaml")
}

// TestCDIDeviceIsMissing: a container whose device no CDI spec names waits with the back-off of a
// failed start, and starts once there is one.
func TestCDIDeviceIsMissing(t *testing.T) {
	h := newHost(t)
	h.flags = []string{"--cdi-spec-dir", h.path("cdi")}
	if err := os.Mkdir(h.path("cdi"), 0o700); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.write("waits.yaml", "  archive: {path: "+programs+"/busybox.tar}\n"+
		"  command: [/bin/sh, -c, 'echo $A; exec sleep 3600']\n  restartBackOff: {initialSeconds: 1, maxSeconds: 1}\n"+
		"  devices: [{path: /dev/null, containerPath: /dev/x}, {cdi: v.com/c=n}]\n  terminationGracePeriodSeconds: 1\n")
	h.untilRefused("waits", "spec.devices[1].cdi: found no device v.com/c=n in "+h.path("cdi"))
	faulty := "cdiVersion: 0.6.0\nkind: v.com/c\ndevices: [{name: n, containerEdits: {env: [A]}}]\n"
	for _, text := range []string{faulty, strings.Replace(faulty, "[A]", "[A=1]", 1)} {
		if err := os.WriteFile(h.path("cdi/v.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if text == faulty {
			h.untilRefused("waits", `invalid environment variable "A"`)
		}
	}
	h.untilRunning("waits")
	h.until("it reports", func() bool { return h.logs("waits") == "1\n" })
	h.removeAll("waits.yaml")
}
