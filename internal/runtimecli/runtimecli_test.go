// SPDX-License-Identifier: Apache-2.0

package runtimecli

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
)

// TestRun passes a signal on, keeps another one back, and returns exit codes as a shell does.
func TestRun(t *testing.T) {
	leaktest.Check(t)
	signals := []os.Signal{unix.SIGUSR1, unix.SIGUSR2}
	first := func(s os.Signal) bool { return s == unix.SIGUSR1 }
	for script, want := range map[string]int{
		"exit 0":     0,
		"exit 7":     7,
		"kill -9 $$": 137,
		// Its parent is this process.
		"trap 'exit 3' USR1; trap 'exit 4' USR2; kill -USR2 $PPID; sleep 0.1; kill -USR1 $PPID;" +
			" while :; do sleep 0.01; done": 3,
	} {
		if got, err := Run(exec.Command("sh", "-c", script), signals, first); got != want || err != nil {
			t.Errorf("%s: found %d, %v; want %d", script, got, err, want)
		}
	}
	if _, err := Run(exec.Command("/nowhere"), signals, first); err == nil {
		t.Error("found no error for a program that does not exist")
	}
}

// TestLastError passes over messages of other levels, and lines that are no JSON.
func TestLastError(t *testing.T) {
	leaktest.Check(t)
	log, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if got := LastError(log); got != "" {
		t.Errorf("found %q in an empty log", got)
	}
	_, err = log.WriteString(`{"level":"error","msg":"first"}
{"level":"fatal","msg":"second"}
no json
{"level":"warning","msg":"third"}
`)
	if err != nil {
		t.Fatal(err)
	}
	if got := LastError(log); got != "second" {
		t.Errorf("found %q; want %q", got, "second")
	}
}
