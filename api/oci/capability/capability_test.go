// SPDX-License-Identifier: Apache-2.0

package capability

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestNumbers compares some numbers with those of linux/capability.h, the first and the last among
// them.
func TestNumbers(t *testing.T) {
	for name, want := range map[string]int{
		"CAP_CHOWN":              unix.CAP_CHOWN,
		"CAP_SETPCAP":            unix.CAP_SETPCAP,
		"CAP_NET_RAW":            unix.CAP_NET_RAW,
		"CAP_SYS_ADMIN":          unix.CAP_SYS_ADMIN,
		"CAP_SETFCAP":            unix.CAP_SETFCAP,
		"CAP_MAC_OVERRIDE":       unix.CAP_MAC_OVERRIDE,
		"CAP_AUDIT_READ":         unix.CAP_AUDIT_READ,
		"CAP_CHECKPOINT_RESTORE": unix.CAP_CHECKPOINT_RESTORE,
	} {
		if got, ok := Number(name); !ok || got != want || Name(want) != name {
			t.Errorf("%s: found number %d and name %q; want %d", name, got, Name(want), want)
		}
	}
	if n := len(Names()); n != unix.CAP_LAST_CAP+1 {
		t.Errorf("found %d capabilities; want %d", n, unix.CAP_LAST_CAP+1)
	}
	for _, name := range []string{"", "chown", "CAP_", "CAP_chown", "ALL"} {
		if n, ok := Number(name); ok {
			t.Errorf("%q has number %d", name, n)
		}
	}
	for _, n := range []int{-1, unix.CAP_LAST_CAP + 1} {
		if name := Name(n); name != "" {
			t.Errorf("%d has the name %q", n, name)
		}
	}
}
