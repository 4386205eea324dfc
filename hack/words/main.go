// SPDX-License-Identifier: Apache-2.0

// Command words reports words and phrases of comments and pages that CONTRIBUTING.md replaces by
// plainer ones. Its arguments are files: of Go files it reads the comments, of others every line.
// It also reports doc comments that explain a name by a clause, such as "limit is how many files
// there may be", where a noun or a verb stands: "limit is the number of files". It exits with 1 if
// it finds any.
package main

import (
	"bytes"
	"fmt"
	"go/ast"
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

// clause matches the beginning of a doc comment that explains a name by a clause.
var clause = regexp.MustCompile(
	`^\w+ (is|are|was|were) (what|that of|that in|those of|those that|` +
		`whether|why|who|where|when|which|how)\b`)

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
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, path, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return false, err
		}
		found = checkDocs(w, path, set, f)
		text = comments(set, f, bytes.Count(text, []byte("\n"))+1)
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

// checkDocs writes a line for each doc comment of a Go file that begins with a clause, and reports
// whether there is one.
func checkDocs(w io.Writer, path string, set *token.FileSet, f *ast.File) (found bool) {
	check := func(docs ...*ast.CommentGroup) {
		for _, doc := range docs {
			// The text of a nil comment is empty.
			if m := clause.FindString(strings.ReplaceAll(doc.Text(), "\n", " ")); m != "" {
				found = true
				fmt.Fprintf(w, "%s:%d: found %q; use: a verb, or \"is the\" and a noun\n",
					path, set.PositionFor(doc.Pos(), false).Line, m)
			}
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			check(n.Doc)
		case *ast.GenDecl:
			check(n.Doc)
		case *ast.TypeSpec:
			check(n.Doc, n.Comment)
		case *ast.ValueSpec:
			check(n.Doc, n.Comment)
		case *ast.Field:
			check(n.Doc, n.Comment)
		}
		return true
	})
	return found
}

// comments returns the comments of a Go file, each on its own lines; all other lines are empty.
func comments(set *token.FileSet, f *ast.File, count int) []byte {
	lines := make([]string, count)
	for _, group := range f.Comments {
		for _, c := range group.List {
			first := set.PositionFor(c.Pos(), false).Line - 1
			for i, line := range strings.Split(c.Text, "\n") {
				lines[first+i] += line
			}
		}
	}
	return []byte(strings.Join(lines, "\n"))
}
