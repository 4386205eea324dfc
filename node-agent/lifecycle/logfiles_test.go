// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-run/berth/internal/leaktest"
)

func TestLogFiles(t *testing.T) {
	leaktest.Check(t)
	dir := t.TempDir()
	if got, err := LastLog(dir); got != "" || err != nil {
		t.Errorf("an empty directory: found %q, %v; want none", got, err)
	}
	for _, name := range []string{"9.log", "10.log", "10.log.1", "11.log.1", "x.log", "notes"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	last, err := LastLog(dir)
	if want := LogFile(dir, 10); last != want || err != nil {
		t.Errorf("found %q, %v; want %q", last, err, want)
	}
	for path, want := range map[string]string{last: LogFile(dir, 9), LogFile(dir, 0): ""} {
		if got, err := LogBefore(path); got != want || err != nil {
			t.Errorf("before %s: found %q, %v; want %q", path, got, err, want)
		}
	}
	if got, err := LogBefore(filepath.Join(dir, "x.log")); err == nil {
		t.Errorf("found %q before a file that is no run's", got)
	}
	if err := dropLogs(dir, 9); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) != 5 {
		t.Errorf("found %v, %v; want all but 9.log", left, err)
	}
}
