// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestDelegation: the root of a user namespace that gets its hierarchy writable owns what
// /sys/kernel/cgroup/delegate lists, and can divide its cgroup; its limits it cannot change.
func TestDelegation(t *testing.T) {
	if !unified() {
		t.Skip("cgroups of version 1 are never handed to a container")
	}
	w := newWorld(t)
	spec := w.sh(
		"mkdir /sys/fs/cgroup/below && echo 0 > /sys/fs/cgroup/below/cgroup.procs && echo divided; echo max > /sys/fs/cgroup/pids.max || echo refused")
	spec.Linux.Namespaces = append(spec.Linux.Namespaces,
		specs.LinuxNamespace{Type: specs.UserNamespace})
	spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	spec.Linux.GIDMappings = spec.Linux.UIDMappings
	spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(int64(20))}
	for i := range spec.Mounts {
		if spec.Mounts[i].Type == "cgroup" {
			spec.Mounts[i].Options = []string{"rw", "nosuid", "noexec", "nodev"}
		}
	}
	w.must(os.Chown(w.file("/"), 100000, 100000))
	if out := w.run(spec); !strings.HasPrefix(out, "divided\n") ||
		!strings.HasSuffix(out, "refused\n") {
		t.Errorf("it printed %s", out)
	}
	owner := func() (list []string) {
		dir := "/sys/fs/cgroup" + w.cgroup
		entries, err := os.ReadDir(dir)
		w.must(err)
		for _, name := range append([]string{"."}, names(entries)...) {
			st, err := os.Lstat(filepath.Join(dir, name))
			w.must(err)
			if st.Sys().(*syscall.Stat_t).Uid == 100000 {
				list = append(list, name)
			}
		}
		return list
	}
	spec.Process.Args = []string{"/bin/sleep", "1000"}
	w.start(spec)
	got := owner()
	if !slices.Contains(got, ".") || !slices.Contains(got, "cgroup.procs") ||
		slices.Contains(got, "pids.max") {
		t.Errorf("it owns %v", got)
	}
	w.must(w.rt.Delete(background, w.id, true))
	spec.Mounts[len(spec.Mounts)-1].Options = []string{"ro", "nosuid", "noexec", "nodev"}
	w.start(spec)
	if got := owner(); len(got) > 0 {
		t.Errorf("with a read-only mount it owns %v", got)
	}
}

func names(entries []os.DirEntry) (list []string) {
	for _, e := range entries {
		if !e.IsDir() {
			list = append(list, e.Name())
		}
	}
	return list
}

// TestKillAllForking: without a pid namespace of its own, every process of the container ends by
// kill --all, those that fork during the kill and those in cgroups below its own too, and no other.
func TestKillAllForking(t *testing.T) {
	w := newWorld(t)
	spec := w.sh("while :; do /bin/sleep 0.01 & done")
	spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces,
		func(n specs.LinuxNamespace) bool {
			return n.Type == specs.PIDNamespace
		})
	// The shell ends if it cannot fork: on a busy machine the limit must be far from what it has at
	// a time.
	spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(int64(1000))}
	s := w.start(spec)
	w.await("it to fork", func() bool {
		pids, _ := w.rt.Processes(background, w.id)
		return len(pids) > 5
	})
	w.must(w.rt.Kill(background, w.id, unix.SIGKILL, true))
	reap(s.PID)
	w.await("the end of all", func() bool {
		pids, err := w.rt.Processes(background, w.id)
		return err == nil && len(pids) == 0
	})
}
