// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPauseAndPs makes the calls of podman, containerd and people, and expects runc's words and
// exit codes.
func TestPauseAndPs(t *testing.T) {
	root, id := host(t)
	pidFile := filepath.Join(t.TempDir(), "pid")
	berth(t, "--root", root, "run", "-d", "--pid-file", pidFile, "--bundle",
		bundle(t, args("sleep", "1000")), id).is(t, 0, "", "")
	data, err := os.ReadFile(pidFile)
	must(t, err)
	pid := string(data)
	on := func(code int, stdout, stderr string, args ...string) result {
		t.Helper()
		r := berth(t, append([]string{"--root", root}, args...)...)
		r.is(t, code, stdout, stderr)
		return r
	}
	on(1, "", "container not paused", "resume", id)
	on(0, "", "", "pause", id)
	on(0, `"status": "paused"`, "", "state", id)
	on(1, "", "container not running", "pause", id)
	on(0, "", "", "resume", id)
	on(0, `"status": "running"`, "", "state", id)
	on(1, "", "container does not exist", "pause", "none")
	on(1, "", "container does not exist", "resume", "none")
	on(1, "", "container does not exist", "ps", "none")
	on(1, "USAGE:", `"pause" requires exactly 1 argument(s)`, "pause")
	on(1, "USAGE:", `"ps" requires a minimum of 1 argument(s)`, "ps")

	if got := on(0, "", "", "ps", "-f", "json", id).stdout; got != "["+pid+"]\n" {
		t.Errorf("ps -f json: %q; want the pid %s", got, pid)
	}
	for _, options := range [][]string{nil, {"-e", "-o", "pid,args"}, {"-e", "-x"}} {
		lines := strings.Split(strings.TrimSpace(on(0, "PID", "", append([]string{"ps", id},
			options...)...).stdout), "\n")
		if len(lines) != 2 || !strings.Contains(" "+strings.Join(strings.Fields(lines[1]), " ")+" ", " "+
			pid+" ") || !strings.Contains(lines[1], "sleep") {
			t.Errorf("ps %v: %q", options, lines)
		}
	}
	on(1, "", "couldn't find PID field in ps output", "ps", id, "-e", "-o", "args")
	on(1, "", "ps --bogus: exit status 1: ", "ps", id, "--bogus")
	on(1, "", `--format: found "xml"; allowed are table, json`, "ps", "-f", "xml", id)

	on(0, "", "", "pause", id)
	on(0, "", "", "kill", id, "KILL")
	on(0, "", "", "delete", "--force", id)
}
