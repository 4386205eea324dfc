// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/berth-run/berth/node-agent/boottime"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/lifecycle"
	"github.com/berth-run/berth/node-agent/network"
	"github.com/berth-run/berth/node-agent/selinux"
	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
	"github.com/berth-run/berth/node-agent/userns"
	"github.com/berth-run/berth/node-agent/volume"
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
	// Tokens has the tokens of ServiceAccounts that volumes ask for; nil without a cluster.
	Tokens lifecycle.Tokens
	// Claims has the PersistentVolumeClaims that volumes refer to, and Volumes their directories; both
	// are nil if the agent has none.
	Claims  lifecycle.Claims
	Volumes *volume.Store
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
	// Users has the ids of containers with a user namespace; optional.
	Users *userns.Ranges
	// OwnUsers gives a user namespace to containers whose bundles do not say; optional.
	OwnUsers bool
	// Levels has the levels of containers with SELinux labels; optional.
	Levels *selinux.Levels
	// SeccompRoot is the directory of the node's seccomp profiles.
	SeccompRoot string
	// CDIDirs are the directories of the node's CDI specs; optional.
	CDIDirs []string
	// ClusterDNS has the DNS servers and the domain of the cluster; optional.
	ClusterDNS bundle.ClusterDNS
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
	// followers are woken when the status of another container has changed.
	followers *lifecycle.Followers
	looking   chan struct{} // a token for each worker that may gather
	measurer  *measurer

	ctx     context.Context // of Run
	mu      sync.Mutex
	workers map[source.Key]*worker
	byID    map[string]source.Key
	stopped bool
	// sourceErr is the last error of the source; nil if it works.
	sourceErr error
	wg        sync.WaitGroup
}

// New returns a Syncer that does nothing until Run.
func New(c Config) (*Syncer, error) {
	if c.Source == nil || c.Images == nil || c.Supervisor == nil || c.Bundles == nil {
		return nil, errors.New(
			"sync: found no source, images, supervisor or bundles; allowed: all of them")
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
		measurer: newMeasurer(),
		pulls:    lifecycle.NewPulls(c.Images, c.Pulled),
		logs:     &lifecycle.Logs{Dir: c.LogDir, Keep: c.KeepLogs, Clock: c.Clock, Log: c.Log},
		workers:  map[source.Key]*worker{}, byID: map[string]source.Key{},
	}
	s.followers = lifecycle.NewFollowers(s.Changed)
	s.stages = lifecycle.Stages(lifecycle.Config{
		Handlers: c.Handlers, Node: c.Node, Objects: c.Objects, Tokens: c.Tokens,
		Claims: c.Claims, Volumes: c.Volumes,
		Pulls: s.pulls, Wake: s.Changed,
		Supervisor: c.Supervisor, CgroupParent: c.CgroupParent,
		LogMaxBytes: c.LogMaxBytes, Logs: s.logs, Parallel: c.Parallel, Networks: c.Networks,
		Neighbours: lifecycle.Neighbours{Bundle: c.Source.Get, Dir: c.Bundles.Dir},
		Followers:  s.followers,
		ClusterDNS: c.ClusterDNS, SeccompRoot: c.SeccompRoot, CDIDirs: c.CDIDirs,
		Users: c.Users, Levels: c.Levels,
	})
	return s, nil
}

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
	s.wg.Go(func() { s.measure(ctx) })
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
