// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPodmanRootless: podman as a plain user, who has identities of his own below (subuid(5)) and
// no say over cgroups.
func TestPodmanRootless(t *testing.T) {
	newClient(t, "podman")
	newClient(t, "newuidmap")
	const user, uid = "plain", 5000
	home := filepath.Join(work, user)
	runtimeDir := fmt.Sprintf("/run/user/%d", uid)
	for _, dir := range []string{home, runtimeDir, filepath.Join(home, "tmp")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir, uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	for file, line := range map[string]string{
		"/etc/passwd": fmt.Sprintf("%s:x:%d:%d::%s:/bin/sh\n", user, uid, uid, home),
		"/etc/group":  fmt.Sprintf("%s:x:%d:\n", user, uid),
		"/etc/subuid": user + ":200000:65536\n",
		"/etc/subgid": user + ":200000:65536\n",
	} {
		data, _ := os.ReadFile(file)
		write(t, file, string(data)+line)
	}
	// The checkout may be where the user cannot go.
	program := filepath.Join(work, "bin/berth")
	data, err := os.ReadFile(berth)
	if err != nil {
		t.Fatal(err)
	}
	write(t, program, string(data))
	if err := os.Chmod(program, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, "/etc/containers/policy.json", `{"default": [{"type": "insecureAcceptAnything"}]}`)
	config := filepath.Join(home, ".config/containers/containers.conf")
	snippet(t, "/etc/containers/containers.conf", config, installed, program)
	if out, err := exec.Command("chown", "-R", user+":"+user, home).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}

	p := newClient(t, "setpriv", "--reuid", user, "--regid", user, "--clear-groups", "podman",
		"--cgroup-manager", "cgroupfs", "--events-backend", "file", "--storage-driver", "vfs")
	p.env = []string{"HOME=" + home, "USER=" + user, "XDG_RUNTIME_DIR=" + runtimeDir, "TMPDIR=" +
		filepath.Join(home, "tmp")}
	p.must("load", "-i", filepath.Join(work, busyboxOCI))
	// podman keeps a process that holds its user namespace.
	t.Cleanup(func() {
		p.must("rm", "-f", "-a", "-t", "0")
		exec.Command("pkill", "-U", user).Run()
		time.Sleep(100 * time.Millisecond)
	})
	got := p.must("info", "--format", "{{.Host.OCIRuntime.Path}} {{.Host.Security.Rootless}}")
	if got != program+" true" {
		t.Fatalf("podman uses %q", got)
	}
	run := func(args ...string) []string {
		return append([]string{"run", "--rm", "--network", "none"}, args...)
	}

	t.Run("run", func(t *testing.T) {
		p := p.with(t)
		equal(t, "output", p.must(run(busybox, "echo", "hello")...), "hello")
		p.exits(7, nil, run(busybox, "sh", "-c", "exit 7")...)
		p.exits(127, []string{"not found in $PATH"}, run(busybox, "missing")...)
		p.exits(126, []string{"permission denied"}, run(busybox, "/etc/passwd")...)
		got := p.must(run(busybox, "cat", "/proc/self/uid_map")...)
		equal(t, "uid_map", strings.Join(strings.Fields(got), " "),
			fmt.Sprintf("0 %d 1 1 200000 65536", uid))
		equal(t, "another user", p.must(run("-u", "12:34", busybox, "sh", "-c", "id -u; id -g")...),
			"12\n34")
		equal(t, "terminal", p.must(run("-t", busybox, "tty")...), "/dev/pts/0")
		equal(t, "user's own identity", p.must(run("--userns", "keep-id", busybox, "id", "-u")...),
			fmt.Sprint(uid))
	})
	t.Run("a container in the background", func(t *testing.T) {
		p := p.with(t)
		id := p.must("run", "-d", "--network", "none", busybox, "sh", "-c",
			"trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done")
		eventually(t, "it runs", func() bool { return p.run("logs", id).out == "ready\n" })
		equal(t, "exec", p.must("exec", id, "id", "-u"), "0")
		p.exits(5, nil, "exec", id, "sh", "-c", "exit 5")
		equal(t, "terminal of exec", p.must("exec", "-t", id, "tty"), "/dev/pts/0")
		equal(t, "user of exec", p.must("exec", "-u", "12", id, "id", "-u"), "12")
		if got := p.must("top", id, "comm"); !strings.Contains(got, "sh") {
			t.Errorf("top: %q", got)
		}
		p.must("stop", "-t", "100", id)
		equal(t, "exit code", p.must("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", id),
			"exited 9")
	})
	t.Run("volume", func(t *testing.T) {
		p := p.with(t)
		p.must(run("-v", home+"/tmp:/v", busybox, "touch", "/v/from-inside")...)
		st, err := os.Stat(filepath.Join(home, "tmp/from-inside"))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "owner", st.Sys().(*syscall.Stat_t).Uid, uid)
	})
}
