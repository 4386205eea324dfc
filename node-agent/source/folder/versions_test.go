// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReadsStatusOfAllVersions reads the status files of each version that people ran, and refuses
// a newer one, whatever else it holds.
func TestReadsStatusOfAllVersions(t *testing.T) {
	versions, err := filepath.Glob("testdata/*")
	if err != nil || len(versions) < 3 {
		t.Fatalf("found %v, %v", versions, err)
	}
	for _, version := range versions {
		dir := t.TempDir()
		if err := os.CopyFS(statusDir(dir), os.DirFS(version)); err != nil {
			t.Fatal(err)
		}
		all, err := Read(dir)
		if err != nil || len(all) != 2 {
			t.Errorf("%s: found %d, %v; want 2", version, len(all), err)
			continue
		}
		job, x := all[0], all[1]
		if end := job.Status.State.Terminated; end == nil || end.ExitCode != 7 || job.UID == "" ||
			job.Generation != 1 {
			t.Errorf("%s: found %+v; want a job that has ended with 7", version, job)
		}
		if x.Status.PID == 0 || x.Status.State.Running == nil || len(x.Spec.Command) == 0 {
			t.Errorf("%s: found %+v; want a container that runs", version, x)
		}
	}
	dir := t.TempDir()
	if err := os.Mkdir(statusDir(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(statusDir(dir), "default_x.json"),
		[]byte(`{"version":2,"metadata":{"name":"x"},"spec":"other"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := Read(dir); err == nil || !strings.Contains(err.Error(), "found version 2") ||
		len(all) > 0 {
		t.Errorf("found %v, %v; want a refusal of version 2", all, err)
	}
}
