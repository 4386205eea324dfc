// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/berth-run/berth/api/oci/compile"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/controllers/container"
	"github.com/berth-run/berth/controllers/profile"
	"github.com/berth-run/berth/controllers/scheduling"
)

// someoneElse returns an owner reference that no controller of ours has set.
func someoneElse(uid types.UID, controller bool) metav1.OwnerReference {
	return metav1.OwnerReference{
		APIVersion: "v1", Kind: "ConfigMap", Name: "x", UID: uid,
		Controller: &controller,
	}
}

// TestFinalizerIsPutBack: a client that replaces a Container drops its finalizer, also together
// with a spec that is refused.
func TestFinalizerIsPutBack(t *testing.T) {
	newFakeAgent(t, "node-a")
	c := sample(namespace(t), "hello")
	create(t, c)
	eventuallyHas(t, c, isReady)
	for name, change := range map[string]func(*v1alpha1.Container){
		"the same spec": func(*v1alpha1.Container) {},
		"a wrong spec": func(c *v1alpha1.Container) {
			c.Spec.SecurityContext = &v1alpha1.SecurityContext{SecurityContext: corev1.SecurityContext{
				Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"FLY"}},
			}}
		},
		"a node that does not exist": func(c *v1alpha1.Container) {
			c.Spec.SecurityContext, c.Spec.NodeName = nil, "nowhere"
		},
	} {
		t.Run(name, func(t *testing.T) {
			edit(t, c, func(c *v1alpha1.Container) {
				change(c)
				c.Finalizers = nil
			})
			eventually(t, func() error {
				now, err := read(t, c)
				if err == nil && !controllerutil.ContainsFinalizer(now, v1alpha1.ContainerFinalizer) {
					err = fmt.Errorf("the finalizers are %q", now.Finalizers)
				}
				return err
			})
		})
	}
}

// TestOwnerReferenceIsRemoved: whose an OCIBundle is stands in its spec. An owner reference names
// nothing that is in the namespace of a node, so the OCIBundle would be collected as garbage.
func TestOwnerReferenceIsRemoved(t *testing.T) {
	newFakeAgent(t, "node-a")
	c := sample(namespace(t), "hello")
	create(t, c)
	now := eventuallyHas(t, c, isReady)
	for name, owner := range map[string]metav1.OwnerReference{
		"another controller": someoneElse("1-2", true),
		"the Container": {
			APIVersion: v1alpha1.GroupVersion.String(), Kind: "Container",
			Name: c.Name, UID: now.UID, Controller: ptr.To(true),
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := theBundle(t, c)
			edit(t, b, func(b *v1alpha1.OCIBundle) { b.OwnerReferences = []metav1.OwnerReference{owner} })
			eventually(t, func() error {
				have, err := readBundle(t, c)
				if err == nil && have.UID != b.UID {
					t.Fatal("the OCIBundle was replaced")
				}
				if err == nil && len(have.OwnerReferences) > 0 {
					err = fmt.Errorf("the owner references are %+v", have.OwnerReferences)
				}
				return err
			})
		})
	}
}

// TestNodeOfAContainerIsPutBack: the annotation that says where a Container is can be edited by
// whoever may edit the Container. It moves nothing, and leaves nothing behind.
func TestNodeOfAContainerIsPutBack(t *testing.T) {
	newFakeAgent(t, "node-a")
	newFakeAgent(t, "node-b")
	c := sample(namespace(t), "hello", func(c *v1alpha1.Container) { c.Spec.NodeName = "node-a" })
	create(t, c)
	eventuallyHas(t, c, isReady)
	before := theBundle(t, c)
	for _, wrong := range []string{"", "node-b", "node-nowhere", "no node at all/.."} {
		edit(t, c, func(c *v1alpha1.Container) {
			c.Annotations[v1alpha1.AnnotationNode] = wrong
			c.Finalizers = nil
		})
		eventually(t, func() error {
			now, err := read(t, c)
			if err == nil && (now.Annotations[v1alpha1.AnnotationNode] != "node-a" ||
				len(now.Finalizers) != 1) {
				err = fmt.Errorf("%q: the metadata is %+v", wrong, now.ObjectMeta)
			}
			return err
		})
		if b := theBundle(t, c); b.UID != before.UID || b.DeletionTimestamp != nil ||
			b.Generation != before.Generation {
			t.Errorf("%q: the OCIBundle was touched: %+v", wrong, b.ObjectMeta)
		}
	}
}

// TestContainerWaitsForABundleWithoutOwner: an OCIBundle that has lost its owner reference still
// holds its Container, until the agent has let go of it.
func TestContainerWaitsForABundleWithoutOwner(t *testing.T) {
	for name, owners := range map[string][]metav1.OwnerReference{
		"none":    nil,
		"another": {someoneElse("1-2", true)},
	} {
		t.Run(name, func(t *testing.T) {
			hold := make(chan struct{})
			newFakeAgent(t, "node-a", func(a *fakeAgent) { a.hold = hold })
			c := sample(namespace(t), "hello")
			create(t, c)
			eventuallyHas(t, c, isReady)
			if err := admin.Delete(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			b := theBundle(t, c)
			edit(t, b, func(b *v1alpha1.OCIBundle) { b.OwnerReferences = owners })
			// Any event makes the controller look again.
			edit(t, c, func(c *v1alpha1.Container) { c.Labels = map[string]string{"look": "again"} })
			eventuallyHas(t, c, want{
				kind: v1alpha1.ConditionReconciling, status: metav1.ConditionTrue,
				reason: v1alpha1.ReasonTerminating,
			})
			eventuallyBundle(t, c, func(b *v1alpha1.OCIBundle) error {
				if b.DeletionTimestamp == nil {
					return errors.New("the OCIBundle is not being deleted")
				}
				return nil
			})
			close(hold)
			gone(t, c)
		})
	}
}

// TestBundleIsHeldWhateverTheSpec: a Container whose spec is refused still holds its OCIBundle.
func TestBundleIsHeldWhateverTheSpec(t *testing.T) {
	hold := make(chan struct{})
	newFakeAgent(t, "node-a", func(a *fakeAgent) { a.hold = hold })
	c := sample(namespace(t), "hello")
	create(t, c)
	eventuallyHas(t, c, isReady)
	edit(t, c, func(c *v1alpha1.Container) {
		c.Spec.SecurityContext = &v1alpha1.SecurityContext{SecurityContext: corev1.SecurityContext{
			Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"FLY"}},
		}}
	})
	b := theBundle(t, c)
	edit(t, b, func(b *v1alpha1.OCIBundle) { b.Finalizers, b.OwnerReferences = nil, nil })
	eventually(t, func() error {
		now, err := readBundle(t, c)
		if err == nil && (!controllerutil.ContainsFinalizer(now, v1alpha1.OCIBundleFinalizer) ||
			len(now.OwnerReferences) != 0) {
			err = fmt.Errorf("the metadata is %+v", now.ObjectMeta)
		}
		return err
	})
	close(hold)
}

// oldBundle returns an OCIBundle as a controller wrote it that did not know spec.containerRef.
func oldBundle(c *v1alpha1.Container, node string) *v1alpha1.OCIBundle {
	b := &v1alpha1.OCIBundle{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: c.Namespace, Name: c.Name, Labels: map[string]string{v1alpha1.LabelContainer: c.Name},
			Finalizers: []string{v1alpha1.OCIBundleFinalizer},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: v1alpha1.GroupVersion.String(), Kind: "Container", Name: c.Name, UID: c.UID,
				Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(true),
			}},
		},
		Spec: v1alpha1.OCIBundleSpec{NodeName: node, RestartPolicy: corev1.RestartPolicyAlways},
	}
	b.Spec.Config.Raw = []byte(`{}`)
	return b
}

// unplaced returns a Container that waits, and so has no OCIBundle of the controller's making.
func unplaced(t *testing.T, name string) *v1alpha1.Container {
	t.Helper()
	c := sample(namespace(t), name, func(c *v1alpha1.Container) {
		c.Spec.NodeSelector = map[string]string{"no-node": "has-this"}
	})
	create(t, c)
	eventuallyHas(t, c, unscheduled(v1alpha1.ReasonUnschedulable, ""))
	return c
}

// TestOldBundleIsAdopted: an upgrade adopts the OCIBundles of an older controller, and replaces no
// container.
func TestOldBundleIsAdopted(t *testing.T) {
	newFakeAgent(t, "node-a")
	c := unplaced(t, "hello")
	old := oldBundle(c, "node-a")
	create(t, old)
	eventually(t, func() error {
		now, err := readBundle(t, c)
		if err != nil {
			return err
		}
		if now.IsFormer() {
			return fmt.Errorf("it is in namespace %s", now.Namespace)
		}
		if former := now.Spec.Former; former == nil || former.UID != old.UID {
			t.Fatalf("the OCIBundle replaces %+v", former)
		}
		if ref := now.Spec.ContainerRef; ref == nil || ref.UID != c.UID || ref.Name != c.Name {
			return fmt.Errorf("containerRef is %+v", ref)
		}
		return nil
	})
	eventuallyHas(t, c, isReady)
}

// TestOldBundleWithoutOwnerHoldsItsContainer: not even the label is needed to be ours for certain;
// a process may run there.
func TestOldBundleWithoutOwnerHoldsItsContainer(t *testing.T) {
	hold := make(chan struct{})
	newFakeAgent(t, "node-a", func(a *fakeAgent) { a.hold = hold })
	c := unplaced(t, "hello")
	edit(t, c, func(c *v1alpha1.Container) { c.Finalizers = []string{v1alpha1.ContainerFinalizer} })
	old := oldBundle(c, "node-a")
	old.OwnerReferences = nil
	create(t, old)
	if err := admin.Delete(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		now, err := readBundle(t, c)
		if err == nil && now.DeletionTimestamp == nil {
			err = fmt.Errorf("the OCIBundle is not being deleted")
		}
		return err
	})
	if _, err := read(t, c); err != nil {
		t.Errorf("the Container has gone before its OCIBundle: %v", err)
	}
	close(hold)
	gone(t, c)
}

// TestBundleOfAGoneContainerIsDeleted: the controller deletes an OCIBundle whose Container lost its
// finalizer and is gone. No garbage collector runs here.
func TestBundleOfAGoneContainerIsDeleted(t *testing.T) {
	newFakeAgent(t, "node-a")
	ns := namespace(t)
	orphan := &v1alpha1.OCIBundle{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: v1alpha1.NodeNamespace("node-a"), Name: "any",
			Finalizers: []string{v1alpha1.OCIBundleFinalizer},
		},
		Spec: v1alpha1.OCIBundleSpec{
			NodeName: "node-a", RestartPolicy: corev1.RestartPolicyAlways,
			ContainerRef: &v1alpha1.ContainerReference{Namespace: ns, Name: "hello", UID: "of-another-time"},
		},
	}
	orphan.Spec.Config.Raw = []byte(`{}`)
	create(t, orphan)
	eventually(t, func() error {
		err := admin.Get(t.Context(), client.ObjectKeyFromObject(orphan), &v1alpha1.OCIBundle{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there still (%v)", err)
		}
		return nil
	})
}

// TestForeignBundleIsNotTakenOverInARace: the cache of a controller does not show it an OCIBundle
// that somebody has created under the Container's name a moment ago.
func TestForeignBundleIsNotTakenOverInARace(t *testing.T) {
	newFakeAgent(t, "node-a")
	c := unplaced(t, "hello")
	stranger := &v1alpha1.OCIBundle{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: v1alpha1.NodeNamespace("node-a"),
			Name:      v1alpha1.BundleName(c.Namespace, c.Name),
		},
		Spec: v1alpha1.OCIBundleSpec{NodeName: "node-a", RestartPolicy: corev1.RestartPolicyNever},
	}
	stranger.Spec.Config.Raw = []byte(`{}`)
	create(t, stranger)
	t.Cleanup(func() { _ = admin.Delete(context.Background(), stranger) })

	direct, err := client.NewWithWatch(adminConfig, client.Options{Scheme: admin.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	behind := interceptor.NewClient(direct, interceptor.Funcs{
		Get: func(ctx context.Context, to client.WithWatch, key client.ObjectKey, o client.Object,
			opts ...client.GetOption,
		) error {
			if err := to.Get(ctx, key, o, opts...); err != nil {
				return err
			}
			if c, ok := o.(*v1alpha1.Container); ok {
				c.Spec.NodeSelector = nil
			}
			return nil
		},
		List: func(ctx context.Context, to client.WithWatch, o client.ObjectList,
			opts ...client.ListOption,
		) error {
			if _, ok := o.(*v1alpha1.OCIBundleList); ok {
				return nil
			}
			return to.List(ctx, o, opts...)
		},
	})
	r := &container.Reconciler{
		Client: behind, Live: direct, Ledger: scheduling.NewLedger(),
		Recorder: events.NewFakeRecorder(100), Clock: clock.RealClock{}, Compile: compile.Bundle,
		Profiles: profile.New(cached, live, clock.RealClock{}, time.Hour),
	}
	result, err := r.Reconcile(t.Context(),
		ctrl.Request{NamespacedName: client.ObjectKeyFromObject(c)})
	if err != nil || result.RequeueAfter == 0 {
		t.Errorf("found %+v, %v; wanted another look after a while", result, err)
	}
	now := &v1alpha1.OCIBundle{}
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(stranger), now); err != nil ||
		now.UID != stranger.UID || now.Generation != stranger.Generation || len(now.Labels)+
		len(now.Finalizers) > 0 {
		t.Errorf("the stranger's OCIBundle was touched (%v): %+v", err, now)
	}
}
