// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	testclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/oci/compile"
	"github.com/berth-run/berth/api/oci/seccompref"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/controllers/container"
	"github.com/berth-run/berth/controllers/profile"
	"github.com/berth-run/berth/controllers/scheduling"
)

var (
	isReady     = want{kind: v1alpha1.ConditionReady, status: metav1.ConditionTrue}
	notStalled  = want{kind: v1alpha1.ConditionStalled}
	isScheduled = want{
		kind: v1alpha1.ConditionScheduled, status: metav1.ConditionTrue,
		reason: v1alpha1.ReasonScheduled,
	}
	isSpecValid = want{
		kind: v1alpha1.ConditionSpecValid, status: metav1.ConditionTrue,
		reason: v1alpha1.ReasonCompiled,
	}
	isReconciling = want{kind: v1alpha1.ConditionReconciling, status: metav1.ConditionTrue}
)

func unscheduled(reason, contains string) want {
	return want{
		kind: v1alpha1.ConditionScheduled, status: metav1.ConditionFalse, reason: reason,
		contains: contains,
	}
}

// gone waits until the Container and its OCIBundle are no more.
func gone(t *testing.T, c *v1alpha1.Container) {
	t.Helper()
	eventually(t, func() error {
		if _, err := read(t, c); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the Container is still there (%v)", err)
		}
		if _, err := readBundle(t, c); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the OCIBundle is still there (%v)", err)
		}
		return nil
	})
}

func TestAppliedContainerIsDispatchedAndMirrored(t *testing.T) {
	newFakeAgent(t, "node-a")
	c := sample(namespace(t), "hello", func(c *v1alpha1.Container) {
		c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m")}
	})
	create(t, c)
	now := eventuallyHas(t, c, isReady, isScheduled, isSpecValid, notStalled,
		want{
			kind: v1alpha1.ConditionImageReady, status: metav1.ConditionTrue,
			reason: v1alpha1.ReasonImagePulled,
		},
		want{
			kind: v1alpha1.ConditionRunning, status: metav1.ConditionTrue,
			reason: v1alpha1.ReasonStarted,
		},
	)
	if meta.FindStatusCondition(now.Status.Conditions, v1alpha1.ConditionReconciling) != nil {
		t.Errorf("a Container that is Ready is still Reconciling: %+v", now.Status.Conditions)
	}
	if st := now.Status; st.Phase != v1alpha1.ContainerRunning || st.NodeName != "node-a" ||
		st.Bundle != "berth-node-node-a/"+c.Namespace+".hello" || st.PID != 4711 || st.LogPath == "" ||
		st.State.Running == nil {
		t.Errorf("the agent's word is not mirrored: %+v", st)
	}

	b, err := readBundle(t, c)
	if err != nil {
		t.Fatal(err)
	}
	if ref := b.Spec.ContainerRef; ref == nil ||
		*ref != (v1alpha1.ContainerReference{Namespace: c.Namespace, Name: c.Name, UID: now.UID}) ||
		len(b.OwnerReferences) > 0 {
		t.Errorf("the OCIBundle is that of %+v, owned by %+v", ref, b.OwnerReferences)
	}
	if now.Annotations[v1alpha1.AnnotationNode] != "node-a" || b.Namespace != "berth-node-node-a" ||
		b.Name != c.Namespace+".hello" {
		t.Errorf("the OCIBundle is %s/%s, the Container's annotations are %v", b.Namespace, b.Name,
			now.Annotations)
	}
	if len(b.Finalizers) != 1 || b.Finalizers[0] != v1alpha1.OCIBundleFinalizer {
		t.Errorf("the OCIBundle's finalizers are %v", b.Finalizers)
	}
	if b.Labels[v1alpha1.LabelContainer] != "hello" {
		t.Errorf("the OCIBundle's labels are %v", b.Labels)
	}
	if b.Spec.NodeName != "node-a" || b.Spec.Image == nil || b.Spec.Image.Reference != c.Spec.Image ||
		b.Spec.Requests.Cpu().String() != "500m" {
		t.Errorf("the OCIBundle's spec is %+v", b.Spec)
	}
	var doc struct {
		OCIVersion string `json:"ociVersion"`
		Root       struct{ Path string }
	}
	if err := json.Unmarshal(b.Spec.Config.Raw, &doc); err != nil || doc.OCIVersion == "" ||
		doc.Root.Path != "rootfs" {
		t.Errorf("config is no whole runtime-spec document (%v): %.200s", err, b.Spec.Config.Raw)
	}
	if owners := b.ManagedFields; len(owners) == 0 || owners[0].Manager != container.FieldOwner ||
		owners[0].Operation != metav1.ManagedFieldsOperationApply {
		t.Errorf("the OCIBundle was not applied by %s: %+v", container.FieldOwner, owners)
	}
}

func TestSeccompProfileIsReferredToByDigest(t *testing.T) {
	newFakeAgent(t, "node-new")
	ns := namespace(t)
	small := sample(ns, "small", func(c *v1alpha1.Container) {
		c.Spec.NodeName = "node-new"
		// Of this test's own, so that nothing else refers to the profile.
		c.Spec.SecurityContext = &v1alpha1.SecurityContext{SecurityContext: corev1.SecurityContext{
			Capabilities: &corev1.Capabilities{
				Drop: []corev1.Capability{"ALL"},
				Add:  []corev1.Capability{"SYS_BOOT"},
			},
		}}
	})
	create(t, small)
	eventuallyHas(t, small, isReady)
	byReference := theBundle(t, small)
	inline, faults := compile.Bundle(small)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	if byReference.Spec.MinAgentRevision != 2 {
		t.Errorf("it takes an agent of revision %d", byReference.Spec.MinAgentRevision)
	}
	size := func(o any) int {
		text, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		return len(text)
	}
	t.Logf("OCIBundle: %d bytes; the profile takes %d out of it", size(byReference),
		size(inline)-size(byReference.Spec))
	if a, b := size(byReference.Spec), size(inline); a > b/2 {
		t.Errorf("the OCIBundle's spec has %d bytes with a reference, %d without", a, b)
	}
	p := &v1alpha1.SeccompProfile{
		ObjectMeta: metav1.ObjectMeta{Name: seccompref.Name(byReference.Spec.SeccompProfile)},
	}
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(p), p); err != nil {
		t.Fatal(err)
	}
	joined, err := seccompref.Join(&byReference.Spec, p.Spec.Profile)
	if err != nil {
		t.Fatal(err)
	}
	var a, b specs.Spec
	if err := errors.Join(json.Unmarshal(joined.Config.Raw, &a), json.Unmarshal(inline.Config.Raw,
		&b)); err != nil {
		t.Fatal(err)
	}
	if !equality.Semantic.DeepEqual(a, b) {
		t.Errorf("the documents differ:\n%s\n%s", joined.Config.Raw, inline.Config.Raw)
	}

	// A profile cannot be changed, and one that is in use comes back.
	changed := p.DeepCopy()
	changed.Spec.Profile = "{}"
	if err := admin.Update(t.Context(), changed); err == nil || !strings.Contains(err.Error(),
		"cannot be changed") {
		t.Errorf("it was changed (%v)", err)
	}
	if err := admin.Create(t.Context(),
		&v1alpha1.SeccompProfile{ObjectMeta: metav1.ObjectMeta{Name: "any"}, Spec: p.Spec}); err == nil {
		t.Error("it was created under another name")
	}
	if err := admin.Delete(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	again := &v1alpha1.SeccompProfile{}
	eventually(t, func() error {
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(p), again); err != nil {
			return err
		}
		if again.UID == p.UID || again.Spec.Profile != p.Spec.Profile {
			return errors.New("it is the old one")
		}
		return cached.Get(t.Context(), client.ObjectKeyFromObject(p), &v1alpha1.SeccompProfile{})
	})

	// Another controller, whose hour is over, leaves it alone as long as an OCIBundle refers to it.
	clk := testclock.NewFakePassiveClock(time.Now())
	keeper := profile.New(cached, live, clk, time.Hour)
	look := func() ctrl.Result {
		t.Helper()
		result, err := keeper.Reconcile(t.Context(),
			ctrl.Request{NamespacedName: client.ObjectKeyFromObject(p)})
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	for range 3 {
		if result := look(); result.RequeueAfter != time.Hour {
			t.Errorf("it looks again after %s", result.RequeueAfter)
		}
		clk.SetTime(clk.Now().Add(2 * time.Hour))
	}
	look() // used just now
	if err := admin.Delete(t.Context(), small); err != nil {
		t.Fatal(err)
	}
	gone(t, small)
	eventually(t, func() error {
		if err := cached.Get(t.Context(), client.ObjectKeyFromObject(byReference),
			&v1alpha1.OCIBundle{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the cache still has the OCIBundle (%v)", err)
		}
		return nil
	})
	clk.SetTime(clk.Now().Add(time.Hour - time.Second))
	if result := look(); result.RequeueAfter != time.Second {
		t.Errorf("it looks again after %s", result.RequeueAfter)
	}
	// An OCIBundle that is about to be created counts, too.
	if err := keeper.Ensure(t.Context(), p.Spec.Profile); err != nil {
		t.Fatal(err)
	}
	clk.SetTime(clk.Now().Add(time.Second))
	look()
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(p), again); err != nil {
		t.Errorf("a profile that somebody is about to refer to was deleted (%v)", err)
	}
	clk.SetTime(clk.Now().Add(time.Hour))
	look()
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(p),
		again); !apierrors.IsNotFound(err) {
		t.Errorf("it was kept (%v)", err)
	}
	// Ensure does not rely on what it has deleted.
	if err := keeper.Ensure(t.Context(), p.Spec.Profile); err != nil {
		t.Fatal(err)
	}
	if err := admin.Delete(t.Context(), p); err != nil {
		t.Errorf("it was not created again (%v)", err)
	}
}

// TestForgedSeccompProfileIsReplaced has a profile whose content is not that of its name, before
// and after an OCIBundle refers to it. Its author may create SeccompProfiles, but must not be able
// to choose the filters of others.
func TestForgedSeccompProfileIsReplaced(t *testing.T) {
	newFakeAgent(t, "node-new")
	c := sample(namespace(t), "c", func(c *v1alpha1.Container) {
		c.Spec.SecurityContext = &v1alpha1.SecurityContext{SecurityContext: corev1.SecurityContext{
			Capabilities: &corev1.Capabilities{
				Drop: []corev1.Capability{"ALL"},
				Add:  []corev1.Capability{"SYS_MODULE"},
			},
		}}
	})
	spec, faults := compile.Bundle(c)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	if _, err := seccompref.Split(spec); err != nil {
		t.Fatal(err)
	}
	key := client.ObjectKey{Name: seccompref.Name(spec.SeccompProfile)}
	forge := func() {
		t.Helper()
		create(t, &v1alpha1.SeccompProfile{
			ObjectMeta: metav1.ObjectMeta{Name: key.Name},
			Spec:       v1alpha1.SeccompProfileSpec{Profile: "{}"},
		})
	}
	genuine := func() error {
		p := &v1alpha1.SeccompProfile{}
		if err := admin.Get(t.Context(), key, p); err != nil {
			return err
		}
		if found := seccompref.Digest(p.Spec.Profile); found != spec.SeccompProfile {
			return fmt.Errorf("its digest is %s", found)
		}
		return nil
	}
	forge()
	create(t, c)
	eventuallyHas(t, c, isReady)
	if err := genuine(); err != nil {
		t.Error(err)
	}
	// Between the deletion and the forgery the genuine one may be back: then it cannot be forged.
	eventually(t, func() error {
		err := admin.Delete(t.Context(),
			&v1alpha1.SeccompProfile{ObjectMeta: metav1.ObjectMeta{Name: key.Name}})
		if err != nil {
			return err
		}
		return admin.Create(t.Context(),
			&v1alpha1.SeccompProfile{
				ObjectMeta: metav1.ObjectMeta{Name: key.Name},
				Spec:       v1alpha1.SeccompProfileSpec{Profile: "{}"},
			})
	})
	eventually(t, genuine)
}

func TestPlainStartWritesLittle(t *testing.T) {
	newFakeAgent(t, "node-a") // its only write is the status of the OCIBundle, as the real one's
	ns := namespace(t)
	const n = 20
	for i := range n {
		create(t, sample(ns, fmt.Sprintf("c%d", i)))
	}
	for i := range n {
		eventuallyHas(t, sample(ns, fmt.Sprintf("c%d", i)), isReady)
	}
	want := map[string]int{
		"create containers": n, "patch containers": n, "patch ocibundles": n,
		"update ocibundles/status": n, "patch containers/status": n,
	}
	eventually(t, func() error { // the API server records a write after it has answered
		if got := writes(t, ns); !maps.Equal(got, want) {
			return fmt.Errorf("%d plain starts took these writes: %v; wanted %v", n, got, want)
		}
		return nil
	})
}

// TestAnswersPrecedeNewContainers places 150 Containers at once on a fake agent, which answers each
// OCIBundle as soon as it sees it, and looks at how long the Container takes to say that it runs.
func TestAnswersPrecedeNewContainers(t *testing.T) {
	ns := namespace(t)
	const n = 150
	for i := range n {
		create(t, sample(ns, fmt.Sprintf("c%d", i), func(c *v1alpha1.Container) {
			c.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": "node-burst"}
		}))
	}
	eventually(t, func() error {
		list := &v1alpha1.ContainerList{}
		if err := admin.List(t.Context(), list, client.InNamespace(ns)); err != nil {
			return err
		}
		for i := range list.Items {
			if err := has(&list.Items[i], unscheduled(v1alpha1.ReasonUnschedulable, "")); err != nil {
				return err
			}
		}
		return nil
	})

	var mu sync.Mutex
	answered := map[string]time.Time{}
	watcher, err := adminWatch.Watch(t.Context(), &v1alpha1.ContainerList{}, client.InNamespace(ns))
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Stop()
	begun := time.Now()
	newFakeAgent(t, "node-burst", func(a *fakeAgent) {
		a.cpu = "1000"
		a.labels = map[string]string{"kubernetes.io/hostname": "node-burst"}
		a.answer = func(b *v1alpha1.OCIBundle) v1alpha1.OCIBundleStatus {
			mu.Lock()
			answered[b.Spec.ContainerRef.Name] = time.Now()
			mu.Unlock()
			return runs(b)
		}
	})
	latencies := map[string]time.Duration{}
	for deadline := time.After(patience); len(latencies) < n; {
		select {
		case e := <-watcher.ResultChan():
			c, ok := e.Object.(*v1alpha1.Container)
			if !ok {
				t.Fatalf("the watch ended after %d of %d: %+v", len(latencies), n, e)
			}
			_, seen := latencies[c.Name]
			if !seen && meta.IsStatusConditionTrue(c.Status.Conditions, v1alpha1.ConditionReady) {
				mu.Lock()
				latencies[c.Name] = time.Since(answered[c.Name])
				mu.Unlock()
			}
		case <-deadline:
			t.Fatalf("%d of %d are Ready after %s", len(latencies), n, patience)
		}
	}
	burst := time.Since(begun)
	p50 := slices.Sorted(maps.Values(latencies))[n/2]
	t.Logf("from answer to status: p50 %s in a burst of %s", p50, burst)
	if p50 > burst/8 {
		t.Errorf("half of the Containers took %s or more to say that they run, in a burst of %s; wanted an eighth of it at most", p50, burst)
	}

	// The fake agent ends before the namespace does, and has to let go of them first.
	if err := admin.DeleteAllOf(t.Context(), &v1alpha1.Container{},
		client.InNamespace(ns)); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		left := &v1alpha1.OCIBundleList{}
		if err := admin.List(t.Context(), left,
			client.MatchingLabels{v1alpha1.LabelNamespace: ns}); err != nil || len(left.Items) > 0 {
			return fmt.Errorf("%d OCIBundles are left (%v)", len(left.Items), err)
		}
		return nil
	})
}

func TestSecondReconcileWritesNothing(t *testing.T) {
	newFakeAgent(t, "node-a")
	c := sample(namespace(t), "hello")
	create(t, c)
	before := eventuallyHas(t, c, isReady)
	bundleBefore, err := readBundle(t, c)
	if err != nil {
		t.Fatal(err)
	}
	// The cache that is read has to have seen the end, or the reconcile would rightly start from an
	// older state.
	eventually(t, func() error {
		seen := &v1alpha1.Container{}
		if err := cached.Get(t.Context(), client.ObjectKeyFromObject(c), seen); err != nil ||
			seen.ResourceVersion != before.ResourceVersion {
			return fmt.Errorf("the cache is at %s of %s (%v)", seen.ResourceVersion,
				before.ResourceVersion, err)
		}
		seenBundle := &v1alpha1.OCIBundle{}
		if err := cached.Get(t.Context(), client.ObjectKeyFromObject(bundleBefore),
			seenBundle); err != nil || seenBundle.ResourceVersion != bundleBefore.ResourceVersion {
			return fmt.Errorf("the cache is at %s of %s (%v)", seenBundle.ResourceVersion,
				bundleBefore.ResourceVersion, err)
		}
		return nil
	})
	recorder := events.NewFakeRecorder(10)
	// One that knows nothing, as after the controller's restart; and its writes would fail the test
	// by being made at all.
	r := &container.Reconciler{
		Client: noWrites{cached, t}, Live: live, Ledger: scheduling.NewLedger(),
		Recorder: recorder, Clock: clock.RealClock{},
	}
	for range 2 {
		if _, err := r.Reconcile(t.Context(),
			ctrl.Request{NamespacedName: client.ObjectKeyFromObject(c)}); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case e := <-recorder.Events:
		t.Errorf("an event was sent though nothing has changed: %s", e)
	default:
	}
}

// noWrites is a client whose writes fail the test.
type noWrites struct {
	client.Client
	t *testing.T
}

func (n noWrites) Patch(_ context.Context, o client.Object, _ client.Patch,
	_ ...client.PatchOption,
) error {
	return n.refuse("patch", o)
}

func (n noWrites) Update(_ context.Context, o client.Object, _ ...client.UpdateOption) error {
	return n.refuse("update", o)
}

func (n noWrites) Delete(_ context.Context, o client.Object, _ ...client.DeleteOption) error {
	return n.refuse("delete", o)
}

func (n noWrites) Apply(_ context.Context, _ runtime.ApplyConfiguration,
	_ ...client.ApplyOption,
) error {
	n.t.Error("apply, though nothing has changed")
	return fmt.Errorf("no writes")
}

func (n noWrites) Status() client.SubResourceWriter { return noStatus{n.Client.Status(), n} }

type noStatus struct {
	client.SubResourceWriter
	n noWrites
}

func (s noStatus) Patch(_ context.Context, o client.Object, p client.Patch,
	_ ...client.SubResourcePatchOption,
) error {
	data, _ := p.Data(o)
	s.n.t.Errorf("the patch is %s", data)
	return s.n.refuse("patch the status of", o)
}

func (n noWrites) refuse(what string, o client.Object) error {
	n.t.Errorf("%s %T %s, though nothing has changed", what, o, o.GetName())
	return fmt.Errorf("no writes")
}

func TestInvalidSpecStallsAndRecoversWhenEdited(t *testing.T) {
	newFakeAgent(t, "node-a")
	c := sample(namespace(t), "bad", func(c *v1alpha1.Container) {
		c.Spec.SecurityContext = &v1alpha1.SecurityContext{SecurityContext: corev1.SecurityContext{
			Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NOT_A_CAPABILITY", "NOR_THIS"}},
		}}
	})
	create(t, c)
	now := eventuallyHas(t, c,
		want{
			kind: v1alpha1.ConditionStalled, status: metav1.ConditionTrue,
			reason: v1alpha1.ReasonInvalidSpec, contains: "capabilities.add[0]",
		},
		want{
			kind: v1alpha1.ConditionStalled, status: metav1.ConditionTrue,
			reason: v1alpha1.ReasonInvalidSpec, contains: "capabilities.add[1]",
		},
		want{
			kind: v1alpha1.ConditionSpecValid, status: metav1.ConditionFalse,
			reason: v1alpha1.ReasonInvalidSpec,
		},
		want{
			kind: v1alpha1.ConditionReady, status: metav1.ConditionFalse,
			reason: v1alpha1.ReasonInvalidSpec,
		},
	)
	if now.Status.Phase != v1alpha1.ContainerPending {
		t.Errorf("phase is %s", now.Status.Phase)
	}
	if _, err := readBundle(t, c); !apierrors.IsNotFound(err) {
		t.Errorf("a Container that cannot be compiled has been dispatched (%v)", err)
	}
	eventuallyEvent(t, now, "SpecInvalid")

	edit(t, c, func(c *v1alpha1.Container) { c.Spec.SecurityContext = nil })
	eventuallyHas(t, c, isReady, isSpecValid, notStalled)
}

func TestInvalidEditLeavesTheRunningOneAlone(t *testing.T) {
	newFakeAgent(t, "node-a")
	c := sample(namespace(t), "hello")
	create(t, c)
	eventuallyHas(t, c, isReady)
	before, err := readBundle(t, c)
	if err != nil {
		t.Fatal(err)
	}

	edit(t, c, func(c *v1alpha1.Container) {
		c.Spec.Command = []string{"changed"}
		c.Spec.SecurityContext = &v1alpha1.SecurityContext{SecurityContext: corev1.SecurityContext{
			Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NOT_A_CAPABILITY"}},
		}}
	})
	now := eventuallyHas(t, c,
		want{
			kind: v1alpha1.ConditionStalled, status: metav1.ConditionTrue,
			reason: v1alpha1.ReasonInvalidSpec, contains: "left as it is",
		},
		want{
			kind: v1alpha1.ConditionReady, status: metav1.ConditionFalse,
			reason: v1alpha1.ReasonInvalidSpec,
		},
	)
	if now.Status.Phase != v1alpha1.ContainerRunning || now.Status.PID == 0 {
		t.Errorf("the one that runs is not mirrored any more: %+v", now.Status)
	}
	after, err := readBundle(t, c)
	if err != nil || after.Generation != before.Generation || after.DeletionTimestamp != nil {
		t.Errorf("the OCIBundle of the earlier generation was touched (%v): %+v", err, after)
	}

	edit(t, c, func(c *v1alpha1.Container) { c.Spec.SecurityContext = nil })
	eventuallyHas(t, c, isReady, notStalled)
	if b, err := readBundle(t, c); err != nil || b.Spec.Process.Command[0] != "changed" ||
		b.UID != before.UID {
		t.Errorf("the OCIBundle was not brought up to date in place (%v): %+v", err, b)
	}
}

func TestUnschedulableSaysWhatNodesLack(t *testing.T) {
	newFakeAgent(t, "node-cordoned", func(a *fakeAgent) { a.cordoned = true })
	newFakeAgent(t, "node-small", func(a *fakeAgent) {
		a.cpu, a.labels = "1", map[string]string{"disk": "ssd"}
	})
	newFakeAgent(t, "node-tainted", func(a *fakeAgent) {
		a.taints = []corev1.Taint{{Key: "dedicated", Value: "gpu", Effect: corev1.TaintEffectNoSchedule}}
	})
	newFakeAgent(t, "node-plain", func(a *fakeAgent) { a.labels = map[string]string{"disk": "hdd"} })
	ns := namespace(t)
	c := sample(ns, "picky", func(c *v1alpha1.Container) {
		c.Spec.NodeSelector = map[string]string{"disk": "ssd"}
		c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}
	})
	create(t, c)
	now := eventuallyHas(t, c, isReconciling,
		unscheduled(v1alpha1.ReasonUnschedulable, "0/4 nodes fit"),
		unscheduled("", "1 had too little cpu left"),
		unscheduled("", "1 had untolerated taint {dedicated=gpu:NoSchedule}"),
		unscheduled("", "1 was unschedulable"),
		unscheduled("", "1 did not match the node selector"),
		want{
			kind: v1alpha1.ConditionReady, status: metav1.ConditionFalse,
			reason: v1alpha1.ReasonUnschedulable,
		},
		notStalled,
	)
	eventuallyEvent(t, now, "FailedScheduling")

	// It is placed when a node turns fit, without an edit of its own: here by the label and taint
	// of the core Node.
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node-plain", Labels: map[string]string{"arch": "fast"}},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{{
			Key:    "maintenance",
			Effect: corev1.TaintEffectNoSchedule,
		}}},
	}
	create(t, node)
	t.Cleanup(func() { _ = admin.Delete(context.Background(), node) })
	other := sample(ns, "other", func(c *v1alpha1.Container) {
		c.Spec.NodeSelector = map[string]string{"arch": "fast"}
	})
	create(t, other)
	eventuallyHas(t, other, unscheduled(v1alpha1.ReasonUnschedulable,
		"untolerated taint {maintenance:NoSchedule}"))
	edit(t, node, func(n *corev1.Node) { n.Spec.Taints = nil })
	if now := eventuallyHas(t, other, isReady); now.Status.NodeName != "node-plain" {
		t.Errorf("placed on %s", now.Status.NodeName)
	}
	tolerant := sample(ns, "tolerant", func(c *v1alpha1.Container) {
		c.Spec.Tolerations = []corev1.Toleration{{Key: "dedicated", Operator: corev1.TolerationOpExists}}
		c.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": "node-tainted"}
	})
	create(t, tolerant)
	eventuallyHas(t, tolerant, isReady)
}

// TestProgressDeadlineOfTheCluster has deadlines of a second in place of 600.
func TestProgressDeadlineOfTheCluster(t *testing.T) {
	ns := namespace(t)
	hurried := func(c *v1alpha1.Container) {
		c.Spec.ProgressDeadlineSeconds = ptr.To[int32](1)
		c.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": "node-hurried"}
	}
	stalled := func(cause string) want {
		return want{
			kind: v1alpha1.ConditionStalled, status: metav1.ConditionTrue,
			reason: v1alpha1.ReasonProgressDeadlineExceeded, contains: cause,
		}
	}
	verdict := func(c *v1alpha1.Container) status.Status {
		object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(c)
		if err != nil {
			t.Fatal(err)
		}
		result, err := status.Compute(&unstructured.Unstructured{Object: object})
		if err != nil {
			t.Fatal(err)
		}
		return result.Status
	}

	// No node fits, and nothing happens that would make the controller look again.
	c := sample(ns, "late", hurried)
	create(t, c)
	now := eventuallyHas(t, c, stalled("Unschedulable: "), want{
		kind:   v1alpha1.ConditionReady,
		status: metav1.ConditionFalse, reason: v1alpha1.ReasonUnschedulable,
	})
	if got := verdict(now); got != status.FailedStatus {
		t.Errorf("kstatus says %s: %+v", got, now.Status.Conditions)
	}
	eventuallyEvent(t, now, "ProgressDeadlineExceeded")

	// It goes on by itself when a node comes.
	agent := newFakeAgent(t, "node-hurried")
	now = eventuallyHas(t, c, isReady, notStalled)
	if got := verdict(now); got != status.CurrentStatus {
		t.Errorf("kstatus says %s: %+v", got, now.Status.Conditions)
	}

	agent.say(c, v1alpha1.OCIBundleStatus{
		Phase: v1alpha1.ContainerRunning,
		Conditions: []metav1.Condition{
			condition(v1alpha1.ConditionImageReady, metav1.ConditionTrue, v1alpha1.ReasonImagePulled,
				"pulled"),
			condition(v1alpha1.ConditionRunning, metav1.ConditionFalse, v1alpha1.ReasonCrashLoopBackOff,
				"exit code 7"),
		},
	})
	now = eventuallyHas(t, c, stalled("CrashLoopBackOff: exit code 7"))
	if got := verdict(now); got != status.FailedStatus {
		t.Errorf("kstatus says %s: %+v", got, now.Status.Conditions)
	}

	// A new spec has time of its own.
	edit(t, c, func(c *v1alpha1.Container) {
		c.Spec.ProgressDeadlineSeconds, c.Spec.Args = ptr.To[int32](600), []string{"-v"}
	})
	eventuallyHas(t, c, isReady, notStalled)

	if err := admin.Delete(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	gone(t, c)
}

func TestNodeNameNeedsTheNodeAndItsHandler(t *testing.T) {
	ns := namespace(t)
	create(t, &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "named-vm"}, Handler: "vm"})
	t.Cleanup(func() {
		_ = admin.Delete(context.Background(),
			&nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "named-vm"}})
	})
	c := sample(ns, "named", func(c *v1alpha1.Container) {
		c.Spec.NodeName = "node-later"
		c.Spec.RuntimeClassName = ptr.To("named-vm")
	})
	create(t, c)
	eventuallyHas(t, c, unscheduled(v1alpha1.ReasonUnschedulable, `no NodeAgent "node-later"`))
	newFakeAgent(t, "node-later", func(a *fakeAgent) { a.cordoned = true })
	eventuallyHas(t, c, unscheduled(v1alpha1.ReasonHandlerNotFound, `no handler "vm"; it has: berth`))
	edit(t, c, func(c *v1alpha1.Container) { c.Spec.RuntimeClassName = nil })
	// Named, so the cordon is not asked.
	eventuallyHas(t, c, isReady)
	// The node is removed before the namespace's Containers are, by the order of the cleanups: let
	// go here.
	if err := admin.Delete(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	gone(t, c)
}

func TestRuntimeClassGivesHandlerAndPlace(t *testing.T) {
	newFakeAgent(t, "node-a")
	newFakeAgent(t, "node-vm", func(a *fakeAgent) {
		a.handlers = []string{"berth", "vm"}
		a.labels = map[string]string{"kvm": "yes"}
		a.taints = []corev1.Taint{{Key: "kvm", Effect: corev1.TaintEffectNoSchedule}}
	})
	c := sample(namespace(t), "isolated", func(c *v1alpha1.Container) {
		c.Spec.RuntimeClassName = ptr.To("vm")
	})
	create(t, c)
	eventuallyHas(t, c, unscheduled(v1alpha1.ReasonRuntimeClassNotFound, `no RuntimeClass "vm"`),
		isReconciling, notStalled)

	rc := &nodev1.RuntimeClass{
		ObjectMeta: metav1.ObjectMeta{Name: "vm"},
		Handler:    "vm",
		Overhead: &nodev1.Overhead{
			PodFixed: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")},
		},
		Scheduling: &nodev1.Scheduling{
			NodeSelector: map[string]string{"kvm": "yes"},
			Tolerations:  []corev1.Toleration{{Key: "kvm", Operator: corev1.TolerationOpExists}},
		},
	}
	create(t, rc)
	now := eventuallyHas(t, c, isReady)
	b, err := readBundle(t, c)
	if err != nil || now.Status.NodeName != "node-vm" || b.Spec.Handler != "vm" ||
		b.Spec.Requests.Memory().String() != "64Mi" {
		t.Errorf("on %s with %+v (%v)", now.Status.NodeName, b.Spec, err)
	}

	// A Container that has been dispatched does not fall with its RuntimeClass.
	if err := admin.Delete(t.Context(), rc); err != nil {
		t.Fatal(err)
	}
	edit(t, c, func(c *v1alpha1.Container) { c.Spec.Command = []string{"changed"} })
	eventuallyHas(t, c, isReady, isScheduled)
	if after, err := readBundle(t, c); err != nil || after.UID != b.UID ||
		after.Spec.Handler != "vm" || after.Spec.Process.Command[0] != "changed" {
		t.Errorf("without its RuntimeClass the OCIBundle is %+v (%v)", after.Spec, err)
	}
}

func TestBurstIsSpreadOverTheNodes(t *testing.T) {
	newFakeAgent(t, "node-a")
	newFakeAgent(t, "node-b")
	ns := namespace(t)
	const n = 20
	for i := range n {
		create(t, sample(ns, fmt.Sprintf("c%d", i)))
	}
	count := map[string]int{}
	for i := range n {
		now := eventuallyHas(t, sample(ns, fmt.Sprintf("c%d", i)), isReady)
		count[now.Status.NodeName]++
	}
	if count["node-a"] != n/2 || count["node-b"] != n/2 {
		t.Errorf("equal nodes were given unequal shares: %v", count)
	}
}

func TestRoomIsKeptAndComesFree(t *testing.T) {
	newFakeAgent(t, "node-a", func(a *fakeAgent) { a.cpu = "2" })
	ns := namespace(t)
	half := func(c *v1alpha1.Container) {
		c.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
	}
	for i := range 3 {
		create(t, sample(ns, fmt.Sprintf("c%d", i), half))
	}
	var placed, waits []*v1alpha1.Container
	eventually(t, func() error {
		placed, waits = nil, nil
		for i := range 3 {
			now, err := read(t, sample(ns, fmt.Sprintf("c%d", i)))
			if err != nil {
				return err
			}
			if has(now, isReady) == nil {
				placed = append(placed, now)
			}
			if has(now, unscheduled(v1alpha1.ReasonUnschedulable, "1 had too little cpu left")) == nil {
				waits = append(waits, now)
			}
		}
		if len(placed) != 2 || len(waits) != 1 {
			return fmt.Errorf("%d are placed and %d wait", len(placed), len(waits))
		}
		return nil
	})
	if err := admin.Delete(t.Context(), placed[0]); err != nil {
		t.Fatal(err)
	}
	eventuallyHas(t, waits[0], isReady)
}

func TestDeletionWaitsForTheAgent(t *testing.T) {
	hold := make(chan struct{})
	newFakeAgent(t, "node-a", func(a *fakeAgent) { a.hold = hold })
	c := sample(namespace(t), "hello")
	create(t, c)
	now := eventuallyHas(t, c, isReady)
	if err := admin.Delete(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	eventuallyHas(t, c,
		want{
			kind: v1alpha1.ConditionReconciling, status: metav1.ConditionTrue,
			reason: v1alpha1.ReasonTerminating, contains: "node-a",
		},
		want{
			kind: v1alpha1.ConditionReady, status: metav1.ConditionFalse,
			reason: v1alpha1.ReasonTerminating,
		})
	eventuallyEvent(t, now, "Terminating")
	if b, err := readBundle(t, c); err != nil || b.DeletionTimestamp == nil {
		t.Errorf("the OCIBundle is not being deleted (%v)", err)
	}
	close(hold)
	gone(t, c)
}

func TestContainerThatWasNotDispatchedGoesAtOnce(t *testing.T) {
	c := sample(namespace(t), "nowhere")
	create(t, c)
	eventuallyHas(t, c, unscheduled(v1alpha1.ReasonUnschedulable, "no NodeAgent is registered"))
	if err := admin.Delete(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	gone(t, c)
}

func TestBundleDeletedByHandIsMadeAgain(t *testing.T) {
	hold := make(chan struct{})
	newFakeAgent(t, "node-a", func(a *fakeAgent) { a.hold = hold })
	c := sample(namespace(t), "hello")
	create(t, c)
	eventuallyHas(t, c, isReady)
	old, err := readBundle(t, c)
	if err != nil {
		t.Fatal(err)
	}
	if err := admin.Delete(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	eventuallyHas(t, c, want{
		kind: v1alpha1.ConditionReconciling, status: metav1.ConditionTrue,
		reason: v1alpha1.ReasonTerminating,
	})
	close(hold)
	eventually(t, func() error {
		b, err := readBundle(t, c)
		if err == nil && b.UID == old.UID {
			err = fmt.Errorf("it is the old one still")
		}
		return err
	})
	eventuallyHas(t, c, isReady)
}

func TestBundleEditedByHandIsPutBack(t *testing.T) {
	newFakeAgent(t, "node-a")
	c := sample(namespace(t), "hello")
	create(t, c)
	eventuallyHas(t, c, isReady)
	right, err := readBundle(t, c)
	if err != nil {
		t.Fatal(err)
	}
	for name, wrong := range map[string]func(*v1alpha1.OCIBundle){
		"a field changed": func(b *v1alpha1.OCIBundle) {
			b.Spec.RestartPolicy = corev1.RestartPolicyNever
		},
		"a field added": func(b *v1alpha1.OCIBundle) { b.Spec.Process.WorkingDir = "/tmp" },
		"config changed": func(b *v1alpha1.OCIBundle) {
			b.Spec.Config.Raw = []byte(strings.Replace(string(b.Spec.Config.Raw), `"rootfs"`, `"/etc"`, 1))
		},
		"config added to": func(b *v1alpha1.OCIBundle) {
			b.Spec.Config.Raw = []byte(strings.Replace(string(b.Spec.Config.Raw), `{`,
				`{"domainname":"evil",`, 1))
		},
		"a volume added": func(b *v1alpha1.OCIBundle) {
			b.Spec.Volumes = []v1alpha1.Volume{{
				Name:     "v",
				HostPath: &corev1.HostPathVolumeSource{Path: "/etc"},
			}}
		},
		"finalizer removed": func(b *v1alpha1.OCIBundle) { b.Finalizers = nil },
		"label removed":     func(b *v1alpha1.OCIBundle) { b.Labels = nil },
		"owner added": func(b *v1alpha1.OCIBundle) {
			b.OwnerReferences = []metav1.OwnerReference{someoneElse("1-2", false)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := theBundle(t, c)
			edit(t, b, wrong)
			eventually(t, func() error {
				now, err := readBundle(t, c)
				if err != nil {
					return err
				}
				if now.ResourceVersion == b.ResourceVersion {
					return fmt.Errorf("nothing has been done")
				}
				a, _ := json.Marshal(now.Spec)
				z, _ := json.Marshal(right.Spec)
				if string(a) != string(z) {
					return fmt.Errorf("the spec is\n%s; wanted\n%s", a, z)
				}
				if len(now.Finalizers) != 1 || now.Labels[v1alpha1.LabelContainer] == "" ||
					len(now.OwnerReferences) > 0 {
					return fmt.Errorf("the metadata is %+v", now.ObjectMeta)
				}
				return nil
			})
			eventuallyHas(t, c, isReady)
		})
	}
}

func TestAnotherNodeNameMovesIt(t *testing.T) {
	hold := make(chan struct{})
	newFakeAgent(t, "node-a", func(a *fakeAgent) { a.hold = hold })
	newFakeAgent(t, "node-b")
	c := sample(namespace(t), "hello", func(c *v1alpha1.Container) { c.Spec.NodeName = "node-a" })
	create(t, c)
	eventuallyHas(t, c, isReady)
	old, err := readBundle(t, c)
	if err != nil {
		t.Fatal(err)
	}
	edit(t, c, func(c *v1alpha1.Container) { c.Spec.NodeName = "node-nowhere" })
	eventuallyHas(t, c, unscheduled(v1alpha1.ReasonUnschedulable, "node-nowhere"),
		want{kind: v1alpha1.ConditionReady, status: metav1.ConditionFalse, contains: "left as it is"})
	if b, err := readBundle(t, c); err != nil || b.DeletionTimestamp != nil {
		t.Errorf("it was taken off its node for one that does not exist (%v)", err)
	}

	edit(t, c, func(c *v1alpha1.Container) { c.Spec.NodeName = "node-b" })
	eventuallyHas(t, c, want{
		kind: v1alpha1.ConditionReconciling, status: metav1.ConditionTrue,
		reason: v1alpha1.ReasonTerminating,
	})
	b, err := readBundle(t, c)
	if err != nil || b.UID != old.UID || b.Spec.NodeName != "node-a" {
		t.Fatalf("the old OCIBundle is not waited for (%v): %+v", err, b)
	}
	close(hold)
	now := eventuallyHas(t, c, isReady)
	if now.Status.NodeName != "node-b" {
		t.Errorf("it is on %s", now.Status.NodeName)
	}
}

func TestForeignBundleIsLeftAlone(t *testing.T) {
	newFakeAgent(t, "node-a")
	ns := namespace(t)
	stranger := &v1alpha1.OCIBundle{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: v1alpha1.NodeNamespace("node-a"),
			Name:      v1alpha1.BundleName(ns, "hello"),
		},
		Spec: v1alpha1.OCIBundleSpec{NodeName: "node-a", RestartPolicy: corev1.RestartPolicyNever},
	}
	stranger.Spec.Config.Raw = []byte(`{}`)
	create(t, stranger)
	c := sample(ns, "hello")
	create(t, c)
	eventuallyHas(t, c, want{
		kind: v1alpha1.ConditionStalled, status: metav1.ConditionTrue,
		reason: v1alpha1.ReasonBundleConflict, contains: "delete it",
	})
	b := stranger.DeepCopy()
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(stranger), b); err != nil ||
		b.UID != stranger.UID || b.Generation != stranger.Generation {
		t.Errorf("the stranger's OCIBundle was touched (%v)", err)
	}
	if err := admin.Delete(t.Context(), stranger); err != nil {
		t.Fatal(err)
	}
	eventuallyHas(t, c, isReady, notStalled)

	// One of an earlier Container of the same name is nobody's any more: it goes, and makes room.
	orphan := &v1alpha1.OCIBundle{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: v1alpha1.NodeNamespace("node-a"),
			Name:      v1alpha1.BundleName(ns, "again"),
		},
		Spec: stranger.Spec,
	}
	orphan.Spec.ContainerRef = &v1alpha1.ContainerReference{
		Namespace: ns, Name: "again",
		UID: types.UID("of-another-time"),
	}
	create(t, orphan)
	again := sample(ns, "again")
	create(t, again)
	eventuallyHas(t, again, isReady)
}

// TestEarlierContainerEndsBesideAFault: the process of an earlier Container of the same name ends,
// although the spec of the new one cannot be compiled.
func TestEarlierContainerEndsBesideAFault(t *testing.T) {
	newFakeAgent(t, "node-a")
	ns := namespace(t)
	orphan := &v1alpha1.OCIBundle{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: v1alpha1.NodeNamespace("node-a"), Name: v1alpha1.BundleName(ns, "hello"),
			Finalizers: []string{v1alpha1.OCIBundleFinalizer},
		},
		Spec: v1alpha1.OCIBundleSpec{NodeName: "node-a", RestartPolicy: corev1.RestartPolicyNever},
	}
	orphan.Spec.Config.Raw = []byte(`{}`)
	orphan.Spec.ContainerRef = &v1alpha1.ContainerReference{
		Namespace: ns, Name: "hello",
		UID: types.UID("of-another-time"),
	}
	c := sample(ns, "hello", func(c *v1alpha1.Container) {
		c.Spec.SecurityContext = &v1alpha1.SecurityContext{SecurityContext: corev1.SecurityContext{
			Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NOT_A_CAPABILITY"}},
		}}
	})
	create(t, c)
	eventuallyHas(t, c, want{
		kind: v1alpha1.ConditionStalled, status: metav1.ConditionTrue,
		reason: v1alpha1.ReasonInvalidSpec,
	})
	create(t, orphan)
	eventually(t, func() error {
		err := admin.Get(t.Context(), client.ObjectKeyFromObject(orphan), &v1alpha1.OCIBundle{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("the OCIBundle of the earlier Container is there: %v", err)
	})
}

func TestLifeOfAProcessIsMirrored(t *testing.T) {
	a := newFakeAgent(t, "node-a")
	c := sample(namespace(t), "hello")
	create(t, c)
	now := eventuallyHas(t, c, isReady)

	ended := corev1.ContainerStateTerminated{
		ExitCode: 137, Reason: v1alpha1.ReasonOOMKilled,
		FinishedAt: metav1.Now(),
	}
	st := runs(nil)
	st.RestartCount, st.PID = 1, 0
	st.State = corev1.ContainerState{
		Waiting: &corev1.ContainerStateWaiting{Reason: v1alpha1.ReasonCrashLoopBackOff},
	}
	st.LastState = corev1.ContainerState{Terminated: &ended}
	st.Conditions[1] = condition(v1alpha1.ConditionRunning, metav1.ConditionFalse,
		v1alpha1.ReasonCrashLoopBackOff, "back-off 10s")
	a.say(c, st)
	eventuallyHas(t, c, isReconciling, notStalled,
		want{
			kind: v1alpha1.ConditionReady, status: metav1.ConditionFalse,
			reason: v1alpha1.ReasonCrashLoopBackOff, contains: "back-off 10s",
		})
	eventuallyEvent(t, now, "OOMKilled", "BackOff")

	st.Phase = v1alpha1.ContainerSucceeded
	st.Conditions[1] = condition(v1alpha1.ConditionRunning, metav1.ConditionFalse,
		v1alpha1.ReasonCompleted, "ended with exit code 0")
	st.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
		ExitCode: 0,
		Reason:   v1alpha1.ReasonCompleted,
	}}
	a.say(c, st)
	done := eventuallyHas(t, c, isReady, notStalled)
	if done.Status.Phase != v1alpha1.ContainerSucceeded || done.Status.RestartCount != 1 {
		t.Errorf("the status is %+v", done.Status)
	}
	eventuallyEvent(t, now, "Completed")

	st.Phase = v1alpha1.ContainerFailed
	st.Conditions[1] = condition(v1alpha1.ConditionRunning, metav1.ConditionFalse,
		v1alpha1.ReasonExited, "ended with exit code 3")
	a.say(c, st)
	eventuallyHas(t, c, want{
		kind: v1alpha1.ConditionStalled, status: metav1.ConditionTrue,
		reason: v1alpha1.ReasonExited, contains: "exit code 3",
	})
	eventuallyEvent(t, now, "Exited")
}

func TestEventsAreNotRepeated(t *testing.T) {
	a := newFakeAgent(t, "node-a")
	c := sample(namespace(t), "hello")
	create(t, c)
	eventuallyHas(t, c, isReady)
	ended := runs(nil)
	ended.Phase, ended.State, ended.PID = v1alpha1.ContainerSucceeded, corev1.ContainerState{}, 0
	ended.Conditions[1] = condition(v1alpha1.ConditionRunning, metav1.ConditionFalse,
		v1alpha1.ReasonCompleted, "ended with exit code 0")
	a.say(c, ended)
	eventuallyEvent(t, c, "Completed")
	list := &eventsv1.EventList{}
	if err := admin.List(t.Context(), list, client.InNamespace(c.Namespace)); err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, e := range list.Items {
		count[e.Reason]++
		if e.Series != nil {
			count[e.Reason] += int(e.Series.Count)
		}
	}
	for reason, n := range count {
		if n != 1 {
			t.Errorf("event %s was sent %d times", reason, n)
		}
	}
}
