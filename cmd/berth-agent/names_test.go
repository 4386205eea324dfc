// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A container finds its own name, with and without a network and a root filesystem of its own, also
// after a restart.
func TestStandaloneNames(t *testing.T) {
	h := newHost(t)
	node, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	rootfs := h.path("rootfs")
	for _, d := range []string{"bin", "proc", "dev", "sys"} {
		if err := os.MkdirAll(filepath.Join(rootfs, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(busybox)
	if err == nil {
		err = os.WriteFile(filepath.Join(rootfs, "bin/busybox"), data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	image, directory := "  archive: {path: "+programs+"/busybox.tar}\n", "  rootfs: {path: "+
		rootfs+"}\n"
	h.start()
	script := func(more string) string {
		return "  command: [/bin/busybox, sh, -c, 'B=/bin/busybox; $B cat /etc/hostname; $B hostname -i; test -f /etc/resolv.conf && echo resolv; " + more + "; exit 1']\n"
	}
	for name, tc := range map[string]struct {
		spec string
		want []string // lines of the first two runs
	}{
		"image": {
			image + script("echo x >> /etc/hosts && echo writable"),
			[]string{"image", "127.0.0.1", "resolv", "writable"},
		},
		"directory": {directory + script("true"), []string{"directory", "127.0.0.1", "resolv"}},
		"hostname": {
			image + "  hostname: other\n" + script("$B ping -c 1 -w 1 hostname | $B head -1"),
			[]string{"other", "127.0.0.1", "PING hostname (127.0.0.1): 56 data bytes"},
		},
		"read-only": {image + "  securityContext: {readOnlyRootFilesystem: true}\n" +
			script("echo x 2>/dev/null >> /etc/hosts || echo read-only"), []string{
			"read-only", "127.0.0.1",
			"resolv", "read-only",
		}},
		"user": {
			image + "  securityContext: {runAsUser: 1000}\n" + script("true"),
			[]string{"user", "127.0.0.1", "resolv"},
		},
		"host": {
			image + "  hostNetwork: true\n" + script("$B ping -c 1 -w 1 host | $B head -1"),
			[]string{node, "PING host (127.0.1.1): 56 data bytes"},
		},
		"own": {image + "  volumes: [{name: h, hostPath: {path: " + h.path("own") +
			"}}]\n  volumeMounts: [{name: h, mountPath: /etc/hosts}]\n" +
			script("$B cat /etc/hosts"), []string{"own", "192.0.2.3"}},
	} {
		if name == "own" {
			if err := os.WriteFile(h.path("own"), []byte("192.0.2.3 own\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		h.write(name+".yaml", tc.spec)
		for _, run := range []string{"first run", "after a restart"} {
			args := []string{name}
			if run == "first run" {
				args = append(args, "--previous")
			}
			h.until(name+" has run twice", func() bool {
				c := h.get(name)
				return c != nil && c.Status.RestartCount >= 1 && c.Status.State.Waiting != nil &&
					c.Status.State.Waiting.Reason == "CrashLoopBackOff"
			})
			lines := strings.Split(h.logs(args...), "\n")
			for _, want := range tc.want {
				if !contains(lines, want) {
					t.Errorf("%s, %s: found %q; want the line %q", name, run, lines, want)
				}
			}
		}
		h.remove(name + ".yaml")
		h.until(name+" is gone", func() bool { return h.get(name) == nil })
	}
	if left := h.leftovers(); left != (counts{}) || h.files() != 0 {
		t.Errorf("found %+v and %d files left", left, h.files())
	}
}

// contains reports whether one of the lines is want, or its first word is.
func contains(lines []string, want string) bool {
	for _, l := range lines {
		if first, _, _ := strings.Cut(l, " "); l == want || first == want {
			return true
		}
	}
	return false
}
