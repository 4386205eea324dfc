// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"

	berthstatus "github.com/berth-run/berth/api/status"
	"github.com/berth-run/berth/api/v1alpha1"
)

const generation = 3

// agentSays returns an OCIBundle on node-a that the agent has answered with this phase and these
// conditions.
func agentSays(phase v1alpha1.ContainerPhase, conditions ...metav1.Condition) *v1alpha1.OCIBundle {
	b := &v1alpha1.OCIBundle{
		ObjectMeta: metav1.ObjectMeta{Name: "hello", Generation: 2},
		Spec:       v1alpha1.OCIBundleSpec{NodeName: "node-a"},
		Status:     v1alpha1.OCIBundleStatus{ObservedGeneration: 2, Phase: phase, Conditions: conditions},
	}
	for i := range b.Status.Conditions {
		b.Status.Conditions[i].LastTransitionTime = metav1.Unix(1000, 0)
	}
	return b
}

func imageIs(status metav1.ConditionStatus, reason string) metav1.Condition {
	return metav1.Condition{
		Type: v1alpha1.ConditionImageReady, Status: status, Reason: reason,
		Message: "image " + reason,
	}
}

func processIs(status metav1.ConditionStatus, reason string) metav1.Condition {
	return metav1.Condition{
		Type: v1alpha1.ConditionRunning, Status: status, Reason: reason,
		Message: "process " + reason,
	}
}

var (
	imageReady = imageIs(metav1.ConditionTrue, v1alpha1.ReasonImagePulled)
	started    = processIs(metav1.ConditionTrue, v1alpha1.ReasonStarted)

	refusedByAgent = metav1.Condition{
		Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionFalse,
		Reason: v1alpha1.ReasonAgentTooOld, Message: "spec.future",
	}
)

// onNodeA returns the findings of a Container that has been dispatched in its present generation.
func onNodeA(changes ...func(*findings)) findings {
	f := findings{
		generation: generation, compiled: true, inSync: true,
		scheduled: &verdict{node: "node-a", reason: v1alpha1.ReasonScheduled, message: "placed"},
	}
	for _, change := range changes {
		change(&f)
	}
	return f
}

func isGone(f *findings) { f.lost, f.gone = "no heartbeat", true }

func notInSync(f *findings) { f.inSync = false }

func TestComputeStatus(t *testing.T) {
	running := agentSays(v1alpha1.ContainerRunning, imageReady, started)
	unanswered := agentSays(v1alpha1.ContainerRunning, imageReady, started)
	unanswered.Generation = 3
	fresh := agentSays("")
	fresh.Status.ObservedGeneration = -1
	leaving := agentSays(v1alpha1.ContainerRunning, imageReady, started)
	leaving.DeletionTimestamp = &metav1.Time{Time: time.Unix(1000, 0)}

	cases := map[string]struct {
		findings findings
		bundle   *v1alpha1.OCIBundle
		ready    metav1.ConditionStatus
		reason   string
		message  string
		phase    v1alpha1.ContainerPhase
		kstatus  status.Status
		// reconciling is the reason of Reconciling, where it is not Progressing and kstatus is
		// InProgress.
		reconciling string
	}{
		"runs": {
			findings: onNodeA(), bundle: running,
			ready: metav1.ConditionTrue, reason: v1alpha1.ReasonStarted, phase: v1alpha1.ContainerRunning,
			kstatus: status.CurrentStatus,
		},
		"dispatched": {
			findings: onNodeA(), bundle: fresh,
			ready: metav1.ConditionFalse, reason: v1alpha1.ReasonDispatched, message: "node-a",
			phase: v1alpha1.ContainerPending, kstatus: status.InProgressStatus,
			reconciling: v1alpha1.ReasonDispatched,
		},
		"runs, but an older spec still": {
			findings: onNodeA(), bundle: unanswered,
			ready: metav1.ConditionFalse, reason: v1alpha1.ReasonDispatched,
			phase: v1alpha1.ContainerRunning, kstatus: status.InProgressStatus,
			reconciling: v1alpha1.ReasonDispatched,
		},
		"the agent is at work": {
			findings: onNodeA(), bundle: agentSays(v1alpha1.ContainerPending),
			ready: metav1.ConditionFalse, reason: v1alpha1.ReasonProgressing,
			phase: v1alpha1.ContainerPending, kstatus: status.InProgressStatus,
		},
		"pulls": {
			findings: onNodeA(), bundle: agentSays(v1alpha1.ContainerPending, imageIs(metav1.ConditionFalse,
				v1alpha1.ReasonPulling)),
			ready: metav1.ConditionFalse, reason: v1alpha1.ReasonPulling, phase: v1alpha1.ContainerPending,
			kstatus: status.InProgressStatus,
		},
		"cannot pull": {
			findings: onNodeA(), bundle: agentSays(v1alpha1.ContainerPending, imageIs(metav1.ConditionFalse,
				v1alpha1.ReasonImagePullFailed)),
			ready: metav1.ConditionFalse, reason: v1alpha1.ReasonImagePullFailed,
			phase: v1alpha1.ContainerPending, kstatus: status.InProgressStatus,
		},
		"cannot be made": {
			findings: onNodeA(), bundle: agentSays(v1alpha1.ContainerPending, imageReady,
				processIs(metav1.ConditionFalse, v1alpha1.ReasonCreateFailed)),
			ready: metav1.ConditionFalse, reason: v1alpha1.ReasonCreateFailed,
			phase: v1alpha1.ContainerPending, kstatus: status.InProgressStatus,
		},
		"refused by an older agent, runs on": {
			findings: onNodeA(), bundle: agentSays(v1alpha1.ContainerRunning, imageReady, started,
				refusedByAgent),
			ready: metav1.ConditionFalse, reason: v1alpha1.ReasonAgentTooOld, message: "spec.future",
			phase: v1alpha1.ContainerRunning, kstatus: status.FailedStatus,
		},
		"refused by an older agent, completed before": {
			findings: onNodeA(), bundle: agentSays(v1alpha1.ContainerSucceeded, imageReady, refusedByAgent),
			ready: metav1.ConditionFalse, reason: v1alpha1.ReasonAgentTooOld, message: "spec.future",
			phase: v1alpha1.ContainerSucceeded, kstatus: status.FailedStatus,
		},
		"an update is refused, runs on": {
			findings: onNodeA(), bundle: agentSays(v1alpha1.ContainerRunning, imageReady, started,
				metav1.Condition{
					Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionFalse,
					Reason: v1alpha1.ReasonUpdateRefused, Message: "config.linux",
				}),
			ready: metav1.ConditionFalse, reason: v1alpha1.ReasonUpdateRefused, message: "config.linux",
			phase: v1alpha1.ContainerRunning, kstatus: status.InProgressStatus,
		},
		"on a node that is gone": {
			findings: onNodeA(isGone), bundle: running,
			ready: metav1.ConditionUnknown, reason: v1alpha1.ReasonNodeLost,
			message: "no heartbeat; it is placed again", phase: v1alpha1.ContainerUnknown,
			kstatus: status.InProgressStatus,
		},
		"on a node that is gone, and named": {
			findings: onNodeA(isGone, func(f *findings) { f.pinned = "node-a" }), bundle: running,
			ready: metav1.ConditionUnknown, reason: v1alpha1.ReasonNodeLost,
			message: "spec.nodeName keeps it there", phase: v1alpha1.ContainerUnknown,
			kstatus: status.InProgressStatus,
		},
		"on a node that is gone, not to run twice": {
			findings: onNodeA(isGone, func(f *findings) { f.once = true }), bundle: running,
			ready: metav1.ConditionFalse, reason: v1alpha1.ReasonNodeLost, message: "not run again",
			phase: v1alpha1.ContainerFailed, kstatus: status.FailedStatus,
		},
		"crashes": {
			findings: onNodeA(), bundle: agentSays(v1alpha1.ContainerRunning, imageReady,
				processIs(metav1.ConditionFalse, v1alpha1.ReasonCrashLoopBackOff)),
			ready: metav1.ConditionFalse, reason: v1alpha1.ReasonCrashLoopBackOff,
			phase: v1alpha1.ContainerRunning, kstatus: status.InProgressStatus,
		},
		"completed": {
			findings: onNodeA(), bundle: agentSays(v1alpha1.ContainerSucceeded, imageReady,
				processIs(metav1.ConditionFalse, v1alpha1.ReasonCompleted)),
			ready: metav1.ConditionTrue, reason: v1alpha1.ReasonCompleted,
			phase: v1alpha1.ContainerSucceeded, kstatus: status.CurrentStatus,
		},
		"failed": {
			findings: onNodeA(), bundle: agentSays(v1alpha1.ContainerFailed, imageReady,
				processIs(metav1.ConditionFalse, v1alpha1.ReasonExited)),
			ready: metav1.ConditionFalse, reason: v1alpha1.ReasonExited, phase: v1alpha1.ContainerFailed,
			kstatus: status.FailedStatus,
		},
		"killed for memory": {
			findings: onNodeA(), bundle: agentSays(v1alpha1.ContainerFailed, imageReady,
				processIs(metav1.ConditionFalse, v1alpha1.ReasonOOMKilled)),
			ready: metav1.ConditionFalse, reason: v1alpha1.ReasonOOMKilled, phase: v1alpha1.ContainerFailed,
			kstatus: status.FailedStatus,
		},
		"failed without a word": {
			findings: onNodeA(), bundle: agentSays(v1alpha1.ContainerFailed),
			ready: metav1.ConditionFalse, reason: v1alpha1.ReasonExited, phase: v1alpha1.ContainerFailed,
			kstatus: status.FailedStatus,
		},
		"lost": {
			findings: onNodeA(func(f *findings) { f.lost = "no heartbeat" }), bundle: running,
			ready: metav1.ConditionUnknown, reason: v1alpha1.ReasonNodeLost, message: "no heartbeat",
			phase: v1alpha1.ContainerUnknown, kstatus: status.InProgressStatus,
		},
		"lost before it was taken up": {
			findings: onNodeA(func(f *findings) { f.lost = "no heartbeat" }), bundle: fresh,
			ready: metav1.ConditionUnknown, reason: v1alpha1.ReasonNodeLost,
			phase: v1alpha1.ContainerUnknown, kstatus: status.InProgressStatus,
		},
		"completed on a node that is lost since": {
			findings: onNodeA(func(f *findings) { f.lost = "no heartbeat" }),
			bundle: agentSays(v1alpha1.ContainerSucceeded, imageReady, processIs(metav1.ConditionFalse,
				v1alpha1.ReasonCompleted)),
			ready: metav1.ConditionTrue, reason: v1alpha1.ReasonCompleted,
			phase: v1alpha1.ContainerSucceeded, kstatus: status.CurrentStatus,
		},
		"invalid": {
			findings: findings{generation: generation, compiled: true, invalid: "spec.args: no"},
			ready:    metav1.ConditionFalse, reason: v1alpha1.ReasonInvalidSpec, message: "spec.args: no",
			phase: v1alpha1.ContainerPending, kstatus: status.FailedStatus,
		},
		"invalid while an older one runs": {
			findings: findings{generation: generation, compiled: true, invalid: "spec.args: no"},
			bundle:   running,
			ready:    metav1.ConditionFalse, reason: v1alpha1.ReasonInvalidSpec, message: "left as it is",
			phase: v1alpha1.ContainerRunning, kstatus: status.FailedStatus,
		},
		"no node": {
			findings: findings{
				generation: generation, compiled: true,
				scheduled: &verdict{reason: v1alpha1.ReasonUnschedulable, message: "0/3 nodes fit"},
			},
			ready: metav1.ConditionFalse, reason: v1alpha1.ReasonUnschedulable, message: "0/3 nodes fit",
			phase: v1alpha1.ContainerPending, kstatus: status.InProgressStatus,
		},
		"no RuntimeClass while an older one runs": {
			findings: findings{
				generation: generation, compiled: true,
				scheduled: &verdict{reason: v1alpha1.ReasonRuntimeClassNotFound, message: "none"},
			},
			bundle: running,
			ready:  metav1.ConditionFalse, reason: v1alpha1.ReasonRuntimeClassNotFound,
			message: "left as it is", phase: v1alpha1.ContainerRunning, kstatus: status.InProgressStatus,
		},
		"refused by the API server": {
			findings: onNodeA(notInSync, func(f *findings) { f.failure = "quota" }),
			ready:    metav1.ConditionFalse, reason: v1alpha1.ReasonDispatchFailed, message: "quota",
			phase: v1alpha1.ContainerPending, kstatus: status.InProgressStatus,
			reconciling: v1alpha1.ReasonDispatchFailed,
		},
		"another's OCIBundle": {
			findings: findings{generation: generation, compiled: true, foreign: "in the way"},
			bundle:   running,
			ready:    metav1.ConditionFalse, reason: v1alpha1.ReasonBundleConflict,
			phase: v1alpha1.ContainerPending, kstatus: status.FailedStatus,
		},
		"a predecessor's OCIBundle": {
			findings: findings{
				generation: generation, compiled: true, foreign: "in the way",
				predecessor: "uid",
			}, bundle: running,
			ready: metav1.ConditionFalse, reason: v1alpha1.ReasonTerminating,
			phase: v1alpha1.ContainerPending, kstatus: status.InProgressStatus,
			reconciling: v1alpha1.ReasonTerminating,
		},
		"replaced": {
			findings: findings{generation: generation, compiled: true}, bundle: leaving,
			ready: metav1.ConditionFalse, reason: v1alpha1.ReasonTerminating,
			phase: v1alpha1.ContainerRunning, kstatus: status.InProgressStatus,
			reconciling: v1alpha1.ReasonTerminating,
		},
		"deleted": {
			findings: findings{generation: generation, deleting: true}, bundle: leaving,
			ready: metav1.ConditionFalse, reason: v1alpha1.ReasonTerminating, message: "node-a",
			phase: v1alpha1.ContainerRunning, kstatus: status.TerminatingStatus,
			reconciling: v1alpha1.ReasonTerminating,
		},
		"deleted on a lost node": {
			findings: findings{generation: generation, deleting: true, lost: "no heartbeat"},
			bundle:   leaving,
			ready:    metav1.ConditionFalse, reason: v1alpha1.ReasonTerminating,
			message: "An administrator who knows that the machine is off can say so by the taint node.kubernetes.io/out-of-service on Node or NodeAgent node-a", phase: v1alpha1.ContainerUnknown, kstatus: status.TerminatingStatus, reconciling: v1alpha1.ReasonTerminating,
		},
	}
	// A status follows from what is found, whatever it was before: from nothing, and from having
	// run well.
	before := map[string]v1alpha1.ContainerStatus{
		"new": {ObservedGeneration: -1},
		"ran": computeStatus(v1alpha1.ContainerStatus{}, onNodeA(func(f *findings) {
			f.generation = 2
		}), running, time.Unix(2000, 0)),
		"lost": computeStatus(v1alpha1.ContainerStatus{}, onNodeA(func(f *findings) {
			f.lost = "x"
		}), running, time.Unix(2000, 0)),
	}
	for name, c := range cases {
		for beforeName, old := range before {
			t.Run(name+"/"+beforeName, func(t *testing.T) {
				kept := old.DeepCopy()
				got := computeStatus(old, c.findings, c.bundle, time.Unix(3000, 0))
				if !equality.Semantic.DeepEqual(*kept, old) {
					t.Error("the status before was changed")
				}
				ready := meta.FindStatusCondition(got.Conditions, v1alpha1.ConditionReady)
				if ready == nil || ready.Status != c.ready || ready.Reason != c.reason ||
					!strings.Contains(ready.Message, c.message) {
					t.Errorf("Ready is %+v; wanted %s %s %q", ready, c.ready, c.reason, c.message)
				}
				if ready.ObservedGeneration != generation || got.ObservedGeneration != generation {
					t.Errorf("observedGeneration is %d, Ready's %d", got.ObservedGeneration,
						ready.ObservedGeneration)
				}
				if got.Phase != c.phase {
					t.Errorf("phase is %s; wanted %s", got.Phase, c.phase)
				}
				reconciling, stalled := meta.FindStatusCondition(got.Conditions, v1alpha1.ConditionReconciling),
					meta.FindStatusCondition(got.Conditions, v1alpha1.ConditionStalled)
				if reconciling != nil && reconciling.Status != metav1.ConditionTrue || stalled != nil &&
					stalled.Status != metav1.ConditionTrue || reconciling != nil && stalled != nil {
					t.Errorf("of Reconciling and Stalled at most one may be there, and only as True: %+v",
						got.Conditions)
				}
				if (ready.Status == metav1.ConditionTrue) != (reconciling == nil && stalled == nil) {
					t.Errorf("a Container that is not Ready is either Reconciling or Stalled, one that is is neither: %+v", got.Conditions)
				}
				if c.kstatus == status.InProgressStatus {
					wanted := c.reconciling
					if wanted == "" {
						wanted = v1alpha1.ReasonProgressing
					}
					if reconciling.Reason != wanted {
						t.Errorf("Reconciling's reason is %s; wanted %s", reconciling.Reason, wanted)
					}
				}
				if k := kstatus(t, got, c.findings.deleting); k != c.kstatus {
					t.Errorf("kstatus says %s; wanted %s: %+v", k, c.kstatus, got.Conditions)
				}
				for _, cond := range got.Conditions {
					if cond.LastTransitionTime.IsZero() || cond.Reason == "" {
						t.Errorf("the API server would refuse %+v", cond)
					}
				}
				again := computeStatus(got, c.findings, c.bundle, time.Unix(4000, 0))
				if !equality.Semantic.DeepEqual(got, again) {
					t.Errorf("computed from itself it is another:\n%+v\n%+v", got, again)
				}
			})
		}
	}
}

// TestProgressDeadline asks kstatus for its verdict on a Container with a deadline of 600 s, second
// by second.
func TestProgressDeadline(t *testing.T) {
	running := agentSays(v1alpha1.ContainerRunning, imageReady, started)
	crashes := agentSays(v1alpha1.ContainerRunning, imageReady, processIs(metav1.ConditionFalse,
		v1alpha1.ReasonCrashLoopBackOff))
	noImage := agentSays(v1alpha1.ContainerPending, imageIs(metav1.ConditionFalse,
		v1alpha1.ReasonImagePullFailed))
	notMade := agentSays(v1alpha1.ContainerPending, imageIs(metav1.ConditionUnknown,
		v1alpha1.ReasonProgressing), processIs(metav1.ConditionFalse, v1alpha1.ReasonCreateFailed))
	fresh := agentSays("")
	fresh.Status.ObservedGeneration = -1
	leaving := agentSays(v1alpha1.ContainerRunning, imageReady, started)
	leaving.DeletionTimestamp = &metav1.Time{Time: time.Unix(1000, 0)}
	with := func(changes ...func(*findings)) findings {
		return onNodeA(append([]func(*findings){func(f *findings) {
			f.deadline = 600 * time.Second
		}}, changes...)...)
	}
	lost := func(f *findings) { f.lost = "no heartbeat" }

	type step struct {
		at       int64
		findings findings
		bundle   *v1alpha1.OCIBundle
		kstatus  status.Status
		// contains is part of Stalled's message.
		contains string
	}
	const current, waits, fails = status.CurrentStatus, status.InProgressStatus, status.FailedStatus
	cases := map[string][]step{
		"crash loop": {
			{0, with(), fresh, waits, ""},
			{1, with(), running, current, ""},
			{2, with(), crashes, waits, ""},
			{300, with(), running, current, ""},
			{301, with(), crashes, waits, ""},
			{599, with(), crashes, waits, ""},
			{600, with(), crashes, fails, "CrashLoopBackOff: process"},
			{900, with(), running, current, ""},
			{901, with(), crashes, fails, "CrashLoopBackOff"},
		},
		"recovers": {
			{0, with(), noImage, waits, ""},
			{700, with(), noImage, fails, "ImagePullFailed: image"},
			{800, with(), running, current, ""},
			{1400, with(), crashes, waits, ""},
			{1999, with(), crashes, waits, ""},
			{2000, with(), crashes, fails, "CrashLoopBackOff"},
		},
		"cannot be made": {{0, with(), notMade, waits, ""}, {
			600, with(), notMade, fails,
			"CreateFailed: process",
		}},
		"nobody answers": {{0, with(), fresh, waits, ""}, {600, with(), fresh, fails, "Dispatched"}},
		"node lost": {
			{0, with(), running, current, ""},
			{1000, with(lost), running, waits, ""},
			{1600, with(lost), running, fails, "NodeLost: no heartbeat"},
			{1700, with(), running, current, ""},
		},
		"no node": {
			{0, with(nowhere), nil, waits, ""},
			{
				600, with(nowhere), nil, fails,
				"Unschedulable: 0/3",
			},
			{601, with(), fresh, fails, "Dispatched"},
			{602, with(), running, current, ""},
		},
		"API server": {{0, with(refused), nil, waits, ""}, {
			600, with(refused), nil, fails,
			"DispatchFailed: quota",
		}},
		"another spec": {{0, with(), noImage, waits, ""}, {
			600, with(), noImage, fails,
			"ImagePullFailed",
		}, {601, with(next), noImage, waits, ""}, {
			1200, with(next), noImage, waits,
			"",
		}, {1201, with(next), noImage, fails, "ImagePullFailed"}},
		"shorter deadline": {
			{0, with(), noImage, waits, ""},
			{50, with(next, short), noImage, waits, ""},
			{60, with(next, short), noImage, fails, "within 10s"},
		},
		"deleted": {
			{0, with(), noImage, waits, ""},
			{9000, findings{generation: generation, deleting: true}, leaving, status.TerminatingStatus, ""},
		},
		"name was taken": {
			{0, with(taken), running, fails, ""},
			{9000, with(), fresh, waits, ""},
			{9600, with(), fresh, fails, "Dispatched"},
		},
		"clock set back": {
			{5000, with(), noImage, waits, ""},
			{1000, with(), noImage, waits, ""},
			{1599, with(), noImage, waits, ""},
			{1600, with(), noImage, fails, "ImagePullFailed"},
		},
		"older Berth": {
			{0, onNodeA(), noImage, waits, ""},
			{9000, with(), noImage, waits, ""},
			{9600, with(), noImage, fails, "ImagePullFailed"},
		},
		"job": {{0, with(), running, current, ""}, {9000, with(), agentSays(v1alpha1.ContainerFailed,
			imageReady, processIs(metav1.ConditionFalse, v1alpha1.ReasonExited)), fails, "process Exited"}},
	}
	for name, steps := range cases {
		t.Run(name, func(t *testing.T) {
			old := v1alpha1.ContainerStatus{ObservedGeneration: -1}
			for _, s := range steps {
				now := time.Unix(s.at, 0)
				got := computeStatus(old, s.findings, s.bundle, now)
				again := computeStatus(got, s.findings, s.bundle, now)
				if !equality.Semantic.DeepEqual(got, again) {
					t.Errorf("at %d s: computed from itself it is another:\n%+v\n%+v", s.at, got, again)
				}
				old = got
				if k := kstatusOf(t, got, s.findings.generation, s.findings.deleting); k != s.kstatus {
					t.Errorf("at %d s: kstatus says %s; wanted %s: %+v", s.at, k, s.kstatus, got.Conditions)
				}
				stalled, ready := meta.FindStatusCondition(got.Conditions, v1alpha1.ConditionStalled),
					meta.FindStatusCondition(got.Conditions, v1alpha1.ConditionReady)
				if s.contains != "" && (stalled == nil || !strings.Contains(stalled.Message, s.contains)) {
					t.Errorf("at %d s: Stalled is %+v; wanted %q", s.at, stalled, s.contains)
				}
				if s.kstatus != current && ready.Status == metav1.ConditionTrue || stalled != nil &&
					ready.Reason == v1alpha1.ReasonProgressDeadlineExceeded {
					t.Errorf("at %d s: Ready is %+v; wanted the cause", s.at, ready)
				}
				c := &v1alpha1.Container{
					Status: got,
					Spec: v1alpha1.ContainerSpec{
						ProgressDeadlineSeconds: new(int32(s.findings.deadline / time.Second)),
					},
				}
				at, ok := berthstatus.StallsAt(c)
				if s.findings.deadline > 0 && (ok != (s.kstatus == waits) || ok && !at.After(now)) {
					t.Errorf("at %d s: it stalls at %s (%t), though kstatus says %s", s.at, at, ok, s.kstatus)
				}
			}
		})
	}
}

func nowhere(f *findings) {
	f.inSync, f.scheduled = false, &verdict{reason: v1alpha1.ReasonUnschedulable, message: "0/3"}
}
func refused(f *findings) { f.inSync, f.failure = false, "quota" }
func taken(f *findings)   { f.foreign = "in the way" }
func next(f *findings)    { f.generation++ }
func short(f *findings)   { f.deadline = 10 * time.Second }

// kstatus computes the status that Flux, Argo and `kpt live` derive from a Container.
func kstatus(t *testing.T, st v1alpha1.ContainerStatus, deleting bool) status.Status {
	t.Helper()
	return kstatusOf(t, st, generation, deleting)
}

func kstatusOf(t *testing.T, st v1alpha1.ContainerStatus, generation int64,
	deleting bool,
) status.Status {
	t.Helper()
	c := &v1alpha1.Container{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Container"},
		ObjectMeta: metav1.ObjectMeta{Name: "hello", Generation: generation},
		Status:     st,
	}
	if deleting {
		c.DeletionTimestamp = &metav1.Time{Time: time.Unix(1000, 0)}
	}
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

func TestKstatusOfNewContainer(t *testing.T) {
	k := kstatus(t, v1alpha1.ContainerStatus{ObservedGeneration: -1}, false)
	if k != status.InProgressStatus {
		t.Errorf("a new Container is %s", k)
	}
	old := computeStatus(v1alpha1.ContainerStatus{}, onNodeA(func(f *findings) {
		f.generation = generation - 1
	}), agentSays(v1alpha1.ContainerRunning, imageReady, started), time.Unix(1, 0))
	if k := kstatus(t, old, false); k != status.InProgressStatus {
		t.Errorf("a Container that was edited since is %s", k)
	}
}

func TestAgentsWordIsOfTheGenerationItWasSaidOf(t *testing.T) {
	bundle := agentSays(v1alpha1.ContainerRunning, imageReady, started)
	first := computeStatus(v1alpha1.ContainerStatus{}, onNodeA(func(f *findings) {
		f.generation = 2
	}), bundle, time.Unix(1, 0))
	bundle.Generation++
	second := computeStatus(first, onNodeA(), bundle, time.Unix(2, 0))
	c := meta.FindStatusCondition(second.Conditions, v1alpha1.ConditionRunning)
	if c.ObservedGeneration != 2 {
		t.Errorf("the agent has not seen generation 3, but Running is of %d", c.ObservedGeneration)
	}
	bundle.Status.ObservedGeneration = bundle.Generation
	third := computeStatus(second, onNodeA(), bundle, time.Unix(3, 0))
	if c := meta.FindStatusCondition(third.Conditions,
		v1alpha1.ConditionRunning); c.ObservedGeneration != 3 || c.LastTransitionTime.Unix() != 1000 {
		t.Errorf("Running is %+v", c)
	}
}

func TestTransitions(t *testing.T) {
	at := func(st v1alpha1.ContainerStatus) *v1alpha1.Container {
		return &v1alpha1.Container{Status: st}
	}
	compute := func(f findings, b *v1alpha1.OCIBundle) v1alpha1.ContainerStatus {
		return computeStatus(v1alpha1.ContainerStatus{}, f, b, time.Unix(1, 0))
	}
	up := agentSays(v1alpha1.ContainerRunning, imageReady, started)
	up.Status.PID = 7
	up.Status.State.Running = &corev1.ContainerStateRunning{}
	restarted := up.DeepCopy()
	restarted.Status.PID, restarted.Status.RestartCount = 8, 1
	crash := agentSays(v1alpha1.ContainerRunning, imageReady, processIs(metav1.ConditionFalse,
		v1alpha1.ReasonCrashLoopBackOff))
	crash.Status.RestartCount = 1
	crash.Status.LastState.Terminated = &corev1.ContainerStateTerminated{
		Reason: v1alpha1.ReasonOOMKilled, ExitCode: 137,
	}
	crashAgain := crash.DeepCopy()
	crashAgain.Status.RestartCount = 2
	crashAgain.Status.LastState.Terminated.FinishedAt = metav1.Unix(5, 0)
	evicted := agentSays(v1alpha1.ContainerFailed, imageReady, processIs(metav1.ConditionFalse,
		v1alpha1.ReasonEvicted))
	evicted.Status.State.Terminated = &corev1.ContainerStateTerminated{
		Reason: v1alpha1.ReasonEvicted, Message: "too much",
	}
	childKilled := up.DeepCopy()
	childKilled.Status.OOMKills = 2
	withoutDNS := up.DeepCopy()
	withoutDNS.Status.Conditions = append(withoutDNS.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionDNSConfigured, Status: metav1.ConditionFalse,
		Reason: v1alpha1.ReasonMissingClusterDNS, Message: "no --cluster-dns",
	})
	crashAfter := crash.DeepCopy()
	crashAfter.Status.OOMKills = 3
	ended := agentSays(v1alpha1.ContainerSucceeded, imageReady, processIs(metav1.ConditionFalse,
		v1alpha1.ReasonCompleted))
	failed := agentSays(v1alpha1.ContainerFailed, imageReady, processIs(metav1.ConditionFalse,
		v1alpha1.ReasonExited))
	noImage := agentSays(v1alpha1.ContainerPending, imageIs(metav1.ConditionFalse,
		v1alpha1.ReasonImagePullFailed))
	notMade := agentSays(v1alpha1.ContainerPending, imageReady, processIs(metav1.ConditionFalse,
		v1alpha1.ReasonCreateFailed))

	unseen := v1alpha1.ContainerStatus{ObservedGeneration: -1}
	invalid := findings{generation: generation, compiled: true, invalid: "spec.args: no"}
	unplaced := findings{
		generation: generation, compiled: true,
		scheduled: &verdict{reason: v1alpha1.ReasonUnschedulable, message: "0/3"},
	}
	nowhereElse := findings{
		generation: generation, compiled: true,
		scheduled: &verdict{reason: v1alpha1.ReasonUnschedulable, message: "0/4"},
	}
	lost := onNodeA(func(f *findings) { f.lost = "silent" })
	deleting := findings{generation: generation, deleting: true}
	deletingLost := findings{generation: generation, deleting: true, lost: "silent"}
	late := onNodeA(func(f *findings) { f.deadline = time.Minute })
	lateNow := computeStatus(computeStatus(v1alpha1.ContainerStatus{}, late, noImage, time.Unix(1, 0)),
		late, noImage, time.Unix(61, 0))
	later := computeStatus(lateNow, late, noImage, time.Unix(99, 0))

	cases := map[string]struct {
		before, after v1alpha1.ContainerStatus
		want          string
	}{
		"nothing":                {compute(onNodeA(), up), compute(onNodeA(), up), ""},
		"invalid":                {unseen, compute(invalid, nil), "SpecInvalid"},
		"unschedulable":          {unseen, compute(unplaced, nil), "FailedScheduling"},
		"unschedulable, changed": {compute(unplaced, nil), compute(nowhereElse, nil), "FailedScheduling"},
		"placed": {
			compute(unplaced, nil), compute(onNodeA(), agentSays("")),
			"Scheduled",
		},
		"up without incident":  {unseen, compute(onNodeA(), up), ""},
		"ended at first sight": {unseen, compute(onNodeA(), ended), "Scheduled Pulled Completed"},
		"up": {
			compute(onNodeA(), agentSays("")), compute(onNodeA(), up),
			"Pulled Started",
		},
		"no image": {
			compute(onNodeA(), agentSays("")), compute(onNodeA(), noImage),
			"FailedPull",
		},
		"not made": {
			compute(onNodeA(), agentSays("", imageReady)),
			compute(onNodeA(), notMade), "Failed",
		},
		"killed": {
			compute(onNodeA(), up), compute(onNodeA(), crash),
			"OOMKilled BackOff",
		},
		"killed again": {
			compute(onNodeA(), crash), compute(onNodeA(), crashAgain),
			"OOMKilled BackOff",
		},
		"evicted": {compute(onNodeA(), up), compute(onNodeA(), evicted), "Evicted Exited"},
		"a child is killed": {
			compute(onNodeA(), up), compute(onNodeA(), childKilled),
			"ChildOOMKilled",
		},
		"that is no news": {compute(onNodeA(), childKilled), compute(onNodeA(), childKilled), ""},
		"then the first is, too": {
			compute(onNodeA(), childKilled), compute(onNodeA(), crashAfter),
			"OOMKilled BackOff",
		},
		"up without the cluster's DNS": {
			unseen, compute(onNodeA(), withoutDNS),
			"Scheduled Pulled Started MissingClusterDNS",
		},
		"without the cluster's DNS": {
			compute(onNodeA(), up), compute(onNodeA(), withoutDNS),
			"MissingClusterDNS",
		},
		"still without":          {compute(onNodeA(), withoutDNS), compute(onNodeA(), withoutDNS), ""},
		"with the cluster's DNS": {compute(onNodeA(), withoutDNS), compute(onNodeA(), up), ""},
		"restarted":              {compute(onNodeA(), up), compute(onNodeA(), restarted), "Started"},
		"completed":              {compute(onNodeA(), up), compute(onNodeA(), ended), "Completed"},
		"exited":                 {compute(onNodeA(), up), compute(onNodeA(), failed), "Exited"},
		"lost":                   {compute(onNodeA(), up), compute(lost, up), "Lost"},
		"found":                  {compute(lost, up), compute(onNodeA(), up), "Found"},
		"lost, then deleted": {compute(lost, up), computeStatus(compute(lost, up), deletingLost, up,
			time.Unix(2, 0)), "Terminating"},
		"lost, its bundle gone": {compute(lost, up), computeStatus(compute(lost, up), onNodeA(notInSync),
			nil, time.Unix(2, 0)), ""},
		"heard again at its end": {compute(deletingLost, up), computeStatus(compute(deletingLost, up),
			deleting, up, time.Unix(2, 0)), "Terminating Found"},
		"late":  {compute(onNodeA(), noImage), lateNow, "ProgressDeadlineExceeded"},
		"later": {lateNow, later, ""},
		"deleted": {compute(onNodeA(), up), computeStatus(compute(onNodeA(), up), deleting, up,
			time.Unix(2, 0)), "Terminating"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, n := range transitions(at(c.before), at(c.after)) {
				got = append(got, n.reason)
				if n.message == "" || n.action == "" || n.kind != corev1.EventTypeNormal &&
					n.kind != corev1.EventTypeWarning {
					t.Errorf("the event is not whole: %+v", n)
				}
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("found %q; wanted %q", s, c.want)
			}
		})
	}
}

func TestMerge(t *testing.T) {
	got := merge([]note{
		{"Normal", "Scheduled", "Schedule", "a"},
		{
			"Warning", "FailedPull", "Pull",
			"b",
		},
		{"Normal", "Pulled", "Pull", "c"},
		{"Warning", "BackOff", "Restart", "d"},
		{"Normal", "Started", "Start", "e"},
	})
	if s := fmt.Sprint(got); s != "[{Warning FailedPull Pull b} {Warning BackOff Restart d} {Normal Started Start a; c; e}]" {
		t.Errorf("found %s", s)
	}
	if got := merge(nil); got != nil {
		t.Errorf("found %v", got)
	}
}

func TestDigest(t *testing.T) {
	same := []string{
		`{"a":1,"b":[1,2],"c":"<&>"}`,
		"{ \"b\": [1, 2],\n \"a\": 1, \"c\": \"\\u003c\\u0026>\" }",
	}
	if a, b := digest([]byte(same[0])), digest([]byte(same[1])); string(a) != string(b) {
		t.Errorf("documents that mean the same have digests %s and %s", a, b)
	}
	for _, other := range []string{
		`{"a":1,"b":[2,1],"c":"<&>"}`,
		`{"a":1,"b":[1,2],"c":"<&>","d":null}`, `{"a":9007199254740993,"b":[1,2]}`, ``,
	} {
		if a, b := digest([]byte(same[0])), digest([]byte(other)); string(a) == string(b) {
			t.Errorf("%s has the digest of %s", other, same[0])
		}
	}
	if string(digest([]byte(`{"a":9007199254740993}`))) == string(digest([]byte(
		`{"a":9007199254740992}`))) {
		t.Error("whole numbers are compared as floats")
	}
	b := &v1alpha1.OCIBundle{}
	b.Spec.Config.Raw = []byte(same[0])
	digestConfig(b)
	once := string(b.Spec.Config.Raw)
	digestConfig(b)
	if string(b.Spec.Config.Raw) != once {
		t.Error("a digest was digested")
	}
}

func TestLabelIsValid(t *testing.T) {
	long := strings.Repeat("a", 62) + "." + strings.Repeat("b", 100)
	if got := label(long); got != strings.Repeat("a", 62) {
		t.Errorf("found %q", got)
	}
	if got := label("hello"); got != "hello" {
		t.Errorf("found %q", got)
	}
}
