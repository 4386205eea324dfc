// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// TestReadsRecordsOfAllVersions reads a record of each version that people ran, and refuses a newer
// one, whatever else it holds.
func TestReadsRecordsOfAllVersions(t *testing.T) {
	leaktest.Check(t)
	files, err := filepath.Glob("testdata/*/*.json")
	if err != nil || len(files) < 3 {
		t.Fatalf("found %v, %v", files, err)
	}
	for _, file := range files {
		id := strings.TrimSuffix(filepath.Base(file), ".json")
		rec, err := records{dir: filepath.Dir(file)}.read(id)
		if err != nil {
			t.Error(err)
			continue
		}
		if rec.Status.State != protocol.Running || rec.Status.PID == 0 || rec.StartTime == 0 ||
			rec.BootID == "" || rec.Log.Path == "" || rec.Status.Handler == "" {
			t.Errorf("%s: found %+v", file, rec)
		}
		logs := strings.Contains(file, "logging")
		if logs != (rec.Log.LogLimits == protocol.LogLimits{MaxBytes: 1 << 20, MaxFiles: 3}) {
			t.Errorf("%s: found the log %+v", file, rec.Log)
		}
	}
	r := records{dir: t.TempDir()}
	if err := os.WriteFile(r.path("x"), []byte(`{"version":2,"status":"other"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.read("x"); err == nil || !strings.Contains(err.Error(), "found version 2") {
		t.Errorf("found %v; want a refusal of version 2", err)
	}
}
