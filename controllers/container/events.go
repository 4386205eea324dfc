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
	was, is := &before.Status, &after.Status
	if len(was.Conditions) == 0 && is.State.Running != nil && meta.IsStatusConditionTrue(is.Conditions,
		v1alpha1.ConditionReady) && meta.FindStatusCondition(is.Conditions,
		v1alpha1.ConditionDNSConfigured) == nil {
		// A start without incident: the conditions say when it was placed, pulled and started, and
		// events would double its writes.
		return nil
	}
	var out notes
	out.dispatched(was, is)
	out.pulled(was, is)
	out.ran(was, is)
	out.finished(was, is)
	return out
}

// notes are the events of one change of status.
type notes []note

func (n *notes) normal(reason, action, message string) {
	*n = append(*n, note{corev1.EventTypeNormal, reason, action, message})
}

func (n *notes) warning(reason, action, message string) {
	*n = append(*n, note{corev1.EventTypeWarning, reason, action, message})
}

// dispatched notes how the Container comes to its node, and whether that node answers.
func (n *notes) dispatched(was, is *v1alpha1.ContainerStatus) {
	if c := turned(was, is, v1alpha1.ConditionSpecValid); c != nil &&
		c.Status == metav1.ConditionFalse {
		n.warning("SpecInvalid", "Compile", c.Message)
	}
	if c := turned(was, is, v1alpha1.ConditionScheduled); c != nil {
		if c.Status == metav1.ConditionTrue {
			n.normal("Scheduled", "Schedule", c.Message)
		} else {
			n.warning("FailedScheduling", "Schedule", c.Message)
		}
	}
	if c := turned(was, is, v1alpha1.ConditionReady); c != nil {
		switch c.Reason {
		case v1alpha1.ReasonTerminating:
			n.normal("Terminating", "Stop", c.Message)
		case v1alpha1.ReasonBundleConflict:
			n.warning("BundleConflict", "Dispatch", c.Message)
		case v1alpha1.ReasonDispatchFailed:
			n.warning("FailedDispatch", "Dispatch", c.Message)
		case v1alpha1.ReasonNodeLost:
			n.warning("Lost", "Watch", c.Message)
		}
	}
	// The phase is Unknown while the node is lost, whatever else is wrong with the Container or
	// done with it.
	if was.Phase == v1alpha1.ContainerUnknown && is.Phase != v1alpha1.ContainerUnknown &&
		is.NodeName != "" && is.NodeName == was.NodeName {
		n.normal("Found", "Watch", "the agent of node "+is.NodeName+" is heard again")
	}
	if c := meta.FindStatusCondition(is.Conditions, v1alpha1.ConditionStalled); c != nil &&
		c.Reason == v1alpha1.ReasonProgressDeadlineExceeded {
		if old := meta.FindStatusCondition(was.Conditions, v1alpha1.ConditionStalled); old == nil ||
			old.Reason != c.Reason {
			n.warning("ProgressDeadlineExceeded", "Watch", c.Message)
		}
	}
}

// pulled notes what becomes of the image.
func (n *notes) pulled(was, is *v1alpha1.ContainerStatus) {
	if c := turned(was, is, v1alpha1.ConditionImageReady); c != nil {
		switch c.Reason {
		case v1alpha1.ReasonImagePulled:
			n.normal("Pulled", "Pull", c.Message)
		case v1alpha1.ReasonPulling:
			n.normal("Pulling", "Pull", c.Message)
		case v1alpha1.ReasonImagePullFailed:
			n.warning("FailedPull", "Pull", c.Message)
		}
	}
}

// ran notes starts of the process, and why it ended or could not start.
func (n *notes) ran(was, is *v1alpha1.ContainerStatus) {
	run := is.State.Running
	if run != nil && (was.State.Running == nil || was.PID != is.PID ||
		was.RestartCount != is.RestartCount) {
		n.normal("Started", "Start", fmt.Sprintf("started on node %s as process %d", is.NodeName, is.PID))
	}
	if c := turned(was, is, v1alpha1.ConditionDNSConfigured); c != nil {
		n.warning(c.Reason, "Start", c.Message)
	}
	if end := terminated(is); end != nil && end.Reason == v1alpha1.ReasonEvicted &&
		!sameEnd(terminated(was), end) {
		n.warning("Evicted", "Run", end.Message)
	}
	others := is.OOMKills - was.OOMKills
	if end := terminated(is); end != nil && end.Reason == v1alpha1.ReasonOOMKilled &&
		!sameEnd(terminated(was), end) {
		n.warning("OOMKilled", "Run",
			"the kernel's out-of-memory killer ended the process: raise resources.limits.memory")
		others--
	}
	if others > 0 {
		n.warning("ChildOOMKilled", "Run",
			fmt.Sprintf(
				"the kernel's out-of-memory killer ended %d processes of the container, not its first: raise resources.limits.memory", others))
	}
	if c := turned(was, is, v1alpha1.ConditionRunning); c != nil &&
		(c.Reason == v1alpha1.ReasonCreateFailed || c.Reason == v1alpha1.ReasonStorageFailed) {
		n.warning("Failed", "Create", c.Message)
	}
	if c := meta.FindStatusCondition(is.Conditions, v1alpha1.ConditionRunning); c != nil &&
		c.Reason == v1alpha1.ReasonCrashLoopBackOff {
		old := meta.FindStatusCondition(was.Conditions, v1alpha1.ConditionRunning)
		if old == nil || old.Reason != c.Reason || was.RestartCount != is.RestartCount {
			n.warning("BackOff", "Restart", c.Message)
		}
	}
}

// finished notes that the Container has ended for good.
func (n *notes) finished(was, is *v1alpha1.ContainerStatus) {
	if was.Phase == is.Phase {
		return
	}
	ready := meta.FindStatusCondition(is.Conditions, v1alpha1.ConditionReady)
	switch is.Phase {
	case v1alpha1.ContainerSucceeded:
		n.normal("Completed", "Run", ready.Message)
	case v1alpha1.ContainerFailed:
		n.warning("Exited", "Run", ready.Message)
	}
}

// turned returns the condition, if its status or reason has changed; for one that is not True, also
// if its message has, which then names the fault.
func turned(was, is *v1alpha1.ContainerStatus, kind string) *metav1.Condition {
	old, c := meta.FindStatusCondition(was.Conditions, kind),
		meta.FindStatusCondition(is.Conditions, kind)
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
	return a != nil && a.FinishedAt.Equal(&b.FinishedAt) && a.StartedAt.Equal(&b.StartedAt) &&
		a.ContainerID == b.ContainerID
}
