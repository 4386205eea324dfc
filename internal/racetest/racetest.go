// SPDX-License-Identifier: Apache-2.0

// Package racetest collects the races that programs under test report. A test with the race
// detector builds these programs with it, too.
package racetest

import (
	"os"
	"path/filepath"
	"strings"
)

// Collect makes the programs that this process starts report races in files below dir, an absolute
// path. Their standard error may be read by nobody, or be gone when they are killed. They end at
// once: by default the detector waits a second for other threads, in each call of a command.
func Collect(dir string) error {
	return os.Setenv("GORACE", "atexit_sleep_ms=0 log_path="+filepath.Join(dir, "race"))
}

// Reports returns the races that programs have reported below dir, and removes them.
func Reports(dir string) string {
	var out strings.Builder
	files, _ := filepath.Glob(filepath.Join(dir, "race.*"))
	for _, f := range files {
		report, _ := os.ReadFile(f)
		out.Write(report)
		_ = os.Remove(f)
	}
	return out.String()
}
