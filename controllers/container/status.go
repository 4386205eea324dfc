// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/status"
	"github.com/berth-run/berth/api/v1alpha1"
)

// findings holds the results of a reconcile. The status is computed from them and the previous
// status alone.
type findings struct {
	// generation of the Container that was looked at.
	generation int64
	// deleting reports whether the Container is being deleted.
	deleting bool
	// deadline is the time that the Container may take to become Ready; 0 is no limit.
	deadline time.Duration

	// compiled reports whether the spec has been compiled; invalid has its faults, warnings its
	// warnings.
	compiled bool
	invalid  string
	warnings []string
	// newer names the fields that this version of the compiler would compile differently; empty if
	// there are none.
	newer string
	// rebound names the claim that is not bound to the container's volume any more; empty if all are.
	rebound string
	// scheduled is the result of scheduling; nil if there was none.
	scheduled *verdict
	// foreign names an OCIBundle under the Container's name that is not the Container's;
	// predecessor is the uid of an earlier Container of the same name that it belonged to, if that
	// is the case: then it is being removed.
	foreign, predecessor string
	// inSync reports whether the OCIBundle is compiled from this generation.
	inSync bool
	// failure is the error of writing the OCIBundle; unready is the reason why it is not written
	// yet.
	failure, unready string
	// shown is the document that the annotation v1alpha1.AnnotationShowCompiled asks for.
	shown *v1alpha1.CompiledSpec
	// lost says why the agent of the OCIBundle's node is not heard; gone is whether nothing runs
	// there any more: see host.
	lost string
	gone bool
	// pinned is spec.nodeName; once is whether restartPolicy is Never.
	pinned string
	once   bool
}

// computeStatus returns the status that follows from the findings. It is pure: equal arguments give
// equal results, and a status computed from itself is itself.
func computeStatus(old v1alpha1.ContainerStatus, f findings, bundle *v1alpha1.OCIBundle,
	now time.Time,
) v1alpha1.ContainerStatus {
	if f.foreign != "" {
		bundle = nil
	}
	st := v1alpha1.ContainerStatus{
		ObservedGeneration: f.generation,
		LastProgressTime:   old.LastProgressTime,
		Compiled:           f.shown,
		Conditions:         append([]metav1.Condition(nil), old.Conditions...),
	}
	set := func(c metav1.Condition) {
		if c.LastTransitionTime.IsZero() {
			c.LastTransitionTime = metav1.NewTime(now)
		}
		c.Message = status.Shorten(c.Message, status.MaxMessage)
		meta.SetStatusCondition(&st.Conditions, c)
	}

	if f.compiled {
		set(specValid(f))
	}
	reason, recompile := v1alpha1.ReasonNewerDefaults, f.newer
	if f.rebound != "" {
		reason, recompile = v1alpha1.ReasonVolumeChanged, f.rebound
	}
	if recompile != "" {
		set(metav1.Condition{
			Type: v1alpha1.ConditionRecompileAvailable, Status: metav1.ConditionTrue,
			ObservedGeneration: f.generation, Reason: reason, Message: recompile,
		})
	} else {
		meta.RemoveStatusCondition(&st.Conditions, v1alpha1.ConditionRecompileAvailable)
	}
	if v := f.scheduled; v != nil {
		c := metav1.Condition{
			Type: v1alpha1.ConditionScheduled, Status: metav1.ConditionTrue,
			ObservedGeneration: f.generation, Reason: v.reason, Message: v.message,
		}
		if v.node == "" {
			c.Status = metav1.ConditionFalse
		}
		set(c)
	}
	mirror(&st, f, bundle, set)

	summarize(&st, f, bundle).Set(&st, f.generation, f.deadline, now)
	return st
}

func specValid(f findings) metav1.Condition {
	c := metav1.Condition{
		Type: v1alpha1.ConditionSpecValid, Status: metav1.ConditionTrue, ObservedGeneration: f.generation,
		Reason:  v1alpha1.ReasonCompiled,
		Message: "the spec compiles to a valid runtime-spec document",
	}
	if len(f.warnings) > 0 {
		c.Message += "; warnings: " + strings.Join(f.warnings, "; ")
	}
	if f.invalid != "" {
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, v1alpha1.ReasonInvalidSpec, f.invalid
	}
	return c
}

// summarize decides on Ready, Reconciling and Stalled. It reads as a list: the first line that
// applies is the answer.
func summarize(st *v1alpha1.ContainerStatus, f findings,
	bundle *v1alpha1.OCIBundle,
) status.Summary {
	no := status.NotReady
	const reconciling, stalled = status.Reconciling, status.Stalled
	scheduled := meta.FindStatusCondition(st.Conditions, v1alpha1.ConditionScheduled)
	// What is said of a Container whose new spec could not be put in force, while one of an earlier
	// spec is there.
	unchanged := ""
	if bundle != nil && !f.inSync {
		unchanged = fmt.Sprintf("; what was dispatched to node %s from an earlier spec is left as it is",
			bundle.Spec.NodeName)
	}

	switch {
	case f.deleting:
		return no(reconciling, v1alpha1.ReasonTerminating, waitForNode("is being deleted", f, bundle))
	case f.invalid != "":
		return no(stalled, v1alpha1.ReasonInvalidSpec, f.invalid+unchanged)
	case f.foreign != "" && f.predecessor != "":
		return no(reconciling, v1alpha1.ReasonTerminating,
			"waits until the OCIBundle of an earlier Container of this name is gone")
	case f.foreign != "":
		return no(stalled, v1alpha1.ReasonBundleConflict, f.foreign)
	case bundle != nil && bundle.DeletionTimestamp != nil:
		return no(reconciling, v1alpha1.ReasonTerminating,
			waitForNode("its OCIBundle is being deleted, and is made again after that", f, bundle))
	case f.failure != "":
		return no(reconciling, v1alpha1.ReasonDispatchFailed, f.failure)
	case scheduled != nil && scheduled.Reason == v1alpha1.ReasonVolumeUnsupported:
		return no(stalled, scheduled.Reason, scheduled.Message+unchanged)
	case scheduled != nil && scheduled.Status != metav1.ConditionTrue:
		return no(reconciling, scheduled.Reason, scheduled.Message+unchanged)
	case bundle == nil && f.unready != "":
		return no(reconciling, v1alpha1.ReasonProgressing, "has not been dispatched yet: "+f.unready)
	case bundle == nil:
		return no(reconciling, v1alpha1.ReasonProgressing, "has not been dispatched yet")

	case current(f, bundle) && ended(bundle):
		return status.OfRun(bundle.Status.Phase, st.Conditions)
	case abandoned(f, bundle):
		return no(stalled, v1alpha1.ReasonNodeLost, f.lost+
			"; it may have run there, and with restartPolicy Never it is not run again: edit it, or delete and create it, to have it run")
	case f.lost != "":
		return status.Summary{
			Ready: metav1.ConditionUnknown, Reason: v1alpha1.ReasonNodeLost,
			Message: f.lost + "; " + whileLost(f, bundle), Outlook: reconciling,
		}
	case !current(f, bundle):
		return no(reconciling, v1alpha1.ReasonDispatched,
			fmt.Sprintf("waits for the agent of node %s to take it up", bundle.Spec.NodeName))
	}
	return status.OfRun(bundle.Status.Phase, st.Conditions)
}

// waitForNode returns the message of a deletion that waits for a node, with the remedy if the
// machine does not come back.
func waitForNode(what string, f findings, bundle *v1alpha1.OCIBundle) string {
	if bundle == nil {
		return what
	}
	message := fmt.Sprintf("%s: the agent of node %s stops the container and removes it", what,
		bundle.Spec.NodeName)
	if f.lost != "" {
		message += "; but " + f.lost + ". If the machine comes back, its agent finishes this. " +
			whoKnows(bundle)
	}
	return message
}

// whileLost returns the message about a Container whose node is lost.
func whileLost(f findings, bundle *v1alpha1.OCIBundle) string {
	switch {
	case f.gone && f.pinned == bundle.Spec.NodeName:
		return "spec.nodeName keeps it there: remove or change that to have it placed again"
	case f.gone:
		return "it is placed again"
	}
	return "its process may run on, so it is not placed elsewhere. " + whoKnows(bundle)
}

// whoKnows returns the message about the end of the wait for a node: an act of an administrator,
// since nobody else can know that the machine is off.
func whoKnows(bundle *v1alpha1.OCIBundle) string {
	return fmt.Sprintf(
		"An administrator who knows that the machine is off can say so by the taint %s on Node or NodeAgent %s, or by deleting both",
		corev1.TaintNodeOutOfService, bundle.Spec.NodeName)
}

// abandoned reports whether the Container may have run on a node that is gone, and must not be run
// again.
func abandoned(f findings, bundle *v1alpha1.OCIBundle) bool {
	return f.gone && f.once && bundle != nil && !ended(bundle)
}

// current reports whether the agent's word is on the spec of this generation.
func current(f findings, bundle *v1alpha1.OCIBundle) bool {
	return bundle != nil && f.inSync && bundle.Status.ObservedGeneration >= bundle.Generation
}

// ended reports whether the agent has declared the container over for good.
func ended(b *v1alpha1.OCIBundle) bool {
	return status.Finished(b.Status.Phase)
}

// terminated returns the last end of the process, or nil.
func terminated(st *v1alpha1.ContainerStatus) *corev1.ContainerStateTerminated {
	if st.State.Terminated != nil {
		return st.State.Terminated
	}
	return st.LastState.Terminated
}
