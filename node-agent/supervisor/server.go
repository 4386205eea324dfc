// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/procfs"
	"github.com/berth-run/berth/node-agent/handler"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// Options are how a supervisor runs.
type Options struct {
	// RunDir holds the records, in RunDir/supervisor (0700). It must be on a filesystem that lasts
	// as long as the containers do; /run/berth is meant.
	RunDir string
	// Socket is the path of the unix socket that is listened on; empty means
	// RunDir/supervisor.sock. Its directory is made with mode 0700 if it is not there, and must not
	// be writable by others.
	Socket string
	// Handlers run containers, by name.
	Handlers handler.Set
	// CgroupParent is the cgroup, counted from the root of each hierarchy, that the supervisor puts
	// itself into, such as "/berth/supervisor"; empty means to stay. A hierarchy that does not
	// allow it is left as it is, with a warning.
	CgroupParent string
	// Log is for people; nil means slog.Default().
	Log *slog.Logger
	// Program is sent to clients in the handshake, such as "berth v0.1.0".
	Program string

	// Command is the command line that this supervisor was started with, without --held; nil if it
	// cannot be upgraded in place.
	Command []string
	// Held is a descriptor that lists inherited ones (see protocol.Holder); 0 means that there are
	// none.
	Held int

	// step is called at each step that a test may kill the supervisor at.
	step func(name string)
}

// server is a running supervisor.
type server struct {
	log         *slog.Logger
	handlers    handler.Set
	program     string
	command     []string
	run         string      // a random name of this run of the program
	upgrade     chan string // takes the program to become
	records     records
	bootID      string
	hierarchies []hierarchy
	devNull     *os.File
	exits, logs *poller
	slots       map[string]chan struct{} // bound the creates that are under way, by handler: one that hangs holds up no other
	reaped      chan struct{}            // wakes the reaper when a zombie in its way is gone
	stopped     chan struct{}            // closed when records that could not be written are given up
	step        func(name string)
	ops         sync.WaitGroup
	endings     sync.WaitGroup

	mu         sync.Mutex
	stopping   bool
	containers map[string]*container
	byPID      map[int]*container        // children that have not ended, as far as is known
	held       map[string]map[string]int // inherited descriptors by protocol.Key and kind, until all containers are adopted
	zombies    map[int]bool              // children that have ended and are not reaped yet, see reaper.go
	early      map[int]unix.WaitStatus   // see reaper.go
	creates    int                       // handler.Create calls that are under way
	conns      map[net.Conn]struct{}
	unreadable map[string]error // containers whose records cannot be read; never changed
	holders    map[*holder]struct{}

	watchMu  sync.Mutex
	watchers map[*watch]struct{}
}

const (
	// logWorkers are the goroutines that read pipes and write logs: a slow disk under one log holds
	// up one of them.
	logWorkers = 4
	// requestTimeout is how long a client may take to say what it wants.
	requestTimeout = 10 * time.Second
	// replyTimeout is how long it may take to read an answer.
	replyTimeout = 30 * time.Second
	// stopTimeout is how long operations under way may take to end after SIGTERM.
	stopTimeout = 20 * time.Second
)

// Run is the supervisor. It returns when ctx ends or the process gets SIGTERM or SIGINT: it then
// lets operations under way end, writes what is in the pipes to the logs, and returns nil.
// Containers and records stay, and the next supervisor continues them; until then a container whose
// output fills its pipe waits.
//
// Run makes this process the leader of a session and the subreaper of its descendants, has it
// survive SIGHUP and SIGPIPE, and needs its main thread (see reaper.go): call runtime.LockOSThread
// in an init function and Run from main. There is one supervisor a process, and one a RunDir.
func Run(ctx context.Context, o Options) error {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.RunDir == "" {
		return errors.New("supervisor: run dir: found an empty string; allowed: a path")
	}
	if o.Socket == "" {
		o.Socket = protocol.Socket(o.RunDir)
	}
	if err := run(ctx, o); err != nil {
		return fmt.Errorf("supervisor: %w", err)
	}
	return nil
}

func run(ctx context.Context, o Options) error {
	// Caught rather than ignored: what is ignored stays so across execve, in every container too
	// (signal(7)).
	dropped := make(chan os.Signal, 1)
	signal.Notify(dropped, unix.SIGHUP, unix.SIGPIPE)
	defer signal.Stop(dropped)
	ctx, cancel := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer cancel()

	// EPERM: it leads a process group, hence a session or a job of a shell; either will do.
	if _, err := unix.Setsid(); err != nil && err != unix.EPERM {
		return fmt.Errorf("setsid: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_CHILD_SUBREAPER): %w", err)
	}

	var held map[string]map[string]int
	var lock *os.File
	if o.Held > 0 {
		var err error
		if held, lock, err = takeInherited(o.Held); err != nil {
			o.Log.Error("what the supervisor before had open is lost", "error", err)
		}
	}
	d, err := openRunDir(filepath.Join(o.RunDir, "supervisor"), o.Socket, lock)
	if err != nil {
		return err
	}
	defer func() { d.lock.Close() }()

	s := &server{
		log:        o.Log,
		handlers:   o.Handlers,
		program:    o.Program,
		command:    o.Command,
		run:        rand.Text(),
		upgrade:    make(chan string, 1),
		records:    records{d.dir},
		slots:      slotsOf(o.Handlers, 2*runtime.GOMAXPROCS(0)),
		containers: map[string]*container{},
		byPID:      map[int]*container{},
		zombies:    map[int]bool{},
		reaped:     make(chan struct{}, 1),
		stopped:    make(chan struct{}),
		step:       o.step,
		early:      map[int]unix.WaitStatus{},
		conns:      map[net.Conn]struct{}{},
		holders:    map[*holder]struct{}{},
		watchers:   map[*watch]struct{}{},
	}
	if s.step == nil {
		s.step = func(string) {}
	}
	if s.bootID, err = procfs.BootID(); err != nil {
		return err
	}
	if s.hierarchies, err = hierarchies(); err != nil {
		s.log.Warn("cgroups cannot be found: kills for lack of memory will not be noticed", "error", err)
	}
	if o.CgroupParent != "" {
		if err := joinCgroup(s.hierarchies, o.CgroupParent); err != nil {
			s.log.Warn("not in a cgroup of its own in each hierarchy", "cgroup", o.CgroupParent, "error", err)
		}
	}
	if s.devNull, err = os.Open(os.DevNull); err != nil {
		return err
	}
	defer s.devNull.Close()
	if s.exits, err = newPoller(1, s.log); err != nil {
		return err
	}
	if s.logs, err = newPoller(logWorkers, s.log); err != nil {
		s.exits.close()
		return err
	}

	recs, unreadable, err := s.records.load()
	if err != nil {
		return err
	}
	for id, err := range unreadable {
		s.log.Error("container's record cannot be read; it is left alone", "id", id, "error", err)
	}
	s.unreadable = unreadable
	s.held = held
	for _, rec := range recs {
		s.adopt(ctx, rec)
	}
	for _, fds := range s.held {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
	s.held = nil

	l, err := d.listen()
	if err != nil {
		s.letGo()
		return err
	}
	// Operations go on when ctx ends, for a while. Streams of watchers and holders have no end of
	// their own.
	opctx, opcancel := context.WithCancel(context.WithoutCancel(ctx))
	defer opcancel()
	streamctx, endStreams := context.WithCancel(opctx)
	defer endStreams()
	// Clients are served only once the reaper has the main thread: no handler's program may be
	// forked there.
	var next string
	err = onMainThread(func() {
		stop := make(chan struct{})
		var serving sync.WaitGroup
		serve := func(l *net.UnixListener) { serving.Go(func() { s.serve(opctx, streamctx, l) }) }
		serve(l)
		keepctx, leave := context.WithCancel(ctx)
		serving.Go(func() { s.keepRunDir(keepctx, d, serve) })
		go func() {
			defer close(stop)
			select {
			case <-ctx.Done():
			case next = <-s.upgrade:
			}
			leave()
			d.close()
			serving.Wait()
			s.endOperations(opcancel, endStreams)
		}()
		s.log.Info("supervisor runs", "socket", o.Socket, "containers", len(recs), "pid", os.Getpid())
		s.reapLoop(stop)
	})
	if err != nil {
		d.close()
	}
	// For whoever comes next.
	if rerr := s.restoreLock(d); rerr != nil {
		s.log.Error("the run directory was removed, and cannot be made again", "error", rerr)
	}
	if next != "" && err == nil {
		held, perr := s.pass(d.lock)
		if perr != nil {
			s.log.Error("upgrade: descriptors cannot be passed on; containers go on without", "error", perr)
			held = "0"
		}
		s.letGo()
		return s.become(next, held)
	}
	s.letGo()
	s.log.Info("supervisor ends", "containers", len(s.containers))
	return err
}

// slotsOf returns the slots of each handler.
func slotsOf(handlers handler.Set, each int) map[string]chan struct{} {
	slots := map[string]chan struct{}{}
	for name := range handlers {
		slots[name] = make(chan struct{}, each)
	}
	return slots
}

// serve accepts clients until the listener is closed. ctx bounds their operations, and streams
// their watches and holds.
func (s *server) serve(ctx, streams context.Context, l *net.UnixListener) {
	for {
		c, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors, most likely: those of clients that end will do.
			s.log.Error("accept", "error", err)
			time.Sleep(50 * time.Millisecond)
			continue
		}
		s.mu.Lock()
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		s.ops.Go(func() {
			defer func() {
				_ = c.Close()
				s.mu.Lock()
				delete(s.conns, c)
				s.mu.Unlock()
			}()
			if err := s.talk(ctx, streams, c); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				s.log.Warn("client", "error", err)
			}
		})
	}
}

// endOperations ends the streams and waits for the operations that clients have asked for, after
// the listener has been closed.
func (s *server) endOperations(cancel, endStreams func()) {
	s.mu.Lock()
	s.stopping = true
	s.mu.Unlock()
	endStreams()
	done := make(chan struct{})
	go func() {
		s.ops.Wait()
		close(done)
	}()
	select {
	case <-done:
		return
	case <-time.After(stopTimeout):
	}
	cancel()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	<-done
}

// letGo ends what waits for containers, without loss: what has been reaped is on disk and what has
// been read is in the logs when it returns. The reaper has ended.
func (s *server) letGo() {
	s.exits.close()
	close(s.stopped)
	s.endings.Wait()
	s.logs.close()
	for _, c := range s.containers {
		c.closePidfd(s.exits)
		c.unwatchMemory()
		for _, st := range c.streams {
			if st != nil {
				st.suspend(s.logs)
			}
		}
		if c.log != nil {
			c.log.close()
		}
	}
}

// readers are the buffers of connections.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, protocol.LineBuffer) }}

// talk serves one connection: a handshake, a request, its replies.
func (s *server) talk(ctx, streams context.Context, c *net.UnixConn) error {
	h := protocol.Hello{
		Protocol: protocol.Name, MinVersion: protocol.MinVersion, MaxVersion: protocol.MaxVersion,
		PID: os.Getpid(), Program: s.program, Run: s.run,
	}
	refuse := func(err error) error {
		h.Error = wireError(err)
		_ = protocol.WriteLine(c, h)
		return err
	}
	_ = c.SetDeadline(time.Now().Add(requestTimeout))
	if err := checkPeer(c); err != nil {
		return refuse(err)
	}
	r := readers.Get().(*bufio.Reader)
	r.Reset(c)
	defer func() {
		r.Reset(nil)
		readers.Put(r)
	}()
	var theirs protocol.Hello
	if err := protocol.ReadLine(r, &theirs); err != nil {
		if errors.Is(err, protocol.ErrMalformed) {
			return refuse(fmt.Errorf("%w: %w", protocol.ErrInvalid, err))
		}
		return err
	}
	if h.Version = min(theirs.MaxVersion, protocol.MaxVersion); theirs.Protocol != protocol.Name || h.Version < max(theirs.MinVersion, protocol.MinVersion) {
		h.Version = 0
		return refuse(fmt.Errorf("%w: found %q %d to %d; allowed: %q %d to %d", protocol.ErrVersion,
			theirs.Protocol, theirs.MinVersion, theirs.MaxVersion, protocol.Name, protocol.MinVersion, protocol.MaxVersion))
	}
	if err := protocol.WriteLine(c, h); err != nil {
		return err
	}
	var q protocol.Request
	if err := protocol.ReadLine(r, &q); err != nil {
		if errors.Is(err, protocol.ErrMalformed) {
			_ = protocol.WriteLine(c, protocol.Reply{Error: wireError(fmt.Errorf("%w: %w", protocol.ErrInvalid, err))})
		}
		return err
	}
	_ = c.SetDeadline(time.Time{})
	switch q.Op {
	case protocol.OpWatch:
		return s.watch(streams, c, r)
	case protocol.OpHold:
		return s.hold(streams, c)
	}
	return s.answer(ctx, c, &q)
}

// checkPeer lets in root and our own user. The socket's mode says the same; this holds even if
// somebody changes it.
func checkPeer(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if cerr != nil {
		return fmt.Errorf("SO_PEERCRED: %w", cerr)
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: found user %d; allowed: 0 and %d", protocol.ErrDenied, cred.Uid, os.Geteuid())
	}
	return nil
}

// answer carries out a request and replies.
func (s *server) answer(ctx context.Context, c net.Conn, q *protocol.Request) error {
	r := newReplier(c, replyTimeout)
	defer r.stop()
	switch q.Op {
	case protocol.OpInfo:
		for _, name := range s.handlers.Names() {
			info := s.describe(ctx, name)
			if err := r.send(protocol.Reply{Handler: &info, More: true}); err != nil {
				return err
			}
		}
		return r.send(protocol.Reply{})
	case protocol.OpList:
		all := s.list()
		for i := range all {
			if err := r.send(protocol.Reply{Status: &all[i], More: true}); err != nil {
				return err
			}
		}
		return r.send(protocol.Reply{})
	}
	st, err := s.do(ctx, q)
	if err != nil {
		return r.send(protocol.Reply{Error: wireError(err)})
	}
	return r.send(protocol.Reply{Status: st})
}

// replier writes replies, and signs of life while there is none to write: a client cannot rely on
// seeing our end, since a child between fork and execve may hold our end of its connection open
// when we are killed.
type replier struct {
	mu      sync.Mutex
	c       net.Conn
	timeout time.Duration
	beat    *time.Timer
	done    bool
}

func newReplier(c net.Conn, timeout time.Duration) *replier {
	r := &replier{c: c, timeout: timeout}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.beat = time.AfterFunc(protocol.Heartbeat, func() { _ = r.send(protocol.Reply{More: true}) })
	return r
}

func (r *replier) send(rep protocol.Reply) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done {
		return nil
	}
	if r.timeout > 0 {
		_ = r.c.SetWriteDeadline(time.Now().Add(r.timeout))
	}
	r.done = !rep.More
	if err := protocol.WriteLine(r.c, rep); err != nil {
		r.done = true
		return err
	}
	r.beat.Reset(protocol.Heartbeat)
	return nil
}

func (r *replier) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = true
	r.beat.Stop()
}

func (s *server) do(ctx context.Context, q *protocol.Request) (*protocol.Status, error) {
	s.mu.Lock()
	stopping := s.stopping
	s.mu.Unlock()
	if stopping {
		return nil, protocol.ErrStopping
	}
	switch q.Op {
	case protocol.OpCreate:
		if q.Create == nil {
			return nil, fmt.Errorf("%w: create: found nothing; allowed: a create request", protocol.ErrInvalid)
		}
		st, err := s.create(ctx, q.Create)
		return &st, err
	case protocol.OpStart:
		st, err := s.start(ctx, q.ID)
		return &st, err
	case protocol.OpKill:
		return nil, s.kill(ctx, q.ID, q.Signal, q.All)
	case protocol.OpUpdate, protocol.OpUpdateLog:
		if q.Update == nil {
			return nil, fmt.Errorf("%w: update: found nothing; allowed: an update request", protocol.ErrInvalid)
		}
		return nil, s.limit(ctx, q.ID, q.Update)
	case protocol.OpDelete:
		return nil, s.remove(ctx, q.ID, q.Force)
	case protocol.OpUpgrade:
		if err := s.checkUpgrade(ctx, q.Program); err != nil {
			return nil, err
		}
		select {
		case s.upgrade <- q.Program:
		default: // another one is under way
		}
		return nil, nil
	case protocol.OpGet:
		c, err := s.find(q.ID)
		if err != nil {
			return nil, err
		}
		st := c.status()
		return &st, nil
	}
	return nil, fmt.Errorf("%w: op: found %q; allowed: create, start, kill, update, update log, delete, get, list, watch, hold, info, upgrade", protocol.ErrInvalid, q.Op)
}

// describeTimeout is how long a handler may take to say what it can do.
const describeTimeout = 10 * time.Second

// describe asks a handler what it can do.
func (s *server) describe(ctx context.Context, name string) protocol.HandlerInfo {
	ctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	f, err := s.handlers[name].Features(ctx)
	if err != nil {
		return protocol.HandlerInfo{Name: name, Error: protocol.Encode(err).Message}
	}
	if b, err := json.Marshal(f); err != nil || len(b) > protocol.MaxLine/2 {
		return protocol.HandlerInfo{Name: name, Error: fmt.Sprintf("found features of %d bytes; allowed: %d", len(b), protocol.MaxLine/2)}
	}
	return protocol.HandlerInfo{Name: name, Features: f}
}

// list is every container by id.
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
