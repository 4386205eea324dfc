// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/oci/compile"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/controllers/container"
	"github.com/berth-run/berth/controllers/scheduling"
)

var outOfService = corev1.Taint{
	Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown",
	Effect: corev1.TaintEffectNoExecute,
}

// TestAdministratorSaysThatANodeIsGone: each of the documented acts frees all that waits for a lost
// node, at once, and nothing before does.
func TestAdministratorSaysThatANodeIsGone(t *testing.T) {
	taintNode := func(t *testing.T, name string) {
		edit(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{outOfService}
		})
	}
	deleteAgent := func(t *testing.T, name string) {
		err := admin.Delete(t.Context(), &v1alpha1.NodeAgent{ObjectMeta: metav1.ObjectMeta{Name: name}})
		if err != nil {
			t.Fatal(err)
		}
	}
	cases := []struct {
		name string
		// core reports whether there is a Node besides the NodeAgent.
		core bool
		act  func(t *testing.T, node string)
	}{
		{"node-lost-1", true, taintNode},
		{"node-lost-2", false, func(t *testing.T, name string) {
			edit(t, &v1alpha1.NodeAgent{ObjectMeta: metav1.ObjectMeta{Name: name}},
				func(n *v1alpha1.NodeAgent) {
					n.Spec.Taints = []corev1.Taint{outOfService}
				})
		}},
		{"node-lost-3", false, deleteAgent},
		{"node-lost-4", true, func(t *testing.T, name string) {
			deleteAgent(t, name)
			// The Node is there still, so the machine may be.
			eventuallyHas(t, sample("", "service", inNamespaceOf(t, name)),
				want{kind: v1alpha1.ConditionReady, status: metav1.ConditionUnknown, contains: "but Node " +
					name + " does"})
			err := admin.Delete(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
			if err != nil {
				t.Fatal(err)
			}
		}},
	}
	spare := newFakeAgent(t, "node-spare")
	agents := map[string]*fakeAgent{}
	for _, tc := range cases {
		agents[tc.name] = newFakeAgent(t, tc.name, func(a *fakeAgent) {
			a.answer = func(b *v1alpha1.OCIBundle) v1alpha1.OCIBundleStatus {
				if b.Labels[v1alpha1.LabelContainer] == "finished" {
					return succeeded()
				}
				return runs(b)
			}
		})
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespaceOf(t, tc.name)}}
		create(t, ns)
		// Cordoned for a moment, so that all of these go where they are wanted without
		// spec.nodeName.
		cordon(t, spare.name, true)
		for _, name := range []string{"service", "finished", "once", "pinned", "leaving"} {
			c := sample(ns.Name, name, func(c *v1alpha1.Container) {
				switch name {
				case "finished", "once":
					c.Spec.RestartPolicy = corev1.RestartPolicyNever
				case "pinned":
					c.Spec.NodeName = tc.name
				}
			})
			create(t, c)
		}
		for _, name := range []string{"service", "finished", "once", "pinned", "leaving"} {
			if now := eventuallyHas(t, sample(ns.Name, name), isReady); now.Status.NodeName != tc.name {
				t.Fatalf("%s is on node %s", name, now.Status.NodeName)
			}
		}
		if tc.core { // only now: the API server taints it, as no kubelet reports
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: tc.name}}
			create(t, node)
			t.Cleanup(func() { _ = admin.Delete(context.Background(), node) })
		}
		// The next ones go to the next node.
		cordon(t, tc.name, true)
	}
	cordon(t, spare.name, false)
	for _, a := range agents {
		a.halt()
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			ns := namespaceOf(t, tc.name)
			get := func(name string) *v1alpha1.Container { return sample(ns, name) }
			t.Cleanup(func() { // the machine is repaired, and its agent back
				agent := &v1alpha1.NodeAgent{ObjectMeta: metav1.ObjectMeta{Name: tc.name}}
				_ = admin.Create(context.Background(), agent)
				agents[tc.name].start()
			})
			unknown := want{
				kind: v1alpha1.ConditionReady, status: metav1.ConditionUnknown,
				reason: v1alpha1.ReasonNodeLost,
			}
			for _, part := range []string{
				"not placed elsewhere",
				"administrator who knows that the machine is off", corev1.TaintNodeOutOfService,
			} {
				unknown.contains = part
				eventuallyHas(t, get("service"), unknown)
			}
			if err := admin.Delete(t.Context(), get("leaving")); err != nil {
				t.Fatal(err)
			}
			eventuallyHas(t, get("leaving"), want{
				kind: v1alpha1.ConditionReady, status: metav1.ConditionFalse,
				reason:   v1alpha1.ReasonTerminating,
				contains: "An administrator who knows that the machine is off",
			})
			old := eventuallyBundle(t, get("service"), func(*v1alpha1.OCIBundle) error { return nil })

			tc.act(t, tc.name)

			gone(t, get("leaving"))
			if now := eventuallyHas(t, get("service"), isReady); now.Status.NodeName != spare.name {
				t.Errorf("it is placed on node %s", now.Status.NodeName)
			}
			if b, err := readBundle(t, get("service")); err != nil || b.UID == old.UID {
				t.Errorf("the OCIBundle is the old one (%v)", err)
			}
			if now := eventuallyHas(t, get("finished"),
				isReady); now.Status.Phase != v1alpha1.ContainerSucceeded || now.Status.NodeName != tc.name {
				t.Errorf("the finished one is %s on node %s", now.Status.Phase, now.Status.NodeName)
			}
			now := eventuallyHas(t, get("once"), want{
				kind:   v1alpha1.ConditionStalled,
				status: metav1.ConditionTrue, reason: v1alpha1.ReasonNodeLost, contains: "not run again",
			})
			if end := now.Status.State.Terminated; now.Status.Phase != v1alpha1.ContainerFailed ||
				now.Status.NodeName != tc.name || end == nil || end.ExitCode != 137 {
				t.Errorf("the one that must not run twice is %+v", now.Status)
			}
			eventuallyHas(t, get("pinned"), want{
				kind:   v1alpha1.ConditionReady,
				status: metav1.ConditionUnknown, contains: "spec.nodeName keeps it there",
			})

			// An edit places these, too.
			edit(t, get("pinned"), func(c *v1alpha1.Container) { c.Spec.NodeName = "" })
			edit(t, get("once"), func(c *v1alpha1.Container) { c.Spec.Args = []string{"again"} })
			for _, name := range []string{"pinned", "once"} {
				if now := eventuallyHas(t, get(name), isReady); now.Status.NodeName != spare.name {
					t.Errorf("%s is placed on node %s", name, now.Status.NodeName)
				}
			}
			// What is left is deleted at once, without an agent.
			err := admin.DeleteAllOf(t.Context(), &v1alpha1.Container{}, client.InNamespace(ns))
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"service", "finished", "once", "pinned"} {
				gone(t, get(name))
			}
		})
	}
}

// cordon keeps Containers from a node, or lets them go there, from now on: it waits until the
// controller, which places a Container as soon as it sees it, has seen that.
func cordon(t *testing.T, node string, unschedulable bool) {
	t.Helper()
	agent := &v1alpha1.NodeAgent{ObjectMeta: metav1.ObjectMeta{Name: node}}
	edit(t, agent, func(n *v1alpha1.NodeAgent) { n.Spec.Unschedulable = unschedulable })
	eventually(t, func() error {
		seen := &v1alpha1.NodeAgent{}
		err := cached.Get(t.Context(), client.ObjectKeyFromObject(agent), seen)
		if err == nil && seen.Spec.Unschedulable != unschedulable {
			err = fmt.Errorf("the cache has node %s as it was", node)
		}
		return err
	})
}

func namespaceOf(t *testing.T, node string) string {
	t.Helper()
	return "ns-" + node
}

func inNamespaceOf(t *testing.T, node string) func(*v1alpha1.Container) {
	return func(c *v1alpha1.Container) { c.Namespace = namespaceOf(t, node) }
}

// TestNodeThatIsHeardIsNotGone: neither the taint nor a deletion by mistake takes anything from an
// agent that lives.
func TestNodeThatIsHeardIsNotGone(t *testing.T) {
	a := newFakeAgent(t, "node-a")
	newFakeAgent(t, "node-b")
	c := sample(namespace(t), "hello", func(c *v1alpha1.Container) {
		c.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "node-a"}
	})
	create(t, c)
	eventuallyHas(t, c, isReady)
	before := cachedBundle(t, c)
	agent := &v1alpha1.NodeAgent{ObjectMeta: metav1.ObjectMeta{Name: "node-a"}}
	edit(t, agent, func(n *v1alpha1.NodeAgent) { n.Spec.Taints = []corev1.Taint{outOfService} })
	look := func() {
		t.Helper()
		r := &container.Reconciler{
			Client: noWrites{cached, t}, Live: live, Ledger: scheduling.NewLedger(), Compile: compile.Bundle,
			Recorder: events.NewFakeRecorder(10), Clock: clock.RealClock{}, NodeGracePeriod: grace,
		}
		_, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(c)})
		if err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() error { // the cache has the taint
		seen := &v1alpha1.NodeAgent{}
		if err := cached.Get(t.Context(), client.ObjectKeyFromObject(agent), seen); err != nil ||
			len(seen.Spec.Taints) == 0 {
			return fmt.Errorf("the taint is not seen (%v)", err)
		}
		return nil
	})
	look()

	status := agent.Status
	lease := a.lease()
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(lease), lease); err != nil {
		t.Fatal(err)
	}
	if err := admin.Delete(t.Context(), agent); err != nil {
		t.Fatal(err)
	}
	// The agent notices since its Lease is gone: it looks at the NodeAgent less often.
	eventually(t, func() error {
		now := a.lease()
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(now), now); err == nil &&
			now.UID == lease.UID {
			return errors.New("the Lease is still there")
		}
		return nil
	})
	ns := &corev1.Namespace{}
	if err := admin.Get(t.Context(), client.ObjectKey{Name: lease.Namespace}, ns); err != nil ||
		ns.DeletionTimestamp != nil {
		t.Fatalf("the Lease has gone with its namespace only, after the grace period (%v)", err)
	}
	eventuallyHas(t, c, want{
		kind: v1alpha1.ConditionReady, status: metav1.ConditionUnknown,
		contains: "does not exist any more",
	})
	// as the agent registers again
	agent = &v1alpha1.NodeAgent{ObjectMeta: metav1.ObjectMeta{Name: "node-a"}}
	create(t, agent)
	agent.Status = status
	if err := admin.Status().Update(t.Context(), agent); err != nil {
		t.Fatal(err)
	}
	eventuallyHas(t, c, isReady)
	if b := cachedBundle(t, c); b.UID != before.UID || b.DeletionTimestamp != nil {
		t.Errorf("the OCIBundle was taken from an agent that lives: %+v", b.ObjectMeta)
	}
	look()
}

// TestShorterGracePeriodIsPassedOn: somebody who does not want to wait for a container that is
// being deleted edits its grace period.
func TestShorterGracePeriodIsPassedOn(t *testing.T) {
	hold := make(chan struct{})
	newFakeAgent(t, "node-a", func(a *fakeAgent) { a.hold = hold })
	c := sample(namespace(t), "hello", func(c *v1alpha1.Container) {
		c.Spec.TerminationGracePeriodSeconds = ptr.To[int64](300)
	})
	create(t, c)
	eventuallyHas(t, c, isReady)
	right := eventuallyBundle(t, c, func(*v1alpha1.OCIBundle) error { return nil })
	if err := admin.Delete(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	grace := func(want int64) *v1alpha1.OCIBundle {
		t.Helper()
		return eventuallyBundle(t, c, func(b *v1alpha1.OCIBundle) error {
			if b.DeletionTimestamp == nil || b.Spec.TerminationGracePeriodSeconds != want {
				return fmt.Errorf("the grace period is %d, deleted at %v", b.Spec.TerminationGracePeriodSeconds,
					b.DeletionTimestamp)
			}
			return nil
		})
	}
	grace(300)
	edit(t, c, func(c *v1alpha1.Container) { c.Spec.TerminationGracePeriodSeconds = ptr.To[int64](0) })
	if b := grace(0); string(b.Spec.Config.Raw) != string(right.Spec.Config.Raw) {
		t.Errorf("the config is %s", b.Spec.Config.Raw)
	}
	close(hold)
	gone(t, c)
}
