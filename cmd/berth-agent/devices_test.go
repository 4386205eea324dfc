// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/v1alpha1"
)

// driverlessMajor is a major number for local use (Documentation/admin-guide/devices.txt), which the
// kernel assigns to no driver. An open(2) that the device cgroup allows fails with ENXIO, and one
// that it denies with EPERM.
const driverlessMajor = 60

// newDevices creates device nodes without a driver in a new directory of /dev, until the test ends.
// kinds has the mode of each by its name.
func newDevices(t *testing.T, kinds map[string]uint32) (dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("/dev", "berth-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	minor := uint32(1<<20 - 1) // the greatest
	for name, mode := range kinds {
		if err := unix.Mknod(filepath.Join(dir, name), mode, int(unix.Mkdev(driverlessMajor, minor))); err != nil {
			t.Fatal(err)
		}
		minor--
	}
	return dir
}

// TestDevices: a process has the devices of its manifest, with the access that it asks for. A
// container whose device the node does not have is not started, and says which one.
func TestDevices(t *testing.T) {
	h := newHost(t)
	h.start()
	dir := newDevices(t, map[string]uint32{
		"fuse": unix.S_IFCHR | 0o600, "loop-control": unix.S_IFCHR | 0o640,
	})
	text := strings.NewReplacer("{path: /dev/fuse}", "{path: "+dir+"/fuse, containerPath: /dev/fuse}",
		"path: /dev/loop-control", "path: "+dir+"/loop-control").Replace(sample(t, "standalone/devices.yaml"))
	h.raw("devices.yaml", text)
	h.until("it has ended", func() bool {
		c := h.get("devices")
		return c != nil && c.Status.State.Terminated != nil
	})
	want := listed(t, dir+"/fuse", "/dev/fuse") + listed(t, dir+"/loop-control", "/dev/loop/control") +
		`/bin/sh: can't create /dev/fuse: No such device or address
/bin/sh: can't open /dev/loop/control: No such device or address
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

// listed returns the line that the sample prints of a device of this machine, with its mode and
// owner.
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
