// SPDX-License-Identifier: Apache-2.0

// Package leaktest finds goroutines and file descriptors that the tests of a package leave over.
package leaktest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.uber.org/goleak"
)

// patience is how often to look, a tenth of a second apart or more.
const patience = 30

// Tests are a *testing.M, or one with what its package starts for all tests and ends after them.
type Tests interface{ Run() int }

// Run runs the tests of a package and returns the exit code for TestMain: that of the tests, or 1 if
// goroutines or descriptors are left over.
func Run(m Tests, options ...goleak.Option) int {
	before := descriptors()
	code := m.Run()
	if code != 0 {
		return code
	}
	var err error
	for range patience { // what ends them may be under way
		if err = goleak.Find(options...); err == nil {
			break
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "left over:", err)
		code = 1
	}
	var left []string
	for range patience {
		if left = added(before, descriptors()); len(left) == 0 {
			return code
		}
		time.Sleep(100 * time.Millisecond)
	}
	fmt.Fprintf(os.Stderr, "left over: descriptors %s\n", strings.Join(left, ", "))
	return 1
}

// descriptors returns what this process has open, by number.
func descriptors() map[string]string {
	out := map[string]string{}
	links, _ := filepath.Glob("/proc/self/fd/*")
	for _, link := range links {
		target, err := os.Readlink(link)
		if err == nil && !kept(target) {
			out[filepath.Base(link)] = target
		}
	}
	return out
}

// kept reports whether a descriptor stays open by design: the Go runtime opens two once, and envtest keeps its locks on ports.
func kept(target string) bool {
	return target == "anon_inode:[eventpoll]" || target == "anon_inode:[eventfd]" ||
		filepath.Base(filepath.Dir(target)) == "kubebuilder-envtest"
}

func added(before, after map[string]string) []string {
	var out []string
	for fd, target := range after {
		if before[fd] != target {
			out = append(out, fd+" "+target)
		}
	}
	slices.Sort(out)
	return out
}
