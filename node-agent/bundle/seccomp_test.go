// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReadSeccomp(t *testing.T) {
	top := t.TempDir()
	root := filepath.Join(top, "seccomp")
	const good = `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}`
	for name, text := range map[string]string{
		"seccomp/good.json":       good,
		"seccomp/below/good.json": good,
		"outside.json":            good,
		"seccomp/docker.json":     `{"defaultAction": "SCMP_ACT_ERRNO", "archMap": []}`,
		"seccomp/text.json":       `allow all`,
		"seccomp/action.json":     `{"defaultAction": "ALLOW"}`,
		"seccomp/empty.json":      ``,
		"seccomp/big.json":        good + strings.Repeat(" ", maxSeccomp),
	} {
		path := filepath.Join(top, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		"link.json": "below/good.json", "absolute.json": top + "/outside.json",
		"out.json": "../outside.json", "loop.json": "loop.json",
	} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(root, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"good.json":       "",
		"below/good.json": "",
		"link.json":       "",
		"absolute.json":   "leads out of",
		"out.json":        "leads out of",
		"../outside.json": "leads out of",
		"loop.json":       "too many levels of symbolic links",
		"missing.json":    "found nothing at " + root + "/missing.json on this node",
		"fifo":            "a fifo",
		"below":           "a directory",
		"docker.json":     "linux.seccomp.archMap",
		"text.json":       "a JSON object",
		"action.json":     "linux.seccomp.defaultAction",
		"empty.json":      "a JSON object",
		"big.json":        "more than 1048576 bytes",
	} {
		profile, err := ReadSeccomp(root, path)
		if want == "" {
			if err != nil || len(profile.Syscalls) != 1 {
				t.Errorf("%s: found %v, %v; want the profile", path, profile, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: found %v; want %q", path, err, want)
		}
	}
	if _, err := ReadSeccomp(root+"x", "good.json"); err == nil ||
		!strings.Contains(err.Error(), "--seccomp-profile-root") {
		t.Errorf("no directory: found %v; want the flag", err)
	}
}
