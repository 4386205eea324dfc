// SPDX-License-Identifier: Apache-2.0

// Package needs skips tests on machines that lack something. In CI, where CI is set in the
// environment, nothing may be lacking, and the test fails instead.
package needs

import (
	"os"
	"os/exec"
	"testing"
)

// Root skips the test unless it runs as root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Skip(t, "needs root")
	}
}

// Program returns the path of a program, and skips the test if it is not installed.
func Program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Skip(t, err.Error())
	}
	return path
}

// Skip skips the test for a reason that must not exist in CI, where it fails the test.
func Skip(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}
