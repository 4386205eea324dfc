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
	cmd := exec.Command(programs+"/berth-agent", append([]string{args[0], "--state-dir", h.path("s")}, args[1:]...)...)
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

	t.Run("exec", func(t *testing.T) {
		h.t = t
		for _, tc := range []struct {
			args   []string
			stdin  string
			out    string
			code   int
			stderr string
		}{
			{args: []string{"count", "--", "echo", "-n", "hi"}, out: "hi"},
			{args: []string{"count", "echo", "-n", "hi"}, out: "hi"},
			{args: []string{"count", "--", "/bin/sh", "-c", "exit 7"}, code: 7},
			{args: []string{"count", "--", "/bin/sh", "-c", "exit 255"}, code: 255},
			{args: []string{"count", "--", "/bin/sh", "-c", "kill -9 $$"}, code: 137},
			{args: []string{"count", "--", "cat"}, stdin: "text"},
			{args: []string{"-i", "count", "--", "cat"}, stdin: "text", out: "text"},
			{args: []string{"-u", "1000:1001", "-w", "/tmp", "-e", "A=b c", "count", "--", "/bin/sh", "-c", `echo -n "$(id -u):$(id -g) $(pwd) $A $WORD"`}, out: "1000:1001 /tmp b c one"},
			{args: []string{"-u", "user", "count", "--", "/bin/sh", "-c", `echo -n "$(id -u):$(id -g) $(id -G)"`}, out: "1000:1000 1000 0 4"},
			{args: []string{"-u", "nobody:1001", "count", "--", "/bin/sh", "-c", `echo -n "$(id -u):$(id -g)"`}, out: "65534:1001"},
			{args: []string{"-u", "nosuch", "count", "--", "true"}, code: 125, stderr: `--user: found "nosuch", which /etc/passwd does not know`},
			{args: []string{"-u", "user:nosuch", "count", "--", "true"}, code: 125, stderr: `--user: found "nosuch", which /etc/group does not know`},
			{args: []string{"count", "--", "/no/such"}, code: 127, stderr: "no such file"},
			{args: []string{"count", "--", "nosuch"}, code: 127, stderr: "not found"},
			{args: []string{"count", "--", "/etc/passwd"}, code: 126, stderr: "permission denied"},
			{args: []string{"none", "--", "true"}, code: 125, stderr: "found no container default/none"},
		} {
			out, stderr, code := h.run(tc.stdin, append([]string{"exec"}, tc.args...)...)
			if out != tc.out || code != tc.code || !strings.Contains(stderr, tc.stderr) {
				t.Errorf("%q: found %q, code %d, %q; want %q, code %d, %q", tc.args, out, code, stderr, tc.out, tc.code, tc.stderr)
			}
		}
	})
	h.t = t
	t.Run("exec with a terminal", func(t *testing.T) {
		h.t = t
		// script(1) gives exec a terminal, and returns its exit code.
		cmd := exec.Command("script", "-qec", programs+"/berth-agent exec --state-dir "+h.path("s")+" -it count -- /bin/sh -c 'test -t 0 && test -t 1 && echo terminal; exit 9'", "/dev/null")
		out, err := cmd.CombinedOutput()
		if !strings.Contains(string(out), "terminal\r\n") || cmd.ProcessState.ExitCode() != 9 {
			t.Errorf("found %q, %v", out, err)
		}
	})
	t.Run("exec passes signals on", func(t *testing.T) {
		h.t = t
		cmd := exec.Command(programs+"/berth-agent", "exec", "--state-dir", h.path("s"), "count", "--", "/bin/sh", "-c", "trap 'exit 5' TERM; echo ready; while true; do sleep 0.1; done")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 6)); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 5 {
			t.Errorf("found %v", cmd.ProcessState)
		}
	})
	h.t = t

	// SIGHUP reads the manifests again, and ends nothing.
	if err := h.agent.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	h.until("the word of SIGHUP", func() bool {
		data, _ := os.ReadFile(h.path("agent.log"))
		return strings.Contains(string(data), "SIGHUP")
	})

	// stop respects the grace period: the trap has spoken.
	if out := h.does("stop", "count"); out != "count\n" {
		t.Errorf("stop: found %q", out)
	}
	stopped := func() bool {
		c := h.get("count")
		return c.Status.PID == 0 && c.Status.State.Waiting != nil && c.Status.State.Waiting.Reason == v1alpha1.ReasonStopped
	}
	if c := h.get("count"); !stopped() || c.Status.LastState.Terminated.ExitCode != 3 {
		t.Fatalf("found %+v after stop", c.Status)
	}
	if !strings.HasSuffix(h.logs("count"), "bye\n") {
		t.Errorf("not stopped with grace; its log: %s", h.logs("count"))
	}
	if procState(int(pid)) != "" {
		t.Errorf("pid %d runs on", pid)
	}
	h.does("stop", "count") // again is nothing to do
	if _, stderr, code := h.run("", "exec", "count", "--", "true"); code != 125 || !strings.Contains(stderr, "count does not run") || !strings.Contains(stderr, "told to stop") {
		t.Errorf("exec of a stopped one: found code %d, %q", code, stderr)
	}
	// It stays stopped, whatever happens to the agent and to the manifest.
	h.signal(unix.SIGKILL)
	h.start()
	h.until("the agent has read the directory", func() bool { return claim.AgentRuns(h.path("s")) })
	h.write("count.yaml", h.counting("two"))
	h.until("the edit", func() bool { c := h.get("count"); return c.Generation == 2 && c.Status.ObservedGeneration == 2 })
	if !stopped() {
		t.Fatalf("found %+v after a start of the agent and an edit", h.get("count").Status)
	}

	h.does("start", "count")
	c := h.untilRunning("count")
	h.until("the edited log", func() bool { return strings.Contains(h.logs("count"), "two 1\n") })
	h.does("start", "count") // runs already
	if again := h.get("count"); again.Status.PID != c.Status.PID {
		t.Errorf("start of one that runs: found pid %d, before %d", again.Status.PID, c.Status.PID)
	}
	h.does("restart", "count")
	if again := h.untilRunning("count"); again.Status.PID == c.Status.PID || again.Status.RestartCount != c.Status.RestartCount+1 {
		t.Errorf("restart: found %+v", again.Status)
	}
	if !strings.HasSuffix(h.logs("count", "--previous"), "bye\n") {
		t.Error("not restarted with grace")
	}
	h.signal(unix.SIGKILL) // a restart that was done is not done again
	pid = h.get("count").Status.PID
	h.start()
	h.until("the agent has read the directory", func() bool { return claim.AgentRuns(h.path("s")) })
	h.does("restart", "count")
	if c := h.untilRunning("count"); c.Status.RestartCount != 3 || c.Status.PID == pid {
		t.Errorf("found %+v after another restart", c.Status)
	}

	// Logs of several, their ends, and what has none.
	h.write("other.yaml", "  image: oci-archive:"+programs+"/busybox.tar\n  restartPolicy: Never\n  command: [/bin/sh, -c, 'for i in 1 2 3; do echo line $i; done']\n")
	h.until("its end", func() bool { c := h.get("other"); return c != nil && status.Finished(c.Status.Phase) })
	if out := h.does("logs", "other", "--tail", "2"); out != "line 2\nline 3\n" {
		t.Errorf("--tail: found %q", out)
	}
	if out := h.does("logs", "other", "--since", "2001-01-01T00:00:00Z"); out != "line 1\nline 2\nline 3\n" {
		t.Errorf("--since: found %q", out)
	}
	if out := h.does("logs", "other", "--since", "0s"); out != "" {
		t.Errorf("--since: found %q", out)
	}
	if out := h.does("logs", "other", "count", "--tail", "1"); !strings.HasPrefix(out, "other | line 3\ncount | two ") {
		t.Errorf("several: found %q", out)
	}
	if out, stderr, code := h.run("", "logs", "other", "none", "--tail", "1"); code != 1 || out != "other | line 3\n" || !strings.Contains(stderr, "none: NAME: found no container default/none") {
		t.Errorf("one of several: found %q, %q, code %d", out, stderr, code)
	}
	h.write("never.yaml", "  image: oci-archive:/nowhere.tar\n")
	h.until("its failure", func() bool {
		c := h.get("never")
		return c != nil && strings.Contains(standalone.Message(c), "nowhere")
	})
	if _, stderr, code := h.run("", "logs", "never"); code != 1 || !strings.Contains(stderr, "the container did not start yet") || !strings.Contains(stderr, "nowhere.tar") {
		t.Errorf("logs of one that was never started: found code %d, %q", code, stderr)
	}
	if _, stderr, code := h.run("", "start", "never"); code != 1 || !strings.Contains(stderr, "nowhere.tar") {
		t.Errorf("start of what cannot start: found code %d, %q", code, stderr)
	}
	h.does("start", "other") // one that has ended runs again
	h.until("its second end", func() bool { c := h.get("other"); return status.Finished(c.Status.Phase) && c.Status.RestartCount == 1 })

	// What is removed leaves its logs.
	h.remove("never.yaml")
	h.remove("other.yaml")
	h.until("the removal", func() bool { return h.get("other") == nil && h.get("never") == nil })
	if _, stderr, code := h.run("", "logs", "other"); code != 1 || !strings.Contains(stderr, "berth-agent logs --previous other") {
		t.Errorf("logs of a removed one: found code %d, %q", code, stderr)
	}
	if out := h.does("logs", "--previous", "other"); out != "line 1\nline 2\nline 3\n" {
		t.Errorf("logs --previous of a removed one: found %q", out)
	}
	// Another directory in place of the manifests' one, such as the mount point of a volume, stops
	// nothing by itself.
	if err := errors.Join(os.Rename(h.path("m"), h.path("away")), os.Mkdir(h.path("m"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := h.agent.Process.Signal(unix.SIGHUP); err != nil { // or the next look is in 30 s
		t.Fatal(err)
	}
	h.until("the word of the missing manifest", func() bool { _, stderr, _ := h.run("", "status"); return strings.Contains(stderr, "missing: ") })
	if c := h.untilRunning("count"); c.Status.RestartCount != 3 {
		t.Errorf("found %+v without a manifest", c.Status)
	}
	if _, stderr, code := h.run("", "prune", "none"); code != 1 || !strings.Contains(stderr, "default/none") {
		t.Errorf("prune of nothing: found code %d, %q", code, stderr)
	}
	if out := h.does("prune"); out != "count\n" || h.get("count") != nil {
		t.Errorf("prune: found %q", out)
	}
	h.signal(unix.SIGTERM)
	if _, stderr, code := h.run("", "stop", "count"); code != 1 || !strings.Contains(stderr, "no running agent") {
		t.Errorf("stop without an agent: found code %d, %q", code, stderr)
	}
}

// TestStandaloneJobAgain: a job's manifest that is removed and copied there again runs the job
// again, however fast that is.
func TestStandaloneJobAgain(t *testing.T) {
	h := newHost(t)
	h.start()
	job := "  image: oci-archive:" + programs + "/busybox.tar\n  restartPolicy: Never\n  command: [/bin/sh, -c, 'echo x >>/out/runs']\n" +
		"  volumes: [{name: v, hostPath: {path: " + h.dir + "}}]\n  volumeMounts: [{name: v, mountPath: /out}]\n"
	runs := func() int { data, _ := os.ReadFile(h.path("runs")); return strings.Count(string(data), "x") }
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
			h.until("the watch", func() bool { c := h.get("probe"); return c != nil && status.Finished(c.Status.Phase) })
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
	h.until("the last run", func() bool { c := h.get("job"); return runs() == 5 && c != nil && status.Finished(c.Status.Phase) })
	if kept, _ := filepath.Glob(h.path("l/removed/default_job_*/0.log")); len(kept) != 4 {
		t.Errorf("found logs %v of the lives before", kept)
	}
	h.remove("job.yaml")
	h.until("all is gone", func() bool { return h.files() == 0 })
}

// TestRunDirTooLong: the limit is named, before anything is begun.
func TestRunDirTooLong(t *testing.T) {
	h := newHost(t)
	out, err := exec.Command(programs+"/berth-agent", "--manifests", h.path("m"), "--state-dir", h.path("s"), "--run-dir", h.path(strings.Repeat("r", 100))).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "--run-dir: found ") || !strings.Contains(string(out), "allowed: 107") {
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
		cmd := exec.Command("setpriv", append([]string{"--reuid=65534", "--regid=65534", "--clear-groups", programs + "/berth-agent", args[0], "--state-dir", h.path("s")}, args[1:]...)...)
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
		status := fmt.Sprintf(`{"metadata":{"name":"x","namespace":%q,"annotations":{"berth.run/manifest-missing":"all vanished"}%s}}`, namespace, rest)
		if err := os.WriteFile(filepath.Join(state, "status", namespace+"_x.json"), []byte(status), 0o600); err != nil {
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
	if err == nil || !strings.Contains(err.Error(), "a/x was never accepted") || out.String() != "b/x\n" {
		t.Errorf("found %v and %q", err, out.String())
	}
	if asked, err := filepath.Glob(filepath.Join(state, "requests/*.json")); err != nil || len(asked) != 1 {
		t.Errorf("found requests %v, %v; want one", asked, err)
	}
}
