// SPDX-License-Identifier: Apache-2.0

// Command words reports words and phrases of comments and pages that CONTRIBUTING.md replaces by
// plainer ones. Its arguments are files: of Go files it reads the comments, of others every line.
// It exits with 1 if it finds any.
package main

import (
	"bytes"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"os"
	"regexp"
	"strings"
)

// rule pairs a pattern with the words to use in its place.
type rule struct {
	pattern *regexp.Regexp
	use     string
}

var rules = []rule{
	{regexp.MustCompile(`(?i)\bmeanwhile\b`), "concurrently, in between, until then"},
	{regexp.MustCompile(`(?i)\bdoes so\b`), "the verb itself"},
	{regexp.MustCompile(`(?i)\bwhat of (a|an|the|it|this|these|that|one|each)\b`), "the part of"},
	{regexp.MustCompile(`(?i)\bstrangers?\b`), "another's, non-child"},
	{regexp.MustCompile(`(?i)\baccompan(y|ies|ied)\b`), "the steps by their names"},
	{regexp.MustCompile(`(?i)\bmend(s|ed|ing)?\b`), "repair, correct"},
	{regexp.MustCompile(`(?i)\b(takes?|taken|took) up\b`), "continue, adopt, use"},
	{regexp.MustCompile(`(?i)\btells? whether\b`), "reports whether"},
	{regexp.MustCompile(`(?i)\b(has|have) not (an?|any|the|got)\b`), "does not have"},
	{regexp.MustCompile(`(?i)\b(is|are) what is\b`), "a noun"},
}

func main() {
	found := false
	for _, path := range os.Args[1:] {
		text, err := os.ReadFile(path)
		if err == nil {
			var some bool
			some, err = check(os.Stdout, path, text)
			found = found || some
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "words:", err)
			os.Exit(2)
		}
	}
	if found {
		os.Exit(1)
	}
}

// check writes a line for each rule that a line of a file breaks, and reports whether there is one.
func check(w io.Writer, path string, text []byte) (found bool, err error) {
	if strings.HasSuffix(path, ".go") {
		if text, err = comments(path, text); err != nil {
			return false, err
		}
	}
	for n, line := range bytes.Split(text, []byte("\n")) {
		for _, r := range rules {
			if m := r.pattern.Find(line); m != nil {
				found = true
				fmt.Fprintf(w, "%s:%d: found %q; use: %s\n", path, n+1, m, r.use)
			}
		}
	}
	return found, nil
}

// comments returns the comments of a Go file, each on its own lines; all other lines are empty.
func comments(path string, text []byte) ([]byte, error) {
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, path, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	lines := make([]string, bytes.Count(text, []byte("\n"))+1)
	for _, group := range f.Comments {
		for _, c := range group.List {
			first := set.PositionFor(c.Pos(), false).Line - 1
			for i, line := range strings.Split(c.Text, "\n") {
				lines[first+i] += line
			}
		}
	}
	return []byte(strings.Join(lines, "\n")), nil
}
