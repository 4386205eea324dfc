// SPDX-License-Identifier: Apache-2.0

// Package selinuxtest loads a policy of SELinux for tests, and reads labels.
package selinuxtest

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/selinux"
)

//go:embed policy.cil
var policy string

// Load loads a policy into a kernel that has SELinux and no policy, as in the virtual machine that
// hack/vm starts for it. Elsewhere it skips the test: a machine's own policy must stay. In the
// virtual machine of make test-vm a skip is a failure (-must '^TestSELinux').
func Load(t *testing.T) {
	t.Helper()
	if !strings.HasPrefix(t.Name(), "TestSELinux") {
		t.Fatal("named TestSELinux… it would run where SELinux is enabled: make test-vm selects by that")
	}
	modules, _ := os.ReadFile("/sys/kernel/security/lsm")
	if os.Getenv("BERTH_VM") == "" || !strings.Contains(string(modules), "selinux") {
		t.Skip(`loads a policy: hack/vm/test.sh -append "selinux=1 security=selinux enforcing=0" -run SELinux PACKAGE`)
	}
	secilc, err := exec.LookPath("secilc")
	if err != nil {
		t.Fatalf("needs Debian's secilc: %v", err)
	}
	if selinux.Enabled() {
		return
	}
	dir := t.TempDir()
	source, binary := filepath.Join(dir, "policy.cil"), filepath.Join(dir, "policy")
	if err := os.WriteFile(source, []byte(text()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(secilc, "--mls", "true", "--policyvers", "31", "--output", binary,
		"--filecontext", os.DevNull, source).CombinedOutput(); err != nil {
		t.Fatalf("secilc: %v: %s", err, out)
	}
	data, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("selinuxfs", "/sys/fs/selinux", "selinuxfs", 0, ""); err != nil &&
		!errors.Is(err, unix.EBUSY) {
		t.Fatalf("mount selinuxfs: %v", err)
	}
	load, err := os.OpenFile("/sys/fs/selinux/load", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer load.Close()
	if _, err := load.Write(data); err != nil {
		t.Fatalf("load the policy: %v", err)
	}
	if !selinux.Enabled() {
		t.Fatal("selinux.Enabled says no, with a policy")
	}
}

// text returns the policy with its categories.
func text() string {
	var names, lines []string
	for i := range 1024 {
		names = append(names, fmt.Sprint("c", i))
		lines = append(lines, fmt.Sprintf("(category c%d)", i))
	}
	lines = append(lines, "(categoryorder ("+strings.Join(names, " ")+"))")
	return strings.Replace(policy, "\nCATEGORIES\n", "\n"+strings.Join(lines, "\n")+"\n", 1)
}

// OfProcess returns the label of a process.
func OfProcess(t *testing.T, pid int) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/attr/current", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimRight(string(data), "\x00\n")
}

// OfFile returns the label of a file, or of the link that it is.
func OfFile(t *testing.T, path string) string {
	t.Helper()
	value := make([]byte, 256)
	n, err := unix.Lgetxattr(path, "security.selinux", value)
	if err != nil {
		t.Fatalf("the label of %s: %v", path, err)
	}
	return strings.TrimRight(string(value[:n]), "\x00")
}
