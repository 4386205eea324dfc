// SPDX-License-Identifier: Apache-2.0

package environment

import "testing"

func TestExpand(t *testing.T) {
	vars := map[string]string{"A": "1", "EMPTY": "", "B": "$(A)"}
	for in, want := range map[string]string{
		"":              "",
		"plain":         "plain",
		"$(A)":          "1",
		"x$(A)y$(A)z":   "x1y1z",
		"$(EMPTY)":      "",
		"$(NONE)":       "$(NONE)",
		"$()":           "$()",
		"$$":            "$",
		"$$(A)":         "$(A)",
		"$$$(A)":        "$1",
		"$$$$(A)":       "$$(A)",
		"$(B)":          "$(A)",
		"$(A":           "$(A",
		"$":             "$",
		"a$":            "a$",
		"$A ${A} $ (A)": "$A ${A} $ (A)",
		"$(A)$(":        "1$(",
		"$($(A))":       "$($(A))",
		"$é(A)":         "$é(A)",
	} {
		if got := Expand(in, vars); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestLiteralIsNotExpanded(t *testing.T) {
	for _, s := range []string{"", "$(A)", "$$(A)", "a$", "$(A)$"} {
		if got := Expand(Literal(s), map[string]string{"A": "1"}); got != s {
			t.Errorf("%q becomes %q", s, got)
		}
	}
}
