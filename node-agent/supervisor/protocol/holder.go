// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Kinds of descriptors, in the order in which they are passed.
var Kinds = [...]string{"pidfd", "stdout", "stderr"}

// Holding is one message of a hold stream. Files names the descriptors that come with it.
type Holding struct {
	ID    string   `json:"id,omitempty"`
	Files []string `json:"files,omitempty"`
	// Dropped is set when the container is no longer known.
	Dropped bool `json:"dropped,omitempty"`
	// Synced ends the list with which the stream begins.
	Synced bool `json:"synced,omitempty"`
}

// Key returns a short name of a container, in place of its id where many names must fit: those of
// all stored descriptors are one variable of the environment, which is at most 128 KiB (execve(2),
// MAX_ARG_STRLEN).
func Key(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:6])
}

// Store keeps descriptors for the successor of the process that holds them.
type Store interface {
	// Add stores a duplicate of the descriptor.
	Add(name string, fd int) error
	Remove(name string) error
}

// Holder keeps descriptors of a supervisor's containers for the next supervisor. The zero value is
// ready; it may be used by several goroutines.
type Holder struct {
	// Store has them, too, if it is not nil, so that both processes may end at once.
	Store Store
	// Log is for errors of Store, in which nothing else fails; nil means slog.Default().
	Log *slog.Logger

	mu      sync.Mutex
	held    map[string]heldContainer // by Key
	changed chan struct{}            // closed at the next change; nil if nobody waits
}

type heldContainer struct {
	id  string // "" if only its key is known
	fds descriptors
}

// descriptors are one of each of Kinds, in that order; -1 where there is none. They are numbers
// rather than files: nothing reads them here, and package os would have this process woken by each
// output of a container.
type descriptors [len(Kinds)]int

func noDescriptors() descriptors { return descriptors{-1, -1, -1} }

// put adds a descriptor. One of no known kind, or of a kind that is there already, is closed.
func (d *descriptors) put(kind string, fd int) {
	if i := slices.Index(Kinds[:], kind); i >= 0 && d[i] < 0 {
		d[i] = fd
		return
	}
	unix.Close(fd)
}

// close closes all.
func (d descriptors) close() {
	for _, fd := range d {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// storedName returns the name of a descriptor in Store.
func storedName(kind, key string) string { return kind + "." + key }

// Adopt takes over descriptors that an earlier holder had stored, by their names. It closes the
// files.
func (h *Holder) Adopt(files map[string]*os.File) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for name, f := range files {
		kind, key, _ := strings.Cut(name, ".")
		if slices.Contains(Kinds[:], kind) && len(key) == len(Key("")) {
			errs = append(errs, h.adopt(kind, key, f))
		}
		f.Close()
	}
	return errors.Join(errs...)
}

// adopt is called with mu held.
func (h *Holder) adopt(kind, key string, f *os.File) error {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("dup: %w", err)
	}
	c, ok := h.held[key]
	if !ok {
		c.fds = noDescriptors()
	}
	c.fds.put(kind, fd)
	h.set(key, c)
	return nil
}

// set is called with mu held.
func (h *Holder) set(key string, c heldContainer) {
	if h.held == nil {
		h.held = map[string]heldContainer{}
	}
	h.held[key] = c
}

// put holds these descriptors of a container in place of those before.
func (h *Holder) put(id string, fds descriptors) {
	h.replace(Key(id), heldContainer{id, fds})
}

func (h *Holder) replace(key string, c heldContainer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before, ok := h.held[key]
	if !ok {
		before.fds = noDescriptors()
	}
	if h.Store != nil {
		if err := h.store(key, before.fds, c.fds); err != nil {
			log := h.Log
			if log == nil {
				log = slog.Default()
			}
			log.Warn("descriptors are not stored: output and exit codes are lost if agent and supervisor are killed at once", "error", err)
		}
	}
	before.fds.close()
	if h.set(key, c); c.fds == noDescriptors() {
		delete(h.held, key)
	}
	if h.changed != nil {
		close(h.changed)
		h.changed = nil
	}
}

// store brings what is stored of a container from before to after.
func (h *Holder) store(key string, before, after descriptors) error {
	var errs []error
	for i, kind := range Kinds {
		old, now, name := before[i], after[i], storedName(kind, key)
		if old >= 0 && now >= 0 && sameFile(old, now) {
			continue
		}
		if old >= 0 { // a container that is created again has the name of the one before
			errs = append(errs, h.Store.Remove(name))
		}
		if now >= 0 {
			errs = append(errs, h.Store.Add(name, now))
		}
	}
	return errors.Join(errs...)
}

// sameFile reports whether two descriptors are duplicates of one another (kcmp(2)). Without kcmp
// none is.
func sameFile(a, b int) bool {
	const kcmpFile = 0
	pid := uintptr(os.Getpid())
	order, _, errno := unix.Syscall6(unix.SYS_KCMP, pid, pid, kcmpFile, uintptr(a), uintptr(b), 0)
	return errno == 0 && order == 0
}

// Await returns once h has descriptors of the container, or ctx ends.
func (h *Holder) Await(ctx context.Context, id string) error {
	for {
		h.mu.Lock()
		_, found := h.held[Key(id)]
		if h.changed == nil {
			h.changed = make(chan struct{})
		}
		changed := h.changed
		h.mu.Unlock()
		if found {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// keep closes the descriptors of all containers but these.
func (h *Holder) keep(keys map[string]bool) {
	h.mu.Lock()
	var gone []string
	for key := range h.held {
		if !keys[key] {
			gone = append(gone, key)
		}
	}
	h.mu.Unlock()
	for _, key := range gone {
		h.replace(key, heldContainer{fds: noDescriptors()})
	}
}

// Len returns how many containers it holds descriptors of.
func (h *Holder) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.held)
}

// firstExtraFile is the descriptor that the first of exec.Cmd's ExtraFiles becomes.
const firstExtraFile = 3

// Pass lets the supervisor that cmd will start inherit the held descriptors. The caller calls done
// once it is started.
func (h *Holder) Pass(cmd *exec.Cmd) (done func(), err error) {
	files, err := h.list()
	if err != nil {
		return nil, err
	}
	if len(files) > 0 {
		cmd.Args = append(cmd.Args, "--held", strconv.Itoa(firstExtraFile))
		cmd.ExtraFiles = files
	}
	return func() { closeFiles(files) }, nil
}

// Close closes all descriptors. Those of Store stay there.
func (h *Holder) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.held {
		c.fds.close()
	}
	h.held = nil
}

// HeldFile names one descriptor in the list that a supervisor is started with.
type HeldFile struct {
	// ID is the container's id; Key is its Key where the id is not known.
	ID   string `json:"id,omitempty"`
	Key  string `json:"key,omitempty"`
	Kind string `json:"kind"`
	// FD is its number; 0 if it is the next of those that follow the list.
	FD int `json:"fd,omitempty"`
}

// list returns a file with the list of what is held, and the descriptors in its order; nil if
// nothing is held. The caller closes them.
func (h *Holder) list() ([]*os.File, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.held) == 0 {
		return nil, nil
	}
	var names []HeldFile
	files := []*os.File{nil}
	for key, c := range h.held {
		for i, kind := range Kinds {
			if c.fds[i] < 0 {
				continue
			}
			fd, err := unix.FcntlInt(uintptr(c.fds[i]), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				closeFiles(files)
				return nil, fmt.Errorf("dup: %w", err)
			}
			names, files = append(names, HeldFile{ID: c.id, Key: key, Kind: kind}),
				append(files, os.NewFile(uintptr(fd), kind))
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

// Hold keeps in h the descriptors that the supervisor holds of its containers. It returns when the
// connection to the supervisor ends, always with an error.
func (c *Client) Hold(ctx context.Context, h *Holder) error {
	cn, err := c.send(ctx, Request{Op: OpHold})
	if err != nil {
		return err
	}
	defer cn.close()
	uc := cn.c.(*net.UnixConn)
	r := &holdReader{c: uc, line: make([]byte, 0, 4096)}
	defer func() {
		for _, fd := range r.fds {
			unix.Close(fd)
		}
	}()
	// read with the handshake; descriptors never are, since the request comes after it
	if n := cn.r.Buffered(); n > 0 {
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
			delete(seen, Key(m.ID))
			h.put(m.ID, noDescriptors())
		default:
			if seen != nil {
				seen[Key(m.ID)] = true
			}
			held := noDescriptors()
			for i, fd := range fds {
				held.put(m.Files[i], fd)
			}
			h.put(m.ID, held)
		}
	}
}

// holdReader reads the messages of a hold stream, and the descriptors that come with them, in their
// order.
type holdReader struct {
	c    *net.UnixConn
	line []byte
	fds  []int
}

func (r *holdReader) next() (Holding, []int, error) {
	for {
		if i := bytes.IndexByte(r.line, '\n'); i >= 0 {
			var m Holding
			err := json.Unmarshal(r.line[:i], &m)
			r.line = append(r.line[:0], r.line[i+1:]...)
			if err != nil {
				return m, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
			}
			if len(m.Files) > len(r.fds) {
				return m, nil, fmt.Errorf("%w: found %d descriptors; expected %d", ErrMalformed, len(r.fds),
					len(m.Files))
			}
			fds := r.fds[:len(m.Files):len(m.Files)]
			r.fds = r.fds[len(m.Files):]
			return m, fds, nil
		}
		if len(r.line) > MaxLine {
			return Holding{}, nil, fmt.Errorf("%w: found a line of more than %d bytes", ErrMalformed,
				MaxLine)
		}
		var buf [4096]byte
		oob := make([]byte, unix.CmsgSpace(16*4))
		n, oobn, flags, _, err := r.c.ReadMsgUnix(buf[:], oob)
		if err == nil && n == 0 {
			err = io.EOF
		}
		if err != nil {
			return Holding{}, nil, err
		}
		r.line = append(r.line, buf[:n]...)
		if flags&unix.MSG_CTRUNC != 0 {
			return Holding{}, nil, errors.New("descriptors were lost: is the limit of open files reached?")
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return Holding{}, nil, err
		}
		for i := range messages {
			fds, err := unix.ParseUnixRights(&messages[i])
			if err != nil {
				return Holding{}, nil, err
			}
			for _, fd := range fds {
				unix.CloseOnExec(fd)
			}
			r.fds = append(r.fds, fds...)
		}
	}
}
