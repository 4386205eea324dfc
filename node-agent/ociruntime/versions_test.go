// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-run/berth/internal/leaktest"
)

// TestReadsRecordsOfAllVersions reads a record of each version that people ran, and refuses a newer
// one, whatever else it holds.
func TestReadsRecordsOfAllVersions(t *testing.T) {
	leaktest.Check(t)
	files, err := filepath.Glob("testdata/records/*.json")
	if err != nil || len(files) < 3 {
		t.Fatalf("found %v, %v", files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var id struct{ ID string }
		if err := json.Unmarshal(data, &id); err != nil {
			t.Fatal(err)
		}
		rec, err := parseRecord(data, id.ID)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if rec.PID == 0 || rec.StartTime == 0 || rec.Boot == "" || rec.Bundle == "" ||
			len(rec.Cgroups) == 0 || rec.Created.IsZero() {
			t.Errorf("%s: found %+v", file, rec)
		}
	}
	if _, err := parseRecord([]byte(`{"version":2,"id":"x","cgroups":"other"}`), "x"); !errors.Is(err,
		errNewer) {
		t.Errorf("found %v; want errNewer", err)
	}
}

// TestNewerRecordIsLeftAlone: not even `delete --force` guesses at a record of a newer version,
// whose process may live.
func TestNewerRecordIsLeftAlone(t *testing.T) {
	leaktest.Check(t)
	root := t.TempDir()
	dir := filepath.Join(root, "x")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, stateFile)
	if err := os.WriteFile(file, []byte(`{"version":2,"id":"x","pid":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := New(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Delete(t.Context(), "x", true); !errors.Is(err, errNewer) {
		t.Errorf("found %v; want errNewer", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}
