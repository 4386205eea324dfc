// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/cgrouplayout"
	"github.com/berth-run/berth/internal/procfs"
	"github.com/berth-run/berth/node-agent/handler"
	"github.com/berth-run/berth/node-agent/ociruntime/cgroup"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// Options are the settings of a supervisor.
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
	cgroups     cgrouplayout.Mounts
	devNull     *os.File
	exits, logs *poller
	// bound the creates that are under way, by handler: one that hangs holds up no other
	slots    map[string]chan struct{}
	reaped   chan struct{} // wakes the reaper when a zombie in its way is gone
	stopped  chan struct{} // closed when records that could not be written are given up
	patience time.Duration
	step     func(name string)
	ops      sync.WaitGroup
	endings  sync.WaitGroup

	mu         sync.Mutex
	stopping   bool
	containers map[string]*container
	byPID      map[int]*container // children that have not ended, as far as is known
	// inherited descriptors by protocol.Key and kind, until all containers are adopted
	held map[string]map[string]int
	// children that have ended and are not reaped yet, see reaper.go
	zombies    map[int]bool
	early      map[int]unix.WaitStatus // see reaper.go
	creates    int                     // handler.Create calls that are under way
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
	// requestTimeout is the time that a client may take to send its request.
	requestTimeout = 10 * time.Second
	// replyTimeout is the time that a client may take to read an answer.
	replyTimeout = 30 * time.Second
	// stopTimeout is the time that operations under way may take to end after SIGTERM.
	stopTimeout = 20 * time.Second
)

// Run runs the supervisor. It returns when ctx ends or the process gets SIGTERM or SIGINT: it then
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
	ctx, stop := catchSignals(ctx)
	defer stop()
	if err := becomeParent(); err != nil {
		return err
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
	s, err := newServer(o, records{d.dir})
	if err != nil {
		return err
	}
	defer s.devNull.Close()
	if err := s.adoptAll(ctx, held); err != nil {
		s.letGo()
		return err
	}
	l, err := d.listen()
	if err != nil {
		s.letGo()
		return err
	}
	next, err := s.serveUntilStopped(ctx, d, l)
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

// catchSignals returns a context that ends with SIGTERM or SIGINT, and has this process survive
// SIGHUP and SIGPIPE until stop is called.
func catchSignals(ctx context.Context) (_ context.Context, stop func()) {
	// Caught rather than ignored: what is ignored stays so across execve, in every container too
	// (signal(7)).
	dropped := make(chan os.Signal, 1)
	signal.Notify(dropped, unix.SIGHUP, unix.SIGPIPE)
	ctx, cancel := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	return ctx, func() {
		cancel()
		signal.Stop(dropped)
	}
}

// becomeParent makes this process the leader of a session and the subreaper of its descendants.
func becomeParent() error {
	// EPERM: it leads a process group, hence a session or a job of a shell; either will do.
	if _, err := unix.Setsid(); err != nil && err != unix.EPERM {
		return fmt.Errorf("setsid: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_CHILD_SUBREAPER): %w", err)
	}
	return nil
}

// newServer returns a server without containers, in the cgroup that it is to be in.
func newServer(o Options, r records) (_ *server, err error) {
	s := &server{
		log:        o.Log,
		handlers:   o.Handlers,
		program:    o.Program,
		command:    o.Command,
		run:        rand.Text(),
		upgrade:    make(chan string, 1),
		records:    r,
		slots:      slotsOf(o.Handlers, 2*runtime.GOMAXPROCS(0)),
		containers: map[string]*container{},
		byPID:      map[int]*container{},
		zombies:    map[int]bool{},
		reaped:     make(chan struct{}, 1),
		stopped:    make(chan struct{}),
		patience:   patience,
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
		return nil, err
	}
	if s.cgroups, err = cgrouplayout.ReadMounts(); err != nil {
		s.log.Warn("cgroups cannot be found: kills for lack of memory will not be noticed", "error", err)
	}
	if o.CgroupParent != "" {
		if err := cgroup.Join(s.cgroups.Layout, o.CgroupParent); err != nil {
			s.log.Warn("not in a cgroup of its own in each hierarchy", "cgroup", o.CgroupParent,
				"error", err)
		}
	}
	if s.devNull, err = os.Open(os.DevNull); err != nil {
		return nil, err
	}
	if s.exits, err = newPoller(1, s.log); err != nil {
		s.devNull.Close()
		return nil, err
	}
	if s.logs, err = newPoller(logWorkers, s.log); err != nil {
		s.exits.close()
		s.devNull.Close()
		return nil, err
	}
	return s, nil
}

// adoptAll continues the containers that an earlier supervisor has recorded, with the descriptors
// that it had open.
func (s *server) adoptAll(ctx context.Context, held map[string]map[string]int) error {
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
		// A process that is taken for ended, and lives, would get a second one beside it.
		if err := s.adopt(ctx, rec); err != nil {
			return err
		}
	}
	for _, fds := range s.held {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
	s.held = nil
	return nil
}

// serveUntilStopped serves clients and reaps processes until ctx ends or a client asks for an
// upgrade, and then lets operations under way end. It returns the program to become, if any.
func (s *server) serveUntilStopped(
	ctx context.Context, d *runDir, l *net.UnixListener,
) (next string, err error) {
	// Operations go on when ctx ends, for a while. Streams of watchers and holders have no end of
	// their own.
	opctx, opcancel := context.WithCancel(context.WithoutCancel(ctx))
	defer opcancel()
	streamctx, endStreams := context.WithCancel(opctx)
	defer endStreams()
	adopted := len(s.containers)
	// Clients are served only once the reaper has the main thread: no handler's program may be
	// forked there.
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
		s.log.Info("supervisor runs", "socket", d.socket, "containers", adopted, "pid", os.Getpid())
		s.reapLoop(stop)
	})
	if err != nil {
		d.close()
	}
	return next, err
}

// slotsOf returns the slots of each handler.
func slotsOf(handlers handler.Set, each int) map[string]chan struct{} {
	slots := map[string]chan struct{}{}
	for name := range handlers {
		slots[name] = make(chan struct{}, each)
	}
	return slots
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
