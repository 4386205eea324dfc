// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const containerdSocket = "/run/containerd/containerd.sock"

// startContainerd starts a daemon as docs/clients.md sets it up and returns ctr for a namespace of
// it, in which the images are.
func startContainerd(t *testing.T, namespace string) *client {
	t.Helper()
	d := newClient(t, "containerd")
	driver := ""
	if systemd() {
		driver = "SystemdCgroup = true\n"
	}
	// This machine's root may not lower the score of a process (CAP_SYS_RESOURCE), which CRI asks
	// for, and it has no registry. The plugins of CNI are where Debian has them.
	snippet(t, "/etc/containerd/config.toml", "/etc/containerd/config.toml",
		`"registry.k8s.io/pause:3.6"`, `"`+pause+`"`+"\nrestrict_oom_score_adj = true",
		"[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.berth.options]\n",
		"[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.berth.options]\n"+driver,
		"[plugins.\"io.containerd.grpc.v1.cri\".containerd]\n", `[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"

[plugins."io.containerd.grpc.v1.cri".containerd]
`)
	ctr := newClient(t, "ctr", "-a", containerdSocket, "-n", namespace)
	if log, ok := d.daemon(func() bool { return ctr.run("version").code == 0 }); !ok {
		t.Fatalf("containerd does not start: %s", log)
	}
	for _, archive := range []string{busyboxOCI, pauseOCI} {
		ctr.must("images", "import", filepath.Join(work, archive))
	}
	return ctr
}

func TestContainerd(t *testing.T) {
	ctr := startContainerd(t, "default")
	flags := []string{"--runc-binary", berth, "--snapshotter", "overlayfs"}
	run := func(args ...string) []string {
		return append(append([]string{"run", "--rm"}, flags...), args...)
	}
	// start starts a container in the background and removes it at the end.
	start := func(t *testing.T, id string, args ...string) *client {
		t.Helper()
		ctr := ctr.with(t)
		ctr.must(append(append([]string{"run", "-d"}, flags...), args...)...)
		t.Cleanup(func() {
			ctr.run("task", "kill", "-s", "KILL", id)
			eventually(t, "the task can be deleted", func() bool {
				return ctr.run("task", "rm", "-f", id).code == 0 ||
					!strings.Contains(ctr.must("task", "ls", "-q"), id)
			})
			ctr.must("container", "rm", id)
		})
		return ctr
	}
	status := func(ctr *client, id string) string {
		for line := range strings.Lines(ctr.must("task", "ls") + "\n") {
			if f := strings.Fields(line); len(f) == 3 && f[0] == id {
				return f[2]
			}
		}
		return ""
	}

	t.Run("run", func(t *testing.T) {
		ctr := ctr.with(t)
		equal(t, "output", ctr.must(run(busybox, "r1", "echo", "hello")...), "hello")
		ctr.exits(7, nil, run(busybox, "r2", "sh", "-c", "exit 7")...)
		r := ctr.run(run(busybox, "r3", "sh", "-c", "echo out; echo err >&2")...)
		equal(t, "standard output", r.out, "out\n")
		equal(t, "standard error", r.stderr, "err\n")
		equal(t, "standard input", ctr.feed("fed\n", run(busybox, "r4", "head", "-n", "1")...).out,
			"fed\n")
		ctr.exits(1, []string{"no such file or directory"}, run(busybox, "r5", "/missing")...)
		ctr.exits(1, []string{"executable file not found in $PATH"}, run(busybox, "r6", "missing")...)
		ctr.exits(1, []string{"permission denied"}, run(busybox, "r7", "/etc/passwd")...)
		ctr.exits(1, []string{"Read-only file system"}, run("--read-only", busybox, "r8", "touch",
			"/x")...)
		equal(t, "environment and working directory",
			ctr.must(run("--env", "A=b c", "--cwd", "/tmp", busybox, "r9", "sh", "-c", "echo $A; pwd")...),
			"b c\n/tmp")
		equal(t, "privileged", ctr.must(run("--privileged", busybox, "r10", "grep", "CapBnd",
			"/proc/self/status")...), "CapBnd:\t"+bounding(t))
	})
	t.Run("terminal", func(t *testing.T) {
		terminal(t, ctr.with(t), run("-t", busybox, "t1", "sh")...)
	})
	t.Run("exec", func(t *testing.T) {
		ctr := start(t, "e", busybox, "e", "sleep", "1000")
		exec := func(id string, args ...string) []string {
			return append([]string{"task", "exec", "--exec-id", id}, args...)
		}
		equal(t, "output", ctr.must(exec("x1", "e", "echo", "hello")...), "hello")
		ctr.exits(5, nil, exec("x2", "e", "sh", "-c", "exit 5")...)
		equal(t, "standard input", ctr.feed("fed\n", exec("x3", "e", "cat")...).out, "fed\n")
		equal(t, "working directory and user", ctr.must(exec("x4", "--cwd", "/tmp", "--user", "12:34",
			"e", "sh", "-c", "pwd; id -u")...), "/tmp\n12")
		ctr.exits(1, []string{"no such file or directory"}, exec("x5", "e", "/missing")...)
		terminal(t, ctr, exec("x6", "-t", "e", "sh")...)
		// Another process of the container, which ctr leaves behind, ends with it.
		ctr.must(exec("x7", "-d", "e", "sleep", "1000")...)
		eventually(t, "both processes are shown", func() bool {
			return len(strings.Fields(ctr.must("task", "ps", "e"))) >= 2+2*2
		})
	})
	t.Run("kill", func(t *testing.T) {
		ctr := ctr.with(t)
		ended := make(chan result, 1)
		go func() {
			defer close(ended) // also if it does not return
			ended <- ctr.run(run(busybox, "k", "sh", "-c",
				"trap 'exit 9' TERM; while :; do sleep 0.1; done")...)
		}()
		eventually(t, "it runs", func() bool { return status(ctr, "k") == "RUNNING" })
		for {
			select {
			case r := <-ended:
				equal(t, "exit code", r.code, 9)
				return
			case <-time.After(100 * time.Millisecond):
				ctr.run("task", "kill", "k")
			}
		}
	})
	t.Run("kill of a stopped task", func(t *testing.T) {
		ctr := start(t, "s", busybox, "s", "true")
		eventually(t, "it has ended", func() bool { return status(ctr, "s") == "STOPPED" })
		ctr.exits(1, []string{"not found"}, "task", "kill", "s")
	})
	t.Run("created, then removed", func(t *testing.T) { neverStarted(t, ctr.with(t), "default") })
	t.Run("kill all", func(t *testing.T) {
		// In the host's pid namespace the kernel does not end the others with the first.
		ctr := start(t, "ka", "--with-ns", "pid:/proc/1/ns/pid", busybox, "ka", "sh", "-c",
			"sleep 999 & sleep 999")
		eventually(t, "all run", func() bool {
			return len(strings.Fields(ctr.must("task", "ps", "ka"))) >= 2+2*2
		})
		ctr.must("task", "kill", "--all", "-s", "KILL", "ka")
		eventually(t, "all have ended", func() bool { return status(ctr, "ka") == "STOPPED" })
	})
	t.Run("pause", func(t *testing.T) {
		file := filepath.Join(work, "ticks")
		write(t, file, "")
		ctr := start(t, "p", "--mount", "type=bind,src="+file+",dst=/ticks,options=rbind:rw", busybox,
			"p", "sh", "-c", "while :; do echo >>/ticks; sleep 0.02; done")
		size := func() int64 {
			st, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			return st.Size()
		}
		eventually(t, "it ticks", func() bool { return size() > 0 })
		ctr.must("task", "pause", "p")
		equal(t, "status", status(ctr, "p"), "PAUSED")
		before := size()
		time.Sleep(200 * time.Millisecond)
		equal(t, "ticks while paused", size(), before)
		ctr.must("task", "resume", "p")
		equal(t, "status", status(ctr, "p"), "RUNNING")
		eventually(t, "it ticks again", func() bool { return size() > before })
	})
	t.Run("metrics", func(t *testing.T) {
		ctr := start(t, "m", "--memory-limit", "67108864", busybox, "m", "sleep", "1000")
		got := ctr.must("task", "metrics", "m")
		if !strings.Contains(got, byVersion(setting{value: "memory.usage_in_bytes"},
			setting{value: "memory.usage "}).value) || !strings.Contains(got, "67108864") {
			t.Errorf("metrics: %s", got)
		}
		// ctr shows the container no cgroups.
		hierarchy, name := filepath.Split(memoryLimit("").file)
		limit, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", hierarchy, "default/m", name))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "limit", string(limit), "67108864\n")
	})
	t.Run("never started", func(t *testing.T) {
		ctr := ctr.with(t)
		// A task that cannot start was created, and is deleted, by the shim: the id is free again.
		for range 2 {
			ctr.must(append(append([]string{"container", "create"}, flags[2:]...), busybox, "n",
				"/missing")...)
			ctr.exits(1, []string{"no such file or directory"}, "task", "start", "n")
			equal(t, "tasks", status(ctr, "n"), "")
			ctr.must("container", "rm", "n")
		}
	})
}

// bounding is this test's own bounding set, as /proc shows it.
func bounding(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "CapBnd:\t")
	value, _, _ := strings.Cut(rest, "\n")
	return value
}
