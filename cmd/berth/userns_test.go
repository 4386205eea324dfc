// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path/filepath"
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestExecInUserNamespace: podman for a plain user calls us as root of a user namespace that it has
// made, which does not own the pid namespace that we are in. A thread that has joined the
// container's cannot come back (setns(2)).
func TestExecInUserNamespace(t *testing.T) {
	u := newPlainUser(t)
	dir := u.bundle(func(s *specs.Spec) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
			return n.Type == specs.UserNamespace
		})
		s.Linux.UIDMappings, s.Linux.GIDMappings = nil, nil
		s.Process.Args = []string{"sleep", "1000"}
	})
	const script = `berth="$0 --root $2"; $berth run -d -b "$1" c; $berth exec c readlink /proc/1/exe; code=0; $berth exec c sh -c 'exit 4' || code=$?; $berth delete -f c; exit $code`
	call(t, u.command("unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", script,
		u.program, dir, filepath.Join(u.home, "run/inside"))).
		is(t, 4, "/bin/busybox\n", "")
}
