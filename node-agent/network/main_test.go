// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// inside says that the test binary is in a network namespace of its own.
const inside = "BERTH_TEST_NETWORK_NAMESPACE"

// TestMain has the tests run in a network namespace of their own: what they make of bridges, routes
// and rules of iptables goes with the process.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	fetchPlugins()
	if err := enterNew(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// fetchPlugins has the modules that builtPlugins builds in the module cache, since the new network
// namespace leads nowhere. Where it fails, builtPlugins says why.
func fetchPlugins() {
	cmd := exec.Command("go", "mod", "download")
	cmd.Dir = "testdata/plugins"
	cmd.Env = append(os.Environ(), "GOWORK=off")
	_ = cmd.Run()
}

// enterNew executes the test binary again in a new network namespace.
func enterNew() error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	return unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), inside+"=1"))
}

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
