// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	testclock "k8s.io/utils/clock/testing"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/boottime"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/lifecycle"
	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

func keyNamed(name string) source.Key { return source.Key{Namespace: "default", Name: name} }

// fakeSupervisor stands in for a supervisor where the test is about times that a real one would
// have to be waited for. The tests of cmd/berth-agent have a real one.
type fakeSupervisor struct {
	mu              sync.Mutex
	clock           *settableClock
	all             map[string]*protocol.Status
	away            atomic.Bool
	creates, starts int
	kills           []string
	updates         []protocol.UpdateRequest
	log             protocol.LogLimits // of the last container that was created
	refuses         string             // what the answer to an update says; empty if it is done
	// unsure says what happens to the next requests of a name, such as "start": the answer is lost,
	// and with "drop" the request too.
	unsure map[string][]string
}

// lost reports whether the next request of that name is lost, or its answer.
func (f *fakeSupervisor) lost(name string) (request, answer error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.unsure[name]) == 0 {
		return nil, nil
	}
	what := f.unsure[name][0]
	f.unsure[name] = f.unsure[name][1:]
	err := fmt.Errorf("the test loses it: %w", protocol.ErrUnknownOutcome)
	if what == "drop" {
		return err, err
	}
	return nil, err
}

func (f *fakeSupervisor) Create(_ context.Context, r protocol.CreateRequest) (protocol.Status,
	error,
) {
	request, answer := f.lost("create")
	if request != nil {
		return protocol.Status{}, request
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all[r.ID] != nil {
		return protocol.Status{}, protocol.ErrExist
	}
	f.creates++
	f.log = r.Log.LogLimits
	st := &protocol.Status{
		ID: r.ID, Bundle: r.Bundle, State: protocol.Created, PID: 4242,
		LogPath: r.Log.Path,
	}
	f.all[r.ID] = st
	return *st, errors.Join(answer, os.WriteFile(r.Log.Path, nil, 0o600))
}

func (f *fakeSupervisor) change(id string, change func(*protocol.Status)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	st := f.all[id]
	if st == nil {
		return protocol.ErrNotExist
	}
	change(st)
	return nil
}

func (f *fakeSupervisor) Start(_ context.Context, id string) (protocol.Status, error) {
	request, answer := f.lost("start")
	if request != nil {
		return protocol.Status{}, request
	}
	var started protocol.Status
	err := f.change(id, func(st *protocol.Status) {
		if st.State != protocol.Running {
			st.State, st.StartedAt, st.StartedInstant = protocol.Running, f.clock.Now(), f.clock.sinceBoot()
			f.starts++
		}
		started = *st
	})
	return started, errors.Join(answer, err)
}

func (f *fakeSupervisor) Update(_ context.Context, id string, r protocol.UpdateRequest) error {
	request, answer := f.lost("update")
	if request != nil {
		return request
	}
	return errors.Join(answer, f.change(id, func(*protocol.Status) {
		f.updates = append(f.updates, r)
	}), f.refusal())
}

func (f *fakeSupervisor) refusal() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuses == "" {
		return nil
	}
	return &protocol.Error{Message: f.refuses}
}

func (f *fakeSupervisor) Kill(_ context.Context, id, signal string, _ bool) error {
	request, answer := f.lost("kill " + signal)
	if request != nil {
		return request
	}
	return errors.Join(answer, f.change(id, func(st *protocol.Status) {
		f.kills = append(f.kills, signal)
		if signal == "KILL" {
			f.end(st, 137)
		}
	}))
}

func (f *fakeSupervisor) end(st *protocol.Status, code int) {
	st.State, st.FinishedAt, st.FinishedInstant, st.ExitCode = protocol.Stopped, f.clock.Now(),
		f.clock.sinceBoot(), &code
}

func (f *fakeSupervisor) Delete(_ context.Context, id string, _ bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.all, id)
	return nil
}

func (f *fakeSupervisor) Get(_ context.Context, id string) (protocol.Status, error) {
	var out protocol.Status
	if f.away.Load() {
		return out, errors.New("the supervisor does not answer")
	}
	err := f.change(id, func(st *protocol.Status) { out = *st })
	return out, err
}

// Watch never reports a change, and fails if the supervisor is away.
func (f *fakeSupervisor) Watch(ctx context.Context) (*protocol.Watcher, error) {
	for ctx.Err() == nil && !f.away.Load() {
		time.Sleep(time.Millisecond)
	}
	return nil, errors.New("the supervisor does not answer")
}

// memorySource is a source.Source whose content the test sets.
type memorySource struct {
	mu       sync.Mutex
	bundle   *v1alpha1.OCIBundle
	fail     int         // how many reports fail from now on
	hangs    atomic.Bool // whether a report takes as long as it may
	reports  []v1alpha1.OCIBundleStatus
	released []types.UID
}

func (m *memorySource) Run(ctx context.Context, e source.Events) error {
	e.Synced()
	<-ctx.Done()
	return nil
}

func (m *memorySource) Synced() bool { return true }

func (m *memorySource) Get(key source.Key) *v1alpha1.OCIBundle {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bundle == nil || key != (source.Key{Namespace: m.bundle.Namespace, Name: m.bundle.Name}) {
		return nil
	}
	return m.bundle
}

func (m *memorySource) List() []*v1alpha1.OCIBundle {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bundle == nil {
		return nil
	}
	return []*v1alpha1.OCIBundle{m.bundle}
}

func (m *memorySource) ReportStatus(ctx context.Context, _ *v1alpha1.OCIBundle,
	s *v1alpha1.OCIBundleStatus,
) error {
	if m.hangs.Load() {
		<-ctx.Done()
		return ctx.Err()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail > 0 {
		m.fail--
		return errors.New("the test refuses this report")
	}
	m.reports = append(m.reports, *s.DeepCopy())
	return nil
}

func (m *memorySource) Release(_ context.Context, _ source.Key, uid types.UID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.released = append(m.released, uid)
	m.bundle = nil
	return nil
}

func (m *memorySource) last() v1alpha1.OCIBundleStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.reports) == 0 {
		return v1alpha1.OCIBundleStatus{}
	}
	return m.reports[len(m.reports)-1]
}

type noImages struct{}

func (noImages) Ensure(context.Context, lifecycle.PullRequest) (*lifecycle.Image, error) {
	return nil, errors.New("the test has no images")
}

// settableClock is the clock of a node: set moves what it shows, and neither its timers nor the
// time since boot.
type settableClock struct {
	*testclock.FakeClock
	offset atomic.Int64
}

func (c *settableClock) Now() time.Time {
	return c.FakeClock.Now().Add(time.Duration(c.offset.Load()))
}

func (c *settableClock) set(by time.Duration) { c.offset.Add(int64(by)) }

func (c *settableClock) sinceBoot() boottime.Instant {
	return instant.Add(c.FakeClock.Now().Sub(now))
}

type bench struct {
	*testing.T
	clock   *settableClock
	super   *fakeSupervisor
	source  *memorySource
	syncer  *Syncer
	dir     string
	bundles *bundle.Root
	stop    func() // ends the Syncer
	keep    lifecycle.Retention
	images  lifecycle.Images
	pulled  func(string) string
}

func newBench(t *testing.T, changes ...func(*v1alpha1.OCIBundle)) *bench {
	t.Helper()
	return newUnsureBench(t, nil, changes...)
}

// newUnsureBench is newBench with a supervisor whose answers are lost.
func newUnsureBench(t *testing.T, unsure map[string][]string,
	changes ...func(*v1alpha1.OCIBundle),
) *bench {
	t.Helper()
	leaktest.Check(t)
	dir := t.TempDir()
	rootfs := filepath.Join(dir, "rootfs")
	if err := os.Mkdir(rootfs, 0o755); err != nil {
		t.Fatal(err)
	}
	b := &v1alpha1.OCIBundle{}
	b.Namespace, b.Name, b.UID, b.Generation = "default", "x", "0123456789", 1
	b.Spec.ContainerRef = &v1alpha1.ContainerReference{Name: "x", UID: "0123456789"}
	b.Spec.RestartPolicy = corev1.RestartPolicyAlways
	b.Spec.TerminationGracePeriodSeconds = 30
	b.Spec.Process.Command = []string{"/x"}
	b.Spec.Config.Raw = []byte(`{"ociVersion":"1.3.0","root":{"path":"` + rootfs +
		`"},"process":{"cwd":"/"},"linux":{"namespaces":[{"type":"mount"},{"type":"pid"}]}}`)
	for _, change := range changes {
		change(b)
	}
	bundles, err := bundle.Open(filepath.Join(dir, "bundles"))
	if err != nil {
		t.Fatal(err)
	}
	clk := &settableClock{FakeClock: testclock.NewFakeClock(now)}
	bn := &bench{
		T: t, clock: clk, super: &fakeSupervisor{
			clock: clk,
			all:   map[string]*protocol.Status{}, unsure: unsure,
		}, source: &memorySource{bundle: b}, dir: dir,
		bundles: bundles,
	}
	bn.run()
	return bn
}

// run starts a Syncer, and ends it with the test.
func (b *bench) run() {
	b.Helper()
	if b.images == nil {
		b.images = noImages{}
	}
	s, err := New(Config{
		Source: b.source, Images: b.images, Pulled: b.pulled, Supervisor: b.super, Bundles: b.bundles,
		LogDir:       filepath.Join(b.dir, "logs"),
		CgroupParent: "/berth", Handlers: func() []string {
			return []string{v1alpha1.HandlerNative}
		}, Clock: b.clock, BootClock: b.clock.sinceBoot, KeepLogs: b.keep,
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	b.syncer = s
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	b.Cleanup(b.stop)
}

func (b *bench) until(what string, ok func() bool) {
	b.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatalf("never came: %s; last status %+v", what, b.source.last())
		}
	}
}

// look makes the container's worker look once more, and returns when it is at rest: whatever it
// decides at this time of the clock is done.
func (b *bench) look() {
	b.Helper()
	b.until("a Syncer that runs", func() bool {
		b.syncer.mu.Lock()
		defer b.syncer.mu.Unlock()
		return b.syncer.ctx != nil
	})
	b.syncer.Changed(keyNamed("x"))
	b.until("workers at rest", func() bool {
		b.syncer.mu.Lock()
		defer b.syncer.mu.Unlock()
		for _, w := range b.syncer.workers {
			if w.active {
				return false
			}
		}
		return true
	})
}

// waiting reports whether all workers are at rest and a timer is set, so that the next step of the
// clock wakes a worker. A timer alone does not say so: a worker that sends a report has one, too,
// and would compute its wait after the step.
func (b *bench) waiting() bool {
	b.syncer.mu.Lock()
	defer b.syncer.mu.Unlock()
	if b.syncer.ctx == nil { // it still reads its records
		return false
	}
	for _, w := range b.syncer.workers {
		if w.active {
			return false
		}
	}
	return b.clock.HasWaiters()
}

// reports returns how many statuses the source has accepted.
func (b *bench) reports() int {
	b.source.mu.Lock()
	defer b.source.mu.Unlock()
	return len(b.source.reports)
}

// wantStarts asserts how often the container has been started.
func (b *bench) wantStarts(n int) {
	b.Helper()
	b.super.mu.Lock()
	defer b.super.mu.Unlock()
	if b.super.starts != n {
		b.Fatalf("found %d starts; want %d", b.super.starts, n)
	}
}

func (b *bench) exit(code int) {
	b.Helper()
	if err := b.super.change("default_x_01234567", func(st *protocol.Status) {
		b.super.end(st, code)
	}); err != nil {
		b.Fatal(err)
	}
	b.syncer.Changed(keyNamed("x"))
}

// delete removes the container's bundle from the source.
func (b *bench) delete() {
	b.source.mu.Lock()
	gone := b.source.bundle.DeepCopy()
	gone.DeletionTimestamp = deleted().DeletionTimestamp
	gone.Generation++
	b.source.bundle = gone
	b.source.mu.Unlock()
	b.syncer.Changed(keyNamed("x"))
}

// kills returns the signals that were sent.
func (b *bench) kills() []string {
	b.super.mu.Lock()
	defer b.super.mu.Unlock()
	return slices.Clone(b.super.kills)
}

func (b *bench) runs(n int) {
	b.Helper()
	b.until("start", func() bool {
		b.super.mu.Lock()
		defer b.super.mu.Unlock()
		return b.super.starts == n && b.source.last().PID != 0 &&
			b.source.last().RestartCount == int32(n-1)
	})
}
