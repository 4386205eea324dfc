// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
	"testing"
)

// TestNetworkNotReady: a container waits, without a back-off, while a plugin says that it cannot
// connect any, and starts once it can. One in the node's network does not wait.
func TestNetworkNotReady(t *testing.T) {
	h := newHost(t)
	for _, dir := range []string{"bin", "cni"} {
		if err := os.Mkdir(h.path(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for path, text := range map[string]string{
		"unready":                 "",
		"cni/10-made-up.conflist": `{"cniVersion":"1.1.0","name":"front","plugins":[{"type":"made-up"}]}`,
		"bin/made-up": strings.ReplaceAll(`#!/bin/sh
if [ $CNI_COMMAND = VERSION ]; then echo '{"cniVersion":"1.1.0","supportedVersions":["1.1.0"]}'; exit; fi
if [ -e DIR/unready -a $CNI_COMMAND != DEL ]; then echo '{"cniVersion":"1.1.0","code":50,"msg":"no route"}'; exit 1; fi
if [ $CNI_COMMAND = ADD ]; then echo '{"cniVersion":"1.1.0","interfaces":[],"ips":[]}'; fi
`, "DIR", h.dir),
	} {
		if err := os.WriteFile(h.path(path), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	h.flags = append(h.flags, "--cni-bin-dir", h.path("bin"))
	h.start()
	spec := "  archive: {path: " + programs + "/busybox.tar}\n  command: [/bin/sleep, \"3600\"]\n"
	h.write("front.yaml", spec)
	h.write("node.yaml", spec+"  hostNetwork: true\n")
	h.untilRunning("node")
	const why = "network front: the network is not ready: made-up: no route"
	h.until("front waits", func() bool {
		c := h.get("front")
		return c != nil && c.Status.State.Running == nil && strings.Contains(h.does("status"), why)
	})
	h.until("status says so", func() bool {
		_, errs, _ := h.run("", "status")
		return strings.Contains(errs, "containers cannot be connected: "+why)
	})
	if c := h.get("front"); c.Status.RestartCount != 0 || strings.Contains(h.does("status"), "BackOff") {
		t.Errorf("found %+v; want no back-off", c.Status)
	}
	if err := os.Remove(h.path("unready")); err != nil {
		t.Fatal(err)
	}
	h.untilRunning("front")
	h.until("status says nothing", func() bool {
		_, errs, _ := h.run("", "status")
		return !strings.Contains(errs, "cannot be connected")
	})
	h.removeAll("front.yaml", "node.yaml")
}
