// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const plainID = 64322

// plain has a document be one that a plain user can run, and the bundle be his.
func (w *world) plain(spec *specs.Spec) *specs.Spec {
	w.t.Helper()
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
	spec.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: plainID, Size: 1}}
	spec.Linux.GIDMappings = spec.Linux.UIDMappings
	spec.Linux.CgroupsPath = ""
	spec.Mounts[2].Options = spec.Mounts[2].Options[:5] // devpts without gid=5
	w.save(spec)
	w.must(filepath.WalkDir(w.dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, plainID, plainID)
	}))
	return spec
}

// asPlainUser runs the bundle's container from a process of a plain user that is in a cgroup, ""
// for this process's own.
func (w *world) asPlainUser(cgroup string) (string, error) {
	w.t.Helper()
	// The test's program may lie where the user cannot go.
	self, err := os.Executable()
	w.must(err)
	data, err := os.ReadFile(self)
	w.must(err)
	program := filepath.Join(w.dir, "program")
	w.must(os.WriteFile(program, data, 0o755))
	cmd := exec.Command(program, filepath.Join(w.dir, "run"), w.id, w.bundle())
	cmd.Env = []string{helperEnv + "=run", "PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: plainID, Gid: plainID}}
	if cgroup != "" {
		dir, err := os.Open(cgroup)
		w.must(err)
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// delegated makes a cgroup that the plain user may divide, with one for himself below it
// (cgroups(7), Cgroup delegation).
func (w *world) delegated() (top, own string) {
	w.t.Helper()
	if !unified() {
		w.t.Skip("needs cgroup v2: version 1 cannot be delegated safely")
	}
	top = filepath.Join("/sys/fs/cgroup", w.id)
	own = filepath.Join(top, "own")
	w.must(os.MkdirAll(own, 0o755))
	w.t.Cleanup(func() {
		entries, err := os.ReadDir(top)
		w.must(err)
		for _, e := range entries {
			if e.IsDir() && e.Name() != "own" {
				w.t.Errorf("left in the delegated cgroup: %s", e.Name())
			}
		}
		w.must(os.Remove(own))
		w.must(os.Remove(top))
	})
	files, err := os.ReadFile("/sys/kernel/cgroup/delegate")
	w.must(err)
	for _, dir := range []string{top, own} {
		w.must(os.Chown(dir, plainID, plainID))
		for _, f := range strings.Fields(string(files)) {
			if err := os.Chown(filepath.Join(dir, f), plainID, plainID); err != nil && !os.IsNotExist(err) {
				w.t.Fatal(err)
			}
		}
	}
	return top, own
}

// TestPlainUserDelegated: with a delegated cgroup a plain user's containers have limits.
func TestPlainUserDelegated(t *testing.T) {
	w := newWorld(t)
	top, own := w.delegated()
	spec := w.sh(
		"cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max; cat /proc/self/cgroup > /seen; mkdir /sys/fs/cgroup/x 2>&1; exit 0")
	spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(64 << 20))}
	spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(int64(17))}
	// Sh writes to a file what the test reads: the helper's container has /dev/null for its
	// streams.
	spec.Process.Args[2] = "{ " + spec.Process.Args[2] +
		"; } > /out 2>&1; cat /proc/self/mountinfo > /mounts"
	w.plain(spec)
	if out, err := w.asPlainUser(own); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(w.file("/out"))
	w.must(err)
	if want := "67108864\n17\n"; !strings.HasPrefix(string(data), want) ||
		!strings.Contains(string(data), "Read-only file system") {
		t.Errorf("it printed:\n%s\nwant:\n%s", data, want)
	}
	// Without a cgroup namespace it is a read-only view of its own cgroup, which lies beside the
	// user's.
	spec.Linux.Namespaces, spec.Mounts[6].Options = append(spec.Linux.Namespaces[:5],
		spec.Linux.Namespaces[6:]...), []string{"nosuid"}
	data2 := fmt.Sprintf("0::%s\n", strings.TrimPrefix(filepath.Join(top, w.id), "/sys/fs/cgroup"))
	w.save(spec)
	if out, err := w.asPlainUser(own); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	seen, err := os.ReadFile(w.file("/seen"))
	w.must(err)
	data, err = os.ReadFile(w.file("/out"))
	w.must(err)
	if string(seen) != data2 || !strings.HasPrefix(string(data), "67108864\n17\n") ||
		!strings.Contains(string(data), "Read-only file system") {
		t.Errorf("in the cgroup %s it printed:\n%s\nwant %s", seen, data, data2)
	}
}

// TestPlainUserDelegatedFurther: a container that gets its cgroup writable, in namespaces of its
// own, may divide it.
func TestPlainUserDelegatedFurther(t *testing.T) {
	w := newWorld(t)
	_, own := w.delegated()
	spec := w.sh(
		"mkdir /sys/fs/cgroup/x && echo made > /out; echo 0 > /sys/fs/cgroup/x/cgroup.procs && echo moved >> /out; echo 0 > /sys/fs/cgroup/cgroup.procs; rmdir /sys/fs/cgroup/x")
	spec.Mounts[6].Options = []string{"nosuid", "rw"}
	w.plain(spec)
	if out, err := w.asPlainUser(own); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(w.file("/out"))
	if err != nil || string(data) != "made\nmoved\n" {
		t.Errorf("found %q, %v", data, err)
	}
}

// TestPlainUserWithoutCgroup: without rights to make a cgroup, a container without limits goes
// without, and one with limits is refused.
func TestPlainUserWithoutCgroup(t *testing.T) {
	w := newWorld(t)
	spec := w.plain(w.sh(
		"echo ran > /out; ls /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs > /dev/null 2>&1; mkdir /sys/fs/cgroup/x 2> /dev/null && echo writable >> /out; exit 0"))
	for _, namespaced := range []bool{true, false} {
		if !namespaced {
			spec.Linux.Namespaces = append(spec.Linux.Namespaces[:5], spec.Linux.Namespaces[6:]...)
		}
		w.save(spec)
		w.must(os.Chown(filepath.Join(w.bundle(), "config.json"), plainID, plainID))
		if out, err := w.asPlainUser(""); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		data, err := os.ReadFile(w.file("/out"))
		if err != nil || string(data) != "ran\n" {
			t.Errorf("with a cgroup namespace %v: found %q, %v", namespaced, data, err)
		}
	}
	spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(int64(17))}
	w.save(spec)
	if out, err := w.asPlainUser(""); err == nil ||
		!strings.Contains(out,
			"linux.resources.pids.limit: rootless needs no limits + no cgrouppath when no permission is granted for cgroups") {
		t.Errorf("found %v: %s", err, out)
	}
}

// userNamespace returns the path of a user namespace of the plain user's that exists as long as the
// test.
func (w *world) userNamespace() string {
	w.t.Helper()
	cmd := exec.Command("unshare", "--user", "--map-root-user", "sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: plainID, Gid: plainID}}
	w.must(cmd.Start())
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	own, err := os.Readlink("/proc/thread-self/ns/user")
	w.must(err)
	w.await("the mappings", func() bool { // that of before has some, too
		its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
		w.must(err)
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/gid_map", cmd.Process.Pid))
		return err == nil && len(data) > 0 && its != own
	})
	return fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid)
}

// TestPlainUserListenerAndClocks: in a new user namespace and in one that is joined, the runtime of
// a plain user gets the seccomp listener of its child, and the child sets its clocks.
func TestPlainUserListenerAndClocks(t *testing.T) {
	for _, joined := range []bool{false, true} {
		for _, noNewPrivileges := range []bool{false, true} {
			t.Run(fmt.Sprintf("joined %v, no new privileges %v", joined, noNewPrivileges),
				func(t *testing.T) {
					w := newWorld(t)
					a := w.agent()
					w.must(os.Chmod(filepath.Dir(filepath.Dir(a.path)), 0o755))
					w.must(os.Chmod(filepath.Dir(a.path), 0o755))
					w.must(os.Chmod(a.path, 0o777))
					spec := w.sh("mkdir /made 2> /out; cat /proc/self/timens_offsets >> /out; exit 0")
					spec.Process.NoNewPrivileges = noNewPrivileges
					spec.Linux.Seccomp = notifying(a, "mkdir", "mkdirat", "prctl", "close")
					spec.Linux.Namespaces = append(spec.Linux.Namespaces,
						specs.LinuxNamespace{Type: specs.TimeNamespace})
					spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 77}}
					w.plain(spec)
					if joined {
						spec.Linux.UIDMappings, spec.Linux.GIDMappings = nil, nil
						spec.Linux.Namespaces[len(spec.Linux.Namespaces)-1].Path = w.userNamespace()
					}
					w.save(spec)
					w.must(os.Chown(filepath.Join(w.bundle(), "config.json"), plainID, plainID))
					if out, err := w.asPlainUser(""); err != nil {
						t.Fatalf("%v: %s", err, out)
					}
					data, err := os.ReadFile(w.file("/out"))
					if got := strings.Fields(string(data)); err != nil ||
						strings.Join(got,
							" ") != "mkdir: can't create directory '/made': Inappropriate ioctl for device monotonic 0 0 boottime 77 0" {
						t.Errorf("found %q, %v", data, err)
					}
					if state := <-a.states; state.Metadata != "some metadata" || state.State.ID != w.id {
						t.Errorf("the container process state is %+v", state)
					}
				})
		}
	}
}

// TestRootOfUserNamespace: as rootless podman runs it, berth is root of a user namespace that it
// has not made: it cannot make devices, and its containers need no user namespace of their own.
func TestRootOfUserNamespace(t *testing.T) {
	w := newWorld(t)
	spec := w.sh(
		"id -u > /out; stat -c %t:%T /dev/null >> /out; echo x > /dev/null && echo null >> /out; mount -t tmpfs x /mnt 2>/dev/null || echo none >> /out; exit 0")
	w.plain(spec)
	spec.Linux.Namespaces, spec.Linux.UIDMappings, spec.Linux.GIDMappings = spec.Linux.Namespaces[:6],
		nil, nil
	w.save(spec)
	w.must(os.Chown(filepath.Join(w.bundle(), "config.json"), plainID, plainID))
	self, err := os.Executable()
	w.must(err)
	data, err := os.ReadFile(self)
	w.must(err)
	program := filepath.Join(w.dir, "program")
	w.must(os.WriteFile(program, data, 0o755))
	cmd := exec.Command("setpriv", "--reuid", fmt.Sprint(plainID), "--regid", fmt.Sprint(plainID),
		"--clear-groups",
		"unshare", "--user", "--map-root-user", "--mount", program, filepath.Join(w.dir, "run"), w.id,
		w.bundle())
	cmd.Env = []string{helperEnv + "=run", "PATH=/usr/bin:/bin"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := os.ReadFile(w.file("/out"))
	if err != nil || string(out) != "0\n1:3\nnull\nnone\n" {
		t.Errorf("found %q, %v", out, err)
	}
}
