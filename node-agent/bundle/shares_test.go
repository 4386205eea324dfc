// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/leaktest"
)

// TestShares: a volume has the sharers that say so themselves. What a killed agent, a loss of power
// or a removed directory leaves behind holds no volume.
func TestShares(t *testing.T) {
	leaktest.Check(t)
	root, err := Open(filepath.Join(t.TempDir(), "bundles"))
	if err != nil {
		t.Fatal(err)
	}
	owner, side, other := root.Dir("owner"), root.Dir("side"), root.Dir("other")
	for _, d := range []Dir{owner, side, other} {
		if err := d.Make(); err != nil {
			t.Fatal(err)
		}
	}
	volume := &v1alpha1.Volume{Name: "v", EmptyDir: &corev1.EmptyDirVolumeSource{}}
	if _, found, err := owner.FindVolume(volume); found || err != nil {
		t.Errorf("found %t, %v before it is made", found, err)
	}
	volumes := []v1alpha1.Volume{*volume, {Name: "w", EmptyDir: &corev1.EmptyDirVolumeSource{}}}
	if made, err := owner.PrepareVolumes(volumes, ""); !made || err != nil {
		t.Fatal(made, err)
	}
	if made, err := owner.PrepareVolumes(volumes, ""); made || err != nil {
		t.Errorf("found %t, %v; want nothing made", made, err)
	}
	share, found, err := owner.FindVolume(volume)
	if !found || err != nil {
		t.Fatal(found, err)
	}
	has := func(want bool) {
		t.Helper()
		if got, err := owner.HasShared(share); got != want || err != nil {
			t.Errorf("found %t, %v whether the volume is the same; want %t", got, err, want)
		}
	}
	has(true)
	memory := volume.DeepCopy()
	memory.EmptyDir.Medium = corev1.StorageMediumMemory
	if _, found, err := owner.FindVolume(memory); found || err != nil {
		t.Errorf("found %t, %v in place of a tmpfs", found, err)
	}
	sharers := func(volume string, want ...string) {
		t.Helper()
		if got, err := owner.Sharers(volume, root.Dir); err != nil || !slices.Equal(got, want) {
			t.Errorf("found the sharers %q of %s, %v; want %q", got, volume, err, want)
		}
	}
	sharers("v")
	for range 2 {
		if err := side.Share("default/side", []Share{share}, root.Dir); err != nil {
			t.Fatal(err)
		}
		sharers("v", "default/side")
		sharers("w")
	}
	if err := other.Share("default/other", []Share{share}, root.Dir); err != nil {
		t.Fatal(err)
	}
	sharers("v", "default/other", "default/side")

	// A file that an agent has left behind says nothing.
	left := owner.sharersDir("w")
	if err := errors.Join(os.MkdirAll(left, 0o700),
		os.WriteFile(filepath.Join(left, "side"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	sharers("w")

	// Another list replaces it.
	share.Volume = "w"
	if err := other.Share("default/other", []Share{share}, root.Dir); err != nil {
		t.Fatal(err)
	}
	sharers("v", "default/side")
	sharers("w", "default/other")

	// A list that cannot be read may hold any volume, until its container is released.
	if err := os.WriteFile(other.File(sharesFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	sharers("w", "other")
	if err := os.WriteFile(other.File(sharesFile), []byte(`{"version":2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	sharers("w", "other")
	if _, err := other.Unshare(root.Dir); err == nil || !other.SharesLeft() {
		t.Errorf("found %v; want the file of a newer version refused", err)
	}
	// So may one that cannot be read at this moment, as for lack of descriptors.
	if err := errors.Join(os.Remove(other.File(sharesFile)),
		os.Mkdir(other.File(sharesFile), 0o700)); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Unshare(root.Dir); err == nil || !other.SharesLeft() {
		t.Errorf("found %v; want that it is tried again", err)
	}
	if err := errors.Join(os.Remove(other.File(sharesFile)),
		os.WriteFile(other.File(sharesFile), []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := other.Unshare(root.Dir); err != nil || other.SharesLeft() {
			t.Fatal(err)
		}
		sharers("w")
	}
	if !side.SharesLeft() {
		t.Error("found nothing left of the shares of side")
	}
	if err := side.Remove(); err != nil {
		t.Fatal(err)
	}
	sharers("v")

	if got, err := owner.Doomed(volumes[:1], ""); err != nil || !slices.Equal(got, []string{"w"}) {
		t.Errorf("found %q, %v; want w, which is not asked for", got, err)
	}
	if got, err := owner.Doomed(volumes, "v"); err != nil || !slices.Equal(got, []string{"v"}) {
		t.Errorf("found %q, %v; want v, which is to be emptied", got, err)
	}
	got, err := owner.Doomed([]v1alpha1.Volume{*memory, volumes[1]}, "")
	if err != nil || !slices.Equal(got, []string{"v"}) {
		t.Errorf("found %q, %v; want v, which a tmpfs would cover", got, err)
	}
	share.Volume = "v"
	held, err := os.Open(owner.Volume("v")) // or the next directory may get its inode
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if _, err := owner.PrepareVolumes(volumes, "v"); err != nil {
		t.Fatal(err)
	}
	has(false)
	share.Volume = "none"
	has(false)
	share.Volume = strings.Repeat("v", 256)
	if got, err := owner.HasShared(share); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("found %t, %v; want an error, since it is not known", got, err)
	}
}

// TestEmptiedOnce: a volume is emptied once for each run.
func TestEmptiedOnce(t *testing.T) {
	leaktest.Check(t)
	d := newDir(t)
	if d.WasEmptied(0) {
		t.Error("found it emptied")
	}
	if err := d.NoteEmptied(3); err != nil {
		t.Fatal(err)
	}
	if !d.WasEmptied(3) || d.WasEmptied(4) || d.WasEmptied(30) {
		t.Error("want it emptied for run 3 alone")
	}
}
