// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestSocketActivation: sockets of a service manager come before --preserve-fds, and only for the
// process that they are meant for.
func TestSocketActivation(t *testing.T) {
	root, id := host(t)
	dir := bundle(t, func(s *specs.Spec) {
		s.Process.Env = append(s.Process.Env, "LISTEN_FDS=99")
		s.Process.Args = sh(
			"echo ${LISTEN_FDS-none} ${LISTEN_PID-none}; [ ! -e /proc/self/fd/3 ] || cat <&3; [ ! -e /proc/self/fd/4 ] || cat <&4; [ ! -e /proc/self/fd/5 ] || echo leaked")
	})
	for _, name := range []string{"three", "four"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(name+"\n"), 0o600))
	}
	script := func(variables, flags string) *exec.Cmd {
		return exec.Command("sh", "-c", variables+" exec "+program+" --root "+root+" run "+flags+
			" --bundle "+dir+" "+id+" 3<"+dir+"/three 4<"+dir+"/four 5</etc/passwd")
	}
	call(t, script("LISTEN_PID=$$ LISTEN_FDS=1", "--preserve-fds 1")).is(t, 0,
		"1 1\nthree\nfour\n", "")
	call(t, script("LISTEN_PID=$$ LISTEN_FDS=2", "")).is(t, 0, "2 1\nthree\nfour\n", "")
	r := call(t, script("LISTEN_PID=1 LISTEN_FDS=2", ""))
	if r.is(t, 0, "99 none\n", ""); r.stdout != "99 none\n" {
		t.Errorf("sockets for another process: %q", r.stdout)
	}
	call(t, script("LISTEN_PID=$$ LISTEN_FDS=200", "")).is(t, 1, "",
		"$LISTEN_FDS: found 200, but descriptor 6 is not open")
}

// manager opens a service manager's socket and returns the messages that arrive there; it answers
// barriers.
func manager(t *testing.T) (address string, messages <-chan string) {
	t.Helper()
	address = filepath.Join(t.TempDir(), "manager")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	out := make(chan string, 100)
	go func() {
		defer close(out)
		buf, oob := make([]byte, 4096), make([]byte, 1024)
		for {
			n, m, _, _, err := conn.ReadMsgUnix(buf, oob)
			if err != nil {
				return
			}
			out <- string(buf[:n])
			if controls, err := unix.ParseSocketControlMessage(oob[:m]); err == nil && m > 0 {
				fds, _ := unix.ParseUnixRights(&controls[0])
				for _, fd := range fds {
					unix.Close(fd)
				}
			}
		}
	}()
	return address, out
}

// TestNotify: the manager learns that the container is ready and which process to watch, and
// nothing else that the container says; start and a detached run return when it is ready.
func TestNotify(t *testing.T) {
	for _, namespace := range []specs.LinuxNamespaceType{"", specs.UserNamespace} {
		t.Run("user namespace "+string(namespace), func(t *testing.T) {
			root, id := host(t)
			address, messages := manager(t)
			dir := bundle(t, func(s *specs.Spec) {
				// Debian's perl, since busybox has nothing that sends to a unix socket.
				s.Process.Args = []string{"perl", "-MSocket", "-e", `
					$SIG{TERM} = sub { exit 3 };
					socket(S, PF_UNIX, SOCK_DGRAM, 0) or die $!;
					for ("STATUS=hello", "MAINPID=1\nREADY=1", "READY=0", "FDSTORE=1") { send(S, $_, 0, sockaddr_un($ENV{NOTIFY_SOCKET})) or last }
					sleep 1 while 1`}
				s.Mounts = append(s.Mounts, specs.Mount{
					Destination: "/usr", Source: "/usr",
					Options: []string{"rbind", "rro"},
				})
				if namespace != "" {
					s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: namespace})
					s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
					s.Linux.GIDMappings = s.Linux.UIDMappings
				}
			})
			for _, link := range []string{"lib", "lib64"} {
				must(t, os.Symlink("usr/"+link, filepath.Join(dir, "rootfs", link)))
			}
			for p := dir; namespace != "" && p != os.TempDir() && p != "/"; p = filepath.Dir(p) {
				must(t, os.Chmod(p, 0o755)) //nolint:gosec // the container's root is another user there
			}
			if namespace != "" {
				must(t, os.Chown(filepath.Join(dir, "rootfs"), 100000, 100000))
			}
			on := func(args ...string) *exec.Cmd {
				cmd := exec.Command(program, append([]string{"--root", root}, args...)...)
				cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+address)
				return cmd
			}
			expect := func(pid int) {
				t.Helper()
				for _, want := range []string{"READY=1", fmt.Sprintf("MAINPID=%d", pid), "BARRIER=1"} {
					select {
					case got := <-messages:
						if got != want {
							t.Errorf("the manager got %q; want %q", got, want)
						}
					case <-time.After(patience):
						t.Fatalf("the manager does not get %q", want)
					}
				}
			}
			pidFile := filepath.Join(t.TempDir(), "pid")
			pid := func() int {
				data, err := os.ReadFile(pidFile)
				must(t, err)
				n, err := strconv.Atoi(string(data))
				must(t, err)
				return n
			}

			call(t, on("create", "--bundle", dir, "--pid-file", pidFile, id)).is(t, 0, "", "")
			call(t, on("start", id)).is(t, 0, "", "")
			expect(pid())
			call(t, on("delete", "-f", id)).is(t, 0, "", "")

			call(t, on("run", "-d", "--bundle", dir, "--pid-file", pidFile, id)).is(t, 0, "", "")
			expect(pid())
			call(t, on("delete", "-f", id)).is(t, 0, "", "")

			cmd := on("run", "--bundle", dir, id)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			must(t, cmd.Start())
			expect(cmd.Process.Pid)
			must(t, cmd.Process.Signal(unix.SIGTERM))
			if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 3 {
				t.Errorf("exit code %d: %s", cmd.ProcessState.ExitCode(), stderr.String())
			}

			// One that ends without a word does not keep start.
			silent := bundle(t, args("true"))
			call(t, on("create", "--bundle", silent, id)).is(t, 0, "", "")
			call(t, on("start", id)).is(t, 0, "", "")
			call(t, on("delete", "-f", id)).is(t, 0, "", "")
			select {
			case m := <-messages:
				t.Errorf("the manager got %q besides", m)
			default:
			}
		})
	}
}

// TestNotifySocketPath finds the socket where the container's NOTIFY_SOCKET says: below the
// manager's path, as with crun, or at runc's place, where a systemd in the container needs its own.
func TestNotifySocketPath(t *testing.T) {
	root, id := host(t)
	dir := bundle(t, func(s *specs.Spec) {
		s.Process.Args = sh("echo $NOTIFY_SOCKET; test -S $NOTIFY_SOCKET")
	})
	for manager, want := range map[string]string{
		"/tmp/parent/the-socket/":       "/tmp/parent/the-socket/notify.sock",
		"/run/notify/the-socket":        "/run/notify/the-socket/notify.sock",
		"/run/systemd/notify":           "/run/notify/notify.sock",
		"/run/user/1000/systemd/notify": "/run/notify/notify.sock",
		"@abstract":                     "/run/notify/notify.sock",
	} {
		cmd := exec.Command(program, "--root", root, "run", "--bundle", dir, id)
		cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+manager)
		if r := call(t, cmd); r.code != 0 || r.stdout != want+"\n" {
			t.Errorf("NOTIFY_SOCKET=%s: %+v; want %s", manager, r, want)
		}
	}
}
