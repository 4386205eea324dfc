// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestJudge(t *testing.T) {
	const pass = "TAP version 13\nok 1 - a\n1..1\n"
	for name, c := range map[string]struct {
		program, stdout, stderr string
		err                     error
		want                    string // a part of the failures; empty: it passes
	}{
		"passes":          {"default", pass, "WARN", nil, ""},
		"nothing written": {"default", "", "", nil, "no TAP output"},
		"nothing written, by right": {
			"process_rlimits_fail", "", "failed to create the container",
			nil, "",
		},
		"exit status": {
			"default", pass, "boom\nat x\n", errors.New("exit status 1"),
			"exit status 1: boom",
		},
		"not ok": {"default", "TAP version 13\nnot ok 1 - a\n1..1\n", "", nil, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			got := strings.Join(judge(c.program, c.stdout, c.stderr, c.err, 0).failures, "; ")
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("found %q, expected %q", got, c.want)
			}
		})
	}
}

func TestReadList(t *testing.T) {
	write := func(text string) string {
		path := filepath.Join(t.TempDir(), "list.md")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	table := "text\n\n| program | cgroup | why |\n|---|---|---|\n| `a` | v1 | one |\n| `b_c` | v1, v2 | two |\n\n| `d` | v1 | another table |\n"
	got, err := readList(write(table), "v2")
	if err != nil || len(got) != 1 || got["b_c"] != "two" {
		t.Errorf("found %v, %v; expected b_c only", got, err)
	}
	if _, err := readList(write(table+
		"\n| program | cgroup | why |\n|---|---|---|\n| `a` | v3 | x |\n"), "v1"); err == nil {
		t.Error("found no error for a malformed row")
	}
}

// The project's own list is well formed.
func TestList(t *testing.T) {
	for _, version := range []string{"v1", "v2"} {
		if list, err := readList("../../docs/conformance.md", version); err != nil || len(list) == 0 {
			t.Errorf("cgroup %s: found %d programs, %v", version, len(list), err)
		}
	}
}

func TestReport(t *testing.T) {
	fail := []outcome{{failures: []string{"x"}}}
	one := []runtime{{name: "berth"}}
	var out strings.Builder
	got := report(&out, []string{"a", "b"}, one, [][]outcome{fail, {{}}},
		map[string]string{"a": "the suite"}, "v1", false)
	if got != 0 {
		t.Errorf("a listed failure: found exit status %d, expected 0\n%s", got, out.String())
	}
	if got := report(&out, []string{"a"}, one, [][]outcome{fail}, nil, "v1", false); got != 1 {
		t.Errorf("a failure that is not listed: found exit status %d, expected 1\n%s", got, out.String())
	}
}
