// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/standalone"
)

func TestStandaloneLife(t *testing.T) {
	h := newHost(t)
	h.start()
	h.write("count.yaml", h.counting("one"))
	c := h.untilRunning("count")
	pid := c.Status.PID
	h.until("a line of the log", func() bool { return strings.Contains(h.logs("count"), "one 2\n") })
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/root", pid))
	if err != nil || exe == "" {
		t.Fatalf("root of pid %d: %v", pid, err)
	}
	if !strings.HasSuffix(c.Status.LogPath, "/0.log") || !strings.Contains(c.Status.ImageID,
		"@sha256:") {
		t.Errorf("found logPath %q, imageID %q", c.Status.LogPath, c.Status.ImageID)
	}

	// The agent dies: the same process goes on, and so does its log.
	h.signal(unix.SIGKILL)
	if state := procState(int(pid)); state == "" || state == "Z" {
		t.Fatalf("pid %d died with the agent", pid)
	}
	n := strings.Count(h.logs("count"), "\n")
	h.start()
	h.until("the log goes on", func() bool { return strings.Count(h.logs("count"), "\n") > n+3 })
	if c := h.untilRunning("count"); c.Status.PID != pid || c.Status.RestartCount != 0 {
		t.Fatalf("found pid %d with %d restarts after the agent's restart; want %d with 0", c.Status.PID,
			c.Status.RestartCount, pid)
	}

	// The supervisor dies: the same.
	if err := unix.Kill(h.supervisor(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.supervisor()
	n = strings.Count(h.logs("count"), "\n")
	h.until("the log goes on", func() bool { return strings.Count(h.logs("count"), "\n") > n+3 })

	// A broken manifest changes nothing but the report.
	h.write("count.yaml", "  image: x\n  colour: blue\n")
	h.until("the fault is told", func() bool {
		c := h.get("count")
		valid := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionSpecValid)
		return valid != nil && valid.Status == metav1.ConditionFalse && strings.Contains(valid.Message,
			"spec.colour")
	})
	h.signal(unix.SIGTERM) // an agent that begins with a broken manifest keeps it, too
	h.start()
	h.until("the agent has read the directory", func() bool {
		data, _ := os.ReadFile(h.path("agent.log"))
		return strings.Count(string(data), "manifest refused") >= 2
	})
	if c := h.untilRunning("count"); c.Status.PID != pid {
		t.Fatalf("found pid %d after a broken manifest; want %d", c.Status.PID, pid)
	}

	// An edit replaces it, with grace: the trap has spoken.
	h.write("count.yaml", h.counting("two"))
	h.until("the replacement", func() bool {
		c := h.get("count")
		return c.Status.PID != 0 && c.Status.PID != pid
	})
	h.until("its log", func() bool { return strings.Contains(h.logs("count"), "two 1\n") })
	if !strings.Contains(h.logs("count", "--previous"), "bye\n") {
		t.Errorf("the first one was not stopped with grace; its log: %s", h.logs("count", "--previous"))
	}
	c = h.get("count")
	if c.Status.RestartCount != 1 || c.Status.LastState.Terminated == nil ||
		c.Status.LastState.Terminated.ExitCode != 3 {
		t.Errorf("found %+v; want 1 restart after exit code 3", c.Status.RunStatus)
	}

	// An end that happens while no agent runs is seen once.
	h.signal(unix.SIGKILL)
	if err := unix.Kill(int(c.Status.PID), unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	h.until("its end", func() bool { s := procState(int(c.Status.PID)); return s == "" || s == "Z" })
	h.start()
	h.until("the restart", func() bool {
		c := h.get("count")
		return c != nil && c.Status.RestartCount == 2 && c.Status.PID != 0 &&
			c.Status.LastState.Terminated.ExitCode == 3
	})

	h.remove("count.yaml")
	h.until("all is gone", func() bool { return h.get("count") == nil })
	if left := h.leftovers(); left != (counts{}) || h.files() != 0 {
		t.Fatalf("found %+v and %d files left", left, h.files())
	}
}

func TestStandaloneRemovedWhileAway(t *testing.T) {
	h := newHost(t)
	h.start()
	h.write("count.yaml", h.counting("one"))
	h.untilRunning("count")
	h.signal(unix.SIGKILL)
	h.remove("count.yaml")
	h.start()
	h.until("all is gone", func() bool { return h.files() == 0 })
	if left := h.leftovers(); left != (counts{}) {
		t.Fatalf("found %+v left", left)
	}
}

func TestStandaloneRestartPolicy(t *testing.T) {
	h := newHost(t)
	h.start()
	run := func(name, policy, script string) {
		h.write(name+".yaml",
			fmt.Sprintf(
				"  archive: {path: %s/busybox.tar}\n  restartPolicy: %s\n  command: [/bin/sh, -c, %q]\n"+
					longBackOff,
				programs, policy, script))
	}
	run("good", "Never", "echo done")
	run("bad", "Never", "exit 7")
	run("once", "OnFailure", "exit 0")
	run("loop", "Always", "exit 9")
	h.untilSucceeded("good")
	h.until("bad has failed", func() bool {
		c := h.get("bad")
		return c != nil && c.Status.Phase == v1alpha1.ContainerFailed &&
			c.Status.State.Terminated.ExitCode == 7
	})
	h.untilSucceeded("once")
	h.until("loop backs off", func() bool {
		c := h.get("loop")
		return c != nil && c.Status.RestartCount >= 1 && c.Status.State.Waiting != nil &&
			c.Status.State.Waiting.Reason == v1alpha1.ReasonCrashLoopBackOff &&
			c.Status.LastState.Terminated.ExitCode == 9
	})
	if log := h.logs("good"); log != "done\n" {
		t.Errorf("found log %q of one that has ended; want done", log)
	}
	// What has ended holds nothing but its log, its record and its network namespace.
	if left := h.leftovers(); left != (counts{}) {
		t.Errorf("found %+v of ended containers", left)
	}
	h.removeAll("good.yaml", "bad.yaml", "once.yaml", "loop.yaml")
}

// corrupt copies an archive with one byte of its largest file changed.
func corrupt(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(bytes.NewReader(data))
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for {
		header, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if len(content) > 100<<10 { // the layer
			content[len(content)/2] ^= 0xff
		}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestStandaloneBadInput: each ends in a condition that names the cause, and holds nothing while it
// waits.
func TestStandaloneBadInput(t *testing.T) {
	h := newHost(t)
	corrupt(t, programs+"/busybox.tar", h.path("corrupt.tar"))
	h.start()
	good := "  archive: {path: " + programs + "/busybox.tar}\n"
	for _, tc := range []struct {
		name, spec, condition, reason string
		words                         []string
	}{
		// First, while the store has no layer of it: one that it has is not read again.
		{
			"image-corrupt", "  archive: {path: " + h.path("corrupt.tar") + "}\n",
			v1alpha1.ConditionImageReady, v1alpha1.ReasonImagePullFailed,
			[]string{"sha256:"},
		},
		{
			"image-missing", "  archive: {path: /nowhere/x.tar}\n", v1alpha1.ConditionImageReady,
			v1alpha1.ReasonImagePullFailed,
			[]string{"/nowhere/x.tar"},
		},
		{
			"image-arch", "  archive: {path: " + programs + "/s390x.tar}\n", v1alpha1.ConditionImageReady,
			v1alpha1.ReasonImagePullFailed,
			[]string{"s390x"},
		},
		{
			"command-missing", good + "  command: [/no/such/program]\n", v1alpha1.ConditionRunning,
			v1alpha1.ReasonCreateFailed,
			[]string{"/no/such/program"},
		},
		{
			"rootfs-missing", "  rootfs: {path: /nowhere/rootfs}\n  command: [/bin/sh]\n",
			v1alpha1.ConditionImageReady, v1alpha1.ReasonCreateFailed,
			[]string{
				"/nowhere/rootfs",
				"root.path",
			},
		},
		{
			"source-missing", good +
				"  volumes: [{name: v, hostPath: {path: /nowhere/source}}]\n  volumeMounts: [{name: v, mountPath: /v}]\n",
			v1alpha1.ConditionRunning, v1alpha1.ReasonCreateFailed,
			[]string{"/nowhere/source", "volumes[0].hostPath.path"},
		},
		{
			"handler-missing", good + "  runtimeClassName: kata\n", v1alpha1.ConditionRunning,
			v1alpha1.ReasonHandlerNotFound,
			[]string{"kata", "berth"},
		},
		{
			"run-as-root", good + "  securityContext: {runAsNonRoot: true}\n", v1alpha1.ConditionRunning,
			v1alpha1.ReasonCreateFailed,
			[]string{"runAsNonRoot"},
		},
		{
			"cwd-is-a-file", good + "  workingDir: /bin/busybox\n", v1alpha1.ConditionRunning,
			v1alpha1.ReasonCreateFailed,
			[]string{"cwd"},
		},
	} {
		name := tc.name
		t.Run(name, func(t *testing.T) {
			h.t = t
			h.write(name+".yaml", tc.spec+longBackOff)
			var got *metav1.Condition
			h.until("the condition "+tc.condition, func() bool {
				c := h.get(name)
				if c == nil || !meta.IsStatusConditionFalse(c.Status.Conditions, tc.condition) {
					return false
				}
				got = meta.FindStatusCondition(c.Status.Conditions, tc.condition)
				return got.Reason == tc.reason
			})
			t.Log(got.Message)
			for _, w := range tc.words {
				if !strings.Contains(got.Message, w) {
					t.Errorf("found %q; want it to name %q", got.Message, w)
				}
			}
			if left := h.leftovers(); left != (counts{}) {
				t.Errorf("found %+v held while it waits", left)
			}
			h.remove(name + ".yaml")
			h.until("all is gone", func() bool { return h.files() == 0 })
		})
	}
	h.t = t

	// Too little memory to exec may fail in the kernel before or after the new program has begun.
	h.write("no-memory.yaml", good+
		"  command: [/bin/sh, -c, sleep 60]\n  resources: {limits: {memory: 100Ki}}\n")
	h.until("the end for lack of memory", func() bool {
		c := h.get("no-memory")
		if c == nil {
			return false
		}
		m := standalone.Message(c)
		return strings.Contains(m, "memory")
	})
	t.Log(standalone.Message(h.get("no-memory")))
	h.remove("no-memory.yaml")
	h.until("all is gone", func() bool { return h.files() == 0 && h.leftovers() == counts{} })
}
