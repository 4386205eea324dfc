// SPDX-License-Identifier: Apache-2.0

// Package importtest serves the tests that hold which packages a package may link.
package importtest

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// fewest is the smallest plausible number of packages: every program of Go links more.
const fewest = 10

// Deps returns the import paths of the package in the current directory and of all that it links.
func Deps(t testing.TB) []string {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	deps := strings.Fields(string(out))
	if len(deps) < fewest {
		t.Fatalf("go list names %d packages only", len(deps))
	}
	return deps
}

// AllowOnly fails the test for each package of deps that is neither allowed nor of the standard
// library.
func AllowOnly(t testing.TB, deps []string, allowed ...string) {
	t.Helper()
	for _, dep := range deps {
		standard := !strings.Contains(dep, ".") || strings.HasPrefix(dep, "vendor/")
		if !standard && !slices.Contains(allowed, dep) {
			t.Errorf("the package depends on %s", dep)
		}
	}
}

// Forbid fails the test for each package of deps that is forbidden.
func Forbid(t testing.TB, deps []string, forbidden ...string) {
	t.Helper()
	for _, dep := range deps {
		if slices.Contains(forbidden, dep) {
			t.Errorf("the package depends on %s", dep)
		}
	}
}
