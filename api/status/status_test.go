// SPDX-License-Identifier: Apache-2.0

package status

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/v1alpha1"
)

func TestShorten(t *testing.T) {
	if got := Shorten("short", 100); got != "short" {
		t.Errorf("found %q", got)
	}
	long := strings.Repeat("ä", 1000)
	got := Shorten(long, 100)
	if len(got) > 100 || !strings.Contains(got, "bytes more") || strings.ContainsRune(got, '\uFFFD') {
		t.Errorf("found %d bytes: %q", len(got), got)
	}
}

// TestPrintableStatus checks the word that people read in the REASON column.
func TestPrintableStatus(t *testing.T) {
	running := func(status metav1.ConditionStatus, reason string) []metav1.Condition {
		return []metav1.Condition{{Type: v1alpha1.ConditionRunning, Status: status, Reason: reason}}
	}
	for name, tc := range map[string]struct {
		phase      v1alpha1.ContainerPhase
		conditions []metav1.Condition
		summary    *Summary // else that of the run
		want       string
	}{
		"nothing known": {want: "Pending"},
		"runs": {phase: v1alpha1.ContainerRunning, conditions: running("True",
			v1alpha1.ReasonStarted), want: "Running"},
		"crash loop": {phase: v1alpha1.ContainerRunning, conditions: running("False",
			v1alpha1.ReasonCrashLoopBackOff), want: "CrashLoopBackOff"},
		"is made again": {phase: v1alpha1.ContainerRunning, conditions: running("False",
			v1alpha1.ReasonProgressing), want: "Pending"},
		"cannot be made": {phase: v1alpha1.ContainerPending, conditions: running("False",
			v1alpha1.ReasonCreateFailed), want: "CreateFailed"},
		"done": {phase: v1alpha1.ContainerSucceeded, conditions: running("False",
			v1alpha1.ReasonCompleted), want: "Succeeded"},
		"failed": {phase: v1alpha1.ContainerFailed, conditions: running("False",
			v1alpha1.ReasonExited), want: "Failed"},
		"killed for memory": {phase: v1alpha1.ContainerFailed, conditions: running("False",
			v1alpha1.ReasonOOMKilled), want: "OOMKilled"},
		"evicted": {phase: v1alpha1.ContainerFailed, conditions: running("False",
			v1alpha1.ReasonEvicted), want: "Evicted"},
		"supervisor is away": {phase: v1alpha1.ContainerUnknown, conditions: running("Unknown",
			v1alpha1.ReasonSupervisorUnreachable), want: "Unknown"},
		"no image": {
			phase: v1alpha1.ContainerPending, want: "ImagePullFailed",
			conditions: append(running("False", v1alpha1.ReasonImagePullFailed),
				metav1.Condition{
					Type: v1alpha1.ConditionImageReady, Status: "False",
					Reason: v1alpha1.ReasonImagePullFailed,
				}),
		},
		"is deleted": {
			phase: v1alpha1.ContainerRunning, conditions: running("True", v1alpha1.ReasonStarted),
			want:    "Terminating",
			summary: new(NotReady(Reconciling, v1alpha1.ReasonTerminating, "")),
		},
		"runs, and the new spec is wrong": {
			phase: v1alpha1.ContainerRunning, conditions: running("True", v1alpha1.ReasonStarted),
			want:    "Running",
			summary: new(NotReady(Stalled, v1alpha1.ReasonInvalidSpec, "")),
		},
		"the spec is wrong": {
			want:    "InvalidSpec",
			summary: new(NotReady(Stalled, v1alpha1.ReasonInvalidSpec, "")),
		},
		"no node": {
			want:    "Unschedulable",
			summary: new(NotReady(Reconciling, v1alpha1.ReasonUnschedulable, "")),
		},
	} {
		t.Run(name, func(t *testing.T) {
			st := &v1alpha1.ContainerStatus{Phase: tc.phase, Conditions: tc.conditions}
			summary := OfRun(tc.phase, tc.conditions)
			if tc.summary != nil {
				summary = *tc.summary
			}
			summary.Set(st, 1, 0, time.Now())
			if st.PrintableStatus != tc.want {
				t.Errorf("found %q; want %q", st.PrintableStatus, tc.want)
			}
			ready := meta.FindStatusCondition(st.Conditions, v1alpha1.ConditionReady)
			if name == "supervisor is away" && ready.Status != metav1.ConditionUnknown {
				t.Errorf("found %+v; want Unknown", ready)
			}
		})
	}
}
