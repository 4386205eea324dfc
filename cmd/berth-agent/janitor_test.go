// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/needs"
)

// A janitor ends what a test binary leaves behind that was killed, or ended by its timeout:
// supervisors and containers outlive their agents, and would take processors, mounts and cgroups
// of the machine for good. It is a process of its own that waits for the end of the test binary.

// janitorVariable has a test binary be a janitor: "PID DIR" of the tests and their programs.
const janitorVariable = "BERTH_TEST_JANITOR"

// victimVariable has a test binary take its programs from a directory, and be killed.
const victimVariable = "BERTH_TEST_VICTIM"

// startJanitor starts the janitor of this process. The tests' programs are in dir; its file hosts
// names the directories of the hosts.
func startJanitor(dir string) (stop func(), err error) {
	janitor := exec.Command("/proc/self/exe")
	janitor.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s", janitorVariable, os.Getpid(), dir))
	janitor.SysProcAttr = &unix.SysProcAttr{Setsid: true} // a signal to the tests' group is not for it
	end, err := janitor.StdinPipe()                       // it is closed at the end of this process
	if err == nil {
		err = janitor.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("start the janitor: %w", err)
	}
	return func() {
		end.Close()
		_ = janitor.Wait()
	}, nil
}

// noteHost has the janitor know a host's directory.
func noteHost(t *testing.T, dir string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(programs, "hosts"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err == nil {
		_, err = fmt.Fprintln(f, dir)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// beJanitor is the janitor's process.
func beJanitor(order string) error {
	pid, dir, _ := strings.Cut(order, " ")
	_, _ = io.Copy(io.Discard, os.Stdin)
	hosts, _ := os.ReadFile(filepath.Join(dir, "hosts"))
	// The first round ends what would start something new.
	for range 100 {
		killed := killProgramsIn(dir) + killCgroups(pid)
		if killed == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	for h := range strings.Lines(string(hosts)) {
		unmountBelow(strings.TrimSpace(h))
		if err := os.RemoveAll(strings.TrimSpace(h)); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}

// killProgramsIn kills the processes whose programs are in a directory, and returns their number.
func killProgramsIn(dir string) int {
	killed := 0
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range processes {
		program, _ := os.Readlink(p + "/exe")
		if pid, err := strconv.Atoi(filepath.Base(p)); err == nil && strings.HasPrefix(program,
			dir+"/") &&
			unix.Kill(pid, unix.SIGKILL) == nil {
			killed++
		}
	}
	return killed
}

// killCgroups kills the processes in the cgroups of the hosts of a test process, and removes the
// cgroups. It returns how many processes there were.
func killCgroups(pid string) int {
	killed := 0
	name := "berth-agent-test-" + pid + "-*"
	roots, _ := filepath.Glob("/sys/fs/cgroup/" + name)
	v1, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
	for _, root := range append(roots, v1...) {
		var dirs []string
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, d := range slices.Backward(dirs) {
			members, _ := os.ReadFile(d + "/cgroup.procs")
			for _, m := range strings.Fields(string(members)) {
				if pid, err := strconv.Atoi(m); err == nil && pid > 0 && unix.Kill(pid, unix.SIGKILL) == nil {
					killed++
				}
			}
			_ = unix.Rmdir(d)
		}
	}
	return killed
}

// unmountBelow unmounts what is mounted below a directory.
func unmountBelow(dir string) {
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return
	}
	defer mounts.Close()
	var below []string
	for lines := bufio.NewScanner(mounts); lines.Scan(); {
		if f := strings.Fields(lines.Text()); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			below = append(below, f[4])
		}
	}
	for _, m := range slices.Backward(below) {
		_ = unix.Unmount(m, unix.MNT_DETACH)
	}
}

// TestKilledTestsLeaveNothing kills a test binary in the middle of a test: its agent, supervisor,
// container, cgroups and directory go with it.
func TestKilledTestsLeaveNothing(t *testing.T) {
	needs.Root(t)
	if os.Getenv(victimVariable) != "" {
		h := newHost(t)
		h.write("web.yaml", fmt.Sprintf("  archive: {path: %s/busybox.tar}\n  command: [sleep, '1000']\n",
			programs))
		h.start()
		h.until("it runs", func() bool { c := h.get("web"); return c != nil && c.Status.PID != 0 })
		fmt.Printf("victim %d %s\n", h.get("web").Status.PID, h.dir)
		select {}
	}
	links, err := os.MkdirTemp("", "berth-agent-test-victim-")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"berth-agent", "berth", "busybox.tar"} {
		if err := os.Link(filepath.Join(programs, f), filepath.Join(links, f)); err != nil {
			t.Fatal(err)
		}
	}
	victim := exec.Command("/proc/self/exe", "-test.run=^TestKilledTestsLeaveNothing$")
	victim.Env = append(os.Environ(), victimVariable+"="+links, "BERTH_AGENT_PROGRAMS=")
	out, err := victim.StdoutPipe()
	if err == nil {
		err = victim.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = victim.Process.Kill(); _ = victim.Wait() })
	late := time.AfterFunc(2*hangs, func() { _ = victim.Process.Kill() })
	defer late.Stop()
	var pid int
	var dir string
	for lines := bufio.NewScanner(out); pid == 0 && lines.Scan(); {
		_, _ = fmt.Sscanf(lines.Text(), "victim %d %s", &pid, &dir)
	}
	if pid == 0 {
		t.Fatal("the victim ended before its container ran")
	}
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		_, errDir := os.Stat(dir)
		_, errLinks := os.Stat(links)
		state := procState(pid)
		cgroups, _ := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/*/berth-agent-test-%d-*",
			victim.Process.Pid))
		if os.IsNotExist(errDir) && os.IsNotExist(errLinks) && (state == "" || state == "Z") &&
			len(cgroups) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("found the container's process in state %q, cgroups %q, directory: %v; want nothing",
				state, cgroups, errDir)
		}
	}
}
