// SPDX-License-Identifier: Apache-2.0

package container

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/v1alpha1"
)

// TestAbsences: an agent that lived has the grace period to register again; one that was lost
// already does not.
func TestAbsences(t *testing.T) {
	agent := func(name string, ready metav1.ConditionStatus) *v1alpha1.NodeAgent {
		a := &v1alpha1.NodeAgent{ObjectMeta: metav1.ObjectMeta{Name: name}}
		a.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: ready}}
		return a
	}
	start := time.Unix(1000, 0)
	const grace = 40 * time.Second
	var a absences
	a.noteDeleted(agent("lived", metav1.ConditionTrue), start)
	a.noteDeleted(agent("lost", metav1.ConditionUnknown), start)
	a.noteDeleted(agent("back", metav1.ConditionUnknown), start)
	a.notePresent("back")
	for _, step := range []struct {
		name  string
		after time.Duration
		left  time.Duration
	}{
		{"lived", 0, grace},
		{"lived", 10 * time.Second, 30 * time.Second},
		{"lived", grace, 0},
		{"lost", 0, 0},
		{"lost", time.Second, 0},
		// It is missed first now: nobody knows for how long it has been absent, or what it was
		// before.
		{"unheard of", 5 * time.Second, grace},
		{"unheard of", 15 * time.Second, 30 * time.Second},
		{"back", 5 * time.Second, grace},
	} {
		if left := a.left(step.name, grace, start.Add(step.after)); left != step.left {
			t.Errorf("%s after %s: %s is left, want %s", step.name, step.after, left, step.left)
		}
	}
}
