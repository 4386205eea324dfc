// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/v1alpha1"
)

// wholePod is a Pod whose containers need all that a Pod shares. Only root sees the init containers'
// order, in the file order.
const wholePod = `apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 1
  hostAliases: [{ip: 192.0.2.7, hostnames: [db]}]
  initContainers:
  - name: first
    image: oci-archive:IMAGE
    command: [/bin/sh, -c, 'while [ ! -e /gate/go ]; do sleep 0.05; done; echo first >>/d/order']
    volumeMounts: [{name: d, mountPath: /d}, {name: gate, mountPath: /gate}]
  - name: side
    image: oci-archive:IMAGE
    restartPolicy: Always
    command: [/bin/sh, -c, 'cat /d/order; exec /bin/busybox httpd -f -p 81 -h /d']
    volumeMounts: [{name: d, mountPath: /d, readOnly: true}]
  - name: third
    image: oci-archive:IMAGE
    command: [/bin/sh, -c, 'echo third >>/d/order']
    volumeMounts: [{name: d, mountPath: /d}]
  containers:
  - name: app
    image: oci-archive:IMAGE
    command: [/bin/sh, -c, 'until wget -q -O - http://127.0.0.1:81/order; do sleep 0.1; done; hostname; echo $IP; exec sleep 3600']
    env: [{name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
  - name: other
    image: oci-archive:IMAGE
    command: [/bin/sh, -c, 'cat /d/order; exec sleep 3600']
    volumeMounts: [{name: d, mountPath: /d}]
  volumes:
  - {name: d, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: gate, hostPath: {path: GATE}}
`

// TestStandalonePod: the containers of a Pod start in order, in one network and with one emptyDir,
// which both outlive the end of any of them and the kill of the agent. Nothing of the Pod is left.
func TestStandalonePod(t *testing.T) {
	h := newHost(t)
	h.ownNetwork()
	h.start()
	if err := os.Mkdir(h.path("gate"), 0o755); err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("IMAGE", programs+"/busybox.tar", "GATE", h.path("gate")).Replace(wholePod)
	h.raw("pod.yaml", text)
	h.untilRunning("web-first")
	h.untilDependencyNotReady("web-side", "found web-first, which is not Completed")
	h.untilDependencyNotReady("web-app", "found web-first, which is not Completed")
	if err := os.WriteFile(h.path("gate/go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ips, app := h.ips("web-app", 0)
	h.until("the app has found the sidecar on its loopback", func() bool {
		return h.logs("web-app") == "first\nthird\nweb\n"+ips[0].String()+"\n"
	})
	// The sidecar has looked into the volume before it served it.
	if got := h.logs("web-side"); got != "first\n" && got != "first\nthird\n" {
		t.Errorf("the sidecar found %q in the volume; want that it starts after the first", got)
	}
	h.untilSucceeded("web-third")
	pids := map[string]int64{"web-app": app}
	for _, name := range []string{"web-side", "web-other"} {
		others, pid := h.ips(name, 0)
		if pids[name] = pid; netns(pid) != netns(app) || !slices.Equal(others, ips) {
			t.Errorf("found %s in another network than the app, with %v; want %v", name, others, ips)
		}
		if hosts := h.does("exec", name, "--", "cat", "/etc/hosts"); !strings.Contains(hosts, "192.0.2.7\tdb\n") {
			t.Errorf("%s: found /etc/hosts %q", name, hosts)
		}
	}
	h.until("the other container finds the same in the volume", func() bool {
		return h.logs("web-other") == "first\nthird\n"
	})

	// One of them is killed while no agent is there. The init containers, of which one has made the
	// network, have long ended, and do not run again.
	h.signal(unix.SIGKILL)
	if err := unix.Kill(int(app), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.start()
	again, next := h.ips("web-app", app)
	if !slices.Equal(again, ips) || netns(next) != netns(pids["web-side"]) {
		t.Errorf("found the addresses %v after a restart; want %v, and the same namespace", again, ips)
	}
	for _, name := range []string{"web-side", "web-other", "web-first", "web-third"} {
		if c := h.get(name); c.Status.RestartCount != 0 || pids[name] != 0 && c.Status.PID != pids[name] {
			t.Errorf("found %s with pid %d after %d restarts", name, c.Status.PID, c.Status.RestartCount)
		}
	}

	// A fault is shown at its place, and changes nothing.
	before := h.untilRunning("web-other")
	h.raw("pod.yaml", strings.Replace(text, "    env: [{name: IP", "    livenessProbe: {exec: {command: [a]}}\n    env: [{name: IP", 1))
	h.until("the fault is shown", func() bool {
		out, _, _ := h.run("", "status")
		return strings.Contains(out, "pod.yaml:25:5: spec.containers[0].livenessProbe: found a field of a Pod's container")
	})
	h.assertSameRun("web-other", before)
	h.endClean("pod.yaml")
}

// TestStandaloneSamplePod: the web server of the sample shows the page of the init container, and
// the sidecar shows the request.
func TestStandaloneSamplePod(t *testing.T) {
	h := newHost(t)
	h.ownNetwork()
	h.start()
	h.raw("pod.yaml", sample(t, "standalone/pod.yaml"))
	h.until("the server answers", func() bool {
		out, _ := exec.Command("nsenter", "--net="+h.network, "curl", "-s", "-m", "5",
			"http://127.0.0.1:8080/").Output()
		return string(out) == "hello from hello\n"
	})
	h.until("the sidecar shows the request", func() bool {
		return strings.Contains(h.logs("hello-log"), "response:200")
	})
	ips, _ := h.ips("hello-serve", 0)
	if side, _ := h.ips("hello-log", 0); len(ips) == 0 || !slices.Equal(ips, side) {
		t.Errorf("found the addresses %v and %v; want the same", ips, side)
	}
	if c := h.get("hello-write"); c.Status.Phase != v1alpha1.ContainerSucceeded {
		t.Errorf("found the init container %s", c.Status.Phase)
	}
	h.endClean("pod.yaml")
}
