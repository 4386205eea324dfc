// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// recordingSupervisor is a supervisor that fails as the test says.
type recordingSupervisor struct {
	container bool
	fail      map[string]error
	deletes   int
	update    protocol.UpdateRequest
}

func (s *recordingSupervisor) Create(context.Context, protocol.CreateRequest) (protocol.Status,
	error,
) {
	if err := s.fail["create"]; err != nil {
		return protocol.Status{}, err
	}
	s.container = true
	return protocol.Status{}, nil
}

func (s *recordingSupervisor) Start(context.Context, string) (protocol.Status, error) {
	return protocol.Status{State: protocol.Running, PID: 42}, s.fail["start"]
}

func (s *recordingSupervisor) Update(_ context.Context, _ string, r protocol.UpdateRequest) error {
	s.update = r
	return s.fail["update"]
}

func (s *recordingSupervisor) Delete(context.Context, string, bool) error {
	s.deletes++
	if err := s.fail["delete"]; err != nil {
		return err
	}
	if !s.container {
		return protocol.ErrNotExist
	}
	s.container = false
	return nil
}

func (s *recordingSupervisor) Get(context.Context, string) (protocol.Status, error) {
	return protocol.Status{State: protocol.Running, PID: 42}, s.fail["get"]
}

// layerImages has one image of one layer.
type layerImages struct{ layer string }

func (i layerImages) Ensure(context.Context, PullRequest) (*Image, error) {
	return &Image{ID: "x@sha256:1", Layers: []string{i.layer}}, nil
}

// node is a node with one image and a container that has a volume.
type node struct {
	super  *recordingSupervisor
	stages List
	logs   string
	saved  int
	c      *Container
	// unflushed is the reason why the record does not survive a power loss.
	unflushed error
}

func newNode(t *testing.T) *node {
	t.Helper()
	needs.Root(t)
	dir := t.TempDir()
	layer := filepath.Join(dir, "layer")
	if err := os.MkdirAll(filepath.Join(layer, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	bundles, err := bundle.Open(filepath.Join(dir, "bundles"))
	if err != nil {
		t.Fatal(err)
	}
	n := &node{super: &recordingSupervisor{fail: map[string]error{}}, logs: filepath.Join(dir, "logs")}
	log := slog.New(slog.DiscardHandler)
	pulls := NewPulls(layerImages{layer}, nil)
	t.Cleanup(pulls.Close)
	n.stages = Stages(Config{
		Handlers: func() []string {
			return []string{v1alpha1.HandlerNative}
		}, Pulls: pulls, Wake: func(source.Key) {}, Supervisor: n.super,
		CgroupParent: "/berth", Logs: &Logs{Dir: n.logs, Clock: clock.RealClock{}, Log: log}, Parallel: 1,
	})
	n.c = n.stored(bundles)
	b := &v1alpha1.OCIBundle{}
	b.Name = "x"
	b.Spec.Image = &v1alpha1.BundleImage{Reference: "x"}
	b.Spec.Process.Command = []string{"/x"}
	b.Spec.Volumes = []v1alpha1.Volume{
		{Name: "data", EmptyDir: &corev1.EmptyDirVolumeSource{}},
		{Name: "memory", EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}},
	}
	b.Spec.Config.Raw = []byte(
		`{"ociVersion":"1.3.0","root":{"path":"rootfs"},"process":{"cwd":"/"},"linux":{"namespaces":[{"type":"mount"},{"type":"pid"}]}}`)
	n.c.Bundle, n.c.Commit = b, func() error { n.saved++; return nil }
	if err := n.c.Dir.Make(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.c.Dir.Remove() })
	return n
}

// stored returns the container as an agent knows it from its record.
func (n *node) stored(bundles *bundle.Root) *Container {
	return &Container{
		Key: source.Key{Namespace: "default", Name: "x"}, UID: "u", ID: "x", Dir: bundles.Dir("x"),
		LogPath: filepath.Join(n.logs, "default_x_u", "0.log"),
		Flushed: func(context.Context) error { return n.unflushed },
	}
}

// next returns the container as another agent knows it.
func (n *node) next() *Container {
	c := *n.c
	return &Container{Key: c.Key, UID: c.UID, ID: c.ID, Dir: c.Dir, LogPath: c.LogPath}
}

func there(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// TestReleaseIsRepeatable: another agent releases the stages by scope, twice, and also if none was
// ensured.
func TestReleaseIsRepeatable(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	for _, c := range []*Container{n.next(), n.next()} {
		if err := n.stages.Release(t.Context(), c, PerContainer); err != nil {
			t.Fatalf("with nothing there: %v", err)
		}
	}
	if err := n.stages.Ensure(t.Context(), n.c); err != nil {
		t.Fatal(err)
	}
	if n.saved != 1 || n.c.Status == nil || n.c.Status.PID != 42 {
		t.Errorf("saved %d times; found the status %+v", n.saved, n.c.Status)
	}
	dir := n.c.Dir
	if err := os.WriteFile(filepath.Join(dir.Volume("data"), "kept"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := n.stages.Release(t.Context(), n.next(), PerRun); err != nil {
			t.Fatal(err)
		}
		if n.super.container || dir.ImagesLeft() {
			t.Error("the container or its writable layer is left after the run")
		}
		if !there(filepath.Join(dir.Volume("data"), "kept")) || !there(filepath.Dir(n.c.LogPath)) {
			t.Error("the volume or the logs went with the run")
		}
	}
	for range 2 {
		if err := n.stages.Release(t.Context(), n.next(), PerContainer); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{
			dir.Volume("data"), dir.Volume("memory"), dir.File("config.json"),
			dir.File("etc"), filepath.Dir(n.c.LogPath),
		} {
			if there(path) {
				t.Errorf("%s is left", path)
			}
		}
	}
}

// TestReleaseStopsAtAnError: nothing is removed that a process may use which the supervisor could
// not end.
func TestReleaseStopsAtAnError(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	if err := n.stages.Ensure(t.Context(), n.c); err != nil {
		t.Fatal(err)
	}
	n.super.fail["delete"] = fmt.Errorf("the connection is lost: %w", protocol.ErrUnknownOutcome)
	for _, scope := range []Scope{PerRun, PerContainer} {
		var fault *StageError
		if err := n.stages.Release(t.Context(), n.next(), scope); !errors.As(err, &fault) ||
			fault.Stage != "create" || fault.Class != Unknown {
			t.Fatalf("found %+v", err)
		}
	}
	dir := n.c.Dir
	for _, path := range []string{dir.File("upper"), dir.Volume("data"), filepath.Dir(n.c.LogPath)} {
		if !there(path) {
			t.Errorf("%s was removed", path)
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir.Rootfs(), &st); err != nil || st.Type != unix.OVERLAYFS_SUPER_MAGIC {
		t.Errorf("the root filesystem is not mounted any more: %v", err)
	}
	delete(n.super.fail, "delete")
	if err := n.stages.Release(t.Context(), n.next(), PerContainer); err != nil ||
		there(dir.File("upper")) {
		t.Errorf("the next release: %v", err)
	}
}

// TestEnsureAfterAFailure: a start that failed leaves its volumes for the next one, which succeeds.
func TestEnsureAfterAFailure(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	n.super.fail["start"] = errors.New("no such program")
	var fault *StageError
	if err := n.stages.Ensure(t.Context(), n.c); !errors.As(err, &fault) ||
		fault.Stage != StartStage || fault.Class != ContainerFault {
		t.Fatalf("found %v", err)
	}
	if err := n.stages.Release(t.Context(), n.next(), PerRun); err != nil {
		t.Fatal(err)
	}
	if !there(n.c.Dir.Volume("data")) || n.c.Dir.ImagesLeft() {
		t.Error("the volume went, or the writable layer stayed")
	}
	delete(n.super.fail, "start")
	if err := n.stages.Ensure(t.Context(), n.c); err != nil {
		t.Fatal(err)
	}
}

// TestClasses checks the class and the reason of each error.
func TestClasses(t *testing.T) {
	leaktest.Check(t)
	for name, tc := range map[string]struct {
		fail   string
		err    error
		spoil  func(*node)
		stage  string
		reason string
		class  Class
	}{
		"create refused": {
			fail: "create", err: protocol.ErrInvalid, stage: "create",
			reason: v1alpha1.ReasonCreateFailed, class: ContainerFault,
		},
		"create unknown": {
			fail: "create", err: protocol.ErrUnknownOutcome, stage: "create",
			class: Unknown, reason: v1alpha1.ReasonCreateFailed,
		},
		"created already": {
			fail: "create", err: protocol.ErrExist, stage: "create", class: Unknown,
			reason: v1alpha1.ReasonCreateFailed,
		},
		"start stopping": {
			fail: "start", err: protocol.ErrStopping, stage: StartStage, class: Unknown,
			reason: v1alpha1.ReasonCreateFailed,
		},
		"create not sent": {
			fail: "create", err: protocol.ErrUnreachable, stage: "create", class: Unknown,
			reason: v1alpha1.ReasonCreateFailed,
		},
		"start not sent": {
			fail: "start", err: protocol.ErrUnreachable, stage: StartStage,
			class: Unknown, reason: v1alpha1.ReasonCreateFailed,
		},
		"start of nobody": {
			fail: "start", err: protocol.ErrNotExist, stage: StartStage, class: Unknown,
			reason: v1alpha1.ReasonCreateFailed,
		},
		"no handler": {
			spoil: func(n *node) { n.c.Bundle.Spec.Handler = "kata" }, stage: "handler",
			reason: v1alpha1.ReasonHandlerNotFound, class: ContainerFault,
		},
		"not on the disk": {spoil: func(n *node) {
			n.unflushed = unix.EIO
		}, stage: "start", class: Unknown, reason: v1alpha1.ReasonCreateFailed},
		"the disk is full": {
			spoil: func(n *node) { n.c.Commit = func() error { return unix.ENOSPC } }, stage: "commit",
			reason: v1alpha1.ReasonStorageFailed, class: NodeFault,
		},
		"a bad document": {
			spoil: func(n *node) { n.c.Bundle.Spec.Process.Command = nil }, stage: "document",
			reason: v1alpha1.ReasonCreateFailed, class: ContainerFault,
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			if tc.err != nil {
				n.super.fail[tc.fail] = tc.err
			}
			if tc.spoil != nil {
				tc.spoil(n)
			}
			var fault *StageError
			if err := n.stages.Ensure(t.Context(), n.c); !errors.As(err, &fault) {
				t.Fatalf("found %v", err)
			}
			if fault.Stage != tc.stage || fault.Class != tc.class || fault.Reason != tc.reason {
				t.Errorf("found %+v", fault)
			}
			if n.super.deletes > 0 {
				t.Error("Ensure has released something")
			}
		})
	}
}

// TestHandlerThatHangs: as many containers as may be created at the same time wait for a handler
// that does not answer; those of another handler do not, and the others of that one give up with
// their context.
func TestHandlerThatHangs(t *testing.T) {
	leaktest.Check(t)
	free := &tokens{each: 1, of: map[string]chan struct{}{}}
	done, err := free.take(t.Context(), "kata")
	if err != nil {
		t.Fatal(err)
	}
	other, err := free.take(t.Context(), v1alpha1.HandlerNative)
	if err != nil {
		t.Fatal(err)
	}
	other()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := free.take(ended, "kata"); !errors.Is(err, context.Canceled) {
		t.Errorf("found %v while one is created; want %v", err, context.Canceled)
	}
	done()
	if _, err := free.take(t.Context(), "kata"); err != nil {
		t.Error(err)
	}
}

// TestUnknownIsNoFailure holds that errors of which the outcome is unknown are told apart from
// others.
func TestUnknownIsNoFailure(t *testing.T) {
	leaktest.Check(t)
	for err, want := range map[error]bool{
		protocol.ErrUnknownOutcome: true, protocol.ErrStopping: true, protocol.ErrUnreachable: true,
		protocol.ErrExist:   true,
		protocol.ErrInvalid: false, protocol.ErrNotExist: false, os.ErrPermission: false,
	} {
		if got := outcomeUnknown(fmt.Errorf("create: %w", err)); got != want {
			t.Errorf("%v: found %v; want %v", err, got, want)
		}
	}
}

// TestFrom: a created container needs its start alone.
func TestFrom(t *testing.T) {
	leaktest.Check(t)
	var names []string
	for _, s := range newNode(t).stages.From(StartStage) {
		names = append(names, s.Name())
	}
	if !slices.Equal(names, []string{StartStage}) {
		t.Errorf("found %v", names)
	}
}
