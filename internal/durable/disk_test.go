// SPDX-License-Identifier: Apache-2.0

package durable

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
)

// disk is a file that holds an ext4 filesystem. A copy of it is what a loss of power leaves of the
// disk: the kernel writes to it what is flushed, and of the rest nothing for minutes.
type disk struct {
	*testing.T
	image, dir string
}

func (d *disk) run(name string, args ...string) {
	d.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		d.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

func newDisk(t *testing.T) *disk {
	t.Helper()
	needs.Root(t)
	mkfs := needs.Program(t, "mkfs.ext4")
	d := &disk{T: t, image: filepath.Join(t.TempDir(), "disk"), dir: t.TempDir()}
	err := errors.Join(os.WriteFile(d.image, nil, 0o600), os.Truncate(d.image, 128<<20))
	if err != nil {
		t.Fatal(err)
	}
	d.run(mkfs, "-q", d.image)
	d.mount()
	return d
}

// mount mounts the disk. The interval of commits (ext4(5)) is longer than any test takes.
func (d *disk) mount() {
	d.Helper()
	d.run("mount", "-o", "loop,commit=300", d.image, d.dir)
	d.Cleanup(func() { _ = unix.Unmount(d.dir, unix.MNT_DETACH) })
}

// afterPowerLoss returns the disk as it is if the power is lost now.
func (d *disk) afterPowerLoss() *disk {
	d.Helper()
	left := &disk{T: d.T, image: filepath.Join(d.TempDir(), "disk"), dir: d.TempDir()}
	d.run("cp", "--sparse=always", d.image, left.image)
	left.mount()
	return left
}

// TestJournalOnDisk loses the power of a real filesystem: what was flushed is there, also after the
// journal was written anew. What was only replaced is not, so the flush is what keeps it.
func TestJournalOnDisk(t *testing.T) {
	leaktest.Check(t)
	d := newDisk(t)
	m := &machine{T: t, dir: d.dir}
	j := m.open()
	m.put(j, "a/1.json", "flushed")
	m.flush(j)
	m.put(j, "a/1.json", "not flushed")
	m.put(j, "b/2.json", "not flushed")
	left := &machine{T: t, dir: d.afterPowerLoss().dir, boot: 1}
	left.has("b/2.json", "")
	left.open()
	left.has("a/1.json", "flushed")
	left.has("b/2.json", "")

	big := strings.Repeat("x", 256<<10)
	for i := range 4 + journalSlack/len(big) {
		m.put(j, "b/2.json", fmt.Sprint(i, big))
	}
	m.put(j, "a/1.json", "at last")
	before := j.end
	m.flush(j)
	if j.end >= before {
		t.Fatalf("the journal has %d bytes, as before; want it to be written anew", j.end)
	}
	left = &machine{T: t, dir: d.afterPowerLoss().dir, boot: 1}
	left.open()
	left.has("a/1.json", "at last")
}
