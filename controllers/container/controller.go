// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/status"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/controllers/scheduling"
)

// FieldOwner is the name under which the controller owns fields in server-side apply.
const FieldOwner = "berth-controller"

// AnnotationRuntimeClass on an OCIBundle is the RuntimeClass that its handler comes from. A running
// Container does not lose its handler with the RuntimeClass: its name is enough to keep the
// handler.
const AnnotationRuntimeClass = "berth.run/runtime-class"

// AnnotationSpecDigest on an OCIBundle is the digest of the spec that the controller wrote, by
// which it sees that somebody else has edited it.
const AnnotationSpecDigest = "berth.run/spec-digest"

// AnnotationRunDigest on an OCIBundle is the digest of its Container's spec, without the fields
// that say only where and how it is run.
const AnnotationRunDigest = "berth.run/run-digest"

// AnnotationFixedDigest on an OCIBundle is the same digest without the resources: that of the
// fields that need a new container.
const AnnotationFixedDigest = "berth.run/fixed-digest"

// AnnotationCompileRevision on an OCIBundle is the compile.Revision that its document is of.
const AnnotationCompileRevision = "berth.run/compile-revision"

// AnnotationRecompiled on an OCIBundle is the last value of v1alpha1.AnnotationRecompile that it
// was compiled for.
const AnnotationRecompiled = "berth.run/recompiled"

// DefaultRequestTimeout is the timeout of requests in kube-apiserver (--request-timeout, 60 s), and
// 5 s for requests that were on their way.
const DefaultRequestTimeout = 65 * time.Second

// conflictDelay is the wait after a write that was based on an old object. The newer object is on
// its way through the watch and reconciles by itself; this is for the case that it has come
// already.
const conflictDelay = 500 * time.Millisecond

// +kubebuilder:rbac:groups=berth.run,resources=containers,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=berth.run,resources=containers/status,verbs=patch
// +kubebuilder:rbac:groups=berth.run,resources=ocibundles,verbs=get;list;watch;create;patch;update;delete
// +kubebuilder:rbac:groups=berth.run,resources=ocibundles/status,verbs=patch
// +kubebuilder:rbac:groups=berth.run,resources=nodeagents,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=nodes,verbs=get;list;watch
// +kubebuilder:rbac:groups=node.k8s.io,resources=runtimeclasses,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=persistentvolumes,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=persistentvolumeclaims,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=storage.k8s.io,resources=storageclasses,verbs=get;list;watch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// Reconciler brings one Container at a time to where its spec wants it.
type Reconciler struct {
	// Client reads from the informer cache and writes to the API server.
	Client client.Client
	// Live reads from the API server itself, for the few decisions that may not rest on a cache
	// that lags behind.
	Live client.Reader
	// Ledger counts the resources in use on each node; the watch of OCIBundles writes it.
	Ledger *scheduling.Ledger
	// Compile is compile.Bundle, except in tests.
	Compile Compile
	// Revision is compile.Revision, except in tests; nil is that, too.
	Revision func() int
	// Profiles keeps the SeccompProfiles that OCIBundles refer to.
	Profiles Profiles
	// Recorder takes the events.
	Recorder events.EventRecorder
	// Clock is the time that conditions carry.
	Clock clock.PassiveClock
	// NodeGracePeriod is the time for which the NodeAgent of a node may be absent before the node
	// counts as gone.
	NodeGracePeriod time.Duration
	// RequestTimeout is the time after which the API server has ended each request.
	RequestTimeout time.Duration

	absences absences
	attempts attempts
	answers  answers
	// releasing is held for writing while a claim is released, or may be taken over from another
	// Container, and for reading by other dispatches that use claims.
	releasing sync.RWMutex
}

// Profiles is the part of *profile.Keeper that the Reconciler calls.
type Profiles interface {
	// Ensure returns once the SeccompProfile of that content exists, and will exist long enough to
	// refer to it.
	Ensure(ctx context.Context, profile string) error
}

// A phase does one part of the work. It reports whether the next one may go on; its findings are in
// the scope.
type phase func(context.Context, *scope) (bool, error)

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	again, err := r.release(ctx, req.NamespacedName)
	if err != nil {
		return r.done(nil, 0, err)
	}
	c := &v1alpha1.Container{}
	if err := r.Client.Get(ctx, req.NamespacedName, c); err != nil {
		if apierrors.IsNotFound(err) {
			r.Ledger.Withdraw(req.NamespacedName)
			return r.done(nil, again, r.collect(ctx, req.NamespacedName))
		}
		return ctrl.Result{}, fmt.Errorf("read the Container: %w", err)
	}
	s, err := r.gather(ctx, c)
	if err != nil {
		return ctrl.Result{}, err
	}

	phases := []phase{
		r.hold,
		r.clearName,
		r.relocate,
		r.evacuate,
		r.compile,
		r.schedule,
		r.dispatch,
	}
	if c.DeletionTimestamp != nil {
		phases = []phase{
			r.hold,
			r.clearName,
			r.relocate,
			r.finalize,
		}
	}
	// A claim that cannot be changed keeps no Container from being stopped or moved, and no status
	// from being written.
	reviewed := r.reviewClaims(ctx, s)
	for _, p := range phases {
		var next bool
		if next, err = p(ctx, s); err != nil || !next {
			break
		}
	}
	return r.done(s, sooner(again, s.again), errors.Join(err, reviewed, r.report(ctx, s, err)))
}

// done returns the result for the queue: call again after the given time (0 is never), or sooner.
// Having lost a race for an object is no failure. s is nil if there is no Container.
func (r *Reconciler) done(s *scope, again time.Duration, err error) (ctrl.Result, error) {
	if onlyConflicts(err) {
		return ctrl.Result{RequeueAfter: conflictDelay}, nil
	}
	if err != nil || s != nil && s.gone {
		return ctrl.Result{}, err
	}
	if s != nil {
		if wait := r.awaitsAnswer(s); wait > 0 {
			return ctrl.Result{RequeueAfter: sooner(again, wait)}, nil
		}
		if at, ok := status.StallsAt(s.container); ok {
			again = sooner(again, max(at.Sub(r.Clock.Now()), time.Millisecond))
		}
	}
	return ctrl.Result{RequeueAfter: again}, nil
}

// sooner returns the shorter of two times to wait, 0 being never.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// onlyConflicts reports whether err is one or more conflicts and nothing else.
func onlyConflicts(err error) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			if !onlyConflicts(e) {
				return false
			}
		}
		return true
	}
	return err != nil && apierrors.IsConflict(err)
}
