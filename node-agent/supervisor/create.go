// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/procfs"
	"github.com/berth-run/berth/node-agent/handler"
	"github.com/berth-run/berth/node-agent/ociruntime/cgroup"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// create creates a container.
func (s *server) create(
	ctx context.Context, r *protocol.CreateRequest,
) (st protocol.Status, err error) {
	h, err := s.handlerFor(r)
	if err != nil {
		return protocol.Status{}, err
	}
	c := s.newContainer(r)
	ctx, end, err := c.op.begin(ctx)
	if err != nil {
		return protocol.Status{}, fmt.Errorf("create %s: %w", r.ID, err)
	}
	defer end()
	c.life.Lock()
	defer c.life.Unlock()
	if err := s.reserve(c); err != nil {
		return protocol.Status{}, fmt.Errorf("create %s: %w", r.ID, err)
	}
	defer func() {
		if err != nil && !errors.Is(err, protocol.ErrUnknownOutcome) {
			s.forget(c)
			if c.log != nil {
				c.log.removeIfEmpty()
			}
		}
	}()
	s.publish(r.ID)

	// A few at a time: more than the processors can do only makes each of them slower.
	slots := s.slots[r.Handler]
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return protocol.Status{}, fmt.Errorf("create %s: %w", r.ID, context.Cause(ctx))
	}
	defer func() { <-slots }()

	far, err := s.openOutput(c)
	defer closeFiles(far[:])
	if err != nil {
		return protocol.Status{}, fmt.Errorf("create %s: %w", r.ID, err)
	}
	// On disk before the handler is asked: a supervisor that dies now leaves a record of what has
	// to be cleared away.
	if err := s.update(c, func(*protocol.Status) {}); err != nil {
		return protocol.Status{}, fmt.Errorf("create %s: %w", r.ID, err)
	}
	p, err := s.createProcess(ctx, c, h, handler.Stdio{
		Stdin: s.devNull, Stdout: far[0],
		Stderr: far[1],
	})
	if errors.Is(err, handler.ErrNotUndone) {
		return protocol.Status{}, s.keepHalfMade(c, p, err)
	}
	if err != nil {
		return protocol.Status{}, err
	}
	s.noteProcess(c, p)
	if err := s.publishCreated(c, p); err != nil {
		// A container without a record would be lost with us, and the end of one that cannot be
		// waited for goes unseen: undo it.
		err = fmt.Errorf("create %s: %w", r.ID, err)
		if uerr := s.undoCreate(ctx, c, h, p); uerr != nil {
			err = s.keepHalfMade(c, p, fmt.Errorf("%w; undo it: %w", err, uerr))
		}
		return protocol.Status{}, err
	}
	s.passOn(c, false)
	switch {
	case p.early != nil:
		s.exited(c, p.early, nil)
	case !p.known:
		s.exited(c, nil, errors.New("the process had ended before it could be waited for"))
	}
	return c.status(), nil
}

// handlerFor checks a request and returns the handler that it names.
func (s *server) handlerFor(r *protocol.CreateRequest) (handler.Handler, error) {
	if err := r.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", protocol.ErrInvalid, err)
	}
	if r.Handler == "" {
		r.Handler = handler.NativeName
	}
	h, err := s.handlers.Get(r.Handler)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", protocol.ErrInvalid, err)
	}
	return h, nil
}

// newContainer returns a container that is being created.
func (s *server) newContainer(r *protocol.CreateRequest) *container {
	return &container{
		id: r.ID, op: newOperations(), pidfd: -1, ended: make(chan struct{}),
		rec: record{
			Status: protocol.Status{
				ID: r.ID, Bundle: r.Bundle, Handler: r.Handler, State: protocol.Creating,
				CreatedAt: time.Now().UTC(), LogPath: r.Log.Path,
			},
			Log:    r.Log,
			BootID: s.bootID,
		},
	}
}

// reserve adds a container to the table. It fails if there is one of that id.
func (s *server) reserve(c *container) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, exists := s.containers[c.id]; exists {
		return protocol.ErrExist
	}
	if err := s.noContainer(c.id); !errors.Is(err, protocol.ErrNotExist) {
		return err
	}
	s.containers[c.id] = c
	return nil
}

// openOutput opens the log of a container and the pipes of its output, and begins to read them. It
// returns the container's ends, which the caller closes, also those that are open after an error.
func (s *server) openOutput(c *container) (far [2]*os.File, err error) {
	log, err := openLog(c.rec.Log)
	if err != nil {
		return far, err
	}
	c.mu.Lock()
	c.log = log
	c.mu.Unlock()
	for i, name := range []string{"stdout", "stderr"} {
		var st *stream
		if st, far[i], err = s.openStream(c, name); err != nil {
			return far, err
		}
		c.mu.Lock()
		c.streams[i], c.rec.Pipes[i] = st, st.inode
		c.mu.Unlock()
	}
	return far, nil
}

// closeFiles closes those of the files that are open.
func closeFiles(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// firstProcess is the first process of a container that its handler has just created.
type firstProcess struct {
	pid int
	// known reports whether the reaper waits for the process.
	known bool
	// early is the wait status of one that has been reaped already, nil if that was not kept.
	early *unix.WaitStatus
	// unwatched is the reason why nothing reports the end of the process.
	unwatched error
}

// createProcess creates the container by its handler, and begins to wait for its first process.
func (s *server) createProcess(
	ctx context.Context, c *container, h handler.Handler, stdio handler.Stdio,
) (p firstProcess, err error) {
	s.mu.Lock()
	s.creates++
	s.mu.Unlock()
	p.pid, err = h.Create(ctx, c.id, c.rec.Status.Bundle, stdio)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		p.known, p.early, p.unwatched = s.register(c, p.pid)
	}
	if s.creates--; s.creates == 0 {
		clear(s.early)
	}
	return p, err
}

// noteProcess adds to the record what identifies the processes of a container, and begins to watch
// its memory.
func (s *server) noteProcess(c *container, p firstProcess) {
	if st, err := procfs.ReadStat(p.pid); err == nil {
		c.mu.Lock()
		c.rec.StartTime = st.StartTime
		c.mu.Unlock()
	}
	if p.known {
		s.noteNamespace(c)
	}
	// In the supervisor's own cgroup, as without one for the container, kills say nothing of the
	// container.
	dir := s.cgroups.MemoryDir(p.pid)
	if dir == s.cgroups.MemoryDir(os.Getpid()) {
		return
	}
	c.mu.Lock()
	c.rec.Cgroup, c.rec.KillsOfOthers = dir, cgroup.OOMKills(dir)
	c.mu.Unlock()
	s.watchMemory(c)
}

// publishCreated writes down that the container is created, and has its end noticed.
func (s *server) publishCreated(c *container, p firstProcess) error {
	if p.unwatched != nil {
		return p.unwatched
	}
	err := s.update(c, func(st *protocol.Status) { st.PID, st.State = p.pid, protocol.Created })
	if err == nil && p.known {
		err = c.await(s)
	}
	return err
}

// undoTimeout is the time that the undoing of a create may take.
const undoTimeout = 30 * time.Second

// undoCreate deletes a container again, and waits for the end of its process.
func (s *server) undoCreate(
	ctx context.Context, c *container, h handler.Handler, p firstProcess,
) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if err := h.Delete(ctx, c.id, true); err != nil && !errors.Is(err, handler.ErrNotExist) {
		return err
	}
	for end := time.Now().Add(killWait); p.known && !s.reap(c); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("process %d lives on %v after its handler has deleted it", p.pid, killWait)
		}
	}
	return nil
}

// keepHalfMade keeps a container known whose creation has failed and could not be undone, so that
// it can be deleted later. It cannot be started.
func (s *server) keepHalfMade(c *container, p firstProcess, err error) error {
	s.log.Error("a failed creation could not be undone", "id", c.id, "error", err)
	_ = s.update(c, func(st *protocol.Status) { st.State = protocol.Creating })
	if p.known {
		c.unwatched = p.unwatched != nil || c.await(s) != nil
	} else {
		s.exited(c, p.early, errors.New("its creation failed and could not be undone"))
	}
	return fmt.Errorf("%w: %w", protocol.ErrUnknownOutcome, err)
}

// register begins to wait for the container's process; s.mu is held. If the process has ended and
// been reaped already it is not known to the reaper any more, and its wait status is returned where
// that was kept. With an error the process is known, and nothing will say that it has ended.
func (s *server) register(c *container, pid int) (known bool, early *unix.WaitStatus, err error) {
	if ws, ok := s.early[pid]; ok {
		delete(s.early, pid)
		return false, &ws, nil
	}
	// While s.mu is held the reaper does not run, so a child that has ended is still there as a
	// zombie.
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return false, nil, nil
	}
	if err != nil { // EMFILE, say: the process may live all the same
		fd, err = -1, fmt.Errorf("pidfd_open of process %d: %w", pid, err)
	}
	c.pidMu.Lock()
	c.pidfd = fd
	c.pidMu.Unlock()
	c.pid = pid
	s.byPID[pid] = c
	return true, nil, err
}

// await registers the process with the poller, unless the reaper has noticed its end already.
func (c *container) await(s *server) error {
	c.pidMu.Lock()
	defer c.pidMu.Unlock()
	if c.pidfd < 0 {
		return nil
	}
	return s.exits.add(c.pidfd, exitWaiter{s, c}, &c.token)
}

// openStream creates a pipe and begins to read it.
func (s *server) openStream(c *container, name string) (*stream, *os.File, error) {
	st, far, err := newStream(name, c.log)
	if err != nil {
		return nil, nil, err
	}
	if err := s.readStream(c, st); err != nil {
		far.Close()
		unix.Close(st.fd)
		return nil, nil, err
	}
	return st, far, nil
}

func (s *server) readStream(c *container, st *stream) error {
	st.changed = func() { s.publish(c.id) }
	if c.rec.Log.Path != "" {
		st.spoolPath = s.records.spool(c.id, st.name)
		if err := st.resume(); err != nil {
			s.log.Error("output that was read before cannot be logged", "id", c.id, "stream", st.name,
				"error", err)
			st.dropSpool()
		}
	}
	return s.logs.add(st.fd, st, &st.token)
}
