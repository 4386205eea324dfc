// SPDX-License-Identifier: Apache-2.0

package containerid

import (
	"errors"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		id string
		// want is the error of Check and CheckNew, supervised part of that of CheckSupervised.
		want, supervised string
	}{
		{"a", "", ""},
		{"default_web_0a1b2c3d", "", ""},
		{"_x", "", ""},
		{"9", "", ""},
		{"A.b+c-d", "", ""},
		{strings.Repeat("a", MaxSupervised), "", ""},
		{strings.Repeat("a", MaxSupervised+1), "", "id: found 129 bytes; allowed: at most 128"},
		{strings.Repeat("a", MaxLen), "", "id: found 1024 bytes"},
		{strings.Repeat("a", MaxLen+1), "invalid container ID format", "id: found 1025 bytes"},
		{
			"-a", "", `id: found "-a"; allowed: 1 to 128 of A-Z a-z 0-9 _ + - and dot, beginning with a letter, a digit or "_"`,
		},
		{"+a", "", `id: found "+a"`},
		{"", "invalid container ID format", `id: found ""`},
		{"..", "invalid container ID format", `id: found ".."`},
		{"../x", "invalid container ID format: invalid character `/` in the ID", `id: found "../x"`},
		{"a/b", "invalid container ID format: invalid character `/` in the ID", `id: found "a/b"`},
		{"a b", "invalid container ID format", `id: found "a b"`},
		{"a\x00", "invalid container ID format", `id: found "a\x00"`},
		{"ä", "invalid container ID format", `id: found "ä"`},
	} {
		message := func(err error) string {
			if err == nil {
				return ""
			}
			return err.Error()
		}
		err := Check(c.id)
		if message(err) != c.want || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: found error %v, want %q", c.id, err, c.want)
		}
		if !strings.HasPrefix(c.id, ".") && message(CheckNew(c.id)) != c.want {
			t.Errorf("a new %q: found error %v, want %q", c.id, CheckNew(c.id), c.want)
		}
		got := message(CheckSupervised(c.id))
		if !strings.HasPrefix(got, c.supervised) || (got == "") != (c.supervised == "") {
			t.Errorf("a supervised %q: found error %q, want %q", c.id, got, c.supervised)
		}
	}
	for _, id := range []string{".a", "..a", "..."} {
		if err := Check(id); err != nil {
			t.Errorf("%q, of an older version: %v", id, err)
		}
		if err := CheckNew(id); !errors.Is(err, ErrInvalid) ||
			err.Error() != "invalid container ID format: it begins with a dot" {
			t.Errorf("a new %q: found error %v", id, err)
		}
	}
}
