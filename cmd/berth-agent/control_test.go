// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/status"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/claim"
	"github.com/berth-run/berth/node-agent/standalone"
)

// run runs a command of the agent's, and returns what it writes and its exit code.
func (h *host) run(stdin string, args ...string) (stdout, stderr string, code int) {
	h.t.Helper()
	cmd := h.program(append([]string{args[0], "--state-dir", h.path("s")}, args[1:]...)...)
	var out, err bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &err
	var exit *exec.ExitError
	if e := cmd.Run(); e != nil && !errors.As(e, &exit) {
		h.t.Fatal(e)
	}
	return out.String(), err.String(), cmd.ProcessState.ExitCode()
}

// does asserts that a command succeeds.
func (h *host) does(args ...string) string {
	h.t.Helper()
	out, stderr, code := h.run("", args...)
	if code != 0 {
		h.t.Fatalf("%v: found code %d, %q", args, code, stderr)
	}
	return out
}

// TestStandaloneControl: stop, start, restart, exec, logs and SIGHUP as people use them.
func TestStandaloneControl(t *testing.T) {
	h := newHost(t)
	h.start()
	h.write("count.yaml", h.counting("one"))
	pid := h.untilRunning("count").Status.PID
	for _, part := range []struct {
		name  string
		check func()
	}{
		{"exec", h.checkExec},
		{"exec with a terminal", h.checkExecTerminal},
		{"exec passes signals on", h.checkExecSignals},
	} {
		t.Run(part.name, func(t *testing.T) {
			h.t = t
			part.check()
		})
		h.t = t
	}
	h.checkHangup()
	h.checkStop(int(pid))
	h.checkStart()
	h.checkLogs()
	h.checkLogsOfRemoved()
	h.checkPrune()
}

// checkHangup: SIGHUP reads the manifests again, and ends nothing.
func (h *host) checkHangup() {
	if err := h.agent.Process.Signal(unix.SIGHUP); err != nil {
		h.t.Fatal(err)
	}
	h.until("the word of SIGHUP", func() bool {
		data, _ := os.ReadFile(h.path("agent.log"))
		return strings.Contains(string(data), "SIGHUP")
	})
}

// checkStop stops count, which runs as process pid. It stays stopped, whatever happens to the agent
// and to the manifest.
func (h *host) checkStop(pid int) {
	// stop respects the grace period: the trap has spoken.
	if out := h.does("stop", "count"); out != "count\n" {
		h.t.Errorf("stop: found %q", out)
	}
	stopped := func() bool {
		c := h.get("count")
		return c.Status.PID == 0 && c.Status.State.Waiting != nil &&
			c.Status.State.Waiting.Reason == v1alpha1.ReasonStopped
	}
	if c := h.get("count"); !stopped() || c.Status.LastState.Terminated.ExitCode != 3 {
		h.t.Fatalf("found %+v after stop", c.Status)
	}
	if !strings.HasSuffix(h.logs("count"), "bye\n") {
		h.t.Errorf("not stopped with grace; its log: %s", h.logs("count"))
	}
	if procState(pid) != "" {
		h.t.Errorf("pid %d runs on", pid)
	}
	h.does("stop", "count") // again is nothing to do
	if _, stderr, code := h.run("", "exec", "count", "--", "true"); code != 125 ||
		!strings.Contains(stderr, "count does not run") || !strings.Contains(stderr, "told to stop") {
		h.t.Errorf("exec of a stopped one: found code %d, %q", code, stderr)
	}
	h.signal(unix.SIGKILL)
	h.start()
	h.until("the agent has read the directory", func() bool { return claim.AgentRuns(h.path("s")) })
	h.write("count.yaml", h.counting("two"))
	h.until("the edit", func() bool {
		c := h.get("count")
		return c.Generation == 2 && c.Status.ObservedGeneration == 2
	})
	if !stopped() {
		h.t.Fatalf("found %+v after a start of the agent and an edit", h.get("count").Status)
	}
}

// checkStart starts count, and restarts it.
func (h *host) checkStart() {
	h.does("start", "count")
	c := h.untilRunning("count")
	h.until("the edited log", func() bool { return strings.Contains(h.logs("count"), "two 1\n") })
	h.does("start", "count") // runs already
	if again := h.get("count"); again.Status.PID != c.Status.PID {
		h.t.Errorf("start of one that runs: found pid %d, before %d", again.Status.PID, c.Status.PID)
	}
	h.does("restart", "count")
	if again := h.untilRunning("count"); again.Status.PID == c.Status.PID ||
		again.Status.RestartCount != c.Status.RestartCount+1 {
		h.t.Errorf("restart: found %+v", again.Status)
	}
	if !strings.HasSuffix(h.logs("count", "--previous"), "bye\n") {
		h.t.Error("not restarted with grace")
	}
	h.signal(unix.SIGKILL) // a restart that was done is not done again
	pid := h.get("count").Status.PID
	h.start()
	h.until("the agent has read the directory", func() bool { return claim.AgentRuns(h.path("s")) })
	h.does("restart", "count")
	if c := h.untilRunning("count"); c.Status.RestartCount != 3 || c.Status.PID == pid {
		h.t.Errorf("found %+v after another restart", c.Status)
	}
}

// checkLogs prints logs of several containers, their ends, and of one that was never started.
func (h *host) checkLogs() {
	h.until("count writes again", func() bool { return strings.Contains(h.logs("count"), "two 1\n") })
	h.write("other.yaml", "  image: oci-archive:"+programs+
		"/busybox.tar\n  restartPolicy: Never\n  command: [/bin/sh, -c, 'for i in 1 2 3; do echo line $i; done']\n")
	h.until("its end", func() bool {
		c := h.get("other")
		return c != nil && status.Finished(c.Status.Phase)
	})
	if out := h.does("logs", "other", "--tail", "2"); out != "line 2\nline 3\n" {
		h.t.Errorf("--tail: found %q", out)
	}
	out := h.does("logs", "other", "--since", "2001-01-01T00:00:00Z")
	if out != "line 1\nline 2\nline 3\n" {
		h.t.Errorf("--since: found %q", out)
	}
	if out := h.does("logs", "other", "--since", "0s"); out != "" {
		h.t.Errorf("--since: found %q", out)
	}
	if out := h.does("logs", "other", "count", "--tail", "1"); !strings.HasPrefix(out,
		"other | line 3\ncount | two ") {
		h.t.Errorf("several: found %q", out)
	}
	if out, stderr, code := h.run("", "logs", "other", "none", "--tail", "1"); code != 1 ||
		out != "other | line 3\n" || !strings.Contains(stderr,
		"none: NAME: found no container default/none") {
		h.t.Errorf("one of several: found %q, %q, code %d", out, stderr, code)
	}
	h.write("never.yaml", "  image: oci-archive:/nowhere.tar\n")
	h.until("its failure", func() bool {
		c := h.get("never")
		return c != nil && strings.Contains(standalone.Message(c), "nowhere")
	})
	_, stderr, code := h.run("", "logs", "never")
	if code != 1 || !strings.Contains(stderr, "the container did not start yet") ||
		!strings.Contains(stderr, "nowhere.tar") {
		h.t.Errorf("logs of one that was never started: found code %d, %q", code, stderr)
	}
	if _, stderr, code := h.run("", "start", "never"); code != 1 || !strings.Contains(stderr,
		"nowhere.tar") {
		h.t.Errorf("start of what cannot start: found code %d, %q", code, stderr)
	}
	h.does("start", "other") // one that has ended runs again
	h.until("its second end", func() bool {
		c := h.get("other")
		return status.Finished(c.Status.Phase) && c.Status.RestartCount == 1
	})
}

// checkLogsOfRemoved removes containers: they leave their logs.
func (h *host) checkLogsOfRemoved() {
	h.remove("never.yaml")
	h.remove("other.yaml")
	h.until("the removal", func() bool { return h.get("other") == nil && h.get("never") == nil })
	_, stderr, code := h.run("", "logs", "other")
	if code != 1 || !strings.Contains(stderr, "berth-agent logs --previous other") {
		h.t.Errorf("logs of a removed one: found code %d, %q", code, stderr)
	}
	if out := h.does("logs", "--previous", "other"); out != "line 1\nline 2\nline 3\n" {
		h.t.Errorf("logs --previous of a removed one: found %q", out)
	}
}

// checkPrune puts another directory in place of the manifests' one, as the mount point of a volume
// may be: that stops nothing by itself.
func (h *host) checkPrune() {
	err := errors.Join(os.Rename(h.path("m"), h.path("away")), os.Mkdir(h.path("m"), 0o700))
	if err != nil {
		h.t.Fatal(err)
	}
	if err := h.agent.Process.Signal(unix.SIGHUP); err != nil { // or the next look is in 30 s
		h.t.Fatal(err)
	}
	h.until("the word of the missing manifest", func() bool {
		_, stderr, _ := h.run("", "status")
		return strings.Contains(stderr, "missing: ")
	})
	if c := h.untilRunning("count"); c.Status.RestartCount != 3 {
		h.t.Errorf("found %+v without a manifest", c.Status)
	}
	_, stderr, code := h.run("", "prune", "none")
	if code != 1 || !strings.Contains(stderr, "default/none") {
		h.t.Errorf("prune of nothing: found code %d, %q", code, stderr)
	}
	if out := h.does("prune"); out != "count\n" || h.get("count") != nil {
		h.t.Errorf("prune: found %q", out)
	}
	h.signal(unix.SIGTERM)
	if _, stderr, code := h.run("", "stop", "count"); code != 1 || !strings.Contains(stderr,
		"no running agent") {
		h.t.Errorf("stop without an agent: found code %d, %q", code, stderr)
	}
}

// TestStandaloneJobAgain: a job's manifest that is removed and copied there again runs the job
// again, however fast that is.
func TestStandaloneJobAgain(t *testing.T) {
	h := newHost(t)
	h.start()
	job := "  image: oci-archive:" + programs +
		"/busybox.tar\n  restartPolicy: Never\n  command: [/bin/sh, -c, 'echo x >>/out/runs']\n" +
		"  volumes: [{name: v, hostPath: {path: " + h.dir +
		"}}]\n  volumeMounts: [{name: v, mountPath: /out}]\n"
	runs := func() int {
		data, _ := os.ReadFile(h.path("runs"))
		return strings.Count(string(data), "x")
	}
	h.write("job.yaml", job)
	for n := 1; n <= 4; n++ {
		h.until(fmt.Sprintf("run %d", n), func() bool {
			c := h.get("job")
			return runs() == n && c != nil && status.Finished(c.Status.Phase) && c.DeletionTimestamp == nil
		})
		if n == 3 { // over a start of the agent, it is not run again
			h.signal(unix.SIGKILL)
			h.start()
			h.write("probe.yaml", job) // what happens before the agent watches is not seen
			h.until("the watch", func() bool {
				c := h.get("probe")
				return c != nil && status.Finished(c.Status.Phase)
			})
			h.remove("probe.yaml")
			h.until("its removal", func() bool { return h.get("probe") == nil })
			if c := h.get("job"); c.Status.RestartCount != 0 || runs() != n+1 {
				t.Errorf("found %d runs, the probe's included; want %d", runs(), n+1)
			}
			if err := os.WriteFile(h.path("runs"), []byte(strings.Repeat("x", n)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		h.remove("job.yaml")
		h.write("job.yaml", job)
	}
	h.until("the last run", func() bool {
		c := h.get("job")
		return runs() == 5 && c != nil && status.Finished(c.Status.Phase)
	})
	if kept, _ := filepath.Glob(h.path("l/removed/default_job_*/0.log")); len(kept) != 4 {
		t.Errorf("found logs %v of the lives before", kept)
	}
	h.remove("job.yaml")
	h.until("all is gone", func() bool { return h.files() == 0 })
}

// TestRunDirTooLong: the limit is named, before anything is begun.
func TestRunDirTooLong(t *testing.T) {
	h := newHost(t)
	out, err := h.program("--manifests", h.path("m"), "--state-dir", h.path("s"), "--run-dir",
		h.path(strings.Repeat("r", 100))).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--run-dir: found ") ||
		!strings.Contains(string(out), "allowed: 107") {
		t.Errorf("found %v, %s", err, out)
	}
}

// TestNotRoot: a user who may not read the state gets an error that names the missing right.
func TestNotRoot(t *testing.T) {
	h := newHost(t)
	h.start()
	h.until("the state", func() bool { _, err := os.Stat(h.path("s/status")); return err == nil })
	if err := os.Chmod(programs, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"status"}, {"logs", "x"}, {"stop", "x"}, {"exec", "x", "true"}} {
		cmd := exec.Command("setpriv", append([]string{
			"--reuid=65534", "--regid=65534", "--clear-groups",
			programs + "/berth-agent", args[0], "--state-dir", h.path("s"),
		}, args[1:]...)...)
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "found user id 65534; allowed: 0") {
			t.Errorf("%v: found %v, %s", args, err, out)
		}
	}
}

// TestPruneAllNamespaces: a Container that cannot be pruned keeps none of another namespace.
func TestPruneAllNamespaces(t *testing.T) {
	state := t.TempDir()
	if err := os.Mkdir(filepath.Join(state, "status"), 0o700); err != nil {
		t.Fatal(err)
	}
	for namespace, rest := range map[string]string{"a": "", "b": `,"uid":"1","generation":1`} {
		status := fmt.Sprintf(
			`{"metadata":{"name":"x","namespace":%q,"annotations":{"berth.run/manifest-missing":"all vanished"}%s}}`, namespace, rest)
		err := os.WriteFile(filepath.Join(state, "status", namespace+"_x.json"), []byte(status), 0o600)
		if err != nil {
			t.Fatal(err)
		}
	}
	agent, err := claim.StateDir(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	c := command()
	c.SetArgs([]string{"prune", "--no-wait", "--state-dir", state})
	var out bytes.Buffer
	c.SetOut(&out)
	err = c.ExecuteContext(t.Context())
	if err == nil || !strings.Contains(err.Error(), "a/x was never accepted") ||
		out.String() != "b/x\n" {
		t.Errorf("found %v and %q", err, out.String())
	}
	if asked, err := filepath.Glob(filepath.Join(state, "requests/*.json")); err != nil ||
		len(asked) != 1 {
		t.Errorf("found requests %v, %v; want one", asked, err)
	}
}
