// SPDX-License-Identifier: Apache-2.0

package unixsignal

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	for name, want := range map[string]unix.Signal{
		"KILL": 9, "SIGKILL": 9, "sigterm": 15, "hup": 1, "64": 64, "9": 9, "IOT": 6, "CLD": 17,
		"poll": 29, "RTMIN": 34, "rtmin+1": 35, "SIGRTMIN+30": 64, "RTMAX": 64, "RTMAX-30": 34,
	} {
		if got, err := Parse(name); err != nil || got != want {
			t.Errorf("%s: found %d, %v; want %d", name, got, err, want)
		}
	}
	for _, name := range []string{
		"", "0", "SIG", "FOO", "65", "-1", "1.5", "RTMIN+31", "RTMIN-1",
		"RTMIN+", "RTMIN+x", "RTMAX-31", "RTMAX+1", "SIGSIGKILL",
	} {
		if got, err := Parse(name); err == nil {
			t.Errorf("%q: found %d", name, got)
		}
	}
}
