// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// userManager starts the user's own systemd, as a login of his would, and has his runtime directory
// be that of it.
func (u *plainUser) userManager() {
	u.t.Helper()
	if !strings.HasPrefix(u.t.Name(), "TestSystemd") {
		u.t.Fatal("named TestSystemd… it would run where systemd is pid 1: make test-vm selects by that")
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil || os.Getenv("BERTH_VM") == "" {
		u.t.Skip("makes a user and his systemd: run in the VM, hack/vm/test.sh -systemd")
	}
	// PAM takes no user without a name.
	passwd, err := os.OpenFile("/etc/passwd", os.O_WRONLY|os.O_APPEND, 0)
	must(u.t, err)
	defer passwd.Close()
	_, err = fmt.Fprintf(passwd, "plain:*:%d:%d::%s:/bin/sh\n", u.id, u.id, u.home)
	must(u.t, err)
	unit := fmt.Sprintf("user@%d.service", u.id)
	if out, err := exec.Command("systemctl", "start", unit).CombinedOutput(); err != nil {
		u.t.Fatalf("systemctl start %s: %v: %s", unit, err, out)
	}
	u.t.Cleanup(func() { must(u.t, exec.Command("systemctl", "stop", unit).Run()) })
	u.runtime = fmt.Sprintf("/run/user/%d", u.id)
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(u.runtime, "bus")); err == nil {
			return
		}
		if time.Now().After(deadline) {
			u.t.Fatal("the user has no bus")
		}
	}
}

// TestSystemdUser: with --systemd-cgroup a plain user's containers are scopes of his own systemd,
// with limits, whether berth is called from below that or from elsewhere, as from a login session.
func TestSystemdUser(t *testing.T) {
	u := newPlainUser(t)
	u.userManager()
	top := fmt.Sprintf("/user.slice/user-%d.slice/user@%d.service/user.slice/berth-c.scope",
		u.id, u.id)
	dir := u.bundle(func(s *specs.Spec) {
		pids, memory := int64(17), int64(64<<20)
		s.Linux.Resources = &specs.LinuxResources{
			Pids:   &specs.LinuxPids{Limit: &pids},
			Memory: &specs.LinuxMemory{Limit: &memory},
		}
		s.Process.Args = []string{"sleep", "1000"}
		s.Hooks = &specs.Hooks{
			CreateContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{
				"sh", "-c",
				"cat /proc/self/cgroup > inside",
			}, Env: []string{"PATH=/bin"}}},
		}
	})
	show := func(property string) string {
		t.Helper()
		out, err := u.command("systemctl", "--user", "show", "--property="+property, "--value",
			"berth-c.scope").Output()
		must(t, err)
		return strings.TrimSpace(string(out))
	}
	for name, how := range map[string][]string{"elsewhere": nil, "below": {
		"systemd-run", "--user",
		"--scope", "--quiet",
	}} {
		t.Run(name, func(t *testing.T) {
			berth := func(args ...string) result {
				return call(t, u.command(append(append(how, u.program, "--systemd-cgroup"), args...)...))
			}
			berth("run", "-d", "-b", dir, "c").is(t, 0, "", "")
			file := func(name string) string {
				t.Helper()
				data, err := os.ReadFile(filepath.Join("/sys/fs/cgroup"+top, name))
				must(t, err)
				return strings.TrimSpace(string(data))
			}
			if pids, memory := file("pids.max"), file("memory.max"); pids != "17" || memory != "67108864" ||
				show("TasksMax") != "17" {
				t.Errorf("pids.max is %s, memory.max %s, TasksMax %s", pids, memory, show("TasksMax"))
			}
			if data, err := os.ReadFile(filepath.Join(dir, "rootfs/inside")); err != nil ||
				string(data) != "0::/\n" {
				t.Errorf("the hook was in %q, %v", data, err)
			}
			// Its root of cgroups is its own: what it sees as / is the scope.
			berth("exec", "c", "cat", "/proc/self/cgroup").is(t, 0, "0::/\n", "")
			berth("exec", "-d", "c", "sleep", "1000").is(t, 0, "", "")
			if got := len(strings.Fields(file("cgroup.procs"))); got != 2 {
				t.Errorf("found %d processes in the scope; want 2", got)
			}
			berth("update", "--pids-limit", "30", "c").is(t, 0, "", "")
			if got := file("pids.max"); got != "30" || show("TasksMax") != "30" {
				t.Errorf("after the update pids.max is %s, TasksMax %s", got, show("TasksMax"))
			}
			// A later command needs no flag.
			u.berth("pause", "c").is(t, 0, "", "")
			u.berth("state", "c").is(t, 0, `"status": "paused"`, "")
			u.berth("resume", "c").is(t, 0, "", "")
			u.berth("delete", "--force", "c").is(t, 0, "", "")
			if _, err := os.Stat("/sys/fs/cgroup" + top); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("its cgroup is left: %v", err)
			}
			if got := show("ActiveState"); got != "inactive" {
				t.Errorf("the scope is %s", got)
			}
		})
	}
	// Root of a user namespace of his, as under rootless podman, has the user's systemd too.
	unshare := []string{"unshare", "--user", "--map-root-user", "--", u.program, "--systemd-cgroup"}
	inside := u.bundle(func(s *specs.Spec) {
		s.Linux.UIDMappings[0].HostID, s.Linux.GIDMappings[0].HostID = 0, 0
		s.Process.Args = []string{"sleep", "1000"}
	})
	call(t, u.command(append(unshare, "run", "-d", "-b", inside, "c")...)).is(t, 0, "", "")
	if got := show("ActiveState"); got != "active" {
		t.Errorf("from a user namespace the scope is %s", got)
	}
	call(t, u.command(append(unshare, "delete", "--force", "c")...)).is(t, 0, "", "")
	// Without a bus it is an error that says so.
	alone := u.command(u.program, "--systemd-cgroup", "run", "-b", dir, "c")
	alone.Env = append(alone.Env, "XDG_RUNTIME_DIR="+filepath.Join(u.home, "run"))
	call(t, alone).is(t, 1, "", "DBUS_SESSION_BUS_ADDRESS")
}
