// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/status"
	"github.com/berth-run/berth/api/v1alpha1"
)

// note is an event before it is sent. The words are those of a Pod's events where a Pod has them.
type note struct {
	// kind is Normal or Warning.
	kind string
	// reason is the cause of the event, action the work that was done or tried: both are single
	// words for machines.
	reason, action string
	message        string
}

// maxNote is the greatest length of an event's note (events.k8s.io/v1 Event.note, 1 kB).
const maxNote = 1024

// fact records an event of something that has been done.
func (s *scope) fact(kind, reason, action, format string, args ...any) {
	s.facts = append(s.facts, note{kind, reason, action, fmt.Sprintf(format, args...)})
}

// send sends the notes of one change as few events: successful steps become one event, with the
// reason of the last.
func (r *Reconciler) send(c *v1alpha1.Container, notes []note) {
	for _, n := range merge(notes) {
		r.Recorder.Eventf(c, nil, n.kind, n.reason, n.action, "%s", status.Shorten(n.message, maxNote))
	}
}

// merge joins the Normal notes into the last of them. Each Warning stays an event of its own, for
// people to search for its reason.
func merge(notes []note) []note {
	var out []note
	var good note
	for _, n := range notes {
		if n.kind != corev1.EventTypeNormal {
			out = append(out, n)
			continue
		}
		if good.message != "" {
			n.message = good.message + "; " + n.message
		}
		good = n
	}
	if good.message != "" {
		out = append(out, good)
	}
	return out
}

// transitions returns the events that follow from a change of status. It is pure, and silent where
// nothing has changed.
func transitions(before, after *v1alpha1.Container) []note {
	var out []note
	add := func(kind, reason, action, message string) {
		out = append(out, note{kind, reason, action, message})
	}
	was, is := &before.Status, &after.Status
	if len(was.Conditions) == 0 && is.State.Running != nil && meta.IsStatusConditionTrue(is.Conditions, v1alpha1.ConditionReady) {
		// A start without incident: the conditions say when it was placed, pulled and started, and
		// events would double its writes.
		return nil
	}

	if c := turned(was, is, v1alpha1.ConditionSpecValid); c != nil && c.Status == metav1.ConditionFalse {
		add(corev1.EventTypeWarning, "SpecInvalid", "Compile", c.Message)
	}
	if c := turned(was, is, v1alpha1.ConditionScheduled); c != nil {
		if c.Status == metav1.ConditionTrue {
			add(corev1.EventTypeNormal, "Scheduled", "Schedule", c.Message)
		} else {
			add(corev1.EventTypeWarning, "FailedScheduling", "Schedule", c.Message)
		}
	}
	if c := turned(was, is, v1alpha1.ConditionReady); c != nil {
		switch c.Reason {
		case v1alpha1.ReasonTerminating:
			add(corev1.EventTypeNormal, "Terminating", "Stop", c.Message)
		case v1alpha1.ReasonBundleConflict:
			add(corev1.EventTypeWarning, "BundleConflict", "Dispatch", c.Message)
		case v1alpha1.ReasonDispatchFailed:
			add(corev1.EventTypeWarning, "FailedDispatch", "Dispatch", c.Message)
		case v1alpha1.ReasonNodeLost:
			add(corev1.EventTypeWarning, "Lost", "Watch", c.Message)
		}
	}
	// The phase is Unknown while the node is lost, whatever else is wrong with the Container or
	// done with it.
	if was.Phase == v1alpha1.ContainerUnknown && is.Phase != v1alpha1.ContainerUnknown && is.NodeName != "" && is.NodeName == was.NodeName {
		add(corev1.EventTypeNormal, "Found", "Watch", "the agent of node "+is.NodeName+" is heard again")
	}
	if c := meta.FindStatusCondition(is.Conditions, v1alpha1.ConditionStalled); c != nil && c.Reason == v1alpha1.ReasonProgressDeadlineExceeded {
		if old := meta.FindStatusCondition(was.Conditions, v1alpha1.ConditionStalled); old == nil || old.Reason != c.Reason {
			add(corev1.EventTypeWarning, "ProgressDeadlineExceeded", "Watch", c.Message)
		}
	}
	if c := turned(was, is, v1alpha1.ConditionImageReady); c != nil {
		switch c.Reason {
		case v1alpha1.ReasonImagePulled:
			add(corev1.EventTypeNormal, "Pulled", "Pull", c.Message)
		case v1alpha1.ReasonPulling:
			add(corev1.EventTypeNormal, "Pulling", "Pull", c.Message)
		case v1alpha1.ReasonImagePullFailed:
			add(corev1.EventTypeWarning, "FailedPull", "Pull", c.Message)
		}
	}
	if run := is.State.Running; run != nil && (was.State.Running == nil || was.PID != is.PID || was.RestartCount != is.RestartCount) {
		add(corev1.EventTypeNormal, "Started", "Start", fmt.Sprintf("started on node %s as process %d", is.NodeName, is.PID))
	}
	others := is.OOMKills - was.OOMKills
	if end := terminated(is); end != nil && end.Reason == v1alpha1.ReasonOOMKilled && !sameEnd(terminated(was), end) {
		add(corev1.EventTypeWarning, "OOMKilled", "Run", "the kernel's out-of-memory killer ended the process: raise resources.limits.memory")
		others--
	}
	if others > 0 {
		add(corev1.EventTypeWarning, "ChildOOMKilled", "Run",
			fmt.Sprintf("the kernel's out-of-memory killer ended %d processes of the container, not its first: raise resources.limits.memory", others))
	}
	if c := turned(was, is, v1alpha1.ConditionRunning); c != nil && (c.Reason == v1alpha1.ReasonCreateFailed || c.Reason == v1alpha1.ReasonStorageFailed) {
		add(corev1.EventTypeWarning, "Failed", "Create", c.Message)
	}
	if c := meta.FindStatusCondition(is.Conditions, v1alpha1.ConditionRunning); c != nil && c.Reason == v1alpha1.ReasonCrashLoopBackOff {
		old := meta.FindStatusCondition(was.Conditions, v1alpha1.ConditionRunning)
		if old == nil || old.Reason != c.Reason || was.RestartCount != is.RestartCount {
			add(corev1.EventTypeWarning, "BackOff", "Restart", c.Message)
		}
	}
	if was.Phase != is.Phase {
		ready := meta.FindStatusCondition(is.Conditions, v1alpha1.ConditionReady)
		switch is.Phase {
		case v1alpha1.ContainerSucceeded:
			add(corev1.EventTypeNormal, "Completed", "Run", ready.Message)
		case v1alpha1.ContainerFailed:
			add(corev1.EventTypeWarning, "Exited", "Run", ready.Message)
		}
	}
	return out
}

// turned returns the condition, if its status or reason has changed; for one that is not True, also
// if its message has, which then names the fault.
func turned(was, is *v1alpha1.ContainerStatus, kind string) *metav1.Condition {
	old, c := meta.FindStatusCondition(was.Conditions, kind), meta.FindStatusCondition(is.Conditions, kind)
	switch {
	case c == nil:
		return nil
	case old == nil, old.Status != c.Status, old.Reason != c.Reason:
		return c
	case c.Status != metav1.ConditionTrue && old.Message != c.Message:
		return c
	}
	return nil
}

func sameEnd(a, b *corev1.ContainerStateTerminated) bool {
	return a != nil && a.FinishedAt.Equal(&b.FinishedAt) && a.StartedAt.Equal(&b.StartedAt) && a.ContainerID == b.ContainerID
}
