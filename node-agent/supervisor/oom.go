// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/procfs"
	"github.com/berth-run/berth/node-agent/ociruntime/cgroup"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// Which process was killed for lack of memory
//
// The kernel counts the kills in a cgroup and does not say who was killed. So the count is read
// each time it changes: if the first process lives on a moment later, the victim was another. If it
// ends by SIGKILL, which nobody here has sent, and the count rose since it was last seen alive, the
// victim was the first process itself. Whether the memory cgroup kills all its processes together
// (memory.oom.group of version 2) makes no difference.

// oomSettle is the time between a change of the counters and the look at the first process. The
// kernel counts before it sends the signal. It also bounds how often the counters of a container at
// its limit are read.
const oomSettle = 100 * time.Millisecond

// oomWatch waits for changes of the counters of a container's memory cgroup. It costs a descriptor.
type oomWatch struct {
	s      *server
	c      *container
	events uint32

	mu    sync.Mutex
	fd    int // -1 when it is closed
	token int32
}

// watchMemory begins to wait for changes of the counters. Without a cgroup that can be watched,
// kills are seen at the end.
func (s *server) watchMemory(c *container) {
	w := &oomWatch{s: s, c: c, token: -1}
	var err error
	if w.fd, w.events, err = openMemoryEvents(c.rec.Cgroup); err != nil || w.fd < 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := s.exits.addFor(w.fd, w.events, w, &w.token); err != nil {
		unix.Close(w.fd)
		s.log.Warn("kills for lack of memory are seen at the end of the container alone", "id", c.id,
			"error", err)
		return
	}
	c.mu.Lock()
	c.memory = w
	c.mu.Unlock()
}

// openMemoryEvents opens a descriptor that polls as having the events when a counter of the cgroup
// changes: memory.events in version 2, which polls as POLLPRI
// (Documentation/admin-guide/cgroup-v2.rst, "memory.events"), and an eventfd in version 1
// (cgroup-v1/memory.rst, "OOM Control").
func openMemoryEvents(dir string) (fd int, events uint32, err error) {
	if dir == "" {
		return -1, 0, nil
	}
	fd, err = unix.Open(filepath.Join(dir, "memory.events"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		return fd, unix.EPOLLPRI, reread(fd)
	}
	control, err := unix.Open(filepath.Join(dir, "memory.oom_control"), unix.O_RDONLY|
		unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, 0, err
	}
	defer unix.Close(control)
	if fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return -1, 0, err
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.event_control"), []byte(strconv.Itoa(fd)+" "+
		strconv.Itoa(control)), 0); err != nil {
		unix.Close(fd)
		return -1, 0, err
	}
	return fd, unix.EPOLLIN, nil
}

// reread takes note of the state of a descriptor, so that it polls again only for what changes from
// now on.
func reread(fd int) error {
	var buf [4096]byte
	_, err := unix.Pread(fd, buf[:], 0)
	if err == unix.ESPIPE || err == unix.EAGAIN { // an eventfd has no offset
		_, err = unix.Read(fd, buf[:8])
	}
	if err == unix.EAGAIN {
		err = nil
	}
	return err
}

// ready is called by the poller.
func (w *oomWatch) ready(*poller) { time.AfterFunc(oomSettle, w.look) }

func (w *oomWatch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd < 0 || reread(w.fd) != nil {
		return
	}
	w.s.noteKills(w.c)
	if err := w.s.exits.rearmFor(w.fd, w.events, w.token); err != nil {
		w.s.log.Warn("kills for lack of memory are seen at the end of the container alone", "id", w.c.id,
			"error", err)
	}
}

// close ends a watch; nil has none.
func (w *oomWatch) close() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd >= 0 {
		w.s.exits.remove(w.fd, w.token)
		unix.Close(w.fd)
		w.fd = -1
	}
}

// noteKills notes the kills of other processes than the first, which lives.
func (s *server) noteKills(c *container) {
	c.mu.Lock()
	rec := c.rec
	c.mu.Unlock()
	kills := cgroup.OOMKills(rec.Cgroup)
	if rec.Status.State == protocol.Stopped || kills <= rec.KillsOfOthers {
		return
	}
	time.Sleep(time.Millisecond) // the signal follows the count
	if dying(rec.Status.PID, rec.StartTime) {
		return // its end says more
	}
	_ = s.update(c, func(st *protocol.Status) {
		c.rec.KillsOfOthers = kills
		st.OOMKills = kills
	})
}

// dying reports whether a process has ended, ends now, or has a SIGKILL that it has not taken yet.
func dying(pid int, startTime uint64) bool {
	st, err := procfs.ReadStat(pid)
	if err != nil || st.StartTime != startTime || st.Ended() {
		return true
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return true
	}
	memory := false
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		switch name {
		case "SigPnd", "ShdPnd": // proc_pid_status(5)
			set, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			if err != nil || set&(1<<(unix.SIGKILL-1)) != 0 {
				return true
			}
		case "VmSize":
			memory = true
		}
	}
	return !memory // it has given its memory back: it ends
}
