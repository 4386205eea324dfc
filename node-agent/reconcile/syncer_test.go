// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

func (f *fakeSupervisor) Create(_ context.Context, r protocol.CreateRequest) (protocol.Status, error) {
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
	st := &protocol.Status{ID: r.ID, Bundle: r.Bundle, State: protocol.Created, PID: 4242, LogPath: r.Log.Path}
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
	return errors.Join(answer, f.change(id, func(*protocol.Status) { f.updates = append(f.updates, r) }), f.refusal())
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
	st.State, st.FinishedAt, st.FinishedInstant, st.ExitCode = protocol.Stopped, f.clock.Now(), f.clock.sinceBoot(), &code
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

func (m *memorySource) ReportStatus(ctx context.Context, _ *v1alpha1.OCIBundle, s *v1alpha1.OCIBundleStatus) error {
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

func (noImages) Ensure(context.Context, string, corev1.PullPolicy) (*lifecycle.Image, error) {
	return nil, errors.New("the test has no images")
}

// settableClock is the clock of a node: set moves what it shows, and neither its timers nor the
// time since boot.
type settableClock struct {
	*testclock.FakeClock
	offset atomic.Int64
}

func (c *settableClock) Now() time.Time { return c.FakeClock.Now().Add(time.Duration(c.offset.Load())) }

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
func newUnsureBench(t *testing.T, unsure map[string][]string, changes ...func(*v1alpha1.OCIBundle)) *bench {
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
	b.Spec.Config.Raw = []byte(`{"ociVersion":"1.3.0","root":{"path":"` + rootfs + `"},"process":{"cwd":"/"},"linux":{"namespaces":[{"type":"mount"},{"type":"pid"}]}}`)
	for _, change := range changes {
		change(b)
	}
	bundles, err := bundle.Open(filepath.Join(dir, "bundles"))
	if err != nil {
		t.Fatal(err)
	}
	clk := &settableClock{FakeClock: testclock.NewFakeClock(now)}
	bn := &bench{T: t, clock: clk, super: &fakeSupervisor{clock: clk, all: map[string]*protocol.Status{}, unsure: unsure}, source: &memorySource{bundle: b}, dir: dir, bundles: bundles}
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
		Source: b.source, Images: b.images, Pulled: b.pulled, Supervisor: b.super, Bundles: b.bundles, LogDir: filepath.Join(b.dir, "logs"),
		CgroupParent: "/berth", Handlers: func() []string { return []string{v1alpha1.HandlerNative} }, Clock: b.clock, BootClock: b.clock.sinceBoot, KeepLogs: b.keep,
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
	if err := b.super.change("default_x_01234567", func(st *protocol.Status) { b.super.end(st, code) }); err != nil {
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
		return b.super.starts == n && b.source.last().PID != 0 && b.source.last().RestartCount == int32(n-1)
	})
}

func TestRestartsBackOffByTheClock(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	b.exit(1) // at once
	b.runs(2)
	for n, wait := range []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second} {
		b.exit(1)
		b.until("CrashLoopBackOff", func() bool {
			w := b.source.last().State.Waiting
			return w != nil && w.Reason == v1alpha1.ReasonCrashLoopBackOff && b.clock.HasWaiters()
		})
		b.clock.Step(wait - time.Second)
		b.look()
		b.wantStarts(n + 2) // the back-off is not over
		b.clock.Step(time.Second)
		b.runs(n + 3)
	}
	logs, _ := filepath.Glob(filepath.Join(b.dir, "logs", "*", "*.log"))
	for i := range logs {
		logs[i] = filepath.Base(logs[i])
	}
	if !slices.Equal(logs, []string{"3.log", "4.log"}) {
		t.Errorf("found logs %v; want those of the last two runs", logs)
	}
}

// untilBackOff waits until the container waits for its next start, and returns the length of the
// wait from the status.
func (b *bench) untilBackOff(length time.Duration) {
	b.Helper()
	b.until("CrashLoopBackOff of "+length.String(), func() bool {
		w := b.source.last().State.Waiting
		return w != nil && w.Reason == v1alpha1.ReasonCrashLoopBackOff && strings.HasSuffix(w.Message, "a back-off of "+length.String()) && b.clock.HasWaiters()
	})
}

// setBackOff gives the container another back-off, in a new generation; 0 is an absent field.
func (b *bench) setBackOff(first, most int32) {
	b.set(func(o *v1alpha1.OCIBundle) {
		o.Generation++
		o.Spec.RestartBackOff = &v1alpha1.RestartBackOff{}
		if first > 0 {
			o.Spec.RestartBackOff.InitialSeconds = &first
		}
		if most > 0 {
			o.Spec.RestartBackOff.MaxSeconds = &most
		}
	})
	b.syncer.Changed(keyNamed("x"))
}

// TestBackOffOfTheBundle: the waits are those of the bundle. An edit counts from the moment at
// which the wait began: a shorter maximum shortens the wait that is under way, also if the agent
// was away as it was made, and a longer one does not lengthen it.
func TestBackOffOfTheBundle(t *testing.T) {
	b := newBench(t, func(o *v1alpha1.OCIBundle) {
		o.Spec.RestartBackOff = &v1alpha1.RestartBackOff{InitialSeconds: new(int32(100)), MaxSeconds: new(int32(3000))}
	})
	b.runs(1)
	b.exit(1) // at once
	b.runs(2)
	b.exit(1)
	b.untilBackOff(100 * time.Second)
	b.clock.Step(20 * time.Second)
	b.setBackOff(0, 40)
	b.untilBackOff(40 * time.Second)
	b.clock.Step(19 * time.Second)
	b.look()
	b.wantStarts(2)
	b.clock.Step(time.Second)
	b.runs(3)

	b.setBackOff(50, 3000)
	b.exit(1)
	b.untilBackOff(200 * time.Second)
	b.clock.Step(60 * time.Second)
	b.stop()
	b.setBackOff(0, 60)
	b.run()
	b.runs(4) // at once
	b.setBackOff(0, 3)
	b.exit(1)
	b.untilBackOff(3 * time.Second)
	b.setBackOff(0, 0)
	b.look()
	b.clock.Step(3 * time.Second)
	b.runs(5)
	b.exit(1)
	b.untilBackOff(10 * time.Second)
}

// TestBackOffOfFailedStarts: starts that fail wait as restarts do. A pull that fails waits as long
// as any other, so that no Container has a registry asked again and again.
func TestBackOffOfFailedStarts(t *testing.T) {
	for reason, want := range map[string]time.Duration{v1alpha1.ReasonCreateFailed: time.Second, v1alpha1.ReasonImagePullFailed: 10 * time.Second} {
		t.Run(reason, func(t *testing.T) {
			b := newBench(t, func(o *v1alpha1.OCIBundle) {
				o.Spec.RestartBackOff = &v1alpha1.RestartBackOff{MaxSeconds: new(int32(1))}
				o.Spec.Config.Raw = []byte(`{"ociVersion":"1.3.0","root":{"path":"/nonexistent"},"process":{"cwd":"/"},"linux":{"namespaces":[{"type":"mount"}]}}`)
				if reason == v1alpha1.ReasonImagePullFailed {
					o.Spec.Image = &v1alpha1.BundleImage{Reference: "busybox"}
				}
			})
			b.until("the failure", func() bool {
				w := b.source.last().State.Waiting
				return w != nil && w.Reason == reason && strings.HasSuffix(w.Message, "(next try after "+want.String()+")")
			})
			r := b.record()
			if left := r.BackOff.left(r.backOffLimits(b.source.bundle), instant); left != want {
				t.Errorf("found a wait of %s; want %s", left, want)
			}
		})
	}
}

// TestInterruptedStartKeepsTheBackOff interrupts a start of a crash loop: it is tried again at
// once, and the wait after its next end is twice the one before, unless another spec was started.
func TestInterruptedStartKeepsTheBackOff(t *testing.T) {
	for name, edited := range map[string]bool{"same spec": false, "another spec": true} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.runs(1)
			b.exit(1) // at once
			b.runs(2)
			b.exit(1) // after 10 s
			b.until("CrashLoopBackOff", func() bool {
				w := b.source.last().State.Waiting
				return w != nil && w.Reason == v1alpha1.ReasonCrashLoopBackOff && b.clock.HasWaiters()
			})
			b.super.mu.Lock()
			b.super.unsure = map[string][]string{"create": {"drop"}}
			b.super.mu.Unlock()
			b.clock.Step(10 * time.Second)
			b.until("the start is lost", func() bool {
				b.super.mu.Lock()
				defer b.super.mu.Unlock()
				return len(b.super.unsure["create"]) == 0
			})
			if edited {
				b.set(func(o *v1alpha1.OCIBundle) {
					o.Generation++
					o.Spec.Process.Command = []string{"/y"}
				})
			}
			b.look()
			b.runs(3)
			b.exit(1)
			if edited {
				b.runs(4) // at once, as after the first end
				return
			}
			b.look()
			b.wantStarts(3) // not at once
			b.clock.Step(19 * time.Second)
			b.look()
			b.wantStarts(3) // the back-off is not over
			b.clock.Step(time.Second)
			b.runs(4)
		})
	}
}

func TestEndIsSeenOnceByTheNextAgent(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	b.stop()
	if err := b.super.change("default_x_01234567", func(st *protocol.Status) { b.super.end(st, 5) }); err != nil {
		t.Fatal(err)
	}
	b.run()
	b.runs(2)
	if last := b.source.last().LastState.Terminated; last == nil || last.ExitCode != 5 {
		t.Fatalf("found last state %+v; want exit code 5", last)
	}
	b.stop()
	b.run() // and a third agent finds it running
	b.look()
	b.wantStarts(2)
	if last := b.source.last(); last.RestartCount != 1 || last.PID == 0 {
		t.Errorf("found %+v; want one restart, and a process", last)
	}
}

func TestStatusIsReportedUntilItIsTaken(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	b.source.mu.Lock()
	b.source.fail = 3
	b.source.bundle = b.source.bundle.DeepCopy()
	b.source.bundle.Spec.RestartPolicy = corev1.RestartPolicyNever
	b.source.bundle.Generation++
	b.source.mu.Unlock()
	b.exit(7)
	b.until("the report that is taken", func() bool {
		b.clock.Step(30 * time.Second)
		s := b.source.last()
		return s.Phase == v1alpha1.ContainerFailed && s.State.Terminated.ExitCode == 7 && s.ObservedGeneration == 2
	})
	n := b.reports()
	for range 3 {
		b.look()
	}
	if got := b.reports(); got != n {
		t.Errorf("found %d reports of an unchanged status", got-n)
	}
}

// TestSourceThatDoesNotAnswer: containers are started again, and killed at the end of their grace
// periods, while the source takes no status; and it gets the last one once it answers.
func TestSourceThatDoesNotAnswer(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	b.source.hangs.Store(true)
	step := func(what string, by, atMost time.Duration, ok func() bool) {
		t.Helper()
		passed := time.Duration(0)
		b.until(what, func() bool {
			if !ok() && passed < atMost && b.clock.HasWaiters() {
				b.clock.Step(by)
				passed += by
			}
			return ok()
		})
	}
	starts := func(n int) func() bool {
		return func() bool {
			b.super.mu.Lock()
			defer b.super.mu.Unlock()
			return b.super.starts == n
		}
	}
	b.exit(1)
	step("the second start", time.Second/10, reportPatience, starts(2))
	b.exit(1)
	step("the third start", time.Second, 12*time.Second, starts(3))
	b.delete()
	step("the stop signal", time.Second/10, reportPatience, func() bool { return slices.Equal(b.kills(), []string{"TERM"}) })
	b.clock.Step(28 * time.Second)
	if k := b.kills(); len(k) != 1 {
		t.Fatalf("found %v within the grace period", k)
	}
	step("SIGKILL", time.Second, 3*time.Second, func() bool { return slices.Contains(b.kills(), "KILL") })
	b.source.hangs.Store(false)
	b.until("its release", func() bool {
		if b.clock.HasWaiters() {
			b.clock.Step(time.Second)
		}
		b.source.mu.Lock()
		defer b.source.mu.Unlock()
		return len(b.source.released) == 1
	})
}

// TestForeignStatusIsCorrected: the syncer compares a status with the source's, not with its own
// last one.
func TestForeignStatusIsCorrected(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	for n := range 3 {
		b.source.mu.Lock()
		reports := len(b.source.reports)
		falsified := b.source.bundle.DeepCopy()
		falsified.ResourceVersion = strconv.Itoa(100 + n)
		right := b.source.reports[reports-1]
		switch n {
		case 0:
			falsified.Status = v1alpha1.OCIBundleStatus{ObservedGeneration: 1, Phase: v1alpha1.ContainerSucceeded}
		case 1:
			falsified.Status = *right.DeepCopy()
			falsified.Status.Conditions = append(falsified.Status.Conditions, metav1.Condition{Type: "Blessed", Status: "True"})
		case 2:
			falsified.Status = *right.DeepCopy()
			meta.FindStatusCondition(falsified.Status.Conditions, v1alpha1.ConditionRunning).LastTransitionTime = metav1.Unix(1, 0)
		}
		b.source.bundle = falsified
		b.source.mu.Unlock()
		b.syncer.Changed(keyNamed("x"))
		b.until("the correction", func() bool {
			b.source.mu.Lock()
			defer b.source.mu.Unlock()
			return len(b.source.reports) > reports && equality.Semantic.DeepEqual(b.source.reports[len(b.source.reports)-1], right)
		})
	}
	// Also what was written while no agent was there.
	b.stop()
	b.source.mu.Lock()
	reports := len(b.source.reports)
	falsified := b.source.bundle.DeepCopy()
	falsified.ResourceVersion = "200"
	falsified.Status.Conditions = append(falsified.Status.Conditions, metav1.Condition{Type: "Blessed", Status: "True"})
	b.source.bundle = falsified
	b.source.mu.Unlock()
	b.run()
	b.until("the correction by the next agent", func() bool {
		b.source.mu.Lock()
		defer b.source.mu.Unlock()
		return len(b.source.reports) > reports && meta.FindStatusCondition(b.source.reports[len(b.source.reports)-1].Conditions, "Blessed") == nil
	})
	// Once is enough, while the source does not show it yet.
	n := b.reports()
	for range 3 {
		b.look()
	}
	if got := b.reports(); got != n {
		t.Errorf("found %d reports of a status that is right", got-n)
	}
}

func TestStatusSaysSinceWhenTheSupervisorIsAway(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	running := func(s v1alpha1.OCIBundleStatus) metav1.Condition {
		if c := meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionRunning); c != nil {
			return *c
		}
		return metav1.Condition{}
	}
	b.super.away.Store(true) // without an event
	looks := 0
	b.until("Unknown", func() bool {
		if b.clock.HasWaiters() {
			b.clock.Step(30 * time.Second)
			looks++
		}
		return b.source.last().Phase == v1alpha1.ContainerUnknown
	})
	first := b.source.last()
	c := running(first)
	since := "not known since " + c.LastTransitionTime.UTC().Format(time.RFC3339) + ": the supervisor does not answer; before that: the process runs with pid 4242"
	// The first look that fails may come from the lost stream of events rather than from a step of
	// the clock.
	if looks < 1 || c.Status != metav1.ConditionUnknown || c.Reason != v1alpha1.ReasonSupervisorUnreachable || c.Message != since {
		t.Errorf("found after %d looks %+v; want message %q", looks, c, since)
	}
	n := b.reports()
	for range 3 { // it stays the same, and is not written again
		b.clock.Step(30 * time.Second)
		b.look()
	}
	if got := b.reports(); got != n {
		t.Errorf("found %d more reports of the same", got-n)
	}
	b.super.away.Store(false)
	b.syncer.Changed(keyNamed("x"))
	b.until("Running", func() bool { return running(b.source.last()).Status == metav1.ConditionTrue })
	if last := b.source.last(); last.Phase != v1alpha1.ContainerRunning || last.RestartCount != 0 {
		t.Errorf("found %+v once the supervisor is back", last)
	}
}

func TestDeletionWaitsForTheGracePeriodAndThenKills(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	b.delete()
	kills := b.kills
	b.until("the stop signal", func() bool { return slices.Equal(kills(), []string{"TERM"}) && b.clock.HasWaiters() })
	b.clock.Step(29 * time.Second)
	b.look()
	if k := kills(); !slices.Equal(k, []string{"TERM"}) {
		t.Fatalf("found %v before the grace period was over", k)
	}
	b.until("release", func() bool {
		b.clock.Step(time.Second)
		b.source.mu.Lock()
		defer b.source.mu.Unlock()
		return len(b.source.released) == 1
	})
	if k := kills(); !slices.Equal(k[:2], []string{"TERM", "KILL"}) {
		t.Errorf("found %v", k)
	}
	if left, _ := b.bundles.List(); len(left) != 0 {
		t.Errorf("found bundles %v left", left)
	}
}

// Whoever sets the clock back by an hour adds nothing to a back-off of 10 s.
func TestBackOffWithTheClockSetBack(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	b.exit(1) // at once
	b.runs(2)
	b.exit(1)
	b.until("the back-off", func() bool { return b.source.last().State.Waiting != nil && b.clock.HasWaiters() })
	b.clock.set(-time.Hour)
	b.stop()
	b.run() // the wait goes on across a restart of the agent
	b.until("the back-off of the next agent", b.clock.HasWaiters)
	b.clock.Step(10 * time.Second)
	b.runs(3)
}

// A run counts as long by the time that has passed, not by what the clock shows.
func TestBackOffResetWithTheClockSet(t *testing.T) {
	for name, tc := range map[string]struct {
		set, ran time.Duration
		waits    bool
	}{
		"forward in a short run": {set: time.Hour, ran: time.Second, waits: true},
		"back in a long run":     {set: -time.Hour, ran: backOffReset, waits: false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.runs(1)
			b.exit(1) // at once
			b.runs(2)
			b.clock.Step(tc.ran)
			b.clock.set(tc.set)
			b.exit(1)
			if !tc.waits {
				b.runs(3)
				return
			}
			b.until("the back-off", func() bool {
				w := b.source.last().State.Waiting
				return w != nil && w.Reason == v1alpha1.ReasonCrashLoopBackOff && b.clock.HasWaiters()
			})
		})
	}
}

// The grace period goes on across a restart of the agent, whatever the clock is set to.
func TestGracePeriodWithTheClockSetBack(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	b.delete()
	b.until("the stop signal", func() bool { return slices.Equal(b.kills(), []string{"TERM"}) && b.clock.HasWaiters() })
	b.stop()
	b.clock.set(-time.Hour)
	b.clock.Step(20 * time.Second)
	b.run()
	b.look()
	if k := b.kills(); !slices.Equal(k, []string{"TERM"}) {
		t.Fatalf("found %v; want no second signal within the grace period", k)
	}
	b.clock.Step(10 * time.Second)
	b.until("SIGKILL", func() bool { return slices.Equal(b.kills(), []string{"TERM", "KILL"}) })
}

// Records of a version that kept deadlines by the node's clock: none is further away than its own
// length.
func TestRecordWithDeadlinesByTheClock(t *testing.T) {
	b := newBench(t)
	b.stop()
	for name, tc := range map[string]struct {
		at   time.Duration // of the deadline, from now
		want time.Duration
	}{
		"past":                   {at: -time.Minute, want: 0},
		"to come":                {at: 7 * time.Second, want: 7 * time.Second},
		"the clock was set back": {at: time.Hour, want: 20 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			dir := b.bundles.Dir("old")
			if err := dir.Make(); err != nil {
				t.Fatal(err)
			}
			at := now.Add(tc.at).Format(time.RFC3339)
			old := `{"id":"old","graceSeconds":20,"backOff":{"delay":40000000000,"notBefore":"` + at + `","waits":20000000000},"stop":{"deadline":"` + at + `","why":"x"}}`
			if err := os.WriteFile(dir.File(recordFile), []byte(old), 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := readRecord(dir, now, instant)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.BackOff.left(defaultBackOff(), instant); got != tc.want {
				t.Errorf("found a back-off of %s; want %s", got, tc.want)
			}
			if got := remaining(r.Stop.Deadline, instant); got != tc.want {
				t.Errorf("found a grace period of %s; want %s", got, tc.want)
			}
		})
	}
}

// Kills for lack of memory of other processes than the first are reported while the container runs,
// and counted over all runs.
func TestKillsOfOthersAreReported(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	kill := func(n uint64) {
		if err := b.super.change("default_x_01234567", func(st *protocol.Status) { st.OOMKills = n }); err != nil {
			t.Fatal(err)
		}
		b.syncer.Changed(keyNamed("x"))
	}
	reported := func(n int64) func() bool {
		return func() bool {
			c := meta.FindStatusCondition(b.source.last().Conditions, v1alpha1.ConditionRunning)
			return b.source.last().OOMKills == n && c.Status == metav1.ConditionTrue && strings.Contains(c.Message, "killed for lack of memory")
		}
	}
	kill(1)
	b.until("one kill", reported(1))
	b.stop()
	b.run() // another agent counts on
	kill(3)
	b.until("three kills", reported(3))
	b.exit(1)
	b.runs(2)
	if n := b.source.last().OOMKills; n != 3 {
		t.Errorf("found %d kills after the restart; want 3", n)
	}
	kill(2)
	b.until("five kills", reported(5))
}
