// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// newDocker is docker with a dockerd of its own, and with an image of busybox.
func newDocker(t *testing.T, options ...string) *client {
	t.Helper()
	d := newClient(t, "dockerd", append(options, "--storage-driver", "overlay2", "--iptables=false",
		"--ip6tables=false", "--bridge", "none", "-H", "unix:///run/docker.sock", "--exec-opt",
		"native.cgroupdriver="+cgroupManager())...)
	snippet(t, "/etc/docker/daemon.json", "/etc/docker/daemon.json")
	docker := newClient(t, "docker")
	docker.env = []string{"DOCKER_HOST=unix:///run/docker.sock"}
	if log, ok := d.daemon(func() bool { return docker.run("version").code == 0 }); !ok {
		// Whether it starts depends on the kernel of this machine, of which it wants more than a
		// container does: ask it with runc.
		write(t, "/etc/docker/daemon.json", "{}")
		if other, ok := d.daemon(func() bool { return docker.run("version").code == 0 }); ok {
			t.Fatalf("dockerd starts with runc, and not with berth: %s", log)
		} else {
			t.Skipf("dockerd does not start here with runc either: %s", other)
		}
	}
	docker.must("load", "-i", filepath.Join(work, busyboxDocker))
	return docker
}

func TestDocker(t *testing.T) {
	docker := newDocker(t)
	equal(t, "default runtime", docker.must("info", "-f",
		"{{.DefaultRuntime}} {{(index .Runtimes \"berth\").Path}}"), "berth "+berth)

	run := func(args ...string) []string {
		return append([]string{"run", "--rm", "--network", "none"}, args...)
	}
	start := func(t *testing.T, args ...string) (*client, string) {
		t.Helper()
		docker := docker.with(t)
		id := docker.must(append([]string{"run", "-d", "--network", "none"}, args...)...)
		t.Cleanup(func() { docker.must("rm", "-f", id) })
		return docker, id
	}
	t.Run("run", func(t *testing.T) {
		docker := docker.with(t)
		equal(t, "output", docker.must(run(busybox, "echo", "hello")...), "hello")
		docker.exits(7, nil, run(busybox, "sh", "-c", "exit 7")...)
		r := docker.run(run(busybox, "sh", "-c", "echo out; echo err >&2")...)
		equal(t, "standard output", r.out, "out\n")
		equal(t, "standard error", r.stderr, "err\n")
		equal(t, "standard input", docker.feed("fed\n", run("-i", busybox, "cat")...).out, "fed\n")
	})
	t.Run("exit codes of a command that cannot run", func(t *testing.T) {
		docker := docker.with(t)
		docker.exits(127, []string{"no such file or directory"}, run(busybox, "/missing")...)
		docker.exits(127, []string{"executable file not found in $PATH"}, run(busybox, "missing")...)
		docker.exits(126, []string{"permission denied"}, run(busybox, "/etc/passwd")...)
		// This docker knows nothing of directories: it says 125, with runc as well.
		if r := docker.run(run(busybox, "/etc")...); r.code != 125 && r.code != 126 ||
			!strings.Contains(r.stderr, "is a directory") {
			t.Error(r)
		}
		docker.exits(125, []string{"kernel.nonsense"}, run("--sysctl", "kernel.nonsense=1", busybox,
			"true")...)
	})
	t.Run("logs and inspect", func(t *testing.T) {
		docker, id := start(t, busybox, "sh", "-c", "echo one; echo two >&2; exit 3")
		equal(t, "exit code", docker.must("wait", id), "3")
		r := docker.run("logs", id)
		equal(t, "standard output", r.out, "one\n")
		equal(t, "standard error", r.stderr, "two\n")
		equal(t, "state", docker.must("inspect", "-f",
			"{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}} {{.HostConfig.Runtime}}", id),
			"exited 3 0 berth")
	})
	t.Run("never started", func(t *testing.T) {
		docker := docker.with(t)
		create := func(args ...string) string {
			return docker.must(append([]string{"create", "--network", "none"}, args...)...)
		}
		docker.must("rm", create(busybox, "true"))
		docker.must("rm", "-f", create(busybox, "true"))
		// A start that fails leaves a container that can be removed, and asked for again by the
		// same name.
		for range 2 {
			id := create("--name", "failing", busybox, "/missing")
			docker.exits(1, []string{"no such file or directory"}, "start", id)
			equal(t, "state", docker.must("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", id),
				"created 127")
			docker.must("rm", id)
		}
		equal(t, "containers that are left", docker.must("ps", "-aq", "--filter", "name=failing"), "")
	})
	t.Run("exec", func(t *testing.T) {
		docker, id := start(t, busybox, "sleep", "1000")
		equal(t, "output", docker.must("exec", id, "echo", "hello"), "hello")
		docker.exits(5, nil, "exec", id, "sh", "-c", "exit 5")
		// docker says 126 of all that cannot be executed in a container that runs.
		docker.exits(126, []string{"no such file or directory"}, "exec", id, "/missing")
		docker.exits(126, []string{"executable file not found in $PATH"}, "exec", id, "missing")
		docker.exits(126, []string{"permission denied"}, "exec", id, "/etc/passwd")
		equal(t, "user, environment, working directory", docker.must("exec", "-u", "12:34", "-e", "A=b c",
			"-w", "/tmp", id, "sh", "-c", "id -u; echo $A; pwd"), "12\nb c\n/tmp")
		equal(t, "standard input", docker.feed("fed\n", "exec", "-i", id, "cat").out, "fed\n")
		terminal(t, docker, "exec", "-it", id, "sh")
	})
	t.Run("terminal", func(t *testing.T) {
		terminal(t, docker.with(t), run("-it", busybox, "sh")...)
	})
	t.Run("stop and kill", func(t *testing.T) {
		docker, id := start(t, busybox, "sh", "-c",
			"trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done")
		eventually(t, "the trap is set", func() bool { return docker.run("logs", id).out == "ready\n" })
		docker.must("stop", "-t", "100", id)
		equal(t, "exit code of one that answers TERM", docker.must("wait", id), "9")
		docker, id = start(t, busybox, "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
		docker.must("stop", "-t", "1", id)
		equal(t, "exit code of one that ignores TERM", docker.must("wait", id), "137")
		docker, id = start(t, busybox, "sleep", "1000")
		docker.must("kill", id)
		equal(t, "exit code of one that is killed", docker.must("wait", id), "137")
		docker.exits(1, []string{"is not running"}, "kill", id)
	})
	t.Run("pause", func(t *testing.T) {
		docker, id := start(t, busybox, "sh", "-c", "while :; do echo tick; sleep 0.05; done")
		docker.must("pause", id)
		equal(t, "state", docker.must("inspect", "-f", "{{.State.Status}}", id), "paused")
		ticks := standsStill(t, func() int { return len(docker.run("logs", id).out) })
		docker.must("unpause", id)
		eventually(t, "it writes again", func() bool { return len(docker.run("logs", id).out) > ticks })
	})
	t.Run("resources", func(t *testing.T) {
		docker, id := start(t, "--memory", "64m", "--pids-limit", "7", "--cpus", "0.5", busybox, "sleep",
			"1000")
		read := func(file string) string { return docker.must("exec", id, "cat", file) }
		inside(t, read, memoryLimit("67108864"), pidsLimit("7"), quota(50))
		docker.must("update", "--memory", "32m", "--memory-swap", "32m", "--cpus", "1", id)
		inside(t, read, memoryLimit("33554432"), pidsLimit("7"), quota(100))
		got := docker.must("stats", "--no-stream", "--format", "{{.PIDs}} {{.MemUsage}}", id)
		if !strings.HasPrefix(got, "1 ") || !strings.HasSuffix(got, "/ 32MiB") {
			t.Errorf("stats: %q", got)
		}
		docker.exits(137, nil, run("--memory", "16m", "--memory-swap", "16m", busybox, "sh", "-c",
			"dd if=/dev/zero of=/dev/null bs=64M count=1")...)
		dead := docker.must("run", "-d", "--network", "none", "--memory", "16m", "--memory-swap", "16m",
			busybox, "sh", "-c", hungry)
		defer docker.must("rm", dead)
		docker.must("exec", dead, "touch", hungryFile)
		equal(t, "exit code out of memory", docker.must("wait", dead), "137")
		equal(t, "OOMKilled", docker.must("inspect", "-f", "{{.State.OOMKilled}}", dead), "true")
	})
	t.Run("settings", func(t *testing.T) {
		docker := docker.with(t)
		docker.exits(1, []string{"Read-only file system"}, run("--read-only", busybox, "touch", "/x")...)
		equal(t, "tmpfs", docker.must(run("--tmpfs", "/scratch:size=1m,mode=0700", busybox, "stat", "-f",
			"-c", "%T", "/scratch")...), "tmpfs")
		dir := filepath.Join(work, "docker-volume")
		write(t, filepath.Join(dir, "f"), "from the host\n")
		equal(t, "volume", docker.must(run("-v", dir+":/v:ro", busybox, "cat", "/v/f")...),
			"from the host")
		equal(t, "named volume", docker.must(run("-v", "named:/v", busybox, "sh", "-c",
			"echo x >/v/x; cat /v/x")...), "x")
		docker.exits(1, []string{"Operation not permitted"}, run("--cap-drop", "CHOWN", busybox, "chown",
			"1", "/tmp")...)
		equal(t, "privileged", docker.must(run("--privileged", busybox, "sh", "-c",
			"mount -t tmpfs x /tmp && stat -f -c %T /tmp")...), "tmpfs")
		equal(t, "user", docker.must(run("-u", "12:34", busybox, "sh", "-c", "id -u; id -g")...),
			"12\n34")
		equal(t, "hostname", docker.must(run("--hostname", "named", busybox, "hostname")...), "named")
		first, err := os.ReadFile("/proc/1/comm") // of the pid namespace that all of this is in
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "first process of the host",
			docker.must(run("--pid", "host", busybox, "cat", "/proc/1/comm")...),
			strings.TrimSpace(string(first)))
		equal(t, "ulimit", docker.must(run("--ulimit", "nofile=99:99", busybox, "sh", "-c",
			"ulimit -n")...), "99")
		equal(t, "seccomp", docker.must(run(busybox, "grep", "Seccomp:", "/proc/self/status")...),
			"Seccomp:\t2")
	})
	t.Run("top and restart", func(t *testing.T) {
		docker, id := start(t, busybox, "sleep", "1000")
		eventually(t, "top shows the program", func() bool {
			return strings.Contains(docker.must("top", id), "sleep 1000")
		})
		before := docker.must("inspect", "-f", "{{.State.Pid}}", id)
		docker.must("restart", "-t", "0", id)
		if after := docker.must("inspect", "-f", "{{.State.Pid}}", id); after == before || after == "0" {
			t.Errorf("the process after a restart: %s, before: %s", after, before)
		}
	})
}
