// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"
)

func TestParseSince(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for s, want := range map[string]time.Time{
		"": {}, "10m": now.Add(-10 * time.Minute), "2026-01-02T03:00:00Z": time.Date(2026, 1, 2, 3, 0, 0,
			0, time.UTC),
		"2026-01-02T04:00:00.5+01:00": time.Date(2026, 1, 2, 3, 0, 0, 500000000, time.UTC),
	} {
		if got, err := parseSince(s, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: found %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"yesterday", "-5m", "10", "2026-01-02"} {
		if _, err := parseSince(s, now); err == nil || !strings.Contains(err.Error(), "allowed:") {
			t.Errorf("%q: found %v", s, err)
		}
	}
}
