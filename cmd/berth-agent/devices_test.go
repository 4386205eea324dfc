// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/v1alpha1"
)

// TestDevices: a process has the devices of its manifest, with the access that it asks for. A
// container whose device the node does not have is not started, and says which one.
func TestDevices(t *testing.T) {
	for _, path := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(path); err != nil {
			t.Skipf("needs a kernel with that device: %v", err)
		}
	}
	h := newHost(t)
	h.start()
	h.raw("devices.yaml", sample(t, "standalone/devices.yaml"))
	h.until("it has ended", func() bool {
		c := h.get("devices")
		return c != nil && c.Status.State.Terminated != nil
	})
	// Mode and owner are the node's.
	want := listed(t, "/dev/fuse", "/dev/fuse") + listed(t, "/dev/loop-control", "/dev/loop/control") +
		`fuse is open
control is open for reading
/bin/sh: can't create /dev/loop/control: Operation not permitted
control is not open for writing
`
	if got := h.logs("devices"); got != want {
		t.Errorf("found %q; want %q", got, want)
	}

	for name, tc := range map[string]struct{ device, message string }{
		"missing":   {"/dev/no-such-device", "spec.devices[0].path: found nothing at /dev/no-such-device"},
		"directory": {"/dev/pts", "spec.devices[0].path: found /dev/pts (a directory); allowed: a character"},
	} {
		h.write(name+".yaml", "  archive: {path: "+programs+"/busybox.tar}\n  command: [/bin/true]\n"+
			"  devices: [{path: "+tc.device+", containerPath: /dev/x}]\n")
		h.until(name+" is refused", func() bool {
			c := h.get(name)
			return c != nil && c.Status.State.Waiting != nil &&
				c.Status.State.Waiting.Reason == v1alpha1.ReasonCreateFailed &&
				strings.Contains(c.Status.State.Waiting.Message, tc.message)
		})
	}
	h.removeAll("devices.yaml", "missing.yaml", "directory.yaml")
}

// listed returns the line that the sample prints of a device of this machine.
func listed(t *testing.T, device, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		t.Fatal(err)
	}
	mode := os.FileMode(st.Mode & 0o777).String()[1:]
	return fmt.Sprintf("c%s %d %d %d, %d %s\n", mode, st.Uid, st.Gid,
		unix.Major(st.Rdev), unix.Minor(st.Rdev), path)
}
