// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"github.com/berth-run/berth/api/oci/change"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/boottime"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/lifecycle"
	"github.com/berth-run/berth/node-agent/network"
	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// Supervisor is the subset of *protocol.Client that Syncer uses; see there for each method.
type Supervisor interface {
	Create(ctx context.Context, r protocol.CreateRequest) (protocol.Status, error)
	Start(ctx context.Context, id string) (protocol.Status, error)
	Update(ctx context.Context, id string, r protocol.UpdateRequest) error
	Kill(ctx context.Context, id, signal string, all bool) error
	Delete(ctx context.Context, id string, force bool) error
	Get(ctx context.Context, id string) (protocol.Status, error)
	Watch(ctx context.Context) (*protocol.Watcher, error)
}

// Config holds the services and settings of a Syncer. Every field without "optional" must be set.
type Config struct {
	Source     source.Source
	Images     lifecycle.Images
	Supervisor Supervisor
	Bundles    *bundle.Root
	// LogDir holds the directory of logs of each container; absolute.
	LogDir string
	// CgroupParent is the cgroup that each container's is made in, such as /berth.
	CgroupParent string
	// Handlers returns the names of the node's handlers. A bundle without one gets
	// v1alpha1.HandlerNative.
	Handlers func() []string
	// Node has the facts about the node that variables of a container may refer to.
	Node lifecycle.Node
	// Objects has the ConfigMaps and Secrets that variables refer to; nil if the agent can read none.
	Objects lifecycle.Objects
	// LogMaxBytes is the size at which a log file is rotated if the bundle says nothing; optional:
	// DefaultLogMaxBytes.
	LogMaxBytes int64
	// KeepLogs is the time for which logs of removed containers are kept; optional: not at all.
	KeepLogs lifecycle.Retention
	// Parallel is the number of containers of one handler that are created concurrently; optional:
	// 8. Pulling images is not counted.
	Parallel int
	// Networks connects containers to the node's network; optional: the runtime creates a namespace
	// for each run.
	Networks *network.Networks
	// Pulled describes the progress of an image's pull for people; optional.
	Pulled func(reference string) string
	// Clock is for timers and for what is shown to people; optional: the real one.
	Clock clock.WithDelayedExecution
	// BootClock measures grace periods and back-offs; optional: that of the machine.
	BootClock boottime.Clock
	// Log receives the messages; optional.
	Log *slog.Logger
}

// DefaultLogMaxBytes is the kubelet's default of containerLogMaxSize.
const DefaultLogMaxBytes = 10 << 20

// Syncer brings the containers of a node to the state that their bundles describe.
type Syncer struct {
	Config
	policies Chain
	stages   lifecycle.List
	pulls    *lifecycle.Pulls
	logs     *lifecycle.Logs
	looking  chan struct{} // a token for each worker that may gather

	ctx     context.Context // of Run
	mu      sync.Mutex
	workers map[source.Key]*worker
	byID    map[string]source.Key
	stopped bool
	// sourceErr is the last error of the source; nil if it works.
	sourceErr error
	wg        sync.WaitGroup
}

// worker is the state of one key. All but the fields under "guarded" belong to its goroutine, of
// which there is at most one.
type worker struct {
	key     source.Key
	records []*Record // more than one while a container gives way to another of the same name
	told    *v1alpha1.OCIBundleStatus
	toldFor types.UID // of the bundle
	toldAt  string    // the resourceVersion that the source showed then
	retries int       // of things that failed in a row
	unseen  time.Time // since when the container cannot be looked at; zero if it can
	hash    lastHash
	offer   lastOffer
	// started is the status with which the container was started, for the look that follows at
	// once. What has happened since is an event, after which the worker looks again.
	started *protocol.Status

	// guarded by Syncer.mu
	active bool
	again  bool
	// endReport ends a report that is under way soon; nil if there is none.
	endReport func()
	timer     clock.Timer
}

// New returns a Syncer that does nothing until Run.
func New(c Config) (*Syncer, error) {
	if c.Source == nil || c.Images == nil || c.Supervisor == nil || c.Bundles == nil {
		return nil, errors.New("sync: found no source, images, supervisor or bundles; allowed: all of them")
	}
	if !filepath.IsAbs(c.LogDir) {
		return nil, fmt.Errorf("directory of logs: found %q; allowed: an absolute path", c.LogDir)
	}
	if c.Clock == nil {
		c.Clock = clock.RealClock{}
	}
	if c.BootClock == nil {
		c.BootClock = boottime.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.LogMaxBytes == 0 {
		c.LogMaxBytes = DefaultLogMaxBytes
	}
	if c.Parallel <= 0 {
		c.Parallel = 8
	}
	s := &Syncer{
		Config: c, policies: Policies(), looking: make(chan struct{}, parallelLooks),
		pulls:   lifecycle.NewPulls(c.Images, c.Pulled),
		logs:    &lifecycle.Logs{Dir: c.LogDir, Keep: c.KeepLogs, Clock: c.Clock, Log: c.Log},
		workers: map[source.Key]*worker{}, byID: map[string]source.Key{},
	}
	s.stages = lifecycle.Stages(lifecycle.Config{
		Handlers: c.Handlers, Node: c.Node, Objects: c.Objects, Pulls: s.pulls, Wake: s.Changed, Supervisor: c.Supervisor, CgroupParent: c.CgroupParent,
		LogMaxBytes: c.LogMaxBytes, Logs: s.logs, Parallel: c.Parallel, Networks: c.Networks,
	})
	return s, nil
}

// parallelLooks is the number of workers that gather concurrently. After a start of the agent all
// of them do, and each holds a document and a connection to the supervisor: without a bound, the
// memory of agent and supervisor is that of all of these at once.
const parallelLooks = 32

// Run finds the containers of an earlier agent, then works until ctx ends, and returns once every
// worker has come to a point from where another agent can go on. Containers are left as they are.
func (s *Syncer) Run(ctx context.Context) error {
	if err := s.recover(); err != nil {
		return err
	}
	// Until here nobody works on what recover reads: Changed does nothing without a context.
	s.mu.Lock()
	s.ctx = ctx
	s.mu.Unlock()
	s.wg.Go(func() { s.watch(ctx) })
	s.wg.Go(func() { s.logs.PruneNowAndThen(ctx) })
	s.wg.Go(s.pruneNetworks)
	s.follow(ctx)
	s.mu.Lock()
	s.stopped = true
	for _, w := range s.workers {
		if w.timer != nil {
			w.timer.Stop()
		}
	}
	s.mu.Unlock()
	s.wg.Wait()
	s.pulls.Close()
	return nil
}

// pruneNetworks disconnects from the network what no bundle owns.
func (s *Syncer) pruneNetworks() {
	if s.Networks == nil {
		return
	}
	if err := s.Networks.Prune(s.ctx, s.Bundles.List); err != nil {
		s.Log.Error("cannot disconnect what belongs to no container from the network", "error", err)
	}
}

// follow follows the source until ctx ends. A source that fails, as one that cannot be watched
// since the host is out of inotify instances, is followed again, and Following says that it fails.
func (s *Syncer) follow(ctx context.Context) {
	note := func(err error) {
		s.mu.Lock()
		s.sourceErr = err
		s.mu.Unlock()
	}
	for wait := time.Second; ctx.Err() == nil; wait = min(2*wait, 30*time.Second) {
		stop := func() bool { return true }
		if s.Following() != nil {
			// It works again once it has not failed for some seconds.
			stop = s.Clock.AfterFunc(followedAfter, func() { note(nil) }).Stop
		}
		began := s.Clock.Now()
		err := s.Source.Run(ctx, s)
		stop()
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("it ended")
		}
		note(fmt.Errorf("source of bundles: %w", err))
		s.Log.Error("cannot follow what is desired; trying again", "error", err, "after", wait)
		if s.Clock.Since(began) > time.Minute {
			wait = time.Second
		}
		select {
		case <-ctx.Done():
		case <-s.Clock.After(wait):
		}
	}
}

// followedAfter is the time for which a source that failed must work before it counts as working.
const followedAfter = 5 * time.Second

// Following returns the error that keeps the source from being followed, or nil.
func (s *Syncer) Following() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sourceErr
}

// recover reads the records of all bundles that are there.
func (s *Syncer) recover() error {
	ids, err := s.Bundles.List()
	if err != nil {
		return err
	}
	known := map[string]bool{}
	add := func(r *Record) {
		known[r.ID] = true
		if s.Networks != nil {
			s.Networks.Recover(r.ID, s.Bundles.Dir(r.ID))
		}
		w := s.workers[r.Key]
		if w == nil {
			w = &worker{key: r.Key}
			s.workers[r.Key] = w
		}
		w.records = append(w.records, r)
		s.byID[r.ID] = r.Key
	}
	for _, id := range ids {
		r, err := readRecord(s.Bundles.Dir(id), s.Clock.Now(), s.BootClock())
		switch {
		case err == nil && r != nil && r.ID != id:
			err = fmt.Errorf("found the id %q", r.ID)
			fallthrough
		case err != nil:
			s.Log.Error("a bundle's record cannot be read; its container is left alone", "id", id, "error", err)
			r = unreadable(s.Bundles.Dir(id), id, err)
		case r == nil: // killed before the first record was written, and so before the container was created
			r = orphan(id)
			if b := readDesired(s.Bundles.Dir(id)); b != nil && b.Name != "" {
				r.Key, r.UID = source.Key{Namespace: b.Namespace, Name: b.Name}, b.UID
			}
		}
		add(r)
	}
	if len(s.workers) > 0 {
		s.Log.Info("found containers of an earlier agent", "count", len(known))
	}
	return nil
}

// orphan returns the record of something of ours that nobody can want: it has no name.
func orphan(id string) *Record {
	return &Record{Key: source.Key{Name: id}, ID: id, GraceSeconds: 30}
}

// adoptOrphans starts a worker for each container of ours that has none: an agent that died has
// left them, or their records are gone. It is called whenever the supervisor lists its containers,
// since it may not have answered before.
func (s *Syncer) adoptOrphans(all []protocol.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range all {
		if _, known := s.byID[st.ID]; known || !s.Bundles.Holds(st.Bundle) {
			continue
		}
		s.Log.Warn("found a container that no record speaks of", "id", st.ID)
		r := orphan(st.ID)
		r.unreadable = errNoRecord // if a wanted bundle has this id, it is left alone
		if s.workers[r.Key] == nil {
			s.workers[r.Key] = &worker{key: r.Key, records: []*Record{r}}
			s.byID[st.ID] = r.Key
		}
	}
}

// watch receives the supervisor's events of containers.
func (s *Syncer) watch(ctx context.Context) {
	type seen struct {
		broken bool // the log cannot be written
		kills  uint64
	}
	last := map[string]seen{}       // what is not the rule
	lost, told := time.Now(), false // since when there is no stream of events, and whether the workers looked since
	for wait := time.Duration(0); ; wait = min(wait*2+100*time.Millisecond, 5*time.Second) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		w, err := s.Supervisor.Watch(ctx)
		if err != nil {
			if ctx.Err() == nil {
				s.Log.Warn("the supervisor does not answer; trying again", "error", err)
			}
			// No event makes the workers see that nothing is known any more.
			if !told && time.Since(lost) > time.Second/2 {
				told = true
				s.all()
			}
			continue
		}
		told = false
		wait = 0
		s.adoptOrphans(w.List)
		s.all()
		for {
			ev, err := w.Next()
			if err != nil {
				if ctx.Err() == nil {
					s.Log.Warn("lost the supervisor; connecting again", "error", err)
				}
				lost = time.Now()
				break
			}
			id, now := ev.Status.ID, seen{ev.Status.LogError != "", ev.Status.OOMKills}
			turned := now != last[id]
			if now != (seen{}) {
				last[id] = now
			} else {
				delete(last, id)
			}
			if ev.Deleted || ev.Status.State == protocol.Stopped || turned {
				s.mu.Lock()
				key, ok := s.byID[ev.Status.ID]
				s.mu.Unlock()
				if ok {
					s.Changed(key)
				}
			}
		}
		w.Close()
	}
}

// all wakes every worker.
func (s *Syncer) all() {
	s.mu.Lock()
	keys := make([]source.Key, 0, len(s.workers))
	for key := range s.workers {
		keys = append(keys, key)
	}
	s.mu.Unlock()
	for _, b := range s.Source.List() {
		keys = append(keys, source.Key{Namespace: b.Namespace, Name: b.Name})
	}
	for _, key := range keys {
		s.Changed(key)
	}
}

// Synced is part of source.Events.
func (s *Syncer) Synced() { s.all() }

// Changed is part of source.Events: it makes the key's worker look.
func (s *Syncer) Changed(key source.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || s.ctx == nil {
		return
	}
	w := s.workers[key]
	if w == nil {
		w = &worker{key: key}
		s.workers[key] = w
	}
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	if w.active {
		w.again = true
		if w.endReport != nil {
			w.endReport()
		}
		return
	}
	w.active = true
	s.wg.Add(1)
	go s.work(w)
}

// work runs in a worker's goroutine. It ends when there is nothing to do, so that a container at
// rest costs none.
func (s *Syncer) work(w *worker) {
	defer s.wg.Done()
	for {
		after := s.reconcile(s.ctx, w)
		s.mu.Lock()
		if w.again && s.ctx.Err() == nil {
			w.again = false
			s.mu.Unlock()
			continue
		}
		w.active = false
		switch {
		case s.ctx.Err() != nil:
		case after > 0:
			w.timer = s.Clock.AfterFunc(after, func() { go s.Changed(w.key) }) // a clock may call it under a lock of its own
		case len(w.records) == 0 && w.told == nil:
			delete(s.workers, w.key)
		}
		s.mu.Unlock()
		return
	}
}

// reconcile works on one key until there is nothing more to do now, and returns the time after
// which to look again; zero is never.
func (s *Syncer) reconcile(ctx context.Context, w *worker) (again time.Duration) {
	log := s.Log.With("container", w.key.String())
	for ctx.Err() == nil {
		began := s.Clock.Now()
		in, err := s.gather(ctx, w)
		if err != nil {
			log.Error("cannot look at the container; trying again", "error", err)
			if w.unseen.IsZero() {
				w.unseen = began
			}
			if in.Now = s.Clock.Now(); in.Now.Sub(w.unseen) >= unseenAfter {
				in.Unseen, in.UnseenSince = err.Error(), w.unseen
				if err := s.report(ctx, w, in, nil, 0); err != nil {
					log.Warn("cannot report the status", "error", err)
				}
			}
			return s.retry(w)
		}
		w.unseen = time.Time{}
		d := s.policies.Decide(in)
		if d.Verb != Nothing && d.Policy != "GoOnMaking" {
			log.Info(string(d.Verb), "policy", d.Policy, "why", d.Why, "id", idOf(in))
		}
		if err := s.act(ctx, w, &in, d); err != nil {
			var pending *lifecycle.Pending
			if errors.As(err, &pending) {
				w.retries = 0
				return s.await(ctx, w, in, pending)
			}
			if ctx.Err() == nil {
				log.Error("failed; trying again", "verb", d.Verb, "error", err)
				if in.StorageFailed, in.Trouble = w.trouble(d.Verb, err); in.Trouble != "" {
					if err := s.report(ctx, w, in, nil, 0); err != nil {
						log.Warn("cannot report the status", "error", err)
					}
				}
				return s.retry(w)
			}
			continue
		}
		if d.Verb == Remove {
			w.retries = 0
			s.forget(w, in)
			if len(w.records) == 0 && in.Desired == nil && s.Source.Get(w.key) == nil {
				return 0
			}
			if in.Desired != nil { // it has been released; the source says when it is gone
				return 0
			}
			continue
		}
		if d.Verb != Nothing && d.After == 0 {
			continue
		}
		if in.Record != nil && lifecycle.StorageFailed(in.Record.unwritten) {
			in.StorageFailed, in.Trouble = true, storageTrouble(in.Record.unwritten)
		}
		began = s.Clock.Now()
		if err = s.awaitFlush(ctx, in.Record); err == nil {
			err = s.report(ctx, w, in, nil, d.After)
		}
		if d.After > 0 {
			d.After = max(d.After-s.Clock.Since(began), time.Millisecond)
		}
		if err != nil && ctx.Err() == nil {
			log.Warn("cannot report the status; trying again", "error", err)
		}
		if err != nil || in.Record != nil && in.Record.unwritten != nil {
			// Not later than what was decided: a grace period ends when it does.
			return sooner(s.retry(w), d.After)
		}
		w.retries = 0
		return d.After
	}
	return 0
}

// unseenAfter is the time for which looks must have failed before a container is reported as not
// known. A supervisor that is replaced is back before.
const unseenAfter = 3 * time.Second

// sooner returns the shorter of two times to wait, of which b may be 0: never.
func sooner(a, b time.Duration) time.Duration {
	if b > 0 {
		return min(a, b)
	}
	return a
}

// reportedTries is the number of failed tries in a row after which the status says so, which takes
// some seconds: until then, another supervisor may be about to take over, or a process about to
// end.
const reportedTries = 3

// trouble returns the status message for an act that has failed, or "" if it is too early for one,
// and reports whether the agent's own files cannot be written.
func (w *worker) trouble(verb Verb, err error) (storage bool, text string) {
	switch {
	case lifecycle.StorageFailed(err):
		return true, storageTrouble(err)
	case w.retries >= reportedTries:
		return false, fmt.Sprintf("the agent tries again what has failed (%s): %v", verb, err)
	}
	return false, ""
}

func storageTrouble(err error) string { return "the agent cannot write its files: " + err.Error() }

func idOf(in Input) string {
	if in.Record != nil {
		return in.Record.ID
	}
	return ""
}

// retry returns the time after which to try again, when the node or the API failed and not the
// container.
func (s *Syncer) retry(w *worker) time.Duration {
	wait := min(time.Second<<min(w.retries, 5), 30*time.Second)
	w.retries++
	return wait
}

// gather reads all data that a decision needs. It changes nothing; act does that. While there are
// containers of an older UID, it speaks of those.
func (s *Syncer) gather(ctx context.Context, w *worker) (Input, error) {
	s.looking <- struct{}{}
	defer func() { <-s.looking }()
	in := s.readWanted(w)
	if in.Record == nil && in.wanted() && in.Refused == "" && !in.Claim {
		// Nothing is made over a container that runs although no record speaks of it.
		id := lifecycle.ContainerID(w.key, in.Desired.UID)
		switch _, err := s.Supervisor.Get(ctx, id); {
		case err == nil:
			in.Record = orphan(id)
			in.Record.Key, in.Record.UID, in.Record.unreadable = w.key, in.Desired.UID, errNoRecord
		case !errors.Is(err, protocol.ErrNotExist):
			return in, err
		}
	}
	if in.Record != nil {
		st, err := s.status(ctx, w, in.Record.ID)
		switch {
		case err == nil:
			in.Actual = &st
		case !errors.Is(err, protocol.ErrNotExist):
			return in, err
		default:
			in.RootfsLeft = in.Record.State == stateEnded && s.Bundles.Dir(in.Record.ID).RootfsLeft()
		}
	}
	in.Now, in.Instant = s.Clock.Now(), s.BootClock()
	return in, nil
}

// status returns the status of the worker's container.
func (s *Syncer) status(ctx context.Context, w *worker, id string) (protocol.Status, error) {
	st := w.started
	w.started = nil
	if st != nil && st.ID == id {
		return *st, nil
	}
	return s.Supervisor.Get(ctx, id)
}

// readWanted reads the desired bundle and the record.
func (s *Syncer) readWanted(w *worker) Input {
	// Synced is asked first: if it is true, what Get says is the truth.
	in := Input{Synced: s.Source.Synced()}
	in.Desired = s.Source.Get(w.key)
	for _, r := range w.records {
		in.Record = r
		if in.Desired != nil && r.UID != in.Desired.UID {
			in.Desired, in.Synced = nil, true // of another UID: nobody wants it
			break
		}
	}
	in.Hash = w.hash.of(in.Desired)
	in.refuse()
	if in.Record != nil && in.Record.unreadable != nil {
		s.readAgain(in.Record)
		if in.Record.UID == "" && in.Synced {
			in.Elsewhere = s.wantedByID(in.Record.ID)
		}
	}
	if in.Record == nil && in.Desired != nil {
		s.mu.Lock()
		in.Claim = s.holderAtRest(w.key, lifecycle.ContainerID(w.key, in.Desired.UID)) != nil
		s.mu.Unlock()
	}
	if in.Record != nil && in.Record.unreadable == nil {
		s.readAccepted(w, &in)
	}
	return in
}

// readAccepted reads the spec that was accepted earlier, and computes the values that the record
// does not have yet.
func (s *Syncer) readAccepted(w *worker, in *Input) {
	dir, next := s.Bundles.Dir(in.Record.ID), *in.Record
	changed := false
	if b := in.Desired; b != nil && b.Annotations[source.AnnotationStopped] != next.Stopped {
		next.Stopped, changed = b.Annotations[source.AnnotationStopped], true
	}
	switch {
	case in.Desired == nil && !in.Synced:
		if in.Desired = readDesired(dir); in.Desired != nil {
			delete(in.Desired.Annotations, source.AnnotationStopped)
			if next.Stopped != "" {
				metav1.SetMetaDataAnnotation(&in.Desired.ObjectMeta, source.AnnotationStopped, next.Stopped)
			}
		}
		in.rehash()
		in.refuse()
	case in.Refused != "":
		in.goOn(dir)
	case in.Desired != nil && in.Desired.Generation != next.Generation:
		in.keepRun(dir)
		next.unwrittenDesired, changed = in.Desired, true
		next.Generation = in.Desired.Generation
		next.GraceSeconds = in.Desired.Spec.TerminationGracePeriodSeconds
		if next.Hash == in.Hash {
			next.Made = in.Desired.Generation
			if next.Compiled == 0 {
				// The controller did not record the generation yet, and has been upgraded.
				next.Compiled = in.Desired.Spec.CompiledGeneration
			}
		}
	}
	if in.keepAccepted(dir, &w.offer) {
		next.unwrittenDesired, changed = in.Desired, true
	}
	in.compareRunning(dir, s.BootClock())
	if hurry(&next, in.Desired, s.BootClock()) {
		changed = true
	}
	if changed {
		in.Next = &next
	}
}

// readAgain reads a record that could not be read.
func (s *Syncer) readAgain(r *Record) {
	again, err := readRecord(s.Bundles.Dir(r.ID), s.Clock.Now(), s.BootClock())
	switch {
	case err != nil:
		r.unreadable = err
	case again != nil && again.ID == r.ID && again.Key == r.Key:
		*r = *again
	}
}

// wantedByID returns the key of the wanted bundle whose container has this id.
func (s *Syncer) wantedByID(id string) source.Key {
	for _, b := range s.Source.List() {
		key := source.Key{Namespace: b.Namespace, Name: b.Name}
		if lifecycle.ContainerID(key, b.UID) == id {
			return key
		}
	}
	return source.Key{}
}

// holderAtRest returns the worker that has the unreadable record of a container of another key:
// neither that nor desired.json says whose it is, but its id does. It returns nil if there is none,
// or if that worker is busy with it. s.mu is held.
func (s *Syncer) holderAtRest(owner source.Key, id string) *worker {
	key, ok := s.byID[id]
	holder := s.workers[key]
	if !ok || key == owner || holder == nil || holder.active || len(holder.records) != 1 || holder.records[0].unreadable == nil {
		return nil
	}
	return holder
}

// hurry moves the deadline of a stop forward if its grace period was made shorter since: what is
// left is at most the new one. It returns whether it has changed the record.
func hurry(r *Record, b *v1alpha1.OCIBundle, now boottime.Instant) bool {
	if b == nil || r.Stop == nil || b.Spec.TerminationGracePeriodSeconds >= r.Stop.GraceSeconds {
		return false
	}
	shorter := *r.Stop
	shorter.GraceSeconds = b.Spec.TerminationGracePeriodSeconds
	grace := boottime.Seconds(shorter.GraceSeconds)
	shorter.Deadline = now.Add(min(grace, remaining(shorter.Deadline, now)))
	r.Stop = &shorter
	return true
}

// rehash computes the hash of the desired spec.
func (in *Input) rehash() { in.Hash = hashOf(in.Desired) }

// hashOf returns the hash of a bundle's spec; "" for no bundle.
func hashOf(b *v1alpha1.OCIBundle) string {
	if b == nil {
		return ""
	}
	hash, err := Hash(&b.Spec)
	if err != nil {
		// A document that is no JSON never comes from the API server; it differs from every good
		// one.
		return "invalid: " + err.Error()
	}
	return hash
}

// lastHash is the hash of the bundle that a worker has looked at last. It takes a whole document's
// worth of garbage to compute, and a worker looks many times at the same bundle.
type lastHash struct {
	uid        types.UID
	generation int64
	hash       string
}

// of returns the hash of the source's spec. Within one generation a source does not change it.
func (l *lastHash) of(b *v1alpha1.OCIBundle) string {
	if b == nil || b.Annotations[source.AnnotationUnresolved] != "" {
		return hashOf(b)
	}
	if l.hash == "" || l.uid != b.UID || l.generation != b.Generation {
		*l = lastHash{b.UID, b.Generation, hashOf(b)}
	}
	return l.hash
}

// keepAccepted keeps to the spec that was accepted for this generation, if the source has another
// one for it now: a generation is compiled once, and a source that has compiled it again is another
// version of Berth, not an edit. It reports whether desired.json is to be written again.
func (in *Input) keepAccepted(dir bundle.Dir, offer *lastOffer) bool {
	r := in.Record
	if in.Desired == nil || r.Hash == in.Hash {
		return false
	}
	accepted := r.accepted(dir)
	if accepted == nil || accepted.UID != in.Desired.UID || accepted.Generation != in.Desired.Generation {
		return false
	}
	if in.Refused == "" {
		in.Newer = offer.of(accepted, in.Desired)
	}
	in.keep(&accepted.Spec)
	// An agent may have accepted it that did not record what the Container says of the process.
	return accepted.Annotations[source.AnnotationRun] == "" && in.Desired.Annotations[source.AnnotationRun] != ""
}

// keepRun keeps the accepted spec of the running container, if the source compiles and the edit
// only says where and how it is run. If the edit changes values that a running container can get,
// only those are applied.
func (in *Input) keepRun(dir bundle.Dir) {
	digest := in.Desired.Annotations[source.AnnotationRun]
	if digest == "" {
		return
	}
	accepted := in.Record.accepted(dir)
	if accepted == nil || accepted.UID != in.Desired.UID || accepted.Spec.Handler != in.Desired.Spec.Handler {
		return
	}
	if accepted.Annotations[source.AnnotationRun] != digest {
		fixed := in.Desired.Annotations[source.AnnotationFixed]
		if fixed == "" || accepted.Annotations[source.AnnotationFixed] != fixed {
			return
		}
		if spec, err := change.Carry(&accepted.Spec, &in.Desired.Spec); err == nil {
			in.keep(spec)
		}
		return
	}
	spec := in.Desired.Spec
	spec.Config, spec.Process, spec.Volumes = accepted.Spec.Config, accepted.Spec.Process, accepted.Spec.Volumes
	if spec.Image != nil && accepted.Spec.Image != nil {
		spec.Image = &v1alpha1.BundleImage{Reference: accepted.Spec.Image.Reference, PullPolicy: spec.Image.PullPolicy}
	}
	in.keep(&spec)
}

// forget takes a removed record out of the books.
func (s *Syncer) forget(w *worker, in Input) {
	if in.Record == nil {
		return
	}
	w.records = slices.DeleteFunc(w.records, func(r *Record) bool { return r == in.Record })
	s.mu.Lock()
	delete(s.byID, in.Record.ID)
	s.mu.Unlock()
}
