// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-run/berth/internal/leaktest"
)

// TestReadsRecordsOfAllVersions reads the records of each version that people ran, and refuses
// newer ones, whatever else they hold.
func TestReadsRecordsOfAllVersions(t *testing.T) {
	leaktest.Check(t)
	versions, err := filepath.Glob("testdata/*")
	if err != nil || len(versions) < 3 {
		t.Fatalf("found %v, %v", versions, err)
	}
	for _, version := range versions {
		var img imageRecord
		if err := readJSON(filepath.Join(version, "image.json"), &img); err != nil ||
			img.Manifest == "" || img.ConfigID == "" || len(img.Layers) == 0 || img.Size == 0 {
			t.Errorf("%s: found %+v, %v", version, img, err)
		}
		var ref refRecord
		if err := readJSON(filepath.Join(version, "ref.json"), &ref); err != nil || ref.Ref == "" ||
			ref.Manifest != img.Manifest || ref.File == nil {
			t.Errorf("%s: found %+v, %v", version, ref, err)
		}
	}
}

// TestNewerRecordIsRefused: a store with a record of a newer version opens, and refuses that image;
// the record stays.
func TestNewerRecordIsRefused(t *testing.T) {
	leaktest.Check(t)
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	r, err := parseReference("registry.test/x:1")
	if err != nil {
		t.Fatal(err)
	}
	const content = `{"version":2,"ref":["other"]}`
	if err := os.WriteFile(s.refPath(r), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(dir, "images", "sha256", "1.json")
	if err := os.MkdirAll(filepath.Dir(image), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	layer := filepath.Join(dir, "layers", "sha256", "2", "diff")
	if err := os.MkdirAll(layer, 0o700); err != nil {
		t.Fatal(err)
	}
	// As after a boot, when layers that no record names are removed.
	if err := errors.Join(s.Close(), os.Remove(filepath.Join(dir, "boot"))); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(dir); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, policy := range []PullPolicy{IfNotPresent, Never, Always} {
		if _, err := s.Ensure(t.Context(), "registry.test/x:1", policy); !errors.Is(err, errNewer) {
			t.Errorf("%s: found %v; want errNewer", policy, err)
		}
	}
	for _, path := range []string{s.refPath(r), image, layer} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}

// TestBootDropsUnrecordedLayers: after a boot, only layers that a record names count as whole.
func TestBootDropsUnrecordedLayers(t *testing.T) {
	leaktest.Check(t)
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.writeJSON(filepath.Join(dir, "images", "sha256", "1.json"),
		imageRecord{Layers: []string{
			"layers/sha256/named/diff",
			"chains/sha256/named/diff",
		}}); err != nil {
		t.Fatal(err)
	}
	// The journal has restored this one after a command beside the agent had removed the image.
	if err := s.writeJSON(filepath.Join(dir, "images", "sha256", "2.json"),
		imageRecord{Layers: []string{
			"layers/sha256/partial/diff",
			"layers/sha256/removed/diff",
		}}); err != nil {
		t.Fatal(err)
	}
	there := func(name string) bool { return isDir(filepath.Join(dir, name, "diff")) }
	all := []string{
		"layers/sha256/named", "chains/sha256/named", "layers/sha256/partial",
		"chains/sha256/partial",
	}
	for _, name := range all {
		if err := os.MkdirAll(filepath.Join(dir, name, "diff"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, rebooted := range []bool{false, true} {
		if rebooted {
			if err := os.WriteFile(filepath.Join(dir, "boot"), []byte("another boot"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if s, err = Open(dir); err != nil {
			t.Fatal(err)
		}
		for i, name := range all {
			if want := i < 2 || !rebooted; there(name) != want {
				t.Errorf("rebooted %v: %s is there: %v; want %v", rebooted, name, !want, want)
			}
		}
	}
	_ = s.Close()
}

// TestBootLeavesOtherStores: a store's path is no pattern. Were it one, a boot would remove the
// layers of each store that it matches, and none of its own.
func TestBootLeavesOtherStores(t *testing.T) {
	leaktest.Check(t)
	dir := t.TempDir()
	layer := func(store string) string {
		return filepath.Join(dir, store, "layers", "sha256", "partial")
	}
	for _, store := range []string{"store1", "store[1]"} {
		if err := os.MkdirAll(layer(store), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Open(filepath.Join(dir, "store[1]"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for store, want := range map[string]bool{"store1": true, "store[1]": false} {
		if isDir(layer(store)) != want {
			t.Errorf("the layer of %s is there: %v; want %v", store, !want, want)
		}
	}
}
