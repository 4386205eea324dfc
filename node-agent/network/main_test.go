// SPDX-License-Identifier: Apache-2.0

package network

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// lockInto puts the goroutine into a network namespace. Its thread ends with it.
func lockInto(t *testing.T, path string) {
	runtime.LockOSThread()
	f, err := os.Open(path)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Error(err)
	}
}
