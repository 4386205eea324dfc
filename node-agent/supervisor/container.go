// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/procfs"
	"github.com/berth-run/berth/internal/unixsignal"
	"github.com/berth-run/berth/node-agent/boottime"
	"github.com/berth-run/berth/node-agent/handler"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// container is one container. It costs a pidfd, the reading ends of two pipes and a log file, and
// no goroutine.
//
// Locks are taken in the order op, life, holder.mu, mu, server.mu, pidMu.
type container struct {
	id string

	// op is held for the length of an operation: those on one container come one after the other.
	op sync.Mutex

	// life is held while the handler creates or starts it, so that the exit of a process that ends
	// at once is published after the start, and not before.
	life sync.Mutex

	// mu guards rec and streams, and is held until rec is on disk: whoever sees a state can rely on
	// the next supervisor seeing it too.
	mu      sync.Mutex
	rec     record
	streams [2]*stream // unchanged once the process is waited for
	log     *logFile   // nil before it is opened, and for one that had stopped already when it was adopted
	memory  *oomWatch  // nil without a cgroup to watch
	gone    bool       // forgotten; nothing is written to disk any more
	late    bool       // the record on disk is older than rec, and a goroutine tries to write it

	// Set before the process is waited for, and unchanged then.
	pid     int
	adopted bool // by a supervisor that is not its parent

	pidMu sync.Mutex
	pidfd int // -1 when there is none
	token int32

	ended chan struct{} // closed when the state is Stopped
}

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

// update changes the status, writes it to disk, and then notifies the watchers. The change stands
// even if the disk is full; the record is then written as soon as that is possible.
func (s *server) update(c *container, change func(*protocol.Status)) error {
	err := s.record(c, change)
	s.publish(c.id)
	return err
}

// record is update without telling the watchers.
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

// health fills in how the log does; c.mu is held.
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

// status is a copy.
func (c *container) status() protocol.Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.rec.Status
	c.health(&st)
	return st
}

// create makes a container.
func (s *server) create(ctx context.Context, r *protocol.CreateRequest) (st protocol.Status, err error) {
	if err := r.Validate(); err != nil {
		return protocol.Status{}, fmt.Errorf("%w: %w", protocol.ErrInvalid, err)
	}
	if r.Handler == "" {
		r.Handler = handler.NativeName
	}
	h, err := s.handlers.Get(r.Handler)
	if err != nil {
		return protocol.Status{}, fmt.Errorf("%w: %w", protocol.ErrInvalid, err)
	}

	c := &container{id: r.ID, pidfd: -1, ended: make(chan struct{}), rec: record{
		Status: protocol.Status{ID: r.ID, Bundle: r.Bundle, Handler: r.Handler, State: protocol.Creating, CreatedAt: time.Now().UTC(), LogPath: r.Log.Path},
		Log:    r.Log,
		BootID: s.bootID,
	}}
	c.op.Lock()
	defer c.op.Unlock()
	c.life.Lock()
	defer c.life.Unlock()
	s.mu.Lock()
	_, exists := s.containers[r.ID]
	if err := s.noContainer(r.ID); exists || !errors.Is(err, protocol.ErrNotExist) {
		s.mu.Unlock()
		if exists {
			err = protocol.ErrExist
		}
		return protocol.Status{}, fmt.Errorf("create %s: %w", r.ID, err)
	}
	s.containers[r.ID] = c
	s.mu.Unlock()
	defer func() {
		if err != nil {
			s.forget(c)
			if c.log != nil {
				c.log.removeIfEmpty()
			}
		}
	}()
	s.publish(r.ID)

	// A few at a time: more than the processors can do only makes each of them slower.
	slots := s.slots[r.Handler]
	slots <- struct{}{}
	defer func() { <-slots }()

	log, err := openLog(r.Log)
	if err != nil {
		return protocol.Status{}, fmt.Errorf("create %s: %w", r.ID, err)
	}
	c.mu.Lock()
	c.log = log
	c.mu.Unlock()
	var far [2]*os.File
	for i, name := range []string{"stdout", "stderr"} {
		var st *stream
		if st, far[i], err = s.openStream(c, name); err != nil {
			return protocol.Status{}, fmt.Errorf("create %s: %w", r.ID, err)
		}
		defer far[i].Close()
		c.mu.Lock()
		c.streams[i], c.rec.Pipes[i] = st, st.inode
		c.mu.Unlock()
	}
	// On disk before the handler is asked: a supervisor that dies now leaves a record of what has
	// to be cleared away.
	if err := s.update(c, func(*protocol.Status) {}); err != nil {
		return protocol.Status{}, fmt.Errorf("create %s: %w", r.ID, err)
	}

	s.mu.Lock()
	s.creates++
	s.mu.Unlock()
	pid, err := h.Create(ctx, r.ID, r.Bundle, handler.Stdio{Stdin: s.devNull, Stdout: far[0], Stderr: far[1]})
	var known bool
	var early *unix.WaitStatus
	var unwaited error
	s.mu.Lock()
	if err == nil {
		known, early, unwaited = s.register(c, pid)
	}
	if s.creates--; s.creates == 0 {
		clear(s.early)
	}
	s.mu.Unlock()
	if err != nil {
		return protocol.Status{}, err
	}

	if p, serr := procfs.ReadStat(pid); serr == nil {
		c.mu.Lock()
		c.rec.StartTime = p.StartTime
		c.mu.Unlock()
	}
	if known {
		s.noteNamespace(c)
	}
	// In the supervisor's own cgroup, as without one for the container, kills say nothing of the
	// container.
	if cgroup := memoryCgroup(s.hierarchies, pid); cgroup != memoryCgroup(s.hierarchies, os.Getpid()) {
		c.mu.Lock()
		c.rec.Cgroup, c.rec.KillsOfOthers = cgroup, oomKills(cgroup)
		c.mu.Unlock()
		s.watchMemory(c)
	}
	if err = unwaited; err == nil {
		err = s.update(c, func(st *protocol.Status) { st.PID, st.State = pid, protocol.Created })
	}
	if err == nil && known {
		err = c.await(s)
	}
	if err != nil {
		// A container without a record would be lost with us, and the end of one that cannot be
		// waited for goes unseen: undo it.
		if derr := h.Delete(ctx, r.ID, true); derr != nil && !errors.Is(derr, handler.ErrNotExist) {
			err = errors.Join(err, derr)
		}
		for end := time.Now().Add(killWait); known && !s.reap(c) && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
		return protocol.Status{}, fmt.Errorf("create %s: %w", r.ID, err)
	}
	s.passOn(c, false)
	switch {
	case early != nil:
		s.exited(c, early, nil)
	case !known:
		s.exited(c, nil, errors.New("the process had ended before it could be waited for"))
	}
	return c.status(), nil
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

// await has the poller wait for the process, unless the reaper has noticed its end already.
func (c *container) await(s *server) error {
	c.pidMu.Lock()
	defer c.pidMu.Unlock()
	if c.pidfd < 0 {
		return nil
	}
	return s.exits.add(c.pidfd, exitWaiter{s, c}, &c.token)
}

// openStream makes a pipe and begins to read it.
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
			s.log.Error("output that was read before cannot be logged", "id", c.id, "stream", st.name, "error", err)
			st.dropSpool()
		}
	}
	return s.logs.add(st.fd, st, &st.token)
}

// forget lets go of everything that c holds and removes it from the table. c.op is held.
func (s *server) forget(c *container) {
	for _, st := range c.streams {
		if st != nil {
			st.close(s.logs)
		}
	}
	if c.log != nil {
		c.log.close()
	}
	c.closePidfd(s.exits)
	c.unwatchMemory()
	c.mu.Lock()
	id := c.id
	c.gone = true
	err := s.records.remove(id)
	c.mu.Unlock()
	s.bury(c)
	if err != nil {
		s.log.Error("container's record cannot be removed", "id", id, "error", err)
	}
	s.passOn(c, true) // before another container can have the id
	s.mu.Lock()
	delete(s.containers, id)
	s.mu.Unlock()
	s.publish(id)
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
		if s.record(c, func(*protocol.Status) { c.rec.finish(now, instant, ws, err, oomKills(c.rec.Cgroup)) }) == nil {
			s.step("exit recorded")
			s.bury(c)
		}
		s.step("reaped")
		s.publish(c.id)
		close(c.ended)
	})
}

// finish is the last change of a status.
func (rec *record) finish(at time.Time, instant boottime.Instant, ws *unix.WaitStatus, err error, kills uint64) {
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

// with runs an operation on the container of that id, alone.
func (s *server) with(id string, f func(*container, handler.Handler) error) error {
	if err := protocol.ValidateID(id); err != nil {
		return fmt.Errorf("%w: %w", protocol.ErrInvalid, err)
	}
	c, err := s.find(id)
	if err != nil {
		return err
	}
	c.op.Lock()
	defer c.op.Unlock()
	c.mu.Lock()
	gone := c.gone
	c.mu.Unlock()
	if gone { // while we waited for op
		return fmt.Errorf("container %s: %w", id, protocol.ErrNotExist)
	}
	h, err := s.handlers.Get(c.rec.Status.Handler)
	if err != nil {
		return fmt.Errorf("container %s: %w", id, err)
	}
	return f(c, h)
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

// start lets a created container run, and returns its status. For one that runs already it does
// nothing else.
func (s *server) start(ctx context.Context, id string) (st protocol.Status, err error) {
	err = s.with(id, func(c *container, h handler.Handler) error {
		c.life.Lock()
		defer c.life.Unlock()
		switch st = c.status(); st.State {
		case protocol.Running:
			return nil
		case protocol.Created:
		default:
			return fmt.Errorf("start %s: it is %s: %w", id, st.State, protocol.ErrNotCreated)
		}
		// An earlier supervisor may have let the program go right before it was killed.
		begun := !st.StartedAt.IsZero()
		// The time of the start is on disk before the program can run: a supervisor that is killed
		// right after that must not leave a record of a container that never ran, for it would be
		// run a second time.
		at, instant := time.Now().UTC(), boottime.Now()
		if err := s.record(c, func(st *protocol.Status) { st.StartedAt, st.StartedInstant = at, instant }); err != nil {
			if !begun {
				_ = s.record(c, neverStarted)
			}
			return fmt.Errorf("start %s: %w", id, err)
		}
		s.step("start recorded")
		if err := h.Start(ctx, id); err != nil {
			// Its outcome may be unknown: the program may run although the handler says that it
			// failed.
			switch hs, herr := h.State(context.WithoutCancel(ctx), id); {
			case herr != nil:
				return fmt.Errorf("start %s: %w: %w", id, protocol.ErrUnknownOutcome, errors.Join(err, herr))
			case hs.Status == "created" && !begun:
				_ = s.record(c, neverStarted)
				return err
			case hs.Status != "running" && begun:
				return fmt.Errorf("start %s: it may have run already: %w: %w", id, protocol.ErrUnknownOutcome, err)
			case hs.Status != "running":
				return err
			}
		}
		s.step("started")
		err := s.update(c, func(st *protocol.Status) { st.State = protocol.Running })
		if err != nil {
			s.log.Warn("a running container's record says that it is starting", "id", id)
		}
		st = c.status()
		return nil
	})
	return st, err
}

// neverStarted takes back that the container is being started.
func neverStarted(st *protocol.Status) {
	st.StartedAt, st.StartedInstant = time.Time{}, boottime.Instant{}
}

// kill sends a signal. SIGKILL to all processes of a container whose first one has ended returns
// once the others have, too: what they use may be removed then.
func (s *server) kill(ctx context.Context, id, signal string, all bool) error {
	sig, err := unixsignal.Parse(signal)
	if err != nil {
		return fmt.Errorf("%w: %w", protocol.ErrInvalid, err)
	}
	return s.with(id, func(c *container, h handler.Handler) error {
		st := c.status()
		if st.State == protocol.Stopped && !all {
			return fmt.Errorf("kill %s: %w", id, protocol.ErrNotRunning)
		}
		if sig != unix.SIGKILL {
			err := h.Kill(ctx, id, sig, all)
			if errors.Is(err, handler.ErrNotExist) && c.signalFirst(sig) {
				err = nil // somebody has removed the handler's record of it
			}
			return err
		}
		_ = s.record(c, func(*protocol.Status) { c.rec.Killed = true })
		left := s.findStrays(c) // before the first process has ended: its descendants cannot be recognised later
		err := h.Kill(ctx, id, sig, all)
		if c.signalFirst(sig) && (errors.Is(err, handler.ErrNotRunning) || errors.Is(err, handler.ErrNotExist)) {
			err = nil // it is not in its cgroup, where the handler looks, or the handler's record was removed
		}
		err = errors.Join(err, left.kill())
		if all && st.State == protocol.Stopped {
			if lives := c.awaitEmpty(); lives != nil {
				return lives
			}
		}
		return err
	})
}

// awaitEmpty returns once no process is left in the container's cgroup. They have been killed.
func (c *container) awaitEmpty() error {
	for end := time.Now().Add(killWait); ; time.Sleep(5 * time.Millisecond) {
		pids := processesBelow(c.rec.Cgroup)
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("container %s: processes %v live on %v after SIGKILL", c.id, pids, killWait)
		}
	}
}

// signalFirst sends a signal to the container's first process wherever it is, and returns false if
// that has been reaped.
func (c *container) signalFirst(sig unix.Signal) bool {
	c.pidMu.Lock()
	defer c.pidMu.Unlock()
	return c.pidfd >= 0 && unix.PidfdSendSignal(c.pidfd, sig, nil, 0) == nil
}

// limit changes limits: those of the log once the handler has taken the others. The handler knows
// its own, and those of the log are in the record. Whoever asked asks again if there is no answer.
func (s *server) limit(ctx context.Context, id string, r *protocol.UpdateRequest) error {
	if err := r.Validate(); err != nil {
		return fmt.Errorf("%w: %w", protocol.ErrInvalid, err)
	}
	return s.with(id, func(c *container, h handler.Handler) error {
		if st := c.status(); st.State != protocol.Created && st.State != protocol.Running {
			return fmt.Errorf("update %s: it is %s: %w", id, st.State, protocol.ErrNotRunning)
		}
		s.step("update begins")
		if r.To != nil {
			if err := h.Update(ctx, id, r.To, r.Before); err != nil {
				return err
			}
		}
		s.step("updated")
		if r.Log == nil {
			return nil
		}
		err := s.limitLog(c, *r.Log)
		if err != nil && r.Before != nil {
			if uerr := h.Update(ctx, id, r.Before, r.To); uerr != nil {
				err = errors.Join(err, fmt.Errorf("set it back: %w", uerr))
			}
		}
		return err
	})
}

// limitLog changes the limits of a container's log. If they cannot be recorded, they stay as they
// were.
func (s *server) limitLog(c *container, l protocol.LogLimits) error {
	if c.rec.Log.Path == "" {
		return nil // no log is kept
	}
	was := c.rec.Log.LogLimits // c.op is held
	if err := s.record(c, func(*protocol.Status) { c.rec.Log.LogLimits = l }); err != nil {
		_ = s.record(c, func(*protocol.Status) { c.rec.Log.LogLimits = was })
		return fmt.Errorf("log: %w", err)
	}
	s.step("limits of the log recorded")
	c.log.limit(l)
	return nil
}

// killWait is how long the exit of a process is waited for after its handler has said that it is
// killed or deleted.
const killWait = 10 * time.Second

// remove deletes a container.
func (s *server) remove(ctx context.Context, id string, force bool) error {
	return s.with(id, func(c *container, h handler.Handler) error {
		st := c.status()
		if st.State != protocol.Stopped && !force {
			return fmt.Errorf("delete %s: it is %s: %w", id, st.State, protocol.ErrRunning)
		}
		// A handler that does not know it (any more) has nothing left to delete.
		if st.State != protocol.Stopped {
			_ = s.record(c, func(*protocol.Status) { c.rec.Killed = true })
		}
		left := s.findStrays(c)
		if err := h.Delete(ctx, id, force); err != nil && !errors.Is(err, handler.ErrNotExist) {
			left.close()
			return err
		}
		if force {
			c.signalFirst(unix.SIGKILL)
		}
		if err := left.kill(); err != nil {
			return fmt.Errorf("delete %s: %w", id, err)
		}
		select {
		case <-c.ended:
		case <-time.After(killWait):
			return fmt.Errorf("delete %s: process %d lives on %v after its handler has deleted it", id, st.PID, killWait)
		}
		if c.rec.Cgroup != "" {
			removeCgroups(s.hierarchies, c.rec.Cgroup)
		}
		s.forget(c)
		return nil
	})
}

// adoptOutput goes on to log the output of a container that an earlier supervisor has recorded.
func (s *server) adoptOutput(c *container) {
	rec, id := &c.rec, c.id
	log, err := openLog(rec.Log)
	if err != nil {
		s.log.Error("log of an adopted container", "id", id, "error", err)
		// Its output is read all the same, or it would wait for ever on a full pipe.
		log = &logFile{Log: rec.Log, fd: -1, err: err}
	}
	log.lost = rec.Status.LogLost
	c.mu.Lock()
	c.log = log
	c.mu.Unlock()
	// Released below: a log without streams is closed.
	log.users++
	defer log.release()
	for i, name := range protocol.Kinds[1:] {
		fd, err := s.takePipe(c, i+1)
		if err == nil {
			var st *stream
			if st, err = streamOf(name, log, fd); err == nil {
				err = s.readStream(c, st)
			}
			if err == nil {
				c.streams[i] = st
				continue
			}
			unix.Close(fd)
		}
		// What was read before is logged even if nothing more can be read.
		last := &stream{name: name, log: log, fd: -1, spoolPath: s.records.spool(id, name)}
		if rerr := last.resume(); rerr != nil {
			err = errors.Join(err, rerr)
		}
		log.add(name, last.rest, nil, true, last.spool)
		last.dropSpool()
		if rec.Status.State != protocol.Stopped {
			s.log.Warn("adopted container's output is not read", "id", id, "stream", name, "error", err)
		}
	}
}

// settleStart finds out whether a container that is recorded as created runs: its start may have
// been cut off. One that its handler calls created keeps the time of that start: its process may
// have been let go, and not have come to its program yet.
func (s *server) settleStart(ctx context.Context, c *container) {
	h, err := s.handlers.Get(c.rec.Status.Handler)
	if err != nil {
		return
	}
	if hs, err := h.State(ctx, c.id); err == nil && hs.Status == "running" {
		_ = s.update(c, func(st *protocol.Status) {
			st.State = protocol.Running
			if st.StartedAt.IsZero() { // recorded by an older version
				st.StartedAt, st.StartedInstant = time.Now().UTC(), boottime.Now()
			}
		})
	}
}

// adopt continues a container that an earlier supervisor has recorded.
func (s *server) adopt(ctx context.Context, rec *record) {
	c := &container{id: rec.Status.ID, rec: *rec, pid: rec.Status.PID, pidfd: -1, adopted: true, ended: make(chan struct{})}
	id, pid := rec.Status.ID, c.pid
	s.mu.Lock()
	s.containers[id] = c
	s.mu.Unlock()
	for _, name := range protocol.Kinds[1:] {
		if err := recoverSpool(s.records.spool(id, name), rec.Log.Path); err != nil {
			s.log.Error("the log may have the last output twice", "id", id, "stream", name, "error", err)
		}
	}
	stopped := func(why string) {
		s.adoptOutput(c)
		for _, st := range c.streams {
			if st != nil {
				st.drain(s.logs)
			}
		}
		_ = s.update(c, func(*protocol.Status) {
			c.rec.MountNS = 0 // the number may be that of another namespace by now
			c.rec.finish(time.Now().UTC(), boottime.Now(), nil, errors.New(why), oomKills(c.rec.Cgroup))
		})
		close(c.ended)
	}
	switch {
	case rec.Status.State == protocol.Stopped:
		s.adoptOutput(c) // others may hold the pipe and write on
		close(c.ended)
		return
	case rec.BootID != s.bootID:
		stopped("the machine has been restarted")
		return
	case rec.Status.State == protocol.Creating:
		stopped("the supervisor ended while the container was made")
		return
	}
	// A held pidfd knows the exit of a process that has been reaped. It is not asked while the
	// process is there: it may be of a container before that had the same id, if the holder was
	// killed before it knew of this one.
	fd := openProcess(pid, rec.StartTime)
	if fd < 0 {
		fd = s.takeHeld(id, protocol.Kinds[0])
	}
	if fd < 0 {
		stopped("it ended while no supervisor ran")
		return
	}
	c.pidfd = fd
	p, err := procfs.ReadStat(pid)
	same := err == nil && p.StartTime == rec.StartTime
	if !same || p.Ended() {
		c.rec.MountNS = 0 // the number may be that of another namespace by now
	}
	if same && p.PPID == os.Getpid() {
		// The supervisor before was another program in this process: the container is a child, and
		// its exit waits for us.
		s.mu.Lock()
		c.adopted = false
		s.byPID[pid] = c
		s.mu.Unlock()
	}
	s.adoptOutput(c)
	s.noteKills(c)
	s.watchMemory(c)
	if rec.Status.State == protocol.Created {
		s.settleStart(ctx, c)
	}
	if err := c.await(s); err != nil {
		s.log.Error("adopted container cannot be waited for", "id", id, "error", err)
	}
}
