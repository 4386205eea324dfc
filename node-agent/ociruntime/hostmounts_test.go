// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestHostMountNamespace: a container without a mount namespace inherits the host's
// (config-linux.md, Namespaces), has its own root all the same, and takes its mounts with it.
func TestHostMountNamespace(t *testing.T) {
	w := newWorld(t)
	// The process's first thread may be parked by the Go runtime in a mount namespace that a test
	// before this one has made.
	without := func(spec *specs.Spec) *specs.Spec {
		spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces,
			func(n specs.LinuxNamespace) bool {
				return n.Type == specs.MountNamespace
			})
		return spec
	}
	mounted := func() (n int) {
		data, err := os.ReadFile("/proc/thread-self/mountinfo")
		w.must(err)
		return strings.Count(string(data), " "+strings.TrimSuffix(w.file("/"), "/"))
	}
	w.must(os.WriteFile(w.file("/mark"), nil, 0o644))
	s := w.create(without(w.sh("sleep 1000")))
	host, err := os.Readlink("/proc/thread-self/ns/mnt")
	w.must(err)
	if got, err := os.Readlink("/proc/" + strconv.Itoa(s.PID) + "/ns/mnt"); err != nil || got != host {
		t.Errorf("mount namespace %s, %v; want the host's, %s", got, err, host)
	}
	// The root, and what the document mounts on it.
	if got, want := mounted(), 1+len(w.sh("").Mounts); got < want {
		t.Errorf("%d mounts below the root filesystem; want %d", got, want)
	}
	w.must(w.rt.Start(background, w.id))
	if got, _, err := w.tryExec(ExecOptions{Process: &specs.Process{
		Cwd:  "/",
		Args: []string{"sh", "-c", "ls -d /mark /proc/1"}, Env: []string{"PATH=/bin"},
	}}); err != nil ||
		got != "/mark\n/proc/1\n" {
		t.Errorf("exec: %q, %v; want the container's root", got, err)
	}
	w.must(w.rt.Kill(background, w.id, unix.SIGKILL, false))
	w.await("stopped", func() bool { return w.status() == "stopped" })
	reap(s.PID)
	w.must(w.rt.Delete(background, w.id, false))
	if got := mounted(); got != 0 {
		t.Errorf("%d mounts are left below the root filesystem", got)
	}

	// Without any namespace of its own, too.
	bare := w.sh("sleep 1000")
	bare.Linux.Namespaces, bare.Hostname = nil, ""
	s = w.create(bare)
	w.must(w.rt.Start(background, w.id))
	if got, _, err := w.tryExec(ExecOptions{Process: &specs.Process{
		Cwd:  "/",
		Args: []string{"ls", "-d", "/mark"}, Env: []string{"PATH=/bin"},
	}}); err != nil ||
		got != "/mark\n" {
		t.Errorf("exec without namespaces: %q, %v", got, err)
	}
	w.must(w.rt.Delete(background, w.id, true))
	reap(s.PID)

	if got := w.run(without(w.sh("ls -d /mark"))); got != "/mark\n" {
		t.Errorf("run: %q", got)
	}
	w.fails(without(w.spec("/nonexistent")), "no such file or directory")
	if got := mounted(); got != 0 {
		t.Errorf("%d mounts are left after a failure", got)
	}

	user := without(w.sh("true"))
	user.Linux.Namespaces = append(user.Linux.Namespaces,
		specs.LinuxNamespace{Type: specs.UserNamespace})
	user.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 100000, Size: 1000}}
	user.Linux.GIDMappings = user.Linux.UIDMappings
	w.fails(user, "linux.namespaces: found user and no mount")
}
