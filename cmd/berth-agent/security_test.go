// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
	"testing"

	"github.com/berth-run/berth/api/v1alpha1"
)

// TestSeccompLocalhost: a process runs under the profile of a file of the node. A changed file
// counts from the next start on, and one that is missing or wrong keeps a container from starting.
func TestSeccompLocalhost(t *testing.T) {
	h := newHost(t)
	h.flags = []string{"--seccomp-profile-root", h.path("seccomp")}
	profile := func(call string) {
		text := `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["` + call + `", "` + call +
			`at"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}`
		if err := os.WriteFile(h.path("seccomp/profiles/tool.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(h.path("seccomp/profiles"), 0o700); err != nil {
		t.Fatal(err)
	}
	profile("mkdir")
	h.start()
	h.raw("seccomp.yaml", sample(t, "standalone/seccomp.yaml"))
	c := h.untilRunning("seccomp")
	refuses := func() {
		t.Helper()
		h.until("the program reports", func() bool { return strings.Contains(h.logs("seccomp"), "done") })
	}
	refuses()
	if got, want := h.logs("seccomp"),
		"mkdir: can't create directory '/new': No space left on device\ndone\n"; got != want {
		t.Errorf("found %q; want %q", got, want)
	}

	profile("symlink")
	h.does("restart", "seccomp")
	h.until("it has been restarted", func() bool {
		now := h.get("seccomp")
		return now != nil && now.Status.PID != 0 && now.Status.PID != c.Status.PID
	})
	refuses()
	if got, want := h.logs("seccomp"), "ln: /link: No space left on device\ndone\n"; got != want {
		t.Errorf("after the file has changed: found %q; want %q", got, want)
	}

	if err := os.WriteFile(h.path("seccomp/wrong.json"), []byte(`{"defaultAction": "x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ security, message string }{
		"missing": {
			"seccompProfile: {type: Localhost, localhostProfile: no/such.json}",
			"spec.securityContext.seccompProfile.localhostProfile: found nothing at " + h.path("seccomp/no/such.json"),
		},
		"wrong": {
			"seccompProfile: {type: Localhost, localhostProfile: wrong.json}",
			"linux.seccomp.defaultAction: found \"x\"",
		},
	} {
		h.write(name+".yaml", "  archive: {path: "+programs+"/busybox.tar}\n  command: [/bin/true]\n"+
			"  securityContext: {"+tc.security+"}\n")
		h.untilRefused(name, tc.message)
	}
	h.removeAll("seccomp.yaml", "missing.yaml", "wrong.yaml")
}

// untilRefused waits until a container is not started, with words of the reason.
func (h *host) untilRefused(name, message string) {
	h.t.Helper()
	h.until(name+" is refused", func() bool {
		c := h.get(name)
		return c != nil && c.Status.State.Waiting != nil &&
			c.Status.State.Waiting.Reason == v1alpha1.ReasonCreateFailed &&
			strings.Contains(c.Status.State.Waiting.Message, message)
	})
}
