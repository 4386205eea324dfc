// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/selinux"
	"github.com/berth-run/berth/internal/selinuxtest"
)

// appArmor loads a profile that denies writes to /denied and below it, until the test ends.
func appArmor(t *testing.T, name string) {
	t.Helper()
	if !strings.HasPrefix(t.Name(), "TestAppArmor") {
		t.Fatal("named TestAppArmor… it would run where AppArmor is enabled: make test-vm selects by that")
	}
	if !appArmorEnabled() {
		t.Skip(`AppArmor is not enabled: hack/vm/test.sh -append "apparmor=1 security=apparmor" -run AppArmor ./node-agent/ociruntime`)
	}
	parser, err := exec.LookPath("apparmor_parser")
	if err != nil {
		t.Fatalf("needs Debian's apparmor: %v", err)
	}
	file := filepath.Join(t.TempDir(), "profile")
	if err := os.WriteFile(file,
		[]byte(fmt.Sprintf(`profile %s flags=(attach_disconnected,mediate_deleted) {
  file, capability, network, mount, umount, signal, ptrace, unix,
  deny /**/denied w,
  deny /denied w,
}
`, name)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, option := range []string{"--replace", "--remove"} {
		run := func() {
			if out, err := exec.Command(parser, option, "--skip-cache", file).CombinedOutput(); err != nil {
				t.Fatalf("apparmor_parser %s: %v: %s", option, err, out)
			}
		}
		if option == "--replace" {
			run()
		} else {
			t.Cleanup(run)
		}
	}
}

// confinement returns the AppArmor profile that the kernel shows for a process.
func confinement(t *testing.T, pid int) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/attr/apparmor/current", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

const tryDenied = `echo x > /denied; echo "denied $?"; echo x > /allowed; echo "allowed $?"; cat /proc/self/attr/apparmor/current`

// TestAppArmor: the process is confined, and so is all that is executed in the container later.
func TestAppArmor(t *testing.T) {
	appArmor(t, "berth-test")
	const confined = "/bin/sh: can't create /denied: Permission denied\ndenied 1\nallowed 0\nberth-test (enforce)\n"
	for name, change := range map[string]func(*specs.Spec){
		"root": func(*specs.Spec) {}, "privileges": func(s *specs.Spec) {
			s.Process.NoNewPrivileges = false
		},
		"user": func(s *specs.Spec) { s.Process.User.UID = 1000 },
		"user namespace": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
			s.Linux.GIDMappings = s.Linux.UIDMappings
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.must(os.MkdirAll(w.file("/proc"), 0o755))
			w.must(os.Chmod(w.file("/"), 0o777))
			spec := w.sh(tryDenied)
			change(spec)
			if len(spec.Linux.UIDMappings) > 0 {
				w.must(filepath.WalkDir(w.file("/"), func(path string, _ os.DirEntry, err error) error {
					return errors.Join(err, os.Lchown(path, 100000, 100000))
				}))
			}
			if out := w.run(spec); !strings.Contains(out, "denied 0\nallowed 0\nunconfined") {
				t.Fatalf("without a profile: %s", out)
			}
			w.must(os.Remove(w.file("/denied")))
			w.must(os.Remove(w.file("/allowed")))
			spec.Process.ApparmorProfile = "berth-test"
			w.prints(spec, confined)
			w.must(os.Remove(w.file("/allowed")))
			spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{
				Path: "/bin/sh",
				Args: []string{"sh", "-c", "cat /proc/self/attr/apparmor/current > /allowed"},
			}}}
			spec.Process.Args = []string{"/bin/sleep", "1000"}
			s := w.start(spec)
			if got := confinement(t, s.PID); got != "berth-test (enforce)" {
				t.Errorf("the first process is %s", got)
			}
			if data, err := os.ReadFile(w.file("/allowed")); err != nil ||
				string(data) != "berth-test (enforce)\n" {
				t.Errorf("the startContainer hook was %q, %v", data, err)
			}
			p, err := w.rt.Exec(background, w.id,
				ExecOptions{Process: &specs.Process{Args: []string{
					"/bin/sh", "-c",
					"echo x > /denied || exec sleep 1000",
				}, Cwd: "/"}})
			w.must(err)
			w.await("the process", func() bool {
				name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.PID))
				return strings.TrimSpace(string(name)) == "sleep"
			})
			if got := confinement(t, p.PID); got != "berth-test (enforce)" {
				t.Errorf("the process that was executed is %s", got)
			}
			p.Kill()
		})
	}
}

// TestAppArmorBehindAFakeProc: a mount of the image or the document over /proc does not redirect
// the write (CVE-2019-16884, CVE-2025-52881).
func TestAppArmorBehindAFakeProc(t *testing.T) {
	appArmor(t, "berth-test")
	for name, change := range map[string]func(w *world, s *specs.Spec){
		"tmpfs on attr": func(_ *world, s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{
				Destination: "/proc/self/attr", Type: "tmpfs",
				Source: "tmpfs",
			})
		},
		"tmpfs on proc": func(_ *world, s *specs.Spec) {
			s.Mounts[0] = specs.Mount{Destination: "/proc", Type: "tmpfs", Source: "tmpfs"}
		},
		"files of the image": func(w *world, s *specs.Spec) {
			s.Mounts = s.Mounts[1:]
			w.write("/proc/self/attr/apparmor/exec", "", 0o666)
			w.write("/proc/self/attr/exec", "", 0o666)
		},
		"a bound file": func(w *world, s *specs.Spec) {
			w.must(os.WriteFile(filepath.Join(w.dir, "fake"), nil, 0o666))
			s.Mounts = append(s.Mounts, specs.Mount{
				Destination: "/proc/self/attr/apparmor/exec",
				Type:        "bind", Source: filepath.Join(w.dir, "fake"), Options: []string{"bind"},
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			spec := w.spec("/bin/sleep", "1000")
			spec.Process.ApparmorProfile = "berth-test"
			change(w, spec)
			s := w.start(spec)
			if got := confinement(t, s.PID); got != "berth-test (enforce)" {
				t.Errorf("the process is %s", got)
			}
			for _, file := range []string{
				filepath.Join(w.dir, "fake"),
				w.file("/proc/self/attr/apparmor/exec"), w.file("/proc/self/attr/exec"),
			} {
				if data, err := os.ReadFile(file); err == nil && len(data) > 0 {
					t.Errorf("%s has %q", file, data)
				}
			}
		})
	}
}

// TestAppArmorMountedOver: where the runtime's own /proc is not to be trusted, nothing runs.
func TestAppArmorMountedOver(t *testing.T) {
	appArmor(t, "berth-test")
	w := newWorld(t)
	spec := w.spec("/bin/true")
	spec.Process.ApparmorProfile = "berth-test"
	// The test's threads share the mounts: the child has them from there.
	attr := fmt.Sprintf("/proc/%d/attr", os.Getpid())
	w.must(unix.Mount("tmpfs", attr, "tmpfs", 0, ""))
	t.Cleanup(func() { w.must(unix.Unmount(attr, unix.MNT_DETACH)) })
	w.run(spec) // over that of another process: the child's own is not concerned
	w.must(unix.Mount("tmpfs", "/proc", "tmpfs", 0, ""))
	_, _, err := w.try(spec)
	w.must(unix.Unmount("/proc", unix.MNT_DETACH))
	if err == nil {
		t.Error("it ran")
	}
}

// TestAppArmorFails: an unknown profile is an error that names it.
func TestAppArmorFails(t *testing.T) {
	appArmor(t, "berth-test")
	w := newWorld(t)
	spec := w.spec("/bin/true")
	spec.Process.ApparmorProfile = "berth-no-such-profile"
	w.fails(spec, "process.apparmorProfile (berth-no-such-profile): write: no such file or directory",
		"no profile of that name is loaded")
}

// TestLabelsWithoutTheirModules: none is dropped in silence, as with runc; "unconfined" is what
// such a host has.
func TestLabelsWithoutTheirModules(t *testing.T) {
	w := newWorld(t)
	if !appArmorEnabled() {
		spec := w.sh("echo ran")
		spec.Process.ApparmorProfile = "unconfined"
		w.prints(spec, "ran\n")
		spec.Process.ApparmorProfile = "p"
		w.fails(spec,
			"process.apparmorProfile: found p; apparmor: config provided but apparmor not supported")
	}
	if !selinux.Enabled() {
		spec := w.sh("echo ran")
		spec.Process.SelinuxLabel = "system_u:system_r:container_t:s0"
		w.fails(spec, "process.selinuxLabel: found "+spec.Process.SelinuxLabel+
			"; selinux label is specified in config, but selinux is disabled or not supported")
		spec = w.sh("echo ran")
		spec.Linux.MountLabel = "system_u:object_r:container_file_t:s0"
		w.fails(spec, "linux.mountLabel: found "+spec.Linux.MountLabel+
			"; selinux label is specified in config, but selinux is disabled or not supported")
	}
}

// TestSELinux: the processes and the files of new filesystems get their contexts.
func TestSELinux(t *testing.T) {
	selinuxtest.Load(t)
	const label, files = "system_u:system_r:container_t:s0:c0,c1",
		"system_u:object_r:container_file_t:s0:c1"
	w := newWorld(t)
	spec := w.spec("/bin/sleep", "1000")
	spec.Process.SelinuxLabel, spec.Linux.MountLabel = label, files
	spec.Linux.MaskedPaths = []string{"/proc/acpi", "/sys/firmware"}
	spec.Mounts = append(spec.Mounts, specs.Mount{
		Destination: "/own", Type: "tmpfs", Source: "tmpfs",
		Options: []string{"context=system_u:object_r:kernel_t:s0"},
	})
	s := w.start(spec)
	context := func(pid int) string {
		t.Helper()
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/attr/current", pid))
		w.must(err)
		return strings.TrimRight(string(data), "\x00\n")
	}
	if got := context(s.PID); got != label {
		t.Errorf("the first process is %s", got)
	}
	for path, want := range map[string]string{
		"/dev/shm": files, "/dev": files, "/dev/null": files, "/dev/pts": files, "/dev/mqueue": files,
		"/sys/firmware": files, "/own": "system_u:object_r:kernel_t:s0",
	} {
		value := make([]byte, 256)
		n, err := unix.Lgetxattr(fmt.Sprintf("/proc/%d/root%s", s.PID, path), "security.selinux", value)
		if got := strings.TrimRight(string(value[:max(n, 0)]), "\x00"); err != nil || got != want {
			t.Errorf("%s is %s, %v; want %s", path, got, err, want)
		}
	}
	p, err := w.rt.Exec(background, w.id,
		ExecOptions{Process: &specs.Process{
			Args: []string{"/bin/sleep", "1000"}, Cwd: "/",
			SelinuxLabel: "system_u:system_r:container_t:s0",
		}})
	w.must(err)
	if got := context(p.PID); got != "system_u:system_r:container_t:s0" {
		t.Errorf("the process that was executed is %s", got)
	}
	p.Kill()
}

// TestSELinuxFails: a context that the policy does not know is an error that names it.
func TestSELinuxFails(t *testing.T) {
	selinuxtest.Load(t)
	w := newWorld(t)
	spec := w.spec("/bin/true")
	spec.Process.SelinuxLabel = "system_u:system_r:unknown_t:s0"
	w.fails(spec, "process.selinuxLabel (system_u:system_r:unknown_t:s0): write: invalid argument",
		"no such user, role, type or level")
	spec.Process.SelinuxLabel, spec.Linux.MountLabel = "", "system_u:object_r:unknown_t:s0"
	w.fails(spec, "(/dev): fsconfig: invalid argument")
}
