// SPDX-License-Identifier: Apache-2.0

// Package leaktest finds goroutines and file descriptors that tests leave over: Check those of one
// test, Run those of all tests of a package.
//
// Each test of a package that starts goroutines calls Check, itself or in its set-up function. The
// test of this package holds that.
package leaktest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience is the number of looks, a tenth of a second apart or more: goroutines may be about to
// end, which takes long on a busy machine.
const patience = 300

// Check fails the test if goroutines or descriptors are left over after its cleanups. It comes
// first in a test, which must not be parallel: those of others would count, too. It calls settle
// before each look, to close what a library keeps for reuse.
func Check(t testing.TB, settle ...func()) {
	t.Helper()
	check(t, patience, settle...)
}

func check(t testing.TB, patience int, settle ...func()) {
	t.Helper()
	before, running := descriptors(), goleak.IgnoreCurrent()
	t.Cleanup(func() {
		t.Helper()
		if t.Failed() {
			return // it may have ended in the middle
		}
		if left := leftOver(before, patience, settle, running); left != "" {
			t.Errorf("left over: %s", left)
		}
	})
}

// Tests runs the tests of a package: a *testing.M, or one that also starts and ends what all tests
// share.
type Tests interface{ Run() int }

// Run runs the tests of a package and returns the exit code for TestMain: that of the tests, or 1
// if goroutines or descriptors are left over.
func Run(m Tests) int {
	before := descriptors()
	code := m.Run()
	if code != 0 {
		return code
	}
	if left := leftOver(before, patience, nil); left != "" {
		fmt.Fprintln(os.Stderr, "left over:", left)
		return 1
	}
	return 0
}

// leftOver returns the goroutines and descriptors that are still there after some patience, or "".
func leftOver(before map[string]string, patience int, settle []func(),
	options ...goleak.Option,
) string {
	var err error
	for range patience {
		for _, f := range settle {
			f()
		}
		if err = goleak.Find(options...); err == nil {
			break
		}
	}
	if err != nil {
		return err.Error()
	}
	var left []string
	for range patience {
		if left = added(before, descriptors()); len(left) == 0 {
			return ""
		}
		time.Sleep(100 * time.Millisecond)
	}
	return "descriptors " + strings.Join(left, ", ")
}

// descriptors returns the open files of this process, by number.
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

// kept reports whether a descriptor stays open by design: the Go runtime opens two once, and
// opencontainers/cgroups one; envtest keeps its locks on ports.
func kept(target string) bool {
	return target == "anon_inode:[eventpoll]" || target == "anon_inode:[eventfd]" ||
		target == "/sys/fs/cgroup" ||
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
