// SPDX-License-Identifier: Apache-2.0

package leaktest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeTest is a test whose failure is expected.
type fakeTest struct {
	testing.TB
	cleanup func()
	failed  bool
}

func (f *fakeTest) Cleanup(cleanup func())    { f.cleanup = cleanup }
func (f *fakeTest) Failed() bool              { return f.failed }
func (f *fakeTest) Errorf(_ string, _ ...any) { f.failed = true }

// TestCheck leaves a goroutine and a descriptor over. Those of before the test do not count.
func TestCheck(t *testing.T) {
	end := make(chan struct{})
	defer close(end)
	for name, tc := range map[string]struct {
		test func() error
		want bool
	}{
		"nothing":   {func() error { return nil }, false},
		"goroutine": {func() error { go func() { <-end }(); return nil }, true},
		"descriptor": {func() error {
			f, err := os.Open(os.DevNull)
			if err == nil {
				t.Cleanup(func() { f.Close() })
			}
			return err
		}, true},
	} {
		f := &fakeTest{TB: t}
		check(f, 1)
		if err := tc.test(); err != nil {
			t.Fatal(err)
		}
		if f.cleanup(); f.failed != tc.want {
			t.Errorf("%s: found failed %v; want %v", name, f.failed, tc.want)
		}
	}
}

// pkg is a directory of Go files.
type pkg struct {
	starts bool                       // whether it starts goroutines
	calls  map[string]map[string]bool // by function of a test file: functions that it calls
}

// TestEveryTestIsChecked finds packages that start goroutines, and tests of them that never call
// Check. What a program starts ends with it: these are tested as processes.
func TestEveryTestIsChecked(t *testing.T) {
	packages := map[string]*pkg{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && (d.Name() == "hack" || d.Name() == "test" ||
			d.Name() == "testdata") {
			return fs.SkipDir
		}
		if err != nil || filepath.Ext(path) != ".go" {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil || file.Name.Name == "main" {
			return err
		}
		dir := filepath.Dir(path)
		if packages[dir] == nil {
			packages[dir] = &pkg{calls: map[string]map[string]bool{}}
		}
		packages[dir].read(file, strings.HasSuffix(path, "_test.go"))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for dir, p := range packages {
		if !p.starts {
			continue
		}
		for name := range p.calls {
			if !strings.HasPrefix(name, "Test") || name == "TestMain" {
				continue
			}
			found++
			if !p.reaches(name, map[string]bool{}) {
				t.Errorf("%s: %s does not call leaktest.Check, and no function that it calls does", dir, name)
			}
		}
	}
	if found < 400 {
		t.Errorf("found %d tests of packages that start goroutines; want 400 or more", found)
	}
}

func (p *pkg) read(file *ast.File, test bool) {
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Body == nil {
			continue
		}
		calls := map[string]bool{}
		ast.Inspect(f.Body, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				p.starts = p.starts || !test
			case *ast.CallExpr:
				switch fun := n.Fun.(type) {
				case *ast.Ident:
					calls[fun.Name] = true
				case *ast.SelectorExpr:
					p.starts = p.starts || !test && fun.Sel.Name == "Go"
					if x, ok := fun.X.(*ast.Ident); ok {
						calls[x.Name+"."+fun.Sel.Name] = true
					}
				}
			}
			return true
		})
		if test && f.Recv == nil {
			p.calls[f.Name.Name] = calls
		}
	}
}

// reaches reports whether a function calls Check, itself or through other functions of the tests.
func (p *pkg) reaches(function string, seen map[string]bool) bool {
	seen[function] = true
	calls := p.calls[function]
	if calls["leaktest.Check"] {
		return true
	}
	for f := range calls {
		if !seen[f] && p.reaches(f, seen) {
			return true
		}
	}
	return false
}
