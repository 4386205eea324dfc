// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// container is one container. It costs a pidfd, the reading ends of two pipes and a log file, and
// no goroutine.
//
// Locks are taken in the order op.turn, life, holder.mu, mu, server.mu, pidMu.
type container struct {
	id string

	op *operations

	// life is held while the handler creates or starts it, so that the exit of a process that ends
	// at once is published after the start, and not before.
	life sync.Mutex

	// mu guards rec and streams, and is held until rec is on disk: whoever sees a state can rely on
	// the next supervisor seeing it too.
	mu      sync.Mutex
	rec     record
	streams [2]*stream // unchanged once the process is waited for
	// nil before it is opened, and for one that had stopped already when it was adopted
	log    *logFile
	memory *oomWatch // nil without a cgroup to watch
	gone   bool      // forgotten; nothing is written to disk any more
	late   bool      // the record on disk is older than rec, and a goroutine tries to write it

	// Set before the process is waited for, and unchanged then.
	pid     int
	adopted bool // by a supervisor that is not its parent
	// unwatched says that nothing reports the end of the process; for operations.
	unwatched bool

	pidMu sync.Mutex
	pidfd int // -1 when there is none
	token int32

	ended chan struct{} // closed when the state is Stopped
}

// update changes the status, writes it to disk, and then notifies the watchers. The change stands
// even if the disk is full; the record is then written as soon as that is possible.
func (s *server) update(c *container, change func(*protocol.Status)) error {
	err := s.record(c, change)
	s.publish(c.id)
	return err
}

// record writes an update without notifying the watchers.
func (s *server) record(c *container, change func(*protocol.Status)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return nil
	}
	change(&c.rec.Status)
	c.health(&c.rec.Status)
	err := s.records.save(&c.rec)
	if err != nil {
		s.log.Error("container's record cannot be written", "id", c.id, "error", err)
		if !c.late {
			c.late = true
			s.endings.Go(func() { s.recordLate(c) })
		}
	}
	return err
}

// recordLate tries to write a record until it is written, the container is forgotten or the
// supervisor ends.
func (s *server) recordLate(c *container) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		select {
		case <-time.After(wait):
		case <-s.stopped:
			return
		}
		c.mu.Lock()
		if !c.gone && s.records.save(&c.rec) != nil {
			c.mu.Unlock()
			continue
		}
		c.late = false
		ended := c.rec.Status.State == protocol.Stopped
		c.mu.Unlock()
		if ended { // a process that ends just now has no exit on disk yet
			s.bury(c)
		}
		return
	}
}

// health adds the state of the log to a status; c.mu is held.
func (c *container) health(st *protocol.Status) {
	if c.log == nil {
		return
	}
	lost, err := c.log.health()
	st.LogLost, st.LogError = lost, ""
	if err != nil {
		st.LogError = err.Error()
	}
}

// status returns a copy.
func (c *container) status() protocol.Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.rec.Status
	c.health(&st)
	return st
}

func (c *container) unwatchMemory() {
	c.mu.Lock()
	w := c.memory
	c.mu.Unlock()
	w.close()
}

func (c *container) closePidfd(e *poller) {
	c.pidMu.Lock()
	defer c.pidMu.Unlock()
	if c.pidfd >= 0 {
		e.remove(c.pidfd, c.token)
		unix.Close(c.pidfd)
		c.pidfd = -1
	}
}

func (s *server) find(id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.containers[id]
	if !ok {
		return nil, s.noContainer(id)
	}
	return c, nil
}

// noContainer returns why there is nothing to see of a container: it does not exist, or may exist
// and its record cannot be read.
func (s *server) noContainer(id string) error {
	if err := s.unreadable[id]; err != nil {
		return fmt.Errorf("container %s is left alone, since its record cannot be read: %w", id, err)
	}
	return fmt.Errorf("container %s: %w", id, protocol.ErrNotExist)
}

// list returns every container, by id.
func (s *server) list() []protocol.Status {
	s.mu.Lock()
	all := make([]*container, 0, len(s.containers))
	for _, c := range s.containers {
		all = append(all, c)
	}
	s.mu.Unlock()
	sts := make([]protocol.Status, len(all))
	for i, c := range all {
		sts[i] = c.status()
	}
	slices.SortFunc(sts, func(a, b protocol.Status) int { return strings.Compare(a.ID, b.ID) })
	return sts
}
