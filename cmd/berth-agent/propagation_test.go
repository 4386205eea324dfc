// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/v1alpha1"
)

// TestMountPropagation: what a privileged container mounts in a Bidirectional volume appears on the
// node and in other containers that look there, and stays when its Container is removed. Mounts in
// a HostToContainer volume do not leave. A path on a mount that is not shared is refused.
func TestMountPropagation(t *testing.T) {
	h := newHost(t)
	h.mount("shared", "size=1m")
	dir := h.path("shared")
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"made", "kept"} {
		if err := os.Mkdir(dir+"/"+name, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	h.start()
	write := func(name, mode, script string) {
		h.write(name+".yaml", "  archive: {path: "+programs+"/busybox.tar}\n"+
			"  command: [/bin/sh, -c, '"+script+"; exec sleep 3600']\n"+
			"  securityContext: {privileged: true}\n"+
			"  volumes: [{name: v, hostPath: {path: "+dir+"}}]\n"+
			"  volumeMounts: [{name: v, mountPath: /v, mountPropagation: "+mode+"}]\n"+
			"  terminationGracePeriodSeconds: 1\n")
	}
	gone := func(name string) {
		t.Helper()
		h.remove(name + ".yaml")
		h.until(name+" is gone", func() bool { return h.get(name) == nil })
	}
	there := func(path string) bool {
		_, err := os.Stat(path)
		return err == nil
	}
	write("looks", "HostToContainer",
		"mount -t tmpfs none /v/kept && touch /v/kept/file; until [ -e /v/made/file ]; do sleep 0.1; done; echo seen")
	h.untilRunning("looks")
	write("makes", "Bidirectional", "mount -t tmpfs none /v/made && touch /v/made/file; echo made")
	h.until("the mount on the node", func() bool { return there(dir + "/made/file") })
	h.until("the mount in the other container", func() bool { return h.logs("looks") == "seen\n" })
	if there(dir + "/kept/file") {
		t.Error("a mount of a HostToContainer volume is on the node")
	}
	gone("makes")
	if !there(dir + "/made/file") {
		t.Error("the mount has gone with its container")
	}
	if err := unix.Unmount(dir+"/made", 0); err != nil {
		t.Errorf("unmount what the container mounted: %v", err)
	}

	h.raw("bidirectional.yaml", strings.ReplaceAll(sample(t, "standalone/bidirectional.yaml"),
		"/run/berth-samples", dir))
	h.until("the mount of the sample", func() bool { return there(dir + "/scratch/file") })
	gone("bidirectional")
	if there(dir + "/scratch/file") {
		t.Error("the sample has left its mount")
	}

	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	write("refused", "Bidirectional", "true")
	h.until("it is refused", func() bool {
		c := h.get("refused")
		return c != nil && c.Status.PrintableStatus == v1alpha1.ReasonCreateFailed && strings.Contains(
			c.Status.State.Waiting.Message, "spec.volumeMounts[/v].mountPropagation: found Bidirectional, and "+
				dir+" on the mount "+dir+", which is not shared")
	})
	h.removeAll("looks.yaml", "refused.yaml")
	h.unmount("shared")
	if left := h.leftovers(); left != (counts{}) {
		t.Errorf("found %+v left", left)
	}
}
