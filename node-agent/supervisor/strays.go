// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/procfs"
)

// Processes that have left the cgroup of their container
//
// A handler ends the processes in the container's cgroup. A process that may write to the host's
// cgroups can move into another one. In a pid namespace of the container's own the kernel ends it
// with the first process. Elsewhere it would live on, so it is looked for: it is a descendant of
// the first process, or lives in the container's mount namespace and has no ancestor outside of it
// but those who adopt orphans. Not found is an orphan that has left cgroup and mount namespace
// both.

// noteNamespace records the mount namespace that is the container's own. It records none if the
// container's processes are not to be looked for: they end with the first one, which is the init of
// a pid namespace, or share their mount namespace.
func (s *server) noteNamespace(c *container) {
	if isInit(c.pid) {
		return
	}
	ns := namespaceOf(c.pid)
	if ns == namespaceOf(os.Getpid()) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.containers {
		select {
		case <-o.ended:
		default:
			if o.rec.MountNS == ns {
				return
			}
		}
	}
	c.rec.MountNS = ns
}

// namespaceOf returns the inode number of the mount namespace of a process, or 0 if it has ended.
func namespaceOf(pid int) uint64 {
	var st unix.Stat_t
	if unix.Stat("/proc/"+strconv.Itoa(pid)+"/ns/mnt", &st) != nil {
		return 0
	}
	return st.Ino
}

// isInit reports whether a process is the first one of a pid namespace below ours
// (proc_pid_status(5), NSpid).
func isInit(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return false
	}
	_, line, _ := bytes.Cut(b, []byte("\nNSpid:"))
	line, _, _ = bytes.Cut(line, []byte("\n"))
	ids := bytes.Fields(line)
	return len(ids) > 1 && string(ids[len(ids)-1]) == "1"
}

// strays are the processes of a container wherever they are, to be killed once the handler has
// ended those that it knows.
type strays struct {
	c   *container
	own int // the supervisor
	// pin keeps the number of the mount namespace from being another's; -1 if nothing is known to
	// live in it.
	pin   int
	fds   map[int]int  // pidfds by pid
	other map[int]bool // the first processes of other containers
	// err says that processes may have been missed: descriptors or memory have run out.
	err error
}

// findStrays looks for the processes of a container whose processes may outlive its cgroup. The
// caller kills or closes them.
func (s *server) findStrays(c *container) *strays {
	f := &strays{c: c, own: os.Getpid(), pin: -1, fds: map[int]int{}, other: map[int]bool{}}
	if c.rec.MountNS == 0 {
		return f
	}
	s.mu.Lock()
	for _, o := range s.containers {
		select {
		case <-o.ended: // its pid may be another's
		default:
			if o != c && o.pid > 0 {
				f.other[o.pid] = true
			}
		}
	}
	s.mu.Unlock()
	f.err = f.find()
	return f
}

// process is one process of the machine.
type process struct {
	procfs.Stat
	inside bool // it lives in the container's mount namespace
}

// find opens the container's processes that are alive and not yet known. After an error some may
// have been missed.
func (f *strays) find() error {
	all := map[int]process{}
	dir, err := os.Open("/proc")
	if err != nil {
		return fmt.Errorf("find processes outside of the container's cgroup: %w", err)
	}
	defer dir.Close()
	names, missed := dir.Readdirnames(-1)
	first := false
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		st, err := procfs.ReadStat(pid)
		missed = cmp.Or(missed, shortage(err))
		if err != nil || st.Ended() {
			continue
		}
		p := process{Stat: st, inside: namespaceOf(pid) == f.c.rec.MountNS}
		all[pid] = p
		if p.inside && f.pin < 0 && f.startedInTime(st) {
			f.pin, err = f.open(pid)
			missed = cmp.Or(missed, err)
		}
		first = first || pid == f.c.pid && st.StartTime == f.c.rec.StartTime
	}
	for pid, p := range all {
		if _, known := f.fds[pid]; known || !f.belongs(all, pid, first) {
			continue
		}
		fd, err := openProcess(pid, p.StartTime)
		missed = cmp.Or(missed, err)
		if fd >= 0 {
			f.fds[pid] = fd
		}
	}
	if missed != nil {
		return fmt.Errorf("find processes outside of the container's cgroup: %w", missed)
	}
	return nil
}

// startedInTime reports whether a process was there before the container's first one ended. If such
// a process lives in a namespace with the number of the container's, that is the container's still,
// and not a later one's with the same number.
func (f *strays) startedInTime(st procfs.Stat) bool {
	select {
	case <-f.c.ended:
	default:
		return true
	}
	return time.Duration(st.StartTime)*clockTick <= f.c.status().FinishedInstant.Since
}

// clockTick is the unit of times in /proc/PID/stat: USER_HZ is 100 on all platforms that Berth is
// built for.
const clockTick = time.Second / 100

// open pins the mount namespace of a process. It returns -1 if the process has ended since, and an
// error if that is not known.
func (f *strays) open(pid int) (int, error) {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, shortage(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Ino != f.c.rec.MountNS {
		unix.Close(fd)
		return -1, shortage(err)
	}
	return fd, nil
}

// belongs climbs from a process to its ancestors. first says whether the container's first process
// is among all.
func (f *strays) belongs(all map[int]process, pid int, first bool) bool {
	inside := f.pin >= 0 && all[pid].inside
	up := pid
	// The processes were read one after the other: parents may form a circle if numbers are given
	// anew in between.
	for range len(all) + 1 {
		switch {
		case up == f.c.pid && first:
			return true
		case f.other[up]:
			return false
		case up == f.own || up <= 1:
			return inside && pid != up
		}
		p, ok := all[up]
		if !ok {
			return false
		}
		inside = inside && p.inside
		up = p.PPID
	}
	return false
}

// strayWait is the time that processes may take to end after SIGKILL.
const strayWait = 10 * time.Second

// kill ends the processes that were found and such as they have made since, and waits for their
// end. It fails if processes may have been missed.
func (f *strays) kill() error {
	defer f.close()
	deadline := time.Now().Add(strayWait)
	for len(f.fds) > 0 {
		for _, fd := range f.fds {
			if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil &&
				!errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill a process outside of the container's cgroup: %w", err)
			}
		}
		for pid, fd := range f.fds {
			wait := max(time.Until(deadline), 0)
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}},
				int(wait.Milliseconds()))
			if errors.Is(err, unix.EINTR) {
				n, err = 1, nil // its turn comes again, if it lives
			}
			if err != nil || n == 0 {
				pids := make([]int, 0, len(f.fds))
				for p := range f.fds {
					pids = append(pids, p)
				}
				slices.Sort(pids)
				return fmt.Errorf("processes %v live on %v after SIGKILL", pids, strayWait)
			}
			unix.Close(fd)
			delete(f.fds, pid)
		}
		err := f.find()
		f.err = cmp.Or(f.err, err)
	}
	return f.err
}

func (f *strays) close() {
	for pid, fd := range f.fds {
		unix.Close(fd)
		delete(f.fds, pid)
	}
	if f.pin >= 0 {
		unix.Close(f.pin)
		f.pin = -1
	}
}
