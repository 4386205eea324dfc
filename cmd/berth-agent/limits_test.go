// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

// TestLimitsOfTheProcess: the kernel gives a process the ulimits, the size of /dev/shm and the
// sysctls of its manifest, also those that a cluster does not allow.
func TestLimitsOfTheProcess(t *testing.T) {
	h := newHost(t)
	h.start()
	text := strings.Replace(sample(t, "limits.yaml"),
		"  sysctls:\n",
		"  sysctls:\n    - {name: kernel.shmmni, value: \"99\"}\n", 1)
	text = strings.Replace(text, "  args:\n  - ", `  args:
  - echo "segments $(cat /proc/sys/kernel/shmmni)"; `, 1)
	h.raw("limits.yaml", text)
	h.untilSucceeded("limits")
	const want = `segments 99
files 4096 of 8192
core 0 of unlimited
shm 131072 KiB
groups 0 2000
ports from 80
`
	if got := h.logs("limits"); got != want {
		t.Errorf("found %q; want %q", got, want)
	}
	h.removeAll("limits.yaml")
}
