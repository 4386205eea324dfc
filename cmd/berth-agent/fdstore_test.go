// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/v1alpha1"
)

// fakeManager plays the part of systemd that keeps descriptors: it takes FDSTORE messages on a
// socket, and starts the agent with the descriptors.
type fakeManager struct {
	t    *testing.T
	conn *net.UnixConn
	path string

	mu    sync.Mutex
	files map[string]*os.File
	// drained gets a value for each barrier that has been taken.
	drained chan struct{}
}

// barrier is the message after which start knows that all earlier ones have been taken.
const barrier = "X_BARRIER=1"

func newFakeManager(t *testing.T) *fakeManager {
	t.Helper()
	m := &fakeManager{
		t: t, path: filepath.Join(t.TempDir(), "notify"), files: map[string]*os.File{},
		drained: make(chan struct{}, 1),
	}
	var err error
	if m.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{
		Name: m.path,
		Net:  "unixgram",
	}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for m.take() {
		}
	}()
	t.Cleanup(func() {
		m.conn.Close()
		<-done
		for _, f := range m.files {
			f.Close()
		}
	})
	return m
}

// take takes one message.
func (m *fakeManager) take() bool {
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(64))
	n, oobn, _, _, err := m.conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return false
	}
	if string(buf[:n]) == barrier {
		m.drained <- struct{}{}
		return true
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(buf[:n])) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		fields[name] = value
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	name := fields["FDNAME"]
	messages, _ := unix.ParseSocketControlMessage(oob[:oobn])
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil || len(fds) != 1 || fields["FDSTORE"] != "1" || fields["FDPOLL"] != "0" ||
			m.files[name] != nil {
			m.t.Errorf("a message with %d descriptors: %q, %v; stored: %t", len(fds), buf[:n], err,
				m.files[name] != nil)
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			m.files[name] = os.NewFile(uintptr(fd), name)
		}
	}
	if fields["FDSTOREREMOVE"] == "1" {
		if f := m.files[name]; f != nil {
			f.Close()
		}
		delete(m.files, name)
	}
	return true
}

func (m *fakeManager) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.files)
}

// start starts cmd with the stored descriptors (sd_listen_fds(3)). Like systemd it first takes what
// the previous process has sent. What cmd sends is taken after Start has returned.
func (m *fakeManager) start(cmd *exec.Cmd) error {
	m.t.Helper()
	conn, err := net.Dial("unixgram", m.path)
	if err != nil {
		m.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(barrier)); err != nil {
		m.t.Fatal(err)
	}
	select {
	case <-m.drained:
	case <-time.After(hangs):
		m.t.Fatalf("the messages of the previous process were not taken in %v", hangs)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for name, f := range m.files {
		names, cmd.ExtraFiles = append(names, name), append(cmd.ExtraFiles, f)
	}
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+m.path,
		"LISTEN_FDS="+strconv.Itoa(len(names)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	// Only the process itself knows its pid.
	cmd.Args = append([]string{"sh", "-c", `export LISTEN_PID=$$; exec "$@"`, "sh"}, cmd.Args...)
	cmd.Path = "/bin/sh"
	return cmd.Start()
}

// reapAtOnce reaps a process as soon as it has come to this one and ended, as systemd does with
// orphans. Wait until it is reaped.
func reapAtOnce(pid int) (reaped chan struct{}) {
	reaped = make(chan struct{})
	go func() {
		defer close(reaped)
		for unix.Kill(pid, 0) == nil {
			if _, err := unix.Wait4(pid, nil, 0, nil); errors.Is(err, unix.ECHILD) {
				time.Sleep(time.Millisecond) // it has another parent
			}
		}
	}()
	return reaped
}

// await waits until a process is reaped.
func await(t *testing.T, reaped chan struct{}) {
	t.Helper()
	select {
	case <-reaped:
	case <-time.After(hangs):
		t.Fatalf("a process was not reaped in %v", hangs)
	}
}

// jobs that end when they get SIGUSR1, with the code of the last one, and what is in their logs
// then.
var jobsOfFDStore = map[string]struct {
	script string
	code   int32
	log    string
}{
	"few": {
		`trap "echo last; exit 6" USR1; echo begin; while :; do sleep 0.05; done`, 6,
		"begin\nlast\n",
	},
	"many": {
		`trap "i=0; while [ \$i -lt 1000 ]; do echo line \$i; i=\$((i+1)); done; echo -n end; exit 7" USR1; echo begin; while :; do sleep 0.05; done`, 7, "begin\n" + thousandLines() + "end",
	},
	"half": {
		`trap "echo ning; exit 8" USR1; echo -n begin; while :; do sleep 0.05; done`, 8,
		"beginning\n",
	},
}

func thousandLines() string {
	var b strings.Builder
	for i := range 1000 {
		b.WriteString("line " + strconv.Itoa(i) + "\n")
	}
	return b.String()
}

// startJobs starts them and returns their processes.
func (h *host) startJobs() map[string]int {
	h.t.Helper()
	pids := map[string]int{}
	for name, job := range jobsOfFDStore {
		h.write(name+".yaml", "  image: oci-archive:"+programs+"/busybox.tar\n  restartPolicy: Never\n"+
			"  command: [/bin/sh, -c, '"+job.script+"']\n")
	}
	for name := range jobsOfFDStore {
		pids[name] = int(h.untilRunning(name).Status.PID)
		h.until(name+" begins", func() bool {
			if name != "half" {
				return strings.Contains(h.logs(name), "begin")
			}
			// Its line has no end. It sleeps once it has written that, and has its trap.
			children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pids[name]))
			return len(children) > 0
		})
	}
	return pids
}

// endedJobs asserts that all of the jobs' output and exit codes have arrived.
func (h *host) endedJobs() {
	h.t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		h.t.Fatal(err)
	}
	for name, job := range jobsOfFDStore {
		h.until(name+" has ended", func() bool {
			c := h.get(name)
			return c != nil && c.Status.Phase == v1alpha1.ContainerFailed
		})
		switch got := h.get(name).Status; {
		case got.RestartCount != 0 || got.State.Terminated == nil:
			h.t.Errorf("%s: found %+v; want one that has ended once", name, got)
		case kernelTellsExits(u) && got.State.Terminated.ExitCode != job.code:
			h.t.Errorf("%s: found %+v; want exit code %d", name, got.State.Terminated, job.code)
		}
		h.until("the log of "+name+" is complete", func() bool {
			got := h.logs(name)
			return strings.TrimSuffix(got, "\n") == strings.TrimSuffix(job.log, "\n")
		})
	}
	h.removeAll("few.yaml", "many.yaml", "half.yaml")
	for name := range jobsOfFDStore {
		h.until(name+" is removed", func() bool { return h.get(name) == nil })
	}
}

// TestBothKilledFakeServiceManager kills the agent and the supervisor at once. Containers end, and
// are reaped at once by somebody else, before either is started again: what they wrote and their
// exit codes arrive, since the service manager has kept the descriptors. A fake plays the service
// manager; TestSystemdKeepsDescriptors has the real one.
func TestBothKilledFakeServiceManager(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) })
	h := newHost(t)
	h.manager = newFakeManager(t)
	h.start()
	pids := h.startJobs()
	h.until("their descriptors are stored", func() bool { return h.manager.count() == 3*len(pids) })
	supervisor := h.supervisor()
	if err := unix.Kill(supervisor, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.signal(unix.SIGKILL)
	await(t, reapAtOnce(supervisor))
	for _, pid := range pids {
		reaped := reapAtOnce(pid)
		if err := unix.Kill(pid, unix.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		await(t, reaped)
	}
	h.start()
	h.endedJobs()
	h.until("no descriptor is stored", func() bool { return h.manager.count() == 0 })
}

// TestSystemdKeepsDescriptors is TestBothKilledFakeServiceManager below a systemd that runs this
// machine.
func TestSystemdKeepsDescriptors(t *testing.T) {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		t.Skip("systemd does not run this machine")
	}
	h := newHost(t)
	unit := "berth-agent-test-" + strconv.Itoa(os.Getpid()) + ".service"
	args := append([]string{
		"--unit", unit, "--service-type=notify", "--collect", "-p", "FileDescriptorStoreMax=1024", "-p",
		"KillMode=process",
		"-p", "Restart=always", "-p", "RestartSec=15", "-p", "StandardError=append:" + h.path("agent.log"),
	}, h.command()...)
	if out, err := exec.Command("systemd-run", args...).CombinedOutput(); err != nil {
		t.Fatalf("systemd-run: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("systemctl", "stop", unit).Run() })
	show := func(property string) int {
		out, _ := exec.Command("systemctl", "show", "--value", "-p", property, unit).Output()
		n, _ := strconv.Atoi(strings.TrimSpace(string(out)))
		return n
	}
	pids := h.startJobs()
	h.until("their descriptors are stored", func() bool {
		return show("NFileDescriptorStore") == 3*len(pids)
	})
	supervisor := h.supervisor()
	for _, pid := range []int{show("MainPID"), supervisor} {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGUSR1); err != nil {
			t.Fatal(err)
		}
	}
	h.until("systemd has reaped them", func() bool {
		for _, pid := range pids {
			if procState(pid) != "" {
				return false
			}
		}
		return true
	})
	if h.supervisorPID() != 0 {
		t.Fatal("the agent was started again before the jobs had ended; this shows nothing")
	}
	h.endedJobs()
	if got := h.supervisor(); got == supervisor {
		t.Errorf("found supervisor %d; want another than %d", got, supervisor)
	}
	h.until("no descriptor is stored", func() bool { return show("NFileDescriptorStore") == 0 })
}

// TestSupervisorKilledBelowReaper kills the supervisor as containers end, each of which is reaped
// at once by another process: what they wrote and their exit codes arrive, since the agent holds
// the descriptors.
func TestSupervisorKilledBelowReaper(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) })
	h := newHost(t)
	h.start()
	pids := h.startJobs()
	// Stopped first, so that no container can end under its eyes.
	supervisor := h.supervisor()
	signal := func(pid int, sig unix.Signal) {
		t.Helper()
		if err := unix.Kill(pid, sig); err != nil {
			t.Fatal(err)
		}
	}
	signal(supervisor, unix.SIGSTOP)
	for _, pid := range pids {
		signal(pid, unix.SIGUSR1)
		h.until("it has ended", func() bool { return procState(pid) == "Z" })
	}
	signal(supervisor, unix.SIGKILL)
	for _, pid := range pids {
		await(t, reapAtOnce(pid))
	}
	h.endedJobs()
	if got := h.supervisor(); got == supervisor {
		t.Errorf("found supervisor %d; want another than %d", got, supervisor)
	}
}
