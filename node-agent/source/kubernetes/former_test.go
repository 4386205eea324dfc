// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/source"
)

// TestReplacedBundleIsTheSame: an OCIBundle that replaces one of an earlier controller is the same
// for the agent, which knows its container by the uid, and its edits by the generation.
func TestReplacedBundleIsTheSame(t *testing.T) {
	begin(t)
	c := admin(t)
	b := newBundle("moved", "node-former")
	b.Finalizers = []string{v1alpha1.OCIBundleFinalizer}
	b.Spec.Former = &v1alpha1.FormerBundle{UID: "0f0e0d0c-former", Generation: 7}
	createBundle(t, c, b)
	k, h := start(t, "node-former")
	<-h.synced
	key := source.Key{Namespace: "default", Name: "moved"}
	if first := <-h.changed; first != key {
		t.Fatalf("found %v", first)
	}
	got := k.Get(key)
	if got.UID != "0f0e0d0c-former" || got.Generation != 8 || got.Namespace != "default" ||
		got.Name != "moved" || got.Status.ObservedGeneration != -1 {
		t.Errorf("found %+v, observed %d", got.ObjectMeta, got.Status.ObservedGeneration)
	}

	// What the agent says of its generations is said of those of the object.
	status := &v1alpha1.OCIBundleStatus{ObservedGeneration: 8, Phase: v1alpha1.ContainerRunning}
	meta.SetStatusCondition(&status.Conditions, metav1.Condition{
		Type: "Running", Status: "True",
		Reason: "Started", ObservedGeneration: 8, LastTransitionTime: metav1.Now().Rfc3339Copy(),
	})
	if err := k.ReportStatus(t.Context(), got, status); err != nil {
		t.Fatal(err)
	}
	now := &v1alpha1.OCIBundle{}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(b), now); err != nil ||
		now.Status.ObservedGeneration != 1 || now.Status.Conditions[0].ObservedGeneration != 1 {
		t.Errorf("found %+v (%v)", now.Status, err)
	}
	until(t, "its own words", func() bool {
		return k.Get(key).Status.ObservedGeneration == 8 &&
			k.Get(key).Status.Phase == v1alpha1.ContainerRunning
	})
	if n := len(h.changed); n != 0 {
		t.Errorf("found %d changes for the agent's own write", n)
	}
	now.Spec.TerminationGracePeriodSeconds = 5
	if err := c.Update(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	until(t, "the edit", func() bool { return k.Get(key).Generation == 9 })

	// By the uid of another, nothing is written or released.
	other := k.Get(key).DeepCopy()
	other.UID = now.UID
	err := k.ReportStatus(t.Context(), other, &v1alpha1.OCIBundleStatus{
		ObservedGeneration: 9,
		Phase:              v1alpha1.ContainerFailed,
	})
	if err != nil {
		t.Error(err)
	}
	if err := c.Delete(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	if err := k.Release(t.Context(), key, now.UID); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(b), now); err != nil ||
		now.Status.Phase != v1alpha1.ContainerRunning {
		t.Errorf("found %+v (%v)", now.Status, err)
	}
	if err := k.Release(t.Context(), key, "0f0e0d0c-former"); err != nil {
		t.Fatal(err)
	}
	until(t, "gone", func() bool { return k.Get(key) == nil })
}
