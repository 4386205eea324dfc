// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/v1alpha1"
)

// TestRunDirBelongsToOneAgent starts an agent with another state directory on the run directory of
// the first: it is refused, while the first runs and after it has ended, and the containers live
// on.
func TestRunDirBelongsToOneAgent(t *testing.T) {
	h := newHost(t)
	h.start()
	h.write("web.yaml", "  image: oci-archive:"+programs+
		"/busybox.tar\n  command: [sleep, \"1000\"]\n")
	pid := h.untilRunning("web").Status.PID
	for _, d := range []string{"m2", "s2"} {
		if err := os.Mkdir(h.path(d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	second := func() string {
		cmd := h.program("--manifests", h.path("m2"), "--state-dir", h.path("s2"), "--run-dir",
			h.path("r"), "--log-dir", h.path("l2"), "--cgroup-parent", h.cgroup, "--node-name", "second")
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Errorf("the second agent ended without an error: %s", out)
		}
		return string(out)
	}
	for _, when := range []string{"while the first runs", "after the first has ended"} {
		if got := second(); !strings.Contains(got, "--run-dir") || !strings.Contains(got, h.path("s")) {
			t.Errorf("%s: the second agent says %q; want it to name --run-dir and %s", when, got,
				h.path("s"))
		}
		if err := unix.Kill(int(pid), 0); err != nil {
			t.Fatalf("%s: the container is gone: %v", when, err)
		}
		if h.agent != nil {
			h.signal(unix.SIGTERM)
		}
	}
	h.start()
	if got := h.untilRunning("web").Status; got.PID != pid || got.RestartCount != 0 {
		t.Errorf("found %+v; want process %d as before", got, pid)
	}
	h.remove("web.yaml")
	h.until("web is removed", func() bool { return h.get("web") == nil })
}

// TestSupervisorKilled kills the supervisor again and again beside jobs that write and end: each
// has all of its lines and its exit code, and none runs twice.
func TestSupervisorKilled(t *testing.T) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	h := newHost(t)
	h.start()
	shared := h.path("shared")
	if err := os.Mkdir(shared, 0o700); err != nil {
		t.Fatal(err)
	}
	const jobs, enough = 4, 5
	for i := range jobs {
		job := strconv.Itoa(i)
		h.write("job"+job+".yaml", "  image: oci-archive:"+programs+
			"/busybox.tar\n  restartPolicy: Never\n"+
			"  command: [/bin/sh, -c, 'i=0; while [ ! -e /s/enough ] || [ $i -lt 100 ]; do echo line $i; i=$((i+1)); sleep 0.01; done; "+
			"echo $i > /s/"+job+"; exit "+strconv.Itoa(20+i)+"']\n"+
			"  volumes: [{name: s, hostPath: {path: "+shared+
			"}}]\n  volumeMounts: [{name: s, mountPath: /s}]\n")
	}
	for i := range jobs {
		h.until("the job begins", func() bool {
			return strings.Contains(h.logs("job"+strconv.Itoa(i)), "line 1\n")
		})
	}
	ended := func() (n int) {
		for i := range jobs {
			if c := h.get("job" + strconv.Itoa(i)); c != nil && c.Status.Phase == v1alpha1.ContainerFailed {
				n++
			}
		}
		return n
	}
	for kills := 0; kills < enough; kills++ {
		pid := h.supervisor()
		if kills == enough-1 { // the jobs end while the last one is away
			if err := os.WriteFile(shared+"/enough", nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	h.until("all jobs end", func() bool { return ended() == jobs })
	for i := range jobs {
		name := "job" + strconv.Itoa(i)
		c := h.get(name)
		switch got := c.Status.State.Terminated; {
		case got == nil, got.ExitCode != int32(20+i) && kernelTellsExits(u):
			t.Errorf("%s: found %+v; want exit code %d", name, c.Status.State, 20+i)
		case c.Status.RestartCount != 0:
			t.Errorf("%s was run %d times more", name, c.Status.RestartCount)
		}
		written, err := os.ReadFile(filepath.Join(shared, strconv.Itoa(i)))
		if err != nil {
			t.Fatal(err)
		}
		lines, err := strconv.Atoi(strings.TrimSpace(string(written)))
		if err != nil {
			t.Fatal(err)
		}
		var want strings.Builder
		for j := range lines {
			want.WriteString("line " + strconv.Itoa(j) + "\n")
		}
		if got := h.logs(name); got != want.String() {
			t.Errorf("%s: the log is not the %d lines: %d bytes, not %d", name, lines, len(got), want.Len())
		}
	}
}

// TestRunDirRemoved removes the run directory, and then the socket alone, while containers run: the
// supervisor that lives makes them again, the agent goes on with it, and every line and exit code
// arrives.
func TestRunDirRemoved(t *testing.T) {
	h := newHost(t)
	h.start()
	spec := func(rest string) string {
		return "  image: oci-archive:" + programs + "/busybox.tar\n" + rest
	}
	h.write("web.yaml", spec("  command: [sleep, \"1000\"]\n"))
	h.write("job.yaml", spec("  restartPolicy: Never\n  command: [/bin/sh, -c, '"+
		"i=0; while [ $i -lt 400 ]; do echo line $i; i=$((i+1)); sleep 0.01; done; exit 9']\n"))
	web := h.untilRunning("web").Status.PID
	h.until("the job writes", func() bool { return strings.Contains(h.logs("job"), "line 1\n") })
	supervisor := h.supervisor()
	for _, removed := range []string{"r", "r/supervisor.sock"} {
		// Pinned network namespaces are mounts, which cannot be removed like files; and the supervisor
		// may be making files again by now.
		if err := os.RemoveAll(h.path(removed)); err != nil && !errors.Is(err, unix.EBUSY) &&
			!errors.Is(err, unix.ENOTEMPTY) {
			t.Fatal(err)
		}
		if got := h.supervisor(); got != supervisor {
			t.Fatalf("without %s: found supervisor %d; want %d", removed, got, supervisor)
		}
		h.until("the directory is the agent's", func() bool {
			owner, _ := os.ReadFile(h.path("r/agent.owner"))
			return strings.TrimSpace(string(owner)) == h.path("s")
		})
	}
	h.until("the job has ended", func() bool {
		return h.get("job").Status.Phase == v1alpha1.ContainerFailed
	})
	job := h.get("job").Status
	if job.State.Terminated == nil || job.State.Terminated.ExitCode != 9 || job.RestartCount != 0 {
		t.Errorf("the job: found %+v; want exit code 9", job)
	}
	var want strings.Builder
	for i := range 400 {
		want.WriteString("line " + strconv.Itoa(i) + "\n")
	}
	if got := h.logs("job"); got != want.String() {
		t.Errorf("the job: the log is not the 400 lines: %d bytes, not %d", len(got), want.Len())
	}
	if got := h.get("web").Status; got.PID != web || got.RestartCount != 0 {
		t.Errorf("web: found %+v; want process %d as before", got, web)
	}
	h.write("new.yaml", spec("  command: [sleep, \"1000\"]\n"))
	h.untilRunning("new")
	if got := h.supervisor(); got != supervisor {
		t.Errorf("found supervisor %d; want %d", got, supervisor)
	}
	h.removeAll("web.yaml", "job.yaml", "new.yaml")
	h.until("all are removed", func() bool {
		return h.get("web") == nil && h.get("job") == nil && h.get("new") == nil
	})
}

// kernelTellsExits reports whether a pidfd knows the exit code of a process that somebody else has
// reaped: since Linux 6.15.
func kernelTellsExits(u unix.Utsname) bool {
	major, rest, _ := strings.Cut(unix.ByteSliceToString(u.Release[:]), ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, _ := strconv.Atoi(major)
	b, _ := strconv.Atoi(minor)
	return a > 6 || a == 6 && b >= 15
}

// TestSupervisorUpgrade has the supervisor become another build of berth while a container runs:
// both processes stay, and the agent learns how the container ends.
func TestSupervisorUpgrade(t *testing.T) {
	h := newHost(t)
	h.start()
	h.write("job.yaml", "  image: oci-archive:"+programs+"/busybox.tar\n  restartPolicy: Never\n"+
		"  command: [/bin/sh, -c, 'trap \"exit 6\" USR1; echo begin; while :; do sleep 0.05; done']\n")
	pid := h.untilRunning("job").Status.PID
	h.until("it writes", func() bool { return h.logs("job") == "begin\n" })
	before := h.supervisor()
	data, err := os.ReadFile(programs + "/berth")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.path("berth2"), data, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{h.path("berth2"), programs + "/berth", h.path("berth2")} {
		out, err := exec.Command(program, "supervise", "--upgrade", "--run-dir",
			h.path("r")).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "is now berth") {
			t.Fatalf("upgrade: %v: %s", err, out)
		}
		if got := h.supervisor(); got != before {
			t.Fatalf("the supervisor is process %d; want %d", got, before)
		}
	}
	if args, err := os.ReadFile("/proc/" + strconv.Itoa(before) + "/cmdline"); err != nil ||
		strings.Count(string(args), "--held") != 1 {
		t.Errorf("found the command line %q, %v", args, err)
	}
	if err := unix.Kill(int(pid), unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	h.until("it has failed", func() bool {
		c := h.get("job")
		return c.Status.Phase == v1alpha1.ContainerFailed
	})
	if got := h.get("job").Status; got.State.Terminated == nil || got.State.Terminated.ExitCode != 6 ||
		got.RestartCount != 0 {
		t.Errorf("found %+v; want exit code 6", got)
	}
	if got := h.logs("job"); got != "begin\n" {
		t.Errorf("the log has %q", got)
	}
}

// TestSupervisorDoesNotListenYet has another process hold the run directory, as a supervisor does
// that becomes another program while the agent begins: the agent waits for it, and starts one when
// it is gone.
func TestSupervisorDoesNotListenYet(t *testing.T) {
	h := newHost(t)
	if err := os.MkdirAll(h.path("r/supervisor"), 0o700); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(h.path("r/supervisor/lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.FcntlFlock(lock.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.until("a second supervisor is refused twice", func() bool {
		log, _ := os.ReadFile(h.path("r/supervisor.log"))
		return strings.Count(string(log), "another supervisor holds") > 1
	})
	if err := unix.FcntlFlock(lock.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_UNLCK}); err != nil {
		t.Fatal(err)
	}
	h.supervisor()
}
