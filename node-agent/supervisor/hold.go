// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/procfs"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// What a supervisor has open would be gone with it: the pidfd of a process, which knows the exit
// code of one that ends while no supervisor runs (Linux 6.15), and the reading end of a pipe, with
// the output in it. So another process, the agent, holds duplicates of these descriptors and passes
// them on to the next supervisor that it starts.

// holder is a client that holds descriptors, as the server sees it.
type holder struct {
	mu sync.Mutex
	c  *net.UnixConn
}

// holdTimeout is the time that a holder may take to receive a message before it is given up.
const holdTimeout = 2 * time.Second

// give sends a container's descriptors, or nothing if it has none open. The lock is held from the
// moment they are looked up, so that what the client gets last is the newest.
func (h *holder) give(c *container) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	names, fds := c.descriptors()
	defer closeAll(fds)
	if len(fds) == 0 {
		return nil
	}
	return h.write(protocol.Holding{ID: c.id, Files: names}, fds)
}

// send sends a message without descriptors.
func (h *holder) send(m protocol.Holding) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.write(m, nil)
}

// write writes a message; h.mu is held.
func (h *holder) write(m protocol.Holding, fds []int) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_ = h.c.SetWriteDeadline(time.Now().Add(holdTimeout))
	_, _, err = h.c.WriteMsgUnix(append(b, '\n'), oob, nil)
	return err
}

// descriptors returns duplicates of what a container has open, and their kinds. The caller closes
// them.
func (c *container) descriptors() (names []string, fds []int) {
	add := func(name string, fd int) {
		if d, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err == nil {
			names, fds = append(names, name), append(fds, d)
		}
	}
	c.pidMu.Lock()
	if c.pidfd >= 0 {
		add(protocol.Kinds[0], c.pidfd)
	}
	c.pidMu.Unlock()
	c.mu.Lock()
	streams := c.streams
	c.mu.Unlock()
	for i, st := range streams {
		if st == nil {
			continue
		}
		st.mu.Lock()
		if st.fd >= 0 {
			add(protocol.Kinds[i+1], st.fd)
		}
		st.mu.Unlock()
	}
	return names, fds
}

// passOn gives a container's descriptors to the holders, or with dropped says that they are no
// longer needed.
func (s *server) passOn(c *container, dropped bool) {
	s.mu.Lock()
	holders := make([]*holder, 0, len(s.holders))
	for h := range s.holders {
		holders = append(holders, h)
	}
	s.mu.Unlock()
	for _, h := range holders {
		var err error
		if dropped {
			err = h.send(protocol.Holding{ID: c.id, Dropped: true})
		} else {
			err = h.give(c)
		}
		if err != nil {
			s.log.Warn("a client that holds descriptors takes none any more", "error", err)
			_ = h.c.Close()
		}
	}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// hold serves a client that holds descriptors, until it goes or ctx ends.
func (s *server) hold(ctx context.Context, c *net.UnixConn) error {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	h := &holder{c: c}
	s.mu.Lock()
	s.holders[h] = struct{}{}
	all := make([]*container, 0, len(s.containers))
	for _, c := range s.containers {
		all = append(all, c)
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.holders, h)
		s.mu.Unlock()
	}()
	// A container that is created or forgotten at the same time is sent by passOn as well, in
	// either order.
	for _, c := range all {
		if err := h.give(c); err != nil {
			return err
		}
	}
	if err := h.send(protocol.Holding{Synced: true}); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Time{})
	var b [1]byte
	_, err := c.Read(b[:])
	return err
}

// maxHeld bounds the list of descriptors that a supervisor reads.
const maxHeld = 64 << 20

// takeInherited takes over the descriptors that the supervisor was started with: fd is a file that
// lists them. None of them is inherited by a program that this process starts.
func takeInherited(fd int) (held map[string]map[string]int, lock *os.File, err error) {
	unix.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "held")
	defer f.Close()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, nil, fmt.Errorf("held descriptors: descriptor %d: %w", fd, err)
	}
	var names []protocol.HeldFile
	if err := json.NewDecoder(io.LimitReader(f, maxHeld)).Decode(&names); err != nil {
		return nil, nil, fmt.Errorf("held descriptors: descriptor %d: %w", fd, err)
	}
	held = map[string]map[string]int{}
	next := fd + 1
	for _, n := range names {
		d := n.FD
		if d == 0 {
			d = next
			next++
		}
		unix.CloseOnExec(d)
		if n.Kind == kindLock {
			lock = os.NewFile(uintptr(d), kindLock)
			continue
		}
		key := n.Key
		if n.ID != "" {
			key = protocol.Key(n.ID)
		}
		if key == "" || !slices.Contains(protocol.Kinds[:], n.Kind) || held[key][n.Kind] != 0 {
			unix.Close(d)
			continue
		}
		if held[key] == nil {
			held[key] = map[string]int{}
		}
		held[key][n.Kind] = d
	}
	return held, lock, nil
}

// takeHeld removes a descriptor from the inherited ones and returns it, or -1.
func (s *server) takeHeld(id, kind string) int {
	key := protocol.Key(id)
	fd, ok := s.held[key][kind]
	if !ok {
		return -1
	}
	delete(s.held[key], kind)
	return fd
}

// takePipe returns the reading end of one of an adopted container's pipes: the inherited one, or
// one opened through the process, if that lives.
func (s *server) takePipe(c *container, stream int) (int, error) {
	inode := c.rec.Pipes[stream-1]
	if fd := s.takeHeld(c.id, protocol.Kinds[stream]); fd >= 0 {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO && st.Ino == inode {
			return fd, nil
		}
		unix.Close(fd)
	}
	if p, err := procfs.ReadStat(c.pid); c.pidfd < 0 || err != nil || p.StartTime != c.rec.StartTime {
		return -1, errPipeGone
	}
	return findPipe(c.pid, stream, inode)
}
