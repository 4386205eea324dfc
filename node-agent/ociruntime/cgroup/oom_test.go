// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOOMKills(t *testing.T) {
	for _, tc := range []struct {
		file, text string
		want       uint64
	}{
		{"memory.events", "low 0\nhigh 0\nmax 4\noom 1\noom_kill 2\noom_group_kill 0\n", 2},
		{"memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", 3},
		{"memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n", 0},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, tc.file), []byte(tc.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := OOMKills(dir); got != tc.want {
			t.Errorf("%s %q: %d", tc.file, tc.text, got)
		}
	}
	if got := OOMKills(t.TempDir()); got != 0 {
		t.Errorf("no files: %d", got)
	}
}
