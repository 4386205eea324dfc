// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestReadStat reads the state of this process, of a zombie with its exit status, and of no
// process.
func TestReadStat(t *testing.T) {
	own, err := ReadStat(os.Getpid())
	if err != nil || own.Ended() || own.Exiting || own.StartTime == 0 || own.PPID != os.Getppid() {
		t.Errorf("own process: found %+v, %v", own, err)
	}
	cmd := exec.Command("sh", "-c", "exit 3")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		st, err := ReadStat(pid)
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("the child did not become a zombie: %+v, %v", st, err)
		}
		if !st.Ended() {
			continue
		}
		if st.Exit.ExitStatus() != 3 || !st.Exiting || st.StartTime < own.StartTime {
			t.Errorf("found %+v; want exit status 3", st)
		}
		break
	}
	_ = cmd.Wait()
	if _, err := ReadStat(pid); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
		t.Errorf("a reaped process: found %v", err)
	}
}

// TestParseStat reads lines with a command that looks like fields, and refuses lines that are cut
// off.
func TestParseStat(t *testing.T) {
	rest := " Z 1 2 3" + strings.Repeat(" 0", 15) + " 4711" + strings.Repeat(" 0", 29) + " 256"
	st, err := parseStat(7, []byte("7 (a) R 9) b)"+rest))
	if err != nil || st.State != 'Z' || st.StartTime != 4711 || st.Exit.ExitStatus() != 1 {
		t.Errorf("found %+v, %v", st, err)
	}
	for _, line := range []string{"", "7", "7 (sh", "7 (sh) R 1 2 3", "7 (sh)" +
		strings.Replace(rest, "4711", "x", 1)} {
		if st, err := parseStat(7, []byte(line)); err == nil {
			t.Errorf("%q: found %+v; want an error", line, st)
		}
	}
}

// TestBootID returns the kernel's boot id.
func TestBootID(t *testing.T) {
	want, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	if id, err := BootID(); err != nil || id != strings.TrimSpace(string(want)) {
		t.Errorf("found %q, %v; want %q", id, err, want)
	}
}
