// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// agent is a seccomp agent (config-linux.md, The Container Process State): it answers mkdir(2) with
// ENOTTY and lets all else go on.
type agent struct {
	path string
	// states are the container process states that it has got.
	states chan specs.ContainerProcessState
	// calls are the numbers of the system calls that it was asked about.
	calls chan int32
}

// struct seccomp_notif and seccomp_notif_resp of linux/seccomp.h.
type (
	notification struct {
		id         uint64
		pid, flags uint32
		nr         int32
		arch       uint32
		ip         uint64
		args       [6]uint64
	}
	answer struct {
		id    uint64
		val   int64
		errno int32
		flags uint32
	}
)

const (
	notifyReceive = 0xc0502100 // SECCOMP_IOCTL_NOTIF_RECV
	notifySend    = 0xc0182101 // SECCOMP_IOCTL_NOTIF_SEND
	notifyGoOn    = 1          // SECCOMP_USER_NOTIF_FLAG_CONTINUE
)

func (w *world) agent() *agent {
	w.t.Helper()
	a := &agent{
		path:   filepath.Join(w.t.TempDir(), "agent"),
		states: make(chan specs.ContainerProcessState, 10), calls: make(chan int32, 10000),
	}
	l, err := net.Listen("unix", a.path)
	w.must(err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { a.serve(w.t, conn.(*net.UnixConn)) })
		}
	})
	w.t.Cleanup(func() { l.Close(); serving.Wait() })
	return a
}

// serve answers one container until its last process has ended.
func (a *agent) serve(t *testing.T, conn *net.UnixConn) {
	defer conn.Close()
	data, control := make([]byte, 1<<16), make([]byte, 256)
	n, controlled, _, _, err := conn.ReadMsgUnix(data, control)
	if err != nil {
		t.Errorf("agent: %v", err)
		return
	}
	messages, err := unix.ParseSocketControlMessage(control[:controlled])
	if err != nil || len(messages) != 1 {
		t.Errorf("agent: %d control messages, %v", len(messages), err)
		return
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Errorf("agent: %d descriptors, %v", len(fds), err)
		return
	}
	defer unix.Close(fds[0])
	var state specs.ContainerProcessState
	if err := json.Unmarshal(data[:n], &state); err != nil {
		t.Errorf("agent: %v in %q", err, data[:n])
		return
	}
	a.states <- state
	for {
		poll := []unix.PollFd{{Fd: int32(fds[0]), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			t.Errorf("agent: %v", err)
			return
		}
		if poll[0].Revents&unix.POLLIN == 0 {
			return // nobody is left under the filter
		}
		var asked notification
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fds[0]), notifyReceive,
			uintptr(unsafe.Pointer(&asked)))
		if errno != 0 {
			continue // ENOENT: who asked has been killed
		}
		a.calls <- asked.nr
		said := answer{id: asked.id, flags: notifyGoOn}
		if asked.nr == unix.SYS_MKDIRAT || int(asked.nr) == mkdirNumber {
			said = answer{id: asked.id, errno: -int32(unix.ENOTTY)}
		}
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fds[0]), notifySend,
			uintptr(unsafe.Pointer(&said)))
	}
}

func notifying(a *agent, calls ...string) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, ListenerPath: a.path, ListenerMetadata: "some metadata",
		Syscalls: []specs.LinuxSyscall{{Names: calls, Action: specs.ActNotify}},
	}
}

// TestSeccompNotify: the agent gets the listener and what goes with it, and its answers count,
// however the container is made and whatever of the runtime's own calls are notified.
func TestSeccompNotify(t *testing.T) {
	for name, noNewPrivileges := range map[string]bool{
		"no new privileges": true,
		"privileges":        false,
	} {
		for how, create := range map[string]bool{"run": false, "create and start": true} {
			t.Run(name+", "+how, func(t *testing.T) {
				w := newWorld(t)
				a := w.agent()
				spec := w.sh("mkdir /made 2> /error; echo $? > /status")
				spec.Annotations = map[string]string{"key": strings.Repeat("value ", 1000)}
				spec.Process.NoNewPrivileges = noNewPrivileges
				spec.Linux.Seccomp = notifying(a, "mkdir", "mkdirat", "read", "close", "execve")
				pid := 0
				if create {
					s := w.create(spec)
					pid = s.PID
					w.must(w.rt.Start(background, w.id))
					w.await("its end", func() bool { return w.status() == string(specs.StateStopped) })
				} else {
					w.run(spec)
				}
				for file, want := range map[string]string{
					"/status": "1\n",
					"/error":  "mkdir: can't create directory '/made': Inappropriate ioctl for device\n",
				} {
					data, err := os.ReadFile(w.file(file))
					w.must(err)
					if string(data) != want {
						t.Errorf("%s has %q", file, data)
					}
				}
				select {
				case s := <-a.states:
					if s.Version != "1.3.0" || !slices.Equal(s.Fds, []string{"seccompFd"}) ||
						s.Metadata != "some metadata" || s.Pid <= 0 || create && s.Pid != pid {
						t.Errorf("the container process state is %+v", s)
					}
					if st := s.State; st.ID != w.id || st.Status != specs.StateCreating || st.Pid != s.Pid ||
						st.Bundle != w.bundle() || st.Annotations["key"] != spec.Annotations["key"] {
						t.Errorf("the state is %+v", st)
					}
				default:
					t.Error("the agent got no listener")
				}
			})
		}
	}
}

// TestSeccompNotifyExec: a process that joins later has a listener of its own.
func TestSeccompNotifyExec(t *testing.T) {
	w := newWorld(t)
	a := w.agent()
	spec := w.spec("/bin/sleep", "1000")
	spec.Linux.Seccomp = notifying(a, "mkdir", "mkdirat", "read", "close")
	first := w.start(spec)
	if s := <-a.states; s.Pid != first.PID || s.State.Status != specs.StateCreating {
		t.Errorf("the container process state is %+v", s)
	}
	p, err := w.rt.Exec(background, w.id,
		ExecOptions{Process: &specs.Process{
			Args: []string{"/bin/mkdir", "/made"}, Cwd: "/",
			NoNewPrivileges: true,
		}})
	w.must(err)
	if s := <-a.states; s.Pid != p.PID || s.State.Pid != first.PID ||
		s.State.Status != specs.StateRunning || s.State.ID != w.id {
		t.Errorf("the container process state is %+v", s)
	}
	if status := p.Wait(); status.ExitStatus() != 1 {
		t.Errorf("it ended with %v", status)
	}
	if _, err := os.Stat(w.file("/made")); err == nil {
		t.Error("the agent's answer did not count")
	}
}

// TestSeccompNotifyFails: the error names the agent's fault, and no container is left.
func TestSeccompNotifyFails(t *testing.T) {
	w := newWorld(t)
	a := &agent{path: filepath.Join(w.dir, "agent")}
	spec := w.sh("true")
	spec.Linux.Seccomp = notifying(a, "mkdir")
	w.fails(spec,
		"linux.seccomp.listenerPath: failed to connect with seccomp agent specified in the seccomp profile", a.path, "no such file or directory")
	spec.Linux.Seccomp = notifying(a, "mkdir", "write")
	w.fails(spec, "linux.seccomp", `found "SCMP_ACT_NOTIFY"; allowed: any other action for write`)
	spec.Linux.Seccomp = notifying(&agent{}, "mkdir")
	spec.Linux.Seccomp.ListenerMetadata = ""
	w.fails(spec, "linux.seccomp.listenerPath: found nothing")
	// The child cannot say that it is ready: it is not left waiting.
	l := w.agent()
	spec.Linux.Seccomp = notifying(l, "mkdir")
	spec.Linux.Seccomp.Syscalls = append(spec.Linux.Seccomp.Syscalls,
		specs.LinuxSyscall{Names: []string{"write"}, Action: specs.ActErrno})
	began := time.Now()
	w.fails(spec, "before execve")
	if d := time.Since(began); d > time.Minute {
		t.Errorf("it took %v", d)
	}
}

// TestSeccompFlagsOfTheKernel: features list the flags that the kernel supports, and a container
// with such a flag runs.
func TestSeccompFlagsOfTheKernel(t *testing.T) {
	w := newWorld(t)
	f := Features().Linux.Seccomp
	// Linux 4.17
	for _, want := range []string{
		"SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG",
		"SECCOMP_FILTER_FLAG_SPEC_ALLOW",
	} {
		if !slices.Contains(f.SupportedFlags, want) {
			t.Errorf("%s is not among %q", want, f.SupportedFlags)
		}
	}
	for _, name := range f.KnownFlags {
		a := w.agent()
		spec := w.sh("mkdir /made 2> /dev/null; echo $?")
		spec.Linux.Seccomp = notifying(a, "mkdir", "mkdirat")
		spec.Linux.Seccomp.Flags = []specs.LinuxSeccompFlag{specs.LinuxSeccompFlag(name)}
		out, _, err := w.try(spec)
		supported := slices.Contains(f.SupportedFlags, name)
		if supported != (err == nil && out == "1\n") {
			t.Errorf("%s is supported: %v; the container printed %q, %v", name, supported, out, err)
		}
	}
	if kernelTakes("SECCOMP_FILTER_FLAG_UNKNOWN") {
		t.Error("the kernel takes a flag that there is not")
	}
}
