// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/boottime"
	"github.com/berth-run/berth/node-agent/ociruntime/cgroup"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// ready is called by the poller when the pidfd says that the process has ended.
func (c *container) ready(s *server, e *poller) {
	if s.reap(c) {
		return
	}
	c.pidMu.Lock()
	defer c.pidMu.Unlock()
	if c.pidfd >= 0 {
		if err := e.rearm(c.pidfd, c.token); err != nil {
			s.log.Error("pidfd cannot be polled any more", "id", c.rec.Status.ID, "error", err)
		}
	}
}

// exitWaiter is a container as its poller sees it.
type exitWaiter struct {
	s *server
	c *container
}

func (w exitWaiter) ready(e *poller) { w.c.ready(w.s, e) }

// exited takes note of how the container's process has ended; ws is nil where err says why that is
// not known. It is called once, from the reaper or a poller, and leaves the rest of the work to a
// goroutine, since that waits for locks and disks. A child stays a zombie until its exit is on
// disk.
func (s *server) exited(c *container, ws *unix.WaitStatus, err error) {
	now, instant := time.Now().UTC(), boottime.Now()
	s.endings.Go(func() {
		c.closePidfd(s.exits)
		c.unwatchMemory()
		// All that the process itself has written is in the log before its exit is published.
		// Others may have the pipe open, and write on; their lines are logged as they come.
		for _, st := range c.streams {
			if st != nil {
				st.drain(s.logs)
			}
		}
		s.step("drained")
		c.life.Lock()
		defer c.life.Unlock()
		if s.record(c, func(*protocol.Status) {
			c.rec.finish(now, instant, ws, err, cgroup.OOMKills(c.rec.Cgroup))
		}) == nil {
			s.step("exit recorded")
			s.bury(c)
		}
		s.step("reaped")
		s.publish(c.id)
		close(c.ended)
	})
}

// finish makes the last change of a status.
func (rec *record) finish(at time.Time, instant boottime.Instant, ws *unix.WaitStatus, err error,
	kills uint64,
) {
	st := &rec.Status
	st.State, st.FinishedAt, st.FinishedInstant = protocol.Stopped, at, instant
	switch {
	case ws == nil:
		st.Reason = "exit code unknown: " + err.Error()
	case ws.Signaled():
		st.Signal = int(ws.Signal())
		st.ExitCode = new(128 + st.Signal)
	default:
		st.ExitCode = new(ws.ExitStatus())
	}
	st.OOMKills = max(kills, rec.KillsOfOthers) // the cgroup may be gone
	st.OOMKilled = st.Signal == int(unix.SIGKILL) && !rec.Killed && kills > rec.KillsOfOthers
}
