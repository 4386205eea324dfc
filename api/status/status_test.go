// SPDX-License-Identifier: Apache-2.0

package status

import (
	"strings"
	"testing"
)

func TestShorten(t *testing.T) {
	if got := Shorten("short", 100); got != "short" {
		t.Errorf("found %q", got)
	}
	long := strings.Repeat("ä", 1000)
	got := Shorten(long, 100)
	if len(got) > 100 || !strings.Contains(got, "bytes more") || strings.ContainsRune(got, '\uFFFD') {
		t.Errorf("found %d bytes: %q", len(got), got)
	}
}
