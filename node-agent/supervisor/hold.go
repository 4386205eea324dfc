// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/procfs"
)

// What a supervisor has open would be gone with it: the pidfd of a process, which knows the exit code of one that ends while no
// supervisor runs (Linux 6.15), and the reading end of a pipe, with the output in it. So another process, the agent, holds
// duplicates of these descriptors and passes them on to the next supervisor that it starts.

// kinds of descriptors, in the order in which they are passed.
var kinds = [...]string{"pidfd", "stdout", "stderr"}

// holding is one message of a hold stream. Files names the descriptors that come with it.
type holding struct {
	ID    string   `json:"id,omitempty"`
	Files []string `json:"files,omitempty"`
	// Dropped is set when the container is no longer known.
	Dropped bool `json:"dropped,omitempty"`
	// Synced ends the list with which the stream begins.
	Synced bool `json:"synced,omitempty"`
}

// holder is a client that holds descriptors, as the server sees it.
type holder struct {
	mu sync.Mutex
	c  *net.UnixConn
}

// holdTimeout is how long a holder may take to take a message before it is given up.
const holdTimeout = 2 * time.Second

func (h *holder) send(m holding, fds []int) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	_ = h.c.SetWriteDeadline(time.Now().Add(holdTimeout))
	_, _, err = h.c.WriteMsgUnix(append(b, '\n'), oob, nil)
	return err
}

// descriptors returns duplicates of what a container has open, and their kinds. The caller closes them.
func (c *container) descriptors() (names []string, fds []int) {
	add := func(name string, fd int) {
		if d, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err == nil {
			names, fds = append(names, name), append(fds, d)
		}
	}
	c.pidMu.Lock()
	if c.pidfd >= 0 {
		add(kinds[0], c.pidfd)
	}
	c.pidMu.Unlock()
	for i, st := range c.streams {
		if st == nil {
			continue
		}
		st.mu.Lock()
		if st.fd >= 0 {
			add(kinds[i+1], st.fd)
		}
		st.mu.Unlock()
	}
	return names, fds
}

// passOn gives a container's descriptors to the holders, or with dropped says that they are no longer needed.
func (s *server) passOn(c *container, dropped bool) {
	s.mu.Lock()
	holders := make([]*holder, 0, len(s.holders))
	for h := range s.holders {
		holders = append(holders, h)
	}
	s.mu.Unlock()
	if len(holders) == 0 {
		return
	}
	m := holding{ID: c.id, Dropped: dropped}
	var fds []int
	if !dropped {
		m.Files, fds = c.descriptors()
		defer closeAll(fds)
	}
	for _, h := range holders {
		if err := h.send(m, fds); err != nil {
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

// hold serves a client that holds descriptors, until it goes.
func (s *server) hold(c *net.UnixConn) error {
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
	// A container that is created or forgotten just now may come twice or late; the client takes the last word.
	for _, c := range all {
		names, fds := c.descriptors()
		err := error(nil)
		if len(fds) > 0 {
			err = h.send(holding{ID: c.id, Files: names}, fds)
		}
		closeAll(fds)
		if err != nil {
			return err
		}
	}
	if err := h.send(holding{Synced: true}, nil); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Time{})
	var b [1]byte
	_, err := c.Read(b[:])
	return err
}

// Holder keeps descriptors of a supervisor's containers for the next supervisor. The zero value is ready; it may be used by several
// goroutines.
type Holder struct {
	mu    sync.Mutex
	files map[string]map[string]*os.File // by container and kind
}

func (h *Holder) put(id string, files map[string]*os.File) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range h.files[id] {
		f.Close()
	}
	if h.files == nil {
		h.files = map[string]map[string]*os.File{}
	}
	if h.files[id] = files; len(files) == 0 {
		delete(h.files, id)
	}
}

// keep closes the descriptors of all containers but these.
func (h *Holder) keep(ids map[string]bool) {
	h.mu.Lock()
	var gone []string
	for id := range h.files {
		if !ids[id] {
			gone = append(gone, id)
		}
	}
	h.mu.Unlock()
	for _, id := range gone {
		h.put(id, nil)
	}
}

// Close closes all descriptors.
func (h *Holder) Close() { h.keep(nil) }

// heldFile names one descriptor in the list that a supervisor is started with.
type heldFile struct {
	ID   string `json:"id"`
	Kind string `json:"kind"`
	// FD is its number, if it is not one of those that follow the list.
	FD int `json:"fd,omitempty"`
}

// list returns a file with the list of what is held, and the descriptors in its order; nil if nothing is held. The caller closes them.
func (h *Holder) list() ([]*os.File, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.files) == 0 {
		return nil, nil
	}
	var names []heldFile
	files := []*os.File{nil}
	for id, kinds := range h.files {
		for kind, f := range kinds {
			fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				closeFiles(files)
				return nil, fmt.Errorf("dup: %w", err)
			}
			names, files = append(names, heldFile{ID: id, Kind: kind}), append(files, os.NewFile(uintptr(fd), kind))
		}
	}
	fd, err := unix.MemfdCreate("held", unix.MFD_CLOEXEC)
	if err != nil {
		closeFiles(files)
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	files[0] = os.NewFile(uintptr(fd), "held")
	if err := json.NewEncoder(files[0]).Encode(names); err != nil {
		closeFiles(files)
		return nil, err
	}
	return files, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// maxHeld bounds the list of descriptors that a supervisor reads.
const maxHeld = 64 << 20

// takeInherited takes over the descriptors that the supervisor was started with: fd is a file that lists those that follow it. None of
// them is inherited by a program that this process starts.
func takeInherited(fd int) (map[string]map[string]int, error) {
	unix.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "held")
	defer f.Close()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("held descriptors: descriptor %d: %w", fd, err)
	}
	var names []heldFile
	if err := json.NewDecoder(io.LimitReader(f, maxHeld)).Decode(&names); err != nil {
		return nil, fmt.Errorf("held descriptors: descriptor %d: %w", fd, err)
	}
	held := map[string]map[string]int{}
	d := fd
	for _, n := range names {
		if n.Kind == kindLock {
			unix.CloseOnExec(n.FD) // it stays open
			continue
		}
		d++
		unix.CloseOnExec(d)
		if ValidateID(n.ID) != nil || !slices.Contains(kinds[:], n.Kind) || held[n.ID][n.Kind] != 0 {
			unix.Close(d)
			continue
		}
		if held[n.ID] == nil {
			held[n.ID] = map[string]int{}
		}
		held[n.ID][n.Kind] = d
	}
	return held, nil
}

// takeHeld removes a descriptor from the inherited ones and returns it, or -1.
func (s *server) takeHeld(id, kind string) int {
	fd, ok := s.held[id][kind]
	if !ok {
		return -1
	}
	delete(s.held[id], kind)
	return fd
}

// takePipe returns the reading end of one of an adopted container's pipes: the inherited one, or one opened through the process, if
// that lives.
func (s *server) takePipe(c *container, stream int) (int, error) {
	inode := c.rec.Pipes[stream-1]
	if fd := s.takeHeld(c.id, kinds[stream]); fd >= 0 {
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

// Hold keeps in h what the supervisor has open of its containers. It returns when the connection to the supervisor ends, always with
// an error.
func (c *Client) Hold(ctx context.Context, h *Holder) error {
	cn, err := c.send(ctx, request{Op: opHold})
	if err != nil {
		return err
	}
	defer cn.close()
	uc := cn.c.(*net.UnixConn)
	r := &holdReader{c: uc, line: make([]byte, 0, 4096)}
	defer func() { closeAll(r.fds) }()
	if n := cn.r.Buffered(); n > 0 { // read with the handshake; descriptors never are, since the request comes after it
		b, _ := cn.r.Peek(n)
		r.line = append(r.line, b...)
	}
	seen := map[string]bool{}
	for {
		m, fds, err := r.next()
		if err != nil {
			return cn.because(fmt.Errorf("supervisor: hold: %w", err))
		}
		switch {
		case m.Synced:
			h.keep(seen)
			seen = nil
		case m.Dropped:
			delete(seen, m.ID)
			h.put(m.ID, nil)
		default:
			if seen != nil {
				seen[m.ID] = true
			}
			files := map[string]*os.File{}
			for i, fd := range fds {
				files[m.Files[i]] = os.NewFile(uintptr(fd), m.Files[i])
			}
			h.put(m.ID, files)
		}
	}
}

// holdReader reads the messages of a hold stream, and the descriptors that come with them, in their order.
type holdReader struct {
	c    *net.UnixConn
	line []byte
	fds  []int
}

func (r *holdReader) next() (holding, []int, error) {
	for {
		if i := bytes.IndexByte(r.line, '\n'); i >= 0 {
			var m holding
			err := json.Unmarshal(r.line[:i], &m)
			r.line = append(r.line[:0], r.line[i+1:]...)
			if err != nil {
				return m, nil, fmt.Errorf("%w: %w", errLine, err)
			}
			if len(m.Files) > len(r.fds) {
				return m, nil, fmt.Errorf("%w: found %d descriptors; expected %d", errLine, len(r.fds), len(m.Files))
			}
			fds := r.fds[:len(m.Files):len(m.Files)]
			r.fds = r.fds[len(m.Files):]
			return m, fds, nil
		}
		if len(r.line) > maxLine {
			return holding{}, nil, fmt.Errorf("%w: found a line of more than %d bytes", errLine, maxLine)
		}
		var buf [4096]byte
		oob := make([]byte, unix.CmsgSpace(16*4))
		n, oobn, flags, _, err := r.c.ReadMsgUnix(buf[:], oob)
		if err == nil && n == 0 {
			err = io.EOF
		}
		if err != nil {
			return holding{}, nil, err
		}
		r.line = append(r.line, buf[:n]...)
		if flags&unix.MSG_CTRUNC != 0 {
			return holding{}, nil, errors.New("descriptors were lost: is the limit of open files reached?")
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return holding{}, nil, err
		}
		for i := range messages {
			fds, err := unix.ParseUnixRights(&messages[i])
			if err != nil {
				return holding{}, nil, err
			}
			for _, fd := range fds {
				unix.CloseOnExec(fd)
			}
			r.fds = append(r.fds, fds...)
		}
	}
}
