// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/bundle"
)

// TestReadsRecordsOfAllVersions reads a record and a desired.json of each version that people ran,
// and refuses newer ones, whatever else they hold.
func TestReadsRecordsOfAllVersions(t *testing.T) {
	leaktest.Check(t)
	dirs, err := filepath.Glob("testdata/*/*")
	if err != nil || len(dirs) < 6 {
		t.Fatalf("found %v, %v", dirs, err)
	}
	for _, dir := range dirs {
		t.Run(dir, func(t *testing.T) {
			path, err := filepath.Abs(filepath.Dir(dir))
			if err != nil {
				t.Fatal(err)
			}
			bundles, err := bundle.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			d := bundles.Dir("x")
			if err := os.CopyFS(d.Path(), os.DirFS(filepath.Join(path, filepath.Base(dir)))); err != nil {
				t.Fatal(err)
			}
			r, err := readRecord(d, now, instant)
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]runState{"running": stateRunning, "finished": stateEnded}[filepath.Base(dir)]
			if r.State != want || r.Key.Namespace != "default" || r.UID == "" || r.ID == "" ||
				r.Hash == "" || r.Generation != 1 || r.StartedAt.IsZero() ||
				(r.Exit != nil) != (want == stateEnded) {
				t.Errorf("found the record %+v", r)
			}
			b := readDesired(d)
			if b == nil || b.Name != r.Key.Name || b.UID != r.UID || len(b.Spec.Config.Raw) == 0 {
				t.Fatalf("found the desired bundle %+v", b)
			}
			if hash, err := Hash(&b.Spec); err != nil || hash != r.Hash {
				t.Errorf("found the hash %q (%v) of the spec; want %q", hash, err, r.Hash)
			}
			if logs := strings.Contains(dir, "logging"); logs != (b.Spec.Logging != nil) ||
				logs != (b.Spec.RestartBackOff != nil) ||
				(logs && want == stateEnded) != (r.BackOff.Waits == time.Hour) {
				t.Errorf("found the back-off %+v of %+v, and the log %+v", r.BackOff, b.Spec.RestartBackOff,
					b.Spec.Logging)
			}
			for _, name := range []string{recordFile, desiredFile} {
				newer(t, d.File(name), `{"version":2,"key":"other","metadata":{"name":"x"}}`)
			}
			if _, err := readRecord(d, now, instant); !errors.Is(err, errNewer) {
				t.Errorf("record.json: found %v; want errNewer", err)
			}
			if b := readDesired(d); b != nil {
				t.Errorf("desired.json: found %+v of a newer version", b)
			}
		})
	}
}

func newer(t *testing.T, file, content string) {
	t.Helper()
	if !json.Valid([]byte(content)) {
		t.Fatal(content)
	}
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
