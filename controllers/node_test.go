// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/v1alpha1"
)

func TestLostNodeMakesItsContainersUnknownUntilItReturns(t *testing.T) {
	a := newFakeAgent(t, "node-a")
	newFakeAgent(t, "node-b")
	ns := namespace(t)
	c := sample(ns, "hello", func(c *v1alpha1.Container) { c.Spec.NodeName = "node-a" })
	create(t, c)
	eventuallyHas(t, c, isReady)
	bundle, err := readBundle(t, c)
	if err != nil {
		t.Fatal(err)
	}

	a.halt()
	now := eventuallyHas(t, c,
		want{
			kind: v1alpha1.ConditionReady, status: metav1.ConditionUnknown,
			reason: v1alpha1.ReasonNodeLost, contains: "node-a",
		},
		want{
			kind: v1alpha1.ConditionRunning, status: metav1.ConditionUnknown,
			reason: v1alpha1.ReasonNodeLost,
		},
		isReconciling, isScheduled, notStalled)
	if now.Status.Phase != v1alpha1.ContainerUnknown || now.Status.NodeName != "node-a" {
		t.Errorf("the status is %+v", now.Status)
	}
	eventuallyEvent(t, now, "Lost")
	if err := agentReady("node-a", t, metav1.ConditionUnknown); err != nil {
		t.Error(err)
	}
	if b, err := readBundle(t, c); err != nil || b.UID != bundle.UID || b.DeletionTimestamp != nil ||
		b.Spec.NodeName != "node-a" {
		t.Errorf("it was placed again though the node may still run it (%v): %+v", err, b)
	}
	// Nothing new goes there.
	other := sample(ns, "other")
	create(t, other)
	if now := eventuallyHas(t, other, isReady); now.Status.NodeName != "node-b" {
		t.Errorf("placed on %s", now.Status.NodeName)
	}

	a.start()
	now = eventuallyHas(t, c, isReady, notStalled, want{
		kind:   v1alpha1.ConditionRunning,
		status: metav1.ConditionTrue, reason: v1alpha1.ReasonStarted,
	})
	if now.Status.Phase != v1alpha1.ContainerRunning {
		t.Errorf("phase is %s", now.Status.Phase)
	}
	eventuallyEvent(t, now, "Found")
	if err := agentReady("node-a", t, metav1.ConditionTrue); err != nil {
		t.Error(err)
	}
}

func TestNodeWithoutLeaseIsLost(t *testing.T) {
	agent := &v1alpha1.NodeAgent{ObjectMeta: metav1.ObjectMeta{Name: "node-mute"}}
	create(t, agent)
	t.Cleanup(func() { _ = admin.Delete(context.Background(), agent) })
	eventually(t, func() error { return agentReady("node-mute", t, metav1.ConditionUnknown) })
	eventuallyEvent(t, agent, "Lost")
}

func agentReady(name string, t *testing.T, status metav1.ConditionStatus) error {
	t.Helper()
	agent := &v1alpha1.NodeAgent{}
	if err := admin.Get(t.Context(), client.ObjectKey{Name: name}, agent); err != nil {
		return err
	}
	if c := meta.FindStatusCondition(agent.Status.Conditions, v1alpha1.ConditionReady); c == nil ||
		c.Status != status {
		return fmt.Errorf("Ready of NodeAgent %s is %+v; wanted %s", name, c, status)
	}
	return nil
}
