// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/berth-run/berth/api/oci/compile"
	"github.com/berth-run/berth/api/oci/seccompref"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/controllers/container"
	"github.com/berth-run/berth/controllers/profile"
	"github.com/berth-run/berth/controllers/scheduling"
)

// formerBundle creates the OCIBundle of a Container as controllers before revision 2 did, with what
// its agent says.
func formerBundle(t *testing.T, c *v1alpha1.Container, node string) *v1alpha1.OCIBundle {
	t.Helper()
	spec, faults := compile.Bundle(c)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	content, err := seccompref.Split(spec)
	if err != nil {
		t.Fatal(err)
	}
	p := &v1alpha1.SeccompProfile{
		ObjectMeta: metav1.ObjectMeta{Name: seccompref.Name(spec.SeccompProfile)},
		Spec:       v1alpha1.SeccompProfileSpec{Profile: content},
	}
	if err := admin.Create(t.Context(), p); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	b := oldBundle(c, node)
	b.Spec = *spec
	b.Spec.NodeName = node
	b.Spec.ContainerRef = &v1alpha1.ContainerReference{Name: c.Name, UID: c.UID}
	b.Spec.CompiledGeneration, b.Spec.MinAgentRevision = c.Generation, 1
	// No digest of the spec: then nothing was edited.
	b.Annotations = map[string]string{"berth.run/run-digest": compile.RunDigest(c.Spec)}
	create(t, b)
	// It has been edited since, so that its generation is not that of its first version.
	for _, grace := range []int64{31, 30} {
		edit(t, b, func(b *v1alpha1.OCIBundle) { b.Spec.TerminationGracePeriodSeconds = grace })
	}
	return b
}

// setRevision replaces a node's agent by one of another revision.
func setRevision(t *testing.T, node string, revision int32) {
	t.Helper()
	eventually(t, func() error {
		agent := &v1alpha1.NodeAgent{}
		if err := admin.Get(t.Context(), client.ObjectKey{Name: node}, agent); err != nil {
			return err
		}
		agent.Status.NodeInfo.AgentRevision = revision
		return admin.Status().Update(t.Context(), agent)
	})
}

// TestUpgradeMovesBundlesBeforeTheAgentLooks: OCIBundles of an earlier controller move to the
// namespace of their node when its agent can read there, and the agent gets the right to read only
// after all have moved.
func TestUpgradeMovesBundlesBeforeTheAgentLooks(t *testing.T) {
	const node, n = "node-moves", 12
	a := newFakeAgent(t, node, func(a *fakeAgent) {
		a.revision, a.labels = 1, map[string]string{"moves": "yes"}
	})
	letIn := func() error {
		return admin.Get(t.Context(), client.ObjectKey{
			Namespace: v1alpha1.NodeNamespace(node),
			Name:      "berth-node-bundles",
		}, &rbacv1.RoleBinding{})
	}
	ns := namespace(t)
	there := func(c *v1alpha1.Container) {
		c.Spec.NodeSelector = map[string]string{"moves": "yes"}
		c.Spec.TerminationGracePeriodSeconds = ptr.To[int64](30)
	}
	former := map[string]*v1alpha1.OCIBundle{}
	for i := range n {
		c := sample(ns, fmt.Sprintf("c%d", i), there)
		create(t, c)
		eventuallyHas(t, c, unscheduled(v1alpha1.ReasonUnschedulable, "an agent too old"))
		former[c.Name] = formerBundle(t, c, node)
		now := eventuallyHas(t, c, isReady, isScheduled)
		if !controllerutil.ContainsFinalizer(now, v1alpha1.ContainerFinalizer) {
			t.Errorf("%s is not held", c.Name)
		}
	}
	// Until then the old agent has its say, and what it cannot have waits.
	edit(t, sample(ns, "c0"), func(c *v1alpha1.Container) { c.Spec.Command = []string{"changed"} })
	eventuallyHas(t, sample(ns, "c0"), unscheduled(v1alpha1.ReasonAgentTooOld, ""),
		want{kind: v1alpha1.ConditionReady, status: metav1.ConditionFalse, contains: "left as it is"})
	if err := admin.Delete(t.Context(), sample(ns, "c1")); err != nil {
		t.Fatal(err)
	}
	gone(t, sample(ns, "c1"))
	delete(former, "c1")
	eventually(t, func() error {
		if err := letIn(); !apierrors.IsNotFound(err) {
			return fmt.Errorf("the agent may look (%v)", err)
		}
		return nil
	})

	// The new agent says nothing until it may look, and then the same as before.
	a.halt()
	a.revision = 2
	setRevision(t, node, 2)
	eventually(t, letIn)
	list := &v1alpha1.OCIBundleList{}
	err := admin.List(t.Context(), list, client.MatchingFields{v1alpha1.OCIBundleNodeNameField: node})
	if err != nil || len(list.Items) != len(former) {
		t.Errorf("there are %d OCIBundles, not %d (%v)", len(list.Items), len(former), err)
	}
	for i := range list.Items {
		b := &list.Items[i]
		if b.IsFormer() {
			t.Fatalf("the agent may look, and %s is in %s", b.Name, b.Namespace)
		}
		was := former[b.Spec.ContainerRef.Name]
		if b.Spec.Former == nil || *b.Spec.Former != (v1alpha1.FormerBundle{
			UID:        was.UID,
			Generation: was.Generation,
		}) {
			t.Errorf("%s replaces %+v; wanted %s, %d", b.Name, b.Spec.Former, was.UID, was.Generation)
		}
		if b.DeletionTimestamp != nil || len(b.OwnerReferences) > 0 ||
			!controllerutil.ContainsFinalizer(b, v1alpha1.OCIBundleFinalizer) {
			t.Errorf("%s: the metadata is %+v", b.Name, b.ObjectMeta)
		}
		if b.Spec.ContainerRef.Name == "c0" {
			continue
		}
		if !bytes.Equal(b.Spec.Config.Raw, was.Spec.Config.Raw) ||
			!equality.Semantic.DeepEqual(b.Spec.Process, was.Spec.Process) ||
			b.Spec.SeccompProfile != was.Spec.SeccompProfile || b.Spec.CompiledGeneration != 1 ||
			b.Spec.MinAgentRevision != 2 {
			t.Errorf("%s: the spec is %+v", b.Name, b.Spec)
		}
		if st := b.Status; st.Phase != v1alpha1.ContainerRunning || st.PID != 4711 ||
			st.ObservedGeneration != b.Generation {
			t.Errorf("%s: the status is %+v", b.Name, st)
		}
		eventuallyHas(t, sample(ns, b.Spec.ContainerRef.Name), isReady)
	}
	a.start()
	// What waited for it goes on.
	eventuallyHas(t, sample(ns, "c0"), isReady)
	if b := theBundle(t, sample(ns, "c0")); b.Spec.Process.Command[0] != "changed" ||
		b.Spec.Former == nil {
		t.Errorf("the edit was lost: %+v", b.Spec)
	}
	late := sample(ns, "late", there)
	create(t, late)
	eventuallyHas(t, late, isReady)
	if b := theBundle(t, late); b.Spec.Former != nil {
		t.Errorf("a new one replaces %+v", b.Spec.Former)
	}
}

// TestMoveIsCutOffAtEveryWrite has the controller end before and after each write of a move, and
// another go on.
func TestMoveIsCutOffAtEveryWrite(t *testing.T) {
	const node = "node-cut"
	// The manager of this suite takes the agent for an old one, and so moves nothing by itself.
	a := newFakeAgent(t, node, func(a *fakeAgent) {
		a.revision, a.labels = 1, map[string]string{"cut": "yes"}
	})
	ns := namespace(t)
	errCut := errors.New("cut off")
	// reconciler takes the agent for a new one, and fails at the n-th write, before or after it is
	// done; never for 0.
	reconciler := func(n int, after bool) *container.Reconciler {
		count := 0
		cut := func(do func() error) error {
			count++
			if count == n && !after || n > 0 && count > n {
				return errCut
			}
			err := do()
			if count == n && err == nil {
				err = errCut
			}
			return err
		}
		c := interceptor.NewClient(watcher{cached}, interceptor.Funcs{
			Get: func(ctx context.Context, to client.WithWatch, key client.ObjectKey, o client.Object,
				opts ...client.GetOption,
			) error {
				err := to.Get(ctx, key, o, opts...)
				if agent, ok := o.(*v1alpha1.NodeAgent); ok {
					agent.Status.NodeInfo.AgentRevision = 2
				}
				return err
			},
			Patch: func(ctx context.Context, to client.WithWatch, o client.Object, p client.Patch,
				opts ...client.PatchOption,
			) error {
				return cut(func() error { return to.Patch(ctx, o, p, opts...) })
			},
			Apply: func(ctx context.Context, to client.WithWatch, o runtime.ApplyConfiguration,
				opts ...client.ApplyOption,
			) error {
				return cut(func() error { return to.Apply(ctx, o, opts...) })
			},
			Delete: func(ctx context.Context, to client.WithWatch, o client.Object,
				opts ...client.DeleteOption,
			) error {
				return cut(func() error { return to.Delete(ctx, o, opts...) })
			},
			SubResourcePatch: func(ctx context.Context, to client.Client, sub string, o client.Object,
				p client.Patch, opts ...client.SubResourcePatchOption,
			) error {
				return cut(func() error { return to.SubResource(sub).Patch(ctx, o, p, opts...) })
			},
		})
		return &container.Reconciler{
			Client: c, Live: live, Ledger: scheduling.NewLedger(), Recorder: events.NewFakeRecorder(100),
			Clock:   clock.RealClock{},
			Compile: compile.Bundle, Profiles: profile.New(cached, live, clock.RealClock{}, time.Hour),
			NodeGracePeriod: grace,
		}
	}
	// The writes: claim, create, status, finalizer, delete. The manager of this suite may be the
	// next controller from the second on.
	for n := 1; n <= 5; n++ {
		for _, after := range []bool{false, true} {
			name := fmt.Sprintf("n%d-%t", n, after)
			c := sample(ns, name, func(c *v1alpha1.Container) {
				c.Spec.NodeSelector = map[string]string{"cut": "yes"}
				c.Spec.TerminationGracePeriodSeconds = ptr.To[int64](30)
			})
			create(t, c)
			eventuallyHas(t, c, unscheduled(v1alpha1.ReasonUnschedulable, "an agent too old"))
			was := formerBundle(t, c, node)
			eventuallyHas(t, c, isReady)
			cachedBundle(t, c)
			eventually(t, func() error { // a conflict with the manager is no cut
				_, err := reconciler(n, after).Reconcile(t.Context(),
					ctrl.Request{NamespacedName: client.ObjectKeyFromObject(c)})
				if n == 1 && !errors.Is(err, errCut) {
					return fmt.Errorf("%s: it was not cut off: %v", name, err)
				}
				return nil
			})
			for _, b := range must(readBundles(t.Context(), c)) {
				if b.DeletionTimestamp != nil && !b.IsFormer() {
					t.Errorf("%s: the new OCIBundle is being deleted", name)
				}
			}
			// The next controller finishes it.
			eventually(t, func() error {
				if _, err := reconciler(0, false).Reconcile(t.Context(),
					ctrl.Request{NamespacedName: client.ObjectKeyFromObject(c)}); err != nil {
					return err
				}
				b, err := readBundle(t, c)
				if err != nil {
					return err
				}
				if b.IsFormer() || b.Spec.Former == nil || b.Spec.Former.UID != was.UID ||
					b.DeletionTimestamp != nil {
					return fmt.Errorf("it is %+v, of %+v", b.ObjectMeta, b.Spec.Former)
				}
				if b.Status.Phase != v1alpha1.ContainerRunning || b.Status.PID != 4711 {
					t.Errorf("%s: the status was lost: %+v", name, b.Status)
				}
				now, err := read(t, c)
				if err == nil && now.Annotations[v1alpha1.AnnotationNode] != node {
					err = fmt.Errorf("the Container's annotations are %v", now.Annotations)
				}
				return err
			})
		}
	}
	// The agent is new from now on, and takes down what is left.
	a.halt()
	a.revision = 2
	setRevision(t, node, 2)
	a.start()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// watcher makes a client of the manager one that interceptor takes.
type watcher struct{ client.Client }

func (watcher) Watch(context.Context, client.ObjectList, ...client.ListOption) (watch.Interface,
	error,
) {
	return nil, errors.New("not used")
}

// TestTenantSeesTheCompiledSpec: whoever may annotate a Container can have the runtime spec shown
// that its node gets.
func TestTenantSeesTheCompiledSpec(t *testing.T) {
	newFakeAgent(t, "node-a")
	c := sample(namespace(t), "hello")
	create(t, c)
	if now := eventuallyHas(t, c, isReady); now.Status.Compiled != nil {
		t.Errorf("it is shown to those who do not ask: %+v", now.Status.Compiled)
	}
	shows := func(contains string) func() error {
		return func() error {
			now, err := read(t, c)
			if err != nil {
				return err
			}
			if now.Status.Compiled == nil || !bytes.Contains(now.Status.Compiled.Spec.Raw,
				[]byte(contains)) {
				return fmt.Errorf("status.compiled is %+v", now.Status.Compiled)
			}
			return nil
		}
	}
	edit(t, c, func(c *v1alpha1.Container) {
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, v1alpha1.AnnotationShowCompiled, "")
	})
	eventually(t, shows(`"ociVersion"`))
	edit(t, c, func(c *v1alpha1.Container) {
		c.Spec.Env = []corev1.EnvVar{{Name: "SEEN", Value: "later"}}
	})
	eventually(t, shows("SEEN=later"))
	eventuallyHas(t, c, isReady)
	edit(t, c, func(c *v1alpha1.Container) { delete(c.Annotations, v1alpha1.AnnotationShowCompiled) })
	eventually(t, func() error {
		now, err := read(t, c)
		if err == nil && now.Status.Compiled != nil {
			err = errors.New("it is shown still")
		}
		return err
	})
}

// TestNamespaceOfANode: it comes and goes with the NodeAgent, and stays as long as anything is
// dispatched there.
func TestNamespaceOfANode(t *testing.T) {
	const node = "odd.node-" + "name.which-is-longer-than-a-namespace-may-be.example.com"
	a := newFakeAgent(t, node, func(a *fakeAgent) { a.labels = map[string]string{"odd": "yes"} })
	key := client.ObjectKey{Name: v1alpha1.NodeNamespace(node)}
	ns := &corev1.Namespace{}
	account := &corev1.ServiceAccount{}
	binding := &rbacv1.RoleBinding{}
	all := func() error {
		return errors.Join(admin.Get(t.Context(), key, ns),
			admin.Get(t.Context(), client.ObjectKey{Namespace: v1alpha1.NodesNamespace, Name: node},
				account),
			admin.Get(t.Context(), client.ObjectKey{Namespace: key.Name, Name: "berth-node-bundles"},
				binding),
			admin.Get(t.Context(), client.ObjectKey{Namespace: key.Name, Name: "berth-node-heartbeat"},
				&rbacv1.RoleBinding{}))
	}
	eventually(t, all)
	if ns.Annotations[v1alpha1.AnnotationNode] != node || len(binding.Subjects) != 2 ||
		binding.Subjects[1].Name != "berth:node:"+node {
		t.Errorf("found %+v, %+v", ns.ObjectMeta, binding.Subjects)
	}
	// What somebody deletes or changes is put back.
	binding.Subjects = []rbacv1.Subject{{
		Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName,
		Name: "somebody",
	}}
	err := errors.Join(admin.Update(t.Context(), binding), admin.Delete(t.Context(), account))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if err := all(); err != nil {
			return err
		}
		if len(binding.Subjects) != 2 {
			return fmt.Errorf("the subjects are %+v", binding.Subjects)
		}
		return nil
	})

	c := sample(namespace(t), "done", func(c *v1alpha1.Container) {
		c.Spec.NodeSelector, c.Spec.RestartPolicy = map[string]string{"odd": "yes"},
			corev1.RestartPolicyNever
	})
	a.halt()
	a.answer = func(*v1alpha1.OCIBundle) v1alpha1.OCIBundleStatus { return succeeded() }
	a.start()
	create(t, c)
	eventuallyHas(t, c, isReady)
	a.halt()
	agent := &v1alpha1.NodeAgent{ObjectMeta: metav1.ObjectMeta{Name: node}}
	if err := admin.Delete(t.Context(), agent); err != nil {
		t.Fatal(err)
	}
	// A finished Container keeps its word, and so its OCIBundle and the namespace.
	time.Sleep(grace + time.Second)
	if err := all(); err != nil || ns.DeletionTimestamp != nil {
		t.Errorf("the namespace went before what is in it: %v", err)
	}
	if err := admin.Delete(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	gone(t, c)
	eventually(t, func() error {
		errNS, errAccount := admin.Get(t.Context(), key, ns),
			admin.Get(t.Context(), client.ObjectKeyFromObject(account), account)
		if !apierrors.IsNotFound(errNS) || !apierrors.IsNotFound(errAccount) {
			return fmt.Errorf("left: namespace (%v), ServiceAccount (%v)", errNS, errAccount)
		}
		return nil
	})
	// A node of that name may come again.
	agent = &v1alpha1.NodeAgent{ObjectMeta: metav1.ObjectMeta{Name: node}}
	create(t, agent)
	eventually(t, all)
	lease := a.lease()
	create(t, lease)
	a.start()
}

// TestForeignNamespaceIsNotTakenOver: a namespace that only has the name of a node's is given to no
// agent.
func TestForeignNamespaceIsNotTakenOver(t *testing.T) {
	foreign := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "berth-node-foreign"}}
	create(t, foreign)
	agent := &v1alpha1.NodeAgent{ObjectMeta: metav1.ObjectMeta{Name: "foreign"}}
	create(t, agent)
	t.Cleanup(func() { _ = admin.Delete(context.Background(), agent) })
	eventuallyEvent(t, agent, "NamespaceFailed")
	// A node that is registered after it has everything.
	newFakeAgent(t, "node-a")
	eventually(t, func() error {
		return admin.Get(t.Context(), client.ObjectKey{
			Namespace: "berth-node-node-a",
			Name:      "berth-node-bundles",
		}, &rbacv1.RoleBinding{})
	})
	list := &rbacv1.RoleBindingList{}
	if err := admin.List(t.Context(), list, client.InNamespace(foreign.Name)); err != nil ||
		len(list.Items) > 0 {
		t.Errorf("found %+v (%v)", list.Items, err)
	}
}
