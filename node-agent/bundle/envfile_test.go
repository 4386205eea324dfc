// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/oci/environment"
	"github.com/berth-run/berth/internal/leaktest"
)

// TestReadVolumeFile: a regular file beneath the volume is read, and nothing else that a container
// may put there is opened or waited for.
func TestReadVolumeFile(t *testing.T) {
	leaktest.Check(t)
	base := t.TempDir()
	volume := filepath.Join(base, "volume")
	if err := os.MkdirAll(volume+"/dir", 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, base+"/outside", "A='secret'")
	write(t, volume+"/dir/file", "A='b'\n")
	symlink(t, "dir/file", volume+"/inner")
	symlink(t, "../outside", volume+"/up")
	symlink(t, base+"/outside", volume+"/absolute")
	symlink(t, base, volume+"/base")
	symlink(t, "loop", volume+"/loop")
	symlink(t, "/proc/self/root/etc/passwd", volume+"/magic")
	if err := unix.Mkfifo(volume+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, volume+"/most", strings.Repeat("#", environment.MaxFile))
	write(t, volume+"/large", strings.Repeat("#", environment.MaxFile+1))
	write(t, volume+"/endless", "")
	if err := os.Truncate(volume+"/endless", 1<<40); err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]struct {
		text, fault string
		missing     bool
	}{
		"dir/file":      {text: "A='b'\n"},
		"inner":         {text: "A='b'\n"},
		"most":          {text: strings.Repeat("#", environment.MaxFile)},
		"none":          {missing: true},
		"none/file":     {missing: true},
		"dir":           {fault: "it is no regular file"},
		"fifo":          {fault: "it is no regular file"},
		"up":            {fault: "leads out of the volume"},
		"absolute":      {fault: "leads out of the volume"},
		"base/outside":  {fault: "leads out of the volume"},
		"magic":         {fault: "leads out of the volume"},
		"../outside":    {fault: "leads out of the volume"},
		"loop":          {fault: "leads nowhere"},
		"dir/file/more": {fault: "a file is in place of a directory"},
		"large":         {fault: "it has more than 65536 bytes"},
		"endless":       {fault: "it has more than 65536 bytes"},
	} {
		file, found, err := ReadVolumeFile(volume, in)
		if err != nil || found == want.missing || file.Text != want.text ||
			!strings.Contains(file.Fault, want.fault) || (want.fault == "") != (file.Fault == "") {
			t.Errorf("%s: found %.40q, %q, %t, %v", in, file.Text, file.Fault, found, err)
		}
	}
	if _, _, err := ReadVolumeFile(volume+"/inner", "file"); err == nil {
		t.Error("found a volume that is a link")
	}
}

// TestReadLeasedFile: nobody waits for a process of a container that has a lease on the file.
func TestReadLeasedFile(t *testing.T) {
	leaktest.Check(t)
	volume := t.TempDir()
	f, err := os.Create(volume + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	signal.Ignore(unix.SIGIO) // by which the kernel asks for the lease
	defer signal.Reset(unix.SIGIO)
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		t.Fatal(err)
	}
	file, found, err := ReadVolumeFile(volume, "file")
	if err != nil || !found || file.Fault != "a process has a lease on it" {
		t.Errorf("found %+v, %t, %v; want a fault", file, found, err)
	}
}
