// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	testclock "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/berth-run/berth/api/oci/compile"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/controllers/scheduling"
)

// refusing is a cluster that refuses changes of some claims. controllers/volumes_test.go has the
// tests on a real API server.
type refusing struct {
	client.Client
	refused map[string]bool
	// apply is the error of applies that the API server may still carry out.
	apply error
}

func newRefusing(t *testing.T, objects ...client.Object) *refusing {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	f := &refusing{refused: map[string]bool{}}
	f.Client = fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).
		WithStatusSubresource(&v1alpha1.Container{}, &v1alpha1.OCIBundle{}).
		WithIndex(&v1alpha1.OCIBundle{}, indexContainer, ofContainer).
		WithIndex(&v1alpha1.OCIBundle{}, indexClaim, func(o client.Object) []string {
			return bundleClaims(o.(*v1alpha1.OCIBundle))
		}).
		WithIndex(&v1alpha1.Container{}, indexClaim, func(o client.Object) []string {
			return claimNames(o.(*v1alpha1.Container))
		}).
		WithInterceptorFuncs(interceptor.Funcs{
			Patch: func(ctx context.Context, to client.WithWatch, o client.Object, p client.Patch,
				opts ...client.PatchOption,
			) error {
				if _, ok := o.(*corev1.PersistentVolumeClaim); ok && f.refused[o.GetName()] {
					return apierrors.NewForbidden(claimResource, o.GetName(), errors.New("a policy says no"))
				}
				return to.Patch(ctx, o, p, opts...)
			},
			Apply: func(context.Context, client.WithWatch, runtime.ApplyConfiguration,
				...client.ApplyOption,
			) error {
				return f.apply
			},
		}).Build()
	return f
}

func (f *refusing) reconciler() *Reconciler {
	return &Reconciler{
		Client: f, Live: f, Ledger: scheduling.NewLedger(), Compile: compile.Bundle,
		Recorder: events.NewFakeRecorder(100), Clock: testclock.NewFakePassiveClock(time.Now()),
	}
}

func exclusiveClaim(name, user string) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: name, UID: types.UID("uid-" + name),
	}}
	if user != "" {
		c.Annotations = map[string]string{v1alpha1.AnnotationClaimUser: user}
	}
	c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	c.Spec.VolumeName = "pv-" + name
	c.Status.Phase = corev1.ClaimBound
	return c
}

// claimant returns a Container that names claims, in this order.
func claimant(name string, claims ...string) *v1alpha1.Container {
	c := &v1alpha1.Container{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: name, UID: types.UID("uid-" + name), Generation: 1,
	}}
	for _, claim := range claims {
		c.Spec.Volumes = append(c.Spec.Volumes, v1alpha1.Volume{
			Name: claim, PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
		})
	}
	return c
}

// resolved returns the scope of a Container whose claims are found.
func resolved(c *v1alpha1.Container) *scope {
	s := &scope{container: c, desired: &v1alpha1.OCIBundleSpec{NodeName: "node-a"}}
	s.before = c.DeepCopy()
	s.desired.Config.Raw = []byte("{}")
	for _, name := range claimNames(c) {
		claim := exclusiveClaim(name, "")
		s.volumes = append(s.volumes, claimed{claim: claim, bound: &v1alpha1.BundleClaim{
			Name: name, UID: claim.UID, VolumeName: claim.Spec.VolumeName,
		}})
	}
	return s
}

// bundleWith returns the OCIBundle of a Container with its claims.
func bundleWith(c *v1alpha1.Container) *v1alpha1.OCIBundle {
	s := resolved(c)
	s.desired.Claims = s.boundClaims()
	return s.newBundle(*s.desired)
}

// TestTwoClaimsAreTakenInOneOrder: a controller that is ended between the two leaves no Containers
// behind that have one each and wait for the other.
func TestTwoClaimsAreTakenInOneOrder(t *testing.T) {
	a, b := claimant("a", "x", "y"), claimant("b", "y", "x")
	cluster := newRefusing(t, a, b, exclusiveClaim("x", ""), exclusiveClaim("y", ""))
	r := cluster.reconciler()
	cluster.refused["y"] = true
	if wait, err := r.acquireClaims(t.Context(), resolved(a)); err == nil {
		t.Fatalf("found %+v; want it to end at y", wait)
	}
	cluster.refused["y"] = false
	wait, err := r.acquireClaims(t.Context(), resolved(b))
	if err != nil || wait == nil || wait.reason != v1alpha1.ReasonVolumeInUse ||
		!strings.Contains(wait.message, "claim x is used by the Container a") {
		t.Errorf("b: found %+v, %v; want it to wait for x", wait, err)
	}
	if wait, err := r.acquireClaims(t.Context(), resolved(a)); wait != nil || err != nil {
		t.Errorf("a: found %+v, %v; want it to have both", wait, err)
	}
}

// TestClaimIsTakenByTheAPIServersState: the cache may not have the Container or the OCIBundle that
// uses a claim of one user.
func TestClaimIsTakenByTheAPIServersState(t *testing.T) {
	a, b := claimant("a", "x"), claimant("b", "x")
	for name, user := range map[string]struct {
		annotation string
		object     client.Object
	}{
		"Container": {"a/uid-a", a},
		"OCIBundle": {"", bundleWith(a)},
	} {
		r := newRefusing(t, b, exclusiveClaim("x", user.annotation)).reconciler()
		r.Live = newRefusing(t, b, user.object, exclusiveClaim("x", user.annotation))
		wait, err := r.acquireClaims(t.Context(), resolved(b))
		if err != nil || wait == nil || !strings.Contains(wait.message, "is used by the Container a") {
			t.Errorf("%s: found %+v, %v; want it to wait for a", name, wait, err)
		}
	}
}

// deletedClaim returns a claim that only Berth's finalizer holds.
func deletedClaim(name string) *corev1.PersistentVolumeClaim {
	c := exclusiveClaim(name, "")
	c.Finalizers = []string{v1alpha1.ClaimFinalizer}
	c.DeletionTimestamp = new(metav1.Now())
	return c
}

// TestClaimIsReleasedByTheAPIServersState: the cache may not have the OCIBundle that uses a claim.
func TestClaimIsReleasedByTheAPIServersState(t *testing.T) {
	x := deletedClaim("x")
	key := client.ObjectKeyFromObject(x)
	bundle := bundleWith(claimant("a", "x"))
	cluster, live := newRefusing(t, x), newRefusing(t, x, bundle)
	r := cluster.reconciler()
	r.Live = live
	if wait, err := r.releaseClaim(t.Context(), key); err != nil || wait == 0 {
		t.Errorf("in use: found %s, %v; want it to look again", wait, err)
	}
	if err := cluster.Get(t.Context(), key, x); err != nil {
		t.Errorf("the claim was released: %v", err)
	}
	bundle.Finalizers = nil
	if err := errors.Join(live.Update(t.Context(), bundle),
		live.Delete(t.Context(), bundle)); err != nil {
		t.Fatal(err)
	}
	if wait, err := r.releaseClaim(t.Context(), key); err != nil || wait != 0 {
		t.Errorf("not in use: found %s, %v", wait, err)
	}
	if err := cluster.Get(t.Context(), key, x); !apierrors.IsNotFound(err) {
		t.Errorf("the claim was not released: %v", err)
	}
}

// TestClaimsStayWithAnUnknownApply: a claim is neither released nor taken over, and the place on the
// node is kept, while the API server may still create the OCIBundle. The Container may have to wait
// for the claim then.
func TestClaimsStayWithAnUnknownApply(t *testing.T) {
	for name, failure := range map[string]error{
		"connection": errors.New("connection reset by peer"),
		"timeout":    apierrors.NewTimeoutError("request did not complete", 0),
	} {
		t.Run(name, func(t *testing.T) { claimsStay(t, failure) })
	}
}

func claimsStay(t *testing.T, failure error) {
	t.Helper()
	now := testclock.NewFakePassiveClock(time.Now())
	a, b := claimant("a", "x", "y"), claimant("b", "y")
	cluster := newRefusing(t, a, b, exclusiveClaim("x", ""), exclusiveClaim("y", ""))
	cluster.apply = failure
	r := cluster.reconciler()
	r.Clock, r.RequestTimeout = now, time.Minute
	r.attempts.noteLeads(now.Now().Add(-time.Hour))
	r.Ledger.Enter(client.ObjectKeyFromObject(a), "node-a", nil)
	if _, err := r.dispatch(t.Context(), resolved(a)); !errors.Is(err, failure) {
		t.Fatalf("found %v; want %v", err, failure)
	}
	x := exclusiveClaim("x", "")
	key := client.ObjectKeyFromObject(x)
	// Its user edits the Container, and deletes a claim.
	if err := errors.Join(cluster.Delete(t.Context(), x), cluster.Get(t.Context(),
		client.ObjectKeyFromObject(a), a)); err != nil {
		t.Fatal(err)
	}
	a.Spec.Volumes = a.Spec.Volumes[:1]
	if err := cluster.Update(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	look := func(step string, held bool) {
		t.Helper()
		s := resolved(a)
		if wait, err := r.choose(t.Context(), s, scheduling.Request{}); err != nil || wait == nil ||
			wait.reason != v1alpha1.ReasonVolumeNotBound || (s.again > 0) != held {
			t.Errorf("%s: choose: found %+v, %s, %v", step, wait, s.again, err)
		}
		if _, assumed := r.Ledger.Assumed(s.key()); assumed != held {
			t.Errorf("%s: its place on the node is kept: %v; want %v", step, assumed, held)
		}
		if wait, err := r.acquireClaims(t.Context(), resolved(b)); err != nil || (wait != nil) != held {
			t.Errorf("%s: b: found %+v, %v; want it to wait: %v", step, wait, err, held)
		}
		if wait, err := r.releaseClaim(t.Context(), key); err != nil || (wait > 0) != held {
			t.Errorf("%s: release: found %s, %v; want it to wait: %v", step, wait, err, held)
		}
		if err := cluster.Get(t.Context(), key, x); apierrors.IsNotFound(err) == held {
			t.Errorf("%s: found the claim: %v; want it to be held: %v", step, err, held)
		}
	}
	now.SetTime(now.Now().Add(59 * time.Second))
	look("before the timeout", true)
	now.SetTime(now.Now().Add(time.Second))
	look("after the timeout", false)
}

// TestNewLeaderTakesNoClaimAtOnce: the API server may still carry out an apply of the leader before
// it, which was killed.
func TestNewLeaderTakesNoClaimAtOnce(t *testing.T) {
	now := testclock.NewFakePassiveClock(time.Now())
	b := claimant("b", "y")
	x := deletedClaim("x")
	key := client.ObjectKeyFromObject(x)
	cluster := newRefusing(t, b, x, exclusiveClaim("y", "a/uid-a"))
	r := cluster.reconciler()
	r.Clock, r.RequestTimeout = now, time.Minute
	look := func(step string, held bool) {
		t.Helper()
		if wait, err := r.releaseClaim(t.Context(), key); err != nil || (wait > 0) != held {
			t.Errorf("%s: release: found %s, %v; want it to wait: %v", step, wait, err, held)
		}
		if err := cluster.Get(t.Context(), key, x); apierrors.IsNotFound(err) == held {
			t.Errorf("%s: found the claim: %v; want it to be held: %v", step, err, held)
		}
		if wait, err := r.acquireClaims(t.Context(), resolved(b)); err != nil || (wait != nil) != held {
			t.Errorf("%s: b: found %+v, %v; want it to wait: %v", step, wait, err, held)
		}
	}
	look("before it leads", true)
	r.attempts.noteLeads(now.Now())
	now.SetTime(now.Now().Add(59 * time.Second))
	look("before the timeout", true)
	now.SetTime(now.Now().Add(time.Second))
	look("after the timeout", false)
}

// TestClaimThatSomebodyGaveAway: the name of another Container on a claim, which whoever may edit
// the claim can write there, does not give it away while a container has it.
func TestClaimThatSomebodyGaveAway(t *testing.T) {
	a, b := claimant("a", "x"), claimant("b", "x")
	cluster := newRefusing(t, a, b, exclusiveClaim("x", "b/uid-b"), bundleWith(a))
	wait, err := cluster.reconciler().acquireClaims(t.Context(), resolved(b))
	if err != nil || wait == nil || !strings.Contains(wait.message, "is used by the Container a") {
		t.Errorf("found %+v, %v; want it to wait for a", wait, err)
	}
}

// TestClaimIsNotTakenOverDuringADispatch: the Container that names it may have been edited since
// its OCIBundle was made, and that may not be there yet. A claim that many may have is shared all
// the same.
func TestClaimIsNotTakenOverDuringADispatch(t *testing.T) {
	r := &Reconciler{}
	s := resolved(claimant("a", "x"))
	for mode, shared := range map[corev1.PersistentVolumeAccessMode]bool{
		corev1.ReadWriteOncePod: false, corev1.ReadWriteMany: true,
	} {
		s.volumes[0].claim.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{mode}
		unlock := r.lockClaims(s)
		if r.releasing.TryLock() {
			t.Errorf("%s: a claim can be released during a dispatch", mode)
		}
		if got := r.releasing.TryRLock(); got != shared {
			t.Errorf("%s: another dispatch at the same time: %v; want %v", mode, got, shared)
		} else if got {
			r.releasing.RUnlock()
		}
		unlock()
	}
}

// TestClaimThatCannotBeChanged: the status of a Container says why it is not dispatched.
func TestClaimThatCannotBeChanged(t *testing.T) {
	a := claimant("a", "x")
	cluster := newRefusing(t, a, exclusiveClaim("x", ""))
	cluster.refused["x"] = true
	const want = "change PersistentVolumeClaim ns/x: "
	s := resolved(a)
	if _, err := cluster.reconciler().dispatch(t.Context(), s); err == nil ||
		!strings.HasPrefix(s.found.failure, want) {
		t.Errorf("dispatch: found %q, %v; want %s", s.found.failure, err, want)
	}
	s = resolved(a)
	s.volumes[0].bound = nil
	if _, err := cluster.reconciler().selectNode(t.Context(), s, "node-a"); err == nil ||
		!strings.HasPrefix(s.found.failure, want) {
		t.Errorf("selectNode: found %q, %v; want %s", s.found.failure, err, want)
	}
}

// TestClaimThatCannotBeHeldHoldsNobodyUp: a Container whose claim cannot be given the finalizer is
// taken down all the same.
func TestClaimThatCannotBeHeldHoldsNobodyUp(t *testing.T) {
	c := claimant("a", "x")
	c.Finalizers = []string{v1alpha1.ContainerFinalizer}
	c.Annotations = map[string]string{v1alpha1.AnnotationNode: "node-a"}
	now := metav1.Now()
	c.DeletionTimestamp = &now
	b := bundleWith(c)
	cluster := newRefusing(t, c, exclusiveClaim("x", ""), b)
	cluster.refused["x"] = true
	_, err := cluster.reconciler().Reconcile(t.Context(),
		ctrl.Request{NamespacedName: client.ObjectKeyFromObject(c)})
	if err == nil || !strings.Contains(err.Error(), "change PersistentVolumeClaim ns/x: ") {
		t.Errorf("found %v; want the reason, for the queue to try again", err)
	}
	if err := cluster.Get(t.Context(), client.ObjectKeyFromObject(b), b); err != nil ||
		b.DeletionTimestamp == nil {
		t.Errorf("the OCIBundle is not being deleted: %v", err)
	}
	if err := cluster.Get(t.Context(), client.ObjectKeyFromObject(c), c); err != nil ||
		len(c.Status.Conditions) == 0 {
		t.Errorf("no status was written: %v", err)
	}
}
