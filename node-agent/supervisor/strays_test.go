// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
	"github.com/berth-run/berth/internal/procfs"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// leave is a shell function that moves a process into the root of every hierarchy.
const leave = `leave() { for f in /cg/cgroup.procs /cg/*/cgroup.procs; do echo $1 > $f; done 2>/dev/null; }; `

// seesCgroups gives a container the host's cgroups to write to and, unless own says otherwise, the
// host's pid namespace.
func seesCgroups(own bool) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{
			Destination: "/cg", Source: "/sys/fs/cgroup",
			Type: "bind", Options: []string{"rbind", "rw"},
		})
		if !own {
			s.Linux.Namespaces = s.Linux.Namespaces[1:] // all but the pid namespace
		}
	}
}

// marked returns the processes that run with the argument mark, and waits until there are that
// many.
func (n *node) marked(mark string, count int) (pids []int) {
	n.t.Helper()
	n.eventually(fmt.Sprintf("%d processes have the mark %s", count, mark), func() error {
		pids = nil
		files, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			return err
		}
		for _, f := range files {
			line, _ := os.ReadFile(f)
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			args := strings.Split(string(line), "\x00")
			if st, err := procfs.ReadStat(pid); err == nil && !st.Ended() && len(args) > 2 &&
				args[len(args)-2] == mark && args[0] == "sleep" {
				pids = append(pids, pid)
			}
		}
		if len(pids) != count {
			return fmt.Errorf("%v", pids)
		}
		return nil
	})
	return pids
}

// outside fails for a process that is in a cgroup below that of the node.
func (n *node) outside(pids []int) {
	n.t.Helper()
	for _, pid := range pids {
		n.eventually("it has left its cgroup", func() error {
			b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
			if err == nil && strings.Contains(string(b), n.cgroup+"/") {
				err = errors.New(string(b))
			}
			return err
		})
	}
}

// TestMovedOutOfItsCgroup runs programs that move processes out of the container's cgroup. However
// the container is ended, none of its processes lives on, and no process of another container is
// touched.
func TestMovedOutOfItsCgroup(t *testing.T) {
	for name, tc := range map[string]struct {
		script string // MARK is the argument of processes that are to end
		count  int
		ownPID bool
	}{
		"first process, in its own pid namespace": {
			script: leave + `leave $$; exec sleep MARK`, count: 1,
			ownPID: true,
		},
		"first process": {script: leave + `leave $$; exec sleep MARK`, count: 1},
		"child":         {script: leave + `(exec sleep MARK) & leave $!; read x < /gate`, count: 1},
		"orphan":        {script: leave + `(setsid sleep MARK & leave $!); read x < /gate`, count: 1},
		"family": {script: leave +
			`leave $$; (setsid sh -c "sleep MARK; true" &); (sleep MARK; true) & exec sleep MARK`, count: 3},
	} {
		t.Run(name, func(t *testing.T) {
			eachHandler(t, func(t *testing.T, h string) {
				n := newNode(t)
				if err := unix.Mkfifo(filepath.Join(n.rootfs, "gate"), 0o600); err != nil {
					t.Fatal(err)
				}
				number := 1000000 + os.Getpid()*100
				begin := func(id string) (string, []int) {
					t.Helper()
					number++
					mark := strconv.Itoa(number)
					bundle := n.bundle(id, seesCgroups(tc.ownPID), "/bin/sh", "-c", strings.ReplaceAll(tc.script,
						"MARK", mark))
					_, err := n.client.Create(n.ctx(), protocol.CreateRequest{ID: id, Handler: h, Bundle: bundle})
					if err != nil {
						t.Fatal(err)
					}
					if _, err := n.client.Start(n.ctx(), id); err != nil {
						t.Fatal(err)
					}
					pids := n.marked(mark, tc.count)
					n.outside(pids)
					return mark, pids
				}
				other, _ := begin("other")

				mark, _ := begin("deleted")
				if err := n.client.Delete(n.ctx(), "deleted", true); err != nil {
					t.Fatal(err)
				}
				n.marked(mark, 0)

				for _, all := range []bool{false, true} {
					mark, _ := begin("killed")
					if err := n.client.Kill(n.ctx(), "killed", "KILL", all); err != nil {
						t.Fatal(err)
					}
					n.stopped("killed")
					if err := n.client.Delete(n.ctx(), "killed", false); err != nil {
						t.Fatal(err)
					}
					n.marked(mark, 0)
				}

				// The first process ends by itself; its descendants have lost their ancestor when
				// the container is deleted.
				mark, _ = begin("ended")
				st, err := n.client.Get(n.ctx(), "ended")
				if err != nil {
					t.Fatal(err)
				}
				if err := unix.Kill(st.PID, unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
				n.stopped("ended")
				if err := n.client.Delete(n.ctx(), "ended", false); err != nil {
					t.Fatal(err)
				}
				n.marked(mark, 0)

				n.marked(other, tc.count)
			})
		})
	}
}

// TestKillAllWaitsForTheEnd kills what the first process of a container has left behind in its
// cgroup. As long as such a process lives, which one does that another cgroup keeps frozen, the
// kill does not return: its caller removes what the process uses.
func TestKillAllWaitsForTheEnd(t *testing.T) {
	freezer := filepath.Join("/sys/fs/cgroup/freezer", fmt.Sprintf("berth-test-frozen-%d",
		os.Getpid()))
	if err := os.Mkdir(freezer, 0o755); err != nil {
		needs.Skip(t, "a freezer of cgroup v1: "+err.Error())
	}
	set := func(file, value string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(freezer, file), []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		set("freezer.state", "THAWED")
		for end := time.Now().Add(time.Minute); os.Remove(freezer) != nil && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
		}
	})
	eachHandler(t, func(t *testing.T, h string) {
		n := newNode(t)
		t.Cleanup(func() { set("freezer.state", "THAWED") })
		mark := strconv.Itoa(1000000 + os.Getpid()*100 + len(h))
		// In a mount namespace of its own, the process is known by its cgroup alone.
		apart := func(s *specs.Spec) {
			s.Linux.Namespaces = s.Linux.Namespaces[1:] // all but the pid namespace
			sys := []string{"CAP_SYS_ADMIN"}
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: sys, Effective: sys, Permitted: sys}
		}
		bundle := n.bundle("left", apart, "/bin/sh", "-c", "unshare -m sleep "+mark+" & read x")
		if _, err := n.client.Create(n.ctx(), protocol.CreateRequest{
			ID: "left", Handler: h,
			Bundle: bundle,
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := n.client.Start(n.ctx(), "left"); err != nil {
			t.Fatal(err)
		}
		pid := n.marked(mark, 1)[0]
		n.stopped("left")
		born, err := procfs.ReadStat(pid)
		if err != nil {
			t.Fatal(err)
		}
		set("cgroup.procs", strconv.Itoa(pid))
		set("freezer.state", "FROZEN")
		n.eventually("it is frozen", func() error {
			b, err := os.ReadFile(filepath.Join(freezer, "freezer.state"))
			if err == nil && string(b) != "FROZEN\n" {
				err = errors.New(string(b))
			}
			return err
		})
		killed := make(chan error, 1)
		go func() { killed <- n.client.Kill(n.ctx(), "left", "KILL", true) }()
		n.eventually("SIGKILL is sent", func() error {
			if dying(pid, born.StartTime) {
				return nil
			}
			return errors.New("it has no SIGKILL yet")
		})
		select {
		case err := <-killed:
			t.Fatalf("found %v while a process lives", err)
		case <-time.After(200 * time.Millisecond):
		}
		set("freezer.state", "THAWED")
		if err := <-killed; err != nil && !errors.Is(err, protocol.ErrNotRunning) {
			t.Error(err)
		}
		if !dying(pid, born.StartTime) {
			t.Errorf("process %d lives on", pid)
		}
	})
}

// TestBelongs climbs from processes to their ancestors, also where those form a circle.
func TestBelongs(t *testing.T) {
	leaktest.Check(t)
	const own, first, other = 10, 100, 200
	f := &strays{c: &container{pid: first}, own: own, pin: 1, other: map[int]bool{other: true}}
	all := map[int]process{}
	for pid, p := range map[int]struct {
		parent int
		inside bool
	}{
		1: {0, false}, own: {1, false}, first: {own, true}, 101: {first, true}, 102: {101, false},
		other: {own, true}, 201: {other, true},
		301: {1, true}, 302: {301, true}, 303: {1, false}, 304: {303, true}, 401: {402, true},
		402: {401, true}, 403: {999, true},
	} {
		all[pid] = process{Stat: procfs.Stat{PPID: p.parent}, inside: p.inside}
	}
	for pid, want := range map[int]bool{
		first: true, 101: true, 102: true, other: false, 201: false, own: false, 1: false, 301: true,
		302: true, 303: false, 304: false,
		401: false, 402: false, 403: false,
	} {
		if got := f.belongs(all, pid, true); got != want {
			t.Errorf("process %d: found %v; want %v", pid, got, want)
		}
	}
}

// withDescriptors calls f while this process can open a number of descriptors, and no more.
func withDescriptors(t *testing.T, spare int, f func()) {
	t.Helper()
	last := 0
	for range 64 { // so that there are no gaps below the last one
		last = max(last, open(t, "/dev/null"))
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	few := unix.Rlimit{Cur: uint64(last + 1 + spare), Max: limit.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}

// TestStraysWithoutDescriptors kills and deletes a container whose processes may be anywhere, while
// descriptors are short: that all have ended is not known, and the container stays known.
func TestStraysWithoutDescriptors(t *testing.T) {
	for spare := range 3 {
		t.Run(fmt.Sprint(spare), func(t *testing.T) {
			s, _ := newHanging(t, "")
			c, err := s.find("web")
			if err != nil {
				t.Fatal(err)
			}
			c.rec.MountNS = 1 // no namespace has that number: descendants alone are looked for
			var deleted, killed error
			withDescriptors(t, spare, func() {
				deleted = s.remove(t.Context(), "web", true)
				killed = s.kill(t.Context(), "web", "KILL", true)
			})
			if !errors.Is(deleted, unix.EMFILE) || len(s.list()) != 1 {
				t.Errorf("delete: found %v and %+v; want EMFILE and the container", deleted, s.list())
			}
			if !errors.Is(killed, unix.EMFILE) {
				t.Errorf("kill: found %v; want EMFILE", killed)
			}
			awaitKilled(t, s)
			if err := s.remove(t.Context(), "web", true); err != nil || len(s.list()) != 0 {
				t.Errorf("found %v and %+v; want no container", err, s.list())
			}
		})
	}
}

// TestProcessesBelowWithoutDescriptors: a cgroup that cannot be read is not taken for an empty one.
func TestProcessesBelowWithoutDescriptors(t *testing.T) {
	leaktest.Check(t)
	dir := t.TempDir()
	withDescriptors(t, 0, func() {
		if pids, err := processesBelow(dir); !errors.Is(err, unix.EMFILE) {
			t.Errorf("found %v, %v; want EMFILE", pids, err)
		}
	})
	if pids, err := processesBelow(filepath.Join(dir, "gone")); err != nil || len(pids) != 0 {
		t.Errorf("found %v, %v; want none", pids, err)
	}
}
