// SPDX-License-Identifier: Apache-2.0

//go:build race

package racetest

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestReports runs a program with a race, and gets its report once.
func TestReports(t *testing.T) {
	if os.Getenv("RACETEST_RACE") != "" {
		written, done := 0, make(chan struct{})
		go func() {
			written++
			close(done)
		}()
		written++
		<-done
		return
	}
	dir := t.TempDir()
	t.Setenv("GORACE", "")
	if err := Collect(dir); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestReports$")
	cmd.Env = append(os.Environ(), "RACETEST_RACE=1")
	_ = cmd.Run() // its exit code says that there was a race
	if got := Reports(dir); !strings.Contains(got, "WARNING: DATA RACE") {
		t.Errorf("found %q; want a race", got)
	}
	if got := Reports(dir); got != "" {
		t.Errorf("found %q again; want nothing", got)
	}
}
