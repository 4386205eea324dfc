// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/needs"
)

// plainUser is a user of no other's, with a home, a program and a runtime directory of his own.
type plainUser struct {
	t    *testing.T
	id   uint32
	home string
	// subordinate says that subuid(5) and subgid(5) give him 65536 ids from subordinateIDs on.
	subordinate bool
	// program is his own copy of berth.
	program string
	// runtime is his XDG_RUNTIME_DIR.
	runtime string
}

const (
	plainID        = 64321
	subordinateIDs = 200000
)

// newPlainUser fails the test if the user's runtime directory or a process of his is left when it
// ends.
func newPlainUser(t *testing.T) *plainUser {
	t.Helper()
	needs.Root(t)
	home, err := os.MkdirTemp("", "rootless")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(home) })
	u := &plainUser{
		t: t, id: plainID, home: home, program: filepath.Join(home, "bin/berth"),
		runtime: filepath.Join(home, "run"),
	}
	must(t, os.MkdirAll(filepath.Join(home, "run"), 0o700))
	must(t, os.MkdirAll(filepath.Join(home, "bin"), 0o755))
	data, err := os.ReadFile(program)
	must(t, err)
	must(t, os.WriteFile(u.program, data, 0o755))
	u.own(home)
	t.Cleanup(func() {
		u.berth("delete", "--force", "c").is(t, 0, "", "")
		entries, err := os.ReadDir(filepath.Join(home, "run/berth"))
		// compiled filters
		entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return e.Name() == "@seccomp" })
		if err != nil && !os.IsNotExist(err) || len(entries) > 0 {
			t.Errorf("left in the user's runtime directory: %v, %v", entries, err)
		}
		// What the container's first process leaves is reaped by init, which may take its time.
		for deadline := time.Now().Add(patience); len(u.processes()) > 0; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Errorf("processes left: %v", u.processes())
				break
			}
		}
	})
	return u
}

// own gives a tree to the user.
func (u *plainUser) own(dir string) {
	u.t.Helper()
	must(u.t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(u.id), int(u.id))
	}))
}

// processes returns the processes that run as the user or as one of the user's subordinate ids.
func (u *plainUser) processes() (out []string) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		data, err := os.ReadFile(dir + "/status")
		if err != nil || strings.Contains(string(data), "\nState:\tZ") {
			continue
		}
		_, after, _ := strings.Cut(string(data), "\nUid:\t")
		uid := uint32(0)
		if _, err := fmt.Sscan(after, &uid); err == nil && (uid == u.id || uid >= subordinateIDs &&
			uid < subordinateIDs+65536) {
			name, _, _ := strings.Cut(string(data), "\n")
			out = append(out, dir+" "+name)
		}
	}
	return out
}

// command returns a call as the user, in a mount namespace whose /etc/subuid and /etc/subgid are
// the test's.
func (u *plainUser) command(argv ...string) *exec.Cmd {
	u.t.Helper()
	ids := ""
	if u.subordinate {
		ids = fmt.Sprintf("%d:%d:65536\n", u.id, subordinateIDs)
	}
	etc := filepath.Join(u.home, "etc")
	must(u.t, os.MkdirAll(etc, 0o755))
	passwd, err := os.ReadFile("/etc/passwd")
	must(u.t, err)
	for file, content := range map[string]string{
		// newuidmap takes no user without a name.
		"passwd": fmt.Sprintf("%splain:x:%d:%d::%s:/bin/sh\n", passwd, u.id, u.id, u.home), "subuid": ids,
		"subgid": ids,
	} {
		must(u.t, os.WriteFile(filepath.Join(etc, file), []byte(content), 0o644))
	}
	// setpriv keeps no group of root's.
	script := `for f in passwd subuid subgid; do mount --bind "$1/$f" /etc/$f || exit 99; done; shift; id=$1; shift
		exec setpriv --reuid $id --regid $id --clear-groups --inh-caps=-all -- "$@"`
	cmd := exec.Command("unshare", append([]string{
		"--mount", "--", "sh", "-c", script, "sh", etc,
		fmt.Sprint(u.id),
	}, argv...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + u.home, "XDG_RUNTIME_DIR=" + u.runtime}
	cmd.Dir = u.home
	return cmd
}

func (u *plainUser) berth(args ...string) result {
	u.t.Helper()
	return call(u.t, u.command(append([]string{u.program}, args...)...))
}

// bundle is one of the user's own, from what `berth spec --rootless` writes.
func (u *plainUser) bundle(change func(*specs.Spec)) string {
	u.t.Helper()
	dir, err := os.MkdirTemp(u.home, "bundle")
	must(u.t, err)
	made := bundle(u.t, nil)
	must(u.t, os.Rename(filepath.Join(made, "rootfs"), filepath.Join(dir, "rootfs")))
	must(u.t, os.Symlink("busybox", filepath.Join(dir, "rootfs/bin/id")))
	u.own(dir)
	u.berth("spec", "--rootless", "-b", dir).is(u.t, 0, "", "")
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	must(u.t, err)
	spec := &specs.Spec{}
	must(u.t, json.Unmarshal(data, spec))
	spec.Process.Terminal, spec.Root.Readonly = false, false
	if change != nil {
		change(spec)
	}
	data, err = json.Marshal(spec)
	must(u.t, err)
	must(u.t, os.WriteFile(filepath.Join(dir, "config.json"), data, 0o644))
	return dir
}

// run runs a script in a container of the user's own.
func (u *plainUser) run(script string, change func(*specs.Spec)) result {
	u.t.Helper()
	return u.berth("run", "-b", u.bundle(func(s *specs.Spec) {
		s.Process.Args = []string{"sh", "-c", script}
		if change != nil {
			change(s)
		}
	}), "c")
}

// manyIDs has the container's ids from 1 on be the user's subordinates.
func manyIDs(s *specs.Spec) {
	s.Linux.UIDMappings = append(s.Linux.UIDMappings, specs.LinuxIDMapping{
		ContainerID: 1,
		HostID:      subordinateIDs, Size: 65535,
	})
	s.Linux.GIDMappings = append(s.Linux.GIDMappings, specs.LinuxIDMapping{
		ContainerID: 1,
		HostID:      subordinateIDs, Size: 65535,
	})
	s.Process.Capabilities.Bounding = []string{
		"CAP_CHOWN", "CAP_SETUID", "CAP_SETGID",
		"CAP_DAC_OVERRIDE",
	}
	s.Process.Capabilities.Effective,
		s.Process.Capabilities.Permitted = s.Process.Capabilities.Bounding,
		s.Process.Capabilities.Bounding
}

// TestSpecRootless: it is runc's.
func TestSpecRootless(t *testing.T) {
	u := newPlainUser(t)
	u.berth("spec", "--rootless", "-b", u.home).is(t, 0, "", "")
	data, err := os.ReadFile(filepath.Join(u.home, "config.json"))
	must(t, err)
	spec := &specs.Spec{}
	must(t, json.Unmarshal(data, spec))
	var types []string
	for _, n := range spec.Linux.Namespaces {
		types = append(types, string(n.Type)+n.Path)
	}
	slices.Sort(types)
	want := []specs.LinuxIDMapping{{HostID: plainID, Size: 1}}
	namespaces := []string{"ipc", "mount", "pid", "user", "uts"}
	if cgroups.IsCgroup2UnifiedMode() {
		namespaces = append([]string{"cgroup"}, namespaces...)
	}
	if !slices.Equal(types, namespaces) || !slices.Equal(spec.Linux.UIDMappings, want) ||
		!slices.Equal(spec.Linux.GIDMappings, want) ||
		spec.Linux.Resources != nil || strings.Contains(string(data), "gid=") ||
		!strings.Contains(string(data), `"rbind"`) {
		t.Errorf("found %s", data)
	}
	u.berth("spec", "-f", "other.json").is(t, 0, "", "")
	u.berth("spec", "-f", "other.json").is(t, 1, "", "File other.json exists. Remove it first")
	// root.path is not there
	u.berth("validate", "-b", u.home, "-f", filepath.Join(u.home, "other.json")).is(t, 1, "", "")
}

// TestRootless: a plain user without subordinate ids and without a cgroup runs, looks at and
// removes containers.
func TestRootless(t *testing.T) {
	u := newPlainUser(t)
	u.run("id -u; id -g; tr -s ' ' < /proc/self/uid_map; cat /proc/self/setgroups; echo x > /dev/null && echo null; echo made > /made; exit 3", nil).
		is(t, 3, "0\n0\n 0 64321 1\ndeny\nnull\n", "")
	if st, err := os.Stat(filepath.Join(u.home, "run/berth")); err != nil || st.Mode() != fs.ModeDir|
		fs.ModeSticky|0o700 {
		t.Errorf("the directory of the containers: %v, %v", st, err)
	}
	dir := u.bundle(args("sleep", "1000"))
	u.berth("run", "-d", "-b", dir, "c").is(t, 0, "", "")
	u.berth("state", "c").is(t, 0, `"status": "running"`, "")
	u.berth("list").is(t, 0, "plain", "")
	u.berth("ps", "c").is(t, 0, "sleep 1000", "")
	u.berth("pause", "c").is(t, 1, "", "cgroup")
	u.berth("delete", "c").is(t, 1, "", "cannot delete container c that is not stopped: running")
	u.berth("kill", "c", "0").is(t, 0, "", "")
	u.berth("kill", "--all", "c", "KILL").is(t, 0, "", "")
	for deadline := time.Now().Add(patience); !strings.Contains(u.berth("state", "c").stdout,
		`"status": "stopped"`); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not stop")
		}
	}
	u.berth("delete", "c").is(t, 0, "", "")
	u.berth("create", "-b", dir, "c").is(t, 0, "", "")
	u.berth("start", "c").is(t, 0, "", "")
	u.berth("delete", "--force", "c").is(t, 0, "", "")
	u.berth("state", "c").is(t, 1, "", "container does not exist")
}

// TestRootlessManyIDs: newuidmap and newgidmap map the ids of /etc/subuid and /etc/subgid.
func TestRootlessManyIDs(t *testing.T) {
	u := newPlainUser(t)
	u.subordinate = true
	script := "tr -s ' ' < /proc/self/uid_map; touch /own /other; chown 7:8 /other; id -G; exit 0"
	groups := func(s *specs.Spec) {
		manyIDs(s)
		s.Process.User.AdditionalGids = []uint32{9}
	}
	r := u.berth("run", "-b", u.bundle(func(s *specs.Spec) {
		groups(s)
		s.Process.Args = []string{"/bin/busybox", "sh", "-c", script}
	}), "c")
	r.is(t, 0, " 0 64321 1\n 1 200000 65535\n0 9\n", "")
	made, _ := filepath.Glob(filepath.Join(u.home, "bundle*/rootfs/other"))
	var st unix.Stat_t
	if len(made) != 1 || unix.Stat(made[0], &st) != nil || st.Uid != subordinateIDs+6 ||
		st.Gid != subordinateIDs+7 {
		t.Errorf("found %v, %d:%d; want the subordinate ids", made, st.Uid, st.Gid)
	}
	// A process of another user than root can be signalled as well.
	u.berth("run", "-d", "-b", u.bundle(func(s *specs.Spec) {
		groups(s)
		s.Process.User.UID = 7
		s.Process.Args = []string{"sleep", "1000"}
	}), "c").is(t, 0, "", "")
	u.berth("kill", "c", "KILL").is(t, 0, "", "")
	u.berth("delete", "--force", "c").is(t, 0, "", "")

	u.subordinate = false
	u.run("true", manyIDs).is(t, 1, "", "linux.gidMappings: newgidmap ")
}

// TestRootlessHooks: those in the container's namespaces join it as its user, and so does exec
// before start.
func TestRootlessHooks(t *testing.T) {
	u := newPlainUser(t)
	hooked := func(s *specs.Spec) {
		s.Process.Args = []string{"sh", "-c", "cat /told; sleep 1000"}
		s.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: "SCMP_ACT_ALLOW",
			Syscalls:      []specs.LinuxSyscall{{Names: []string{"swapon"}, Action: "SCMP_ACT_ERRNO"}},
		}
		s.Hooks = &specs.Hooks{
			CreateContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{
				"sh", "-c",
				"id -u > told; readlink /proc/self/ns/user >> told",
			}, Env: []string{"PATH=/bin:/usr/bin"}}},
			StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{
				"sh", "-c",
				"id -u >> /told; readlink /proc/self/ns/user >> /told",
			}, Env: []string{"PATH=/bin"}}},
		}
	}
	told := func(dir string) {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(dir, "rootfs/told"))
		must(t, err)
		own, err := os.Readlink("/proc/self/ns/user")
		must(t, err)
		lines := strings.Fields(string(data))
		if len(lines) != 4 || lines[0] != "0" || lines[2] != "0" || lines[1] != lines[3] ||
			lines[1] == own {
			t.Errorf("the hooks told %q", lines)
		}
	}
	dir := u.bundle(func(s *specs.Spec) { hooked(s); s.Process.Args = []string{"true"} })
	u.berth("run", "-b", dir, "c").is(t, 0, "", "")
	told(dir)
	dir = u.bundle(hooked)
	u.berth("create", "-b", dir, "c").is(t, 0, "", "")
	u.berth("exec", "c", "id", "-u").is(t, 0, "0\n", "")
	u.berth("start", "c").is(t, 0, "", "")
	told(dir)
	u.berth("delete", "--force", "c").is(t, 0, "", "")
}

// TestRootlessErrors name the field and the way out.
func TestRootlessErrors(t *testing.T) {
	u := newPlainUser(t)
	for _, c := range []struct {
		name   string
		change func(*specs.Spec)
		want   string
	}{
		{"no user namespace", func(s *specs.Spec) {
			s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
				return n.Type == specs.UserNamespace
			})
			s.Linux.UIDMappings, s.Linux.GIDMappings = nil, nil
		}, "linux.namespaces: found none of type user; who is not root needs one"},
		{"limits", func(s *specs.Spec) {
			limit := int64(1 << 30)
			s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
		}, "linux.resources.memory.limit: rootless needs no limits + no cgrouppath when no permission is granted for cgroups: remove the limits"},
		{"cgroupsPath", func(s *specs.Spec) {
			s.Linux.CgroupsPath = "/somewhere"
		}, "/somewhere: permission denied"},
		{"another's id", func(s *specs.Spec) {
			s.Linux.UIDMappings[0].HostID = 0
		}, "linux.uidMappings: newuidmap "},
		{"gid", func(s *specs.Spec) {
			s.Mounts[2].Options = append(s.Mounts[2].Options, "gid=5")
		}, "mounts[2].options[5]: found \"gid=5\"; allowed: an id that linux.gidMappings maps"},
		{"groups", func(s *specs.Spec) {
			s.Process.User.AdditionalGids = []uint32{0}
		}, "process.user.additionalGids: found [0]; setgroups(2) is denied in a user namespace whose group ids a plain user has mapped"},
		{"rlimit", func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1 << 30, Hard: 1 << 30}}
		}, "process.rlimits[0]"},
		{"oom score", func(s *specs.Spec) {
			s.Process.OOMScoreAdj = ptrTo(-1000)
		}, "process.oomScoreAdj: found -1000: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := u.berth("run", "-b", u.bundle(func(s *specs.Spec) {
				s.Process.Args = []string{"true"}
				c.change(s)
			}), "c")
			r.is(t, 1, "", c.want)
		})
	}
	u.run("cat /proc/self/oom_score_adj", func(s *specs.Spec) {
		s.Process.OOMScoreAdj = ptrTo(500)
	}).is(t, 0, "500\n", "")
	noFolder := u.command(u.program, "list")
	noFolder.Env = noFolder.Env[:2]
	call(t, noFolder).is(t, 1, "", "--root: found nothing, and XDG_RUNTIME_DIR is not set")
}

func ptrTo[T any](v T) *T { return &v }

// TestRootlessSys: no visible cgroup of the host can be written to, not even by the user who owns
// it (CVE-2023-25809).
func TestRootlessSys(t *testing.T) {
	u := newPlainUser(t)
	script := "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do test -d $d && mkdir $d/x 2>/dev/null && echo made $d; done; grep -c sysfs /proc/self/mounts; exit 0"
	for name, change := range map[string]func(*specs.Spec){
		"as it is":               func(*specs.Spec) {},
		"without a cgroup mount": func(s *specs.Spec) { s.Mounts = s.Mounts[:len(s.Mounts)-1] },
		"without its namespace": func(s *specs.Spec) {
			s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
				return n.Type == "cgroup"
			})
		},
		"sysfs in place of a bind": func(s *specs.Spec) {
			s.Mounts[5].Type, s.Mounts[5].Source, s.Mounts[5].Options = "sysfs", "sysfs",
				[]string{"nosuid", "noexec", "nodev", "ro"}
		},
		"sysfs of its own": func(s *specs.Spec) {
			s.Mounts[5].Type, s.Mounts[5].Source, s.Mounts[5].Options = "sysfs", "sysfs",
				[]string{"nosuid", "noexec", "nodev", "ro"}
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "network"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := u.run(script, change)
			r.is(t, 0, "", "")
			if strings.Contains(r.stdout, "made") || r.stdout == "0\n" {
				t.Errorf("it printed: %s", r.stdout)
			}
		})
	}
}

// TestRootlessReach: the container's root is the user on the host, and no more than the user.
func TestRootlessReach(t *testing.T) {
	u := newPlainUser(t)
	roots, err := os.MkdirTemp("", "rootless")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(roots) })
	must(t, os.Chmod(roots, 0o755))
	must(t, os.WriteFile(filepath.Join(roots, "file"), []byte("root's"), 0o644))
	must(t, os.WriteFile(filepath.Join(roots, "secret"), []byte("root's"), 0o600))
	shared := filepath.Join(u.home, "shared")
	must(t, os.MkdirAll(shared, 0o755))
	u.own(shared)
	r := u.run("echo x > /roots/file; cat /roots/secret; echo mine > /shared/file && cat /shared/file; exit 0", func(s *specs.Spec) {
		s.Process.Capabilities.Bounding = []string{
			"CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH",
			"CAP_SYS_ADMIN",
		}
		s.Process.Capabilities.Effective,
			s.Process.Capabilities.Permitted = s.Process.Capabilities.Bounding,
			s.Process.Capabilities.Bounding
		for source, dest := range map[string]string{roots: "/roots", shared: "/shared"} {
			s.Mounts = append(s.Mounts, specs.Mount{
				Destination: dest, Type: "none", Source: source,
				Options: []string{"rbind", "rw"},
			})
		}
	})
	r.is(t, 0, "mine\n", "can't open '/roots/secret': Permission denied")
	if data, err := os.ReadFile(filepath.Join(roots, "file")); err != nil || string(data) != "root's" {
		t.Errorf("root's file: %q, %v", data, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(shared, "file"), &st); err != nil || st.Uid != plainID {
		t.Errorf("the file in the volume: %+v, %v", st, err)
	}
}

// TestRootlessSealed: a user's own copy of berth is not to be overwritten by his container's root,
// who is himself on the host (CVE-2019-5736). Who cannot write to berth pays nothing for that.
func TestRootlessSealed(t *testing.T) {
	for name, built := range map[string]string{"entry": program, "plain": plain} {
		t.Run(name, func(t *testing.T) {
			u := newPlainUser(t)
			data, err := os.ReadFile(built)
			must(t, err)
			dir := u.bundle(func(s *specs.Spec) { s.Process.Args = []string{"/attack"} })
			must(t, os.WriteFile(filepath.Join(dir, "rootfs/attack"), []byte("#!/proc/self/exe\n"), 0o755))
			pidFile := filepath.Join(u.home, "pid")
			for _, c := range []struct {
				what  string
				owner int
				mode  os.FileMode
				want  error
			}{
				{"his own", plainID, 0o755, unix.EROFS},
				{"his own, which he may make writable", plainID, 0o555, unix.EROFS},
				{"all's", 0, 0o777, unix.EROFS},
				{"root's", 0, 0o755, nil},
			} {
				// Another file each time: the one before may still be executed.
				u.program = filepath.Join(u.home, "bin", fmt.Sprintf("berth-%d-%o", c.owner, c.mode))
				must(t, os.WriteFile(u.program, data, 0o755))
				must(t, os.Chown(u.program, c.owner, c.owner))
				must(t, os.Chmod(u.program, c.mode))
				u.berth("create", "--pid-file", pidFile, "-b", dir, "c").is(t, 0, "", "")
				pid, err := os.ReadFile(pidFile)
				must(t, err)
				if err := unix.Access("/proc/"+string(pid)+"/exe", unix.W_OK); !errors.Is(err, c.want) {
					t.Errorf("%s: to write to the runtime's program gives %v; want %v", c.what, err, c.want)
				}
				u.berth("start", "c")
				u.berth("delete", "--force", "c").is(t, 0, "", "")
				now, err := os.ReadFile(u.program)
				if err != nil || sha256.Sum256(now) != sha256.Sum256(data) {
					t.Errorf("%s: the program has been overwritten: %v", c.what, err)
				}
			}
		})
	}
}

// TestRootlessExec: it takes the container's user namespace to join its pid namespace.
func TestRootlessExec(t *testing.T) {
	u := newPlainUser(t)
	u.subordinate = true
	u.berth("run", "-d", "-b", u.bundle(func(s *specs.Spec) {
		manyIDs(s)
		s.Process.Args = []string{"sleep", "1000"}
		s.Process.OOMScoreAdj = ptrTo(300)
	}), "c").is(t, 0, "", "")
	u.berth("exec", "c", "sh", "-c",
		"id -u; readlink /proc/1/exe; cat /proc/self/oom_score_adj; exit 4").is(t, 4,
		"0\n/bin/busybox\n300\n", "")
	u.berth("exec", "-u", "7:8", "c", "sh", "-c", "id -u; id -g").is(t, 0, "7\n8\n", "")
	u.berth("exec", "-d", "c", "sleep", "1001").is(t, 0, "", "")
	u.berth("ps", "c").is(t, 0, "sleep 1001", "")
	u.berth("exec", "c", "/nonexistent").is(t, 255, "",
		"exec: \"/nonexistent\": stat /nonexistent: no such file or directory")
}

// TestRootlessExecAttack: CVE-2019-5736 as it was published: a process in the container has the
// runtime's program for its own. Another holds that open, and writes to it once it is no longer
// executed.
func TestRootlessExecAttack(t *testing.T) {
	u := newPlainUser(t)
	before, err := os.ReadFile(u.program)
	must(t, err)
	u.berth("run", "-d", "-b", u.bundle(args("sleep", "1000")), "c").is(t, 0, "", "")
	u.berth("exec", "-d", "c", "/proc/self/exe", "supervise", "--run-dir", "/run").is(t, 0, "", "")
	r := u.berth("exec", "c", "sh", "-c", `for p in /proc/[0-9]*; do
		case $(readlink $p/exe) in /bin/busybox|"") continue;; esac
		exec 9<$p/exe || continue
		echo found; kill -9 ${p#/proc/}
		n=0; while [ $n -lt 50 ]; do n=$((n+1)); echo overwritten > /proc/self/fd/9 && echo written && break; sleep 0.02; done
	done 2>/dev/null; exit 0`)
	r.is(t, 0, "found\n", "")
	u.berth("delete", "--force", "c").is(t, 0, "", "")
	after, err := os.ReadFile(u.program)
	if err != nil || sha256.Sum256(after) != sha256.Sum256(before) || strings.Contains(r.stdout,
		"written") {
		t.Errorf("the program has been overwritten: %v, %s", err, r.stdout)
	}
}
