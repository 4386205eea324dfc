// SPDX-License-Identifier: Apache-2.0

package compile

import "testing"

// TestSameAddress compares values of hostIP in both orders.
func TestSameAddress(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{"", "", true},
		{"", "0.0.0.0", true},
		{"", "::", true},
		{"", "192.0.2.1", true},
		{"0.0.0.0", "192.0.2.1", true},
		{"0.0.0.0", "::ffff:192.0.2.1", true},
		{"::", "2001:db8::1", true},
		{"2001:db8::1", "2001:db8:0::1", true},
		{"0.0.0.0", "::", false},
		{"0.0.0.0", "2001:db8::1", false},
		{"::", "192.0.2.1", false},
		{"127.0.0.1", "192.0.2.1", false},
		{"0.0.0.0", "localhost", false},
	} {
		if sameAddress(tc.a, tc.b) != tc.want || sameAddress(tc.b, tc.a) != tc.want {
			t.Errorf("%q and %q: want %v", tc.a, tc.b, tc.want)
		}
	}
}
