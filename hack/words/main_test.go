// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for name, tc := range map[string]struct {
		path, text string
		want       []string // the beginnings of the lines that are written
	}{
		"a comment": {"a.go", "package a\n\n// f does so meanwhile.\nfunc f() {}\n", []string{
			`a.go:3: found "meanwhile"`, `a.go:3: found "does so"`,
		}},
		"a comment behind code": {
			"a.go", "package a\n\nvar b = 1 // taken up\n",
			[]string{`a.go:3: found "taken up"`},
		},
		"a comment of many lines": {
			"a.go", "package a\n\n/*\nx\nhas not a name\n*/\n",
			[]string{`a.go:5: found "has not a"`},
		},
		"a clause as a doc comment": {
			"a.go", "package a\n\n// f is what g needs.\nfunc f() {}\n",
			[]string{`a.go:3: found "f is what"`},
		},
		"over two lines": {
			"a.go", "package a\n\n// b is\n// that of c.\nvar b = 1\n",
			[]string{`a.go:3: found "b is that of"`},
		},
		"of a constant in a group": {
			"a.go",
			"package a\n\nconst (\n\t// b is how many there are.\n\tb = 1\n)\n",
			[]string{`a.go:4: found "b is how"`},
		},
		"of a field, behind it": {
			"a.go",
			"package a\n\ntype t struct {\n\tb bool // b is whether it is\n}\n",
			[]string{`a.go:4: found "b is whether"`},
		},
		"of a type": {
			"a.go",
			"package a\n\ntype (\n\t// t are those of a node.\n\tt int\n)\n",
			[]string{`a.go:4: found "t are those of"`},
		},
		"a clause inside of a body": {
			"a.go", "package a\n\nfunc f() {\n\t// It is what g needs.\n}\n",
			nil,
		},
		"a noun as a doc comment": {
			"a.go",
			"package a\n\n// b is the number of what is left.\nvar b = 1\n", nil,
		},
		"a string":    {"a.go", "package a\n\nvar meanwhile = \"// meanwhile\"\n", nil},
		"a page":      {"a.md", "# A\n\nIt tells whether.\n", []string{`a.md:3: found "tells whether"`}},
		"plain words": {"a.md", "A recommended amendment reports whether it has not yet ended.\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			found, err := check(&b, tc.path, []byte(tc.text))
			if err != nil || found != (len(tc.want) > 0) {
				t.Fatalf("found %v, %v; want %v", found, err, len(tc.want) > 0)
			}
			lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
			if len(tc.want) > 0 && len(lines) != len(tc.want) {
				t.Fatalf("found %q; want %q", lines, tc.want)
			}
			for i, want := range tc.want {
				if !strings.HasPrefix(lines[i], want) {
					t.Errorf("found %q; want %q", lines[i], want)
				}
			}
		})
	}
	if _, err := check(&strings.Builder{}, "a.go", []byte("package")); err == nil {
		t.Error("a file that is not Go has no error")
	}
}
