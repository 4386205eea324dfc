// SPDX-License-Identifier: Apache-2.0

// Package status computes the conditions Ready, Reconciling and Stalled of a Container. They follow
// kstatus, which Flux, Argo CD and `kubectl wait` rely on. The controller of a cluster and the
// agent of a single host use the same functions, so both report a Container in the same way. The
// package is pure: it does no I/O and reads no clock.
package status

import (
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/v1alpha1"
)

// Outlook is the expected next step of a Container.
type Outlook int

const (
	// Settled means that nothing is left to do.
	Settled Outlook = iota
	// Reconciling means that work goes on. It ends at the progress deadline.
	Reconciling
	// Stalled means that nothing more is expected until somebody changes something.
	Stalled
)

// Summary is the content of Ready, Reconciling and Stalled.
type Summary struct {
	Ready   metav1.ConditionStatus
	Reason  string
	Message string
	Outlook Outlook
}

// NotReady returns a Summary whose Ready is False.
func NotReady(outlook Outlook, reason, message string) Summary {
	return Summary{Ready: metav1.ConditionFalse, Reason: reason, Message: message, Outlook: outlook}
}

// Finished reports whether a container in this phase has ended for good.
func Finished(phase v1alpha1.ContainerPhase) bool {
	return phase == v1alpha1.ContainerSucceeded || phase == v1alpha1.ContainerFailed
}

// OfRun summarizes an agent's report on the current generation of a bundle: its phase, and its
// conditions Accepted, ImageReady and Running. The first line that applies is the answer.
func OfRun(phase v1alpha1.ContainerPhase, conditions []metav1.Condition) Summary {
	image := meta.FindStatusCondition(conditions, v1alpha1.ConditionImageReady)
	running := meta.FindStatusCondition(conditions, v1alpha1.ConditionRunning)
	accepted := meta.FindStatusCondition(conditions, v1alpha1.ConditionAccepted)
	noImage := image != nil && image.Status == metav1.ConditionFalse
	switch {
	case accepted != nil && accepted.Status == metav1.ConditionFalse:
		// the agent tries again
		if accepted.Reason == v1alpha1.ReasonUnresolved ||
			accepted.Reason == v1alpha1.ReasonUpdateRefused {
			return NotReady(Reconciling, accepted.Reason, accepted.Message)
		}
		return NotReady(Stalled, accepted.Reason, accepted.Message)
	case phase == v1alpha1.ContainerSucceeded:
		reason, message := explain(running, v1alpha1.ReasonCompleted, "ended with exit code 0")
		return Summary{metav1.ConditionTrue, reason, message, Settled}
	case phase == v1alpha1.ContainerFailed:
		cause := running
		if noImage {
			cause = image
		}
		reason, message := explain(cause, v1alpha1.ReasonExited, "ended and is not to be restarted")
		return NotReady(Stalled, reason, message)
	case running != nil && running.Status == metav1.ConditionUnknown:
		return Summary{metav1.ConditionUnknown, running.Reason, running.Message, Reconciling}
	case running != nil && running.Status == metav1.ConditionTrue:
		return Summary{metav1.ConditionTrue, running.Reason, running.Message, Settled}
	case running != nil && running.Reason == v1alpha1.ReasonStopped:
		return NotReady(Settled, running.Reason, running.Message)
	case noImage:
		return NotReady(Reconciling, image.Reason, image.Message)
	case running != nil:
		// An image that is Unknown explains nothing: a stage before it may have failed.
		return NotReady(Reconciling, running.Reason, running.Message)
	case image != nil && image.Status == metav1.ConditionUnknown:
		return NotReady(Reconciling, image.Reason, image.Message)
	}
	return NotReady(Reconciling, v1alpha1.ReasonProgressing, "the agent is at work")
}

// explain returns the reason and message of a condition, or the given ones if it has none or only
// says that the node is lost.
func explain(c *metav1.Condition, reason, message string) (string, string) {
	if c == nil || c.Reason == v1alpha1.ReasonNodeLost {
		return reason, message
	}
	if c.Reason != "" {
		reason = c.Reason
	}
	if c.Message != "" {
		message = c.Message
	}
	return reason, message
}

// Set writes Ready, Reconciling, Stalled and lastProgressTime into st, which holds those of the
// previous status. deadline is spec.progressDeadlineSeconds; with 0 the Container never exceeds it.
func (s Summary) Set(st *v1alpha1.ContainerStatus, generation int64, deadline time.Duration,
	now time.Time,
) {
	if deadline > 0 {
		st.LastProgressTime = s.lastProgress(st, generation, deadline, now)
	}
	reason, message := s.Reason, s.Message
	if s.Outlook == Reconciling && deadline > 0 && now.Sub(st.LastProgressTime.Time) >= deadline {
		s.Outlook = Stalled
		reason = v1alpha1.ReasonProgressDeadlineExceeded
		message = fmt.Sprintf("not Ready within %s (progressDeadlineSeconds): %s: %s", deadline, s.Reason,
			s.Message)
	}
	put := func(kind string, status metav1.ConditionStatus, reason, message string) {
		meta.SetStatusCondition(&st.Conditions, metav1.Condition{
			Type: kind, Status: status, ObservedGeneration: generation, Reason: reason,
			Message: Shorten(message, MaxMessage), LastTransitionTime: metav1.NewTime(now).Rfc3339Copy(),
		})
	}
	put(v1alpha1.ConditionReady, s.Ready, s.Reason, s.Message)
	st.PrintableStatus = s.printable(st)
	// As in Flux, the other two are present only while they are True.
	if s.Outlook == Reconciling {
		put(v1alpha1.ConditionReconciling, metav1.ConditionTrue, reconcilingReason(s.Reason), s.Message)
	} else {
		meta.RemoveStatusCondition(&st.Conditions, v1alpha1.ConditionReconciling)
	}
	if s.Outlook == Stalled {
		put(v1alpha1.ConditionStalled, metav1.ConditionTrue, reason, message)
	} else {
		meta.RemoveStatusCondition(&st.Conditions, v1alpha1.ConditionStalled)
	}
}

// printable returns the phase, or the reason while the phase does not say what happens: by the
// rules of a Pod's phase a process that ended and waits to be started again is Running.
func (s Summary) printable(st *v1alpha1.ContainerStatus) string {
	switch {
	case s.Reason == v1alpha1.ReasonTerminating,
		st.Phase == v1alpha1.ContainerFailed && (s.Reason == v1alpha1.ReasonOOMKilled ||
			s.Reason == v1alpha1.ReasonEvicted):
		return s.Reason
	case Finished(st.Phase), st.Phase == v1alpha1.ContainerUnknown:
		return string(st.Phase)
	case meta.IsStatusConditionTrue(st.Conditions, v1alpha1.ConditionRunning):
		return string(v1alpha1.ContainerRunning)
	case s.Reason == v1alpha1.ReasonProgressing:
		return string(v1alpha1.ContainerPending)
	}
	return s.Reason
}

func reconcilingReason(reason string) string {
	switch reason {
	case v1alpha1.ReasonDispatched, v1alpha1.ReasonTerminating, v1alpha1.ReasonDispatchFailed:
		return reason
	}
	return v1alpha1.ReasonProgressing
}

// lastProgress returns when the clock of the progress deadline started. A new spec starts it, and
// so does the end of a time of being Ready that was at least as long as the deadline. A process
// that is Ready for a moment in each turn of a crash loop does not.
func (s Summary) lastProgress(old *v1alpha1.ContainerStatus, generation int64,
	deadline time.Duration, now time.Time,
) *metav1.Time {
	ready := meta.FindStatusCondition(old.Conditions, v1alpha1.ConditionReady)
	stalled := meta.FindStatusCondition(old.Conditions, v1alpha1.ConditionStalled)
	last := old.LastProgressTime
	switch {
	case ready == nil, ready.ObservedGeneration != generation:
	case s.Outlook != Reconciling:
		return last
	case last == nil:
	case last.Sub(now) > time.Second: // the clock was set back
	case ready.Status == metav1.ConditionTrue && now.Sub(ready.LastTransitionTime.Time) >= deadline:
	// it was unblocked
	case stalled != nil && stalled.Reason != v1alpha1.ReasonProgressDeadlineExceeded:
	default:
		return last
	}
	// The API keeps whole seconds: rounded up, so that the deadline never comes early.
	started := metav1.NewTime(now.Add(time.Second - 1).Truncate(time.Second)).Rfc3339Copy()
	return &started
}

// Deadline returns spec.progressDeadlineSeconds of c, or 0 if c is being deleted: then kstatus
// reports it as Terminating, and the time that takes is the grace period's.
func Deadline(c *v1alpha1.Container) time.Duration {
	switch {
	case c.DeletionTimestamp != nil:
		return 0
	case c.Spec.ProgressDeadlineSeconds == nil:
		return v1alpha1.DefaultProgressDeadlineSeconds * time.Second
	}
	return time.Duration(*c.Spec.ProgressDeadlineSeconds) * time.Second
}

// StallsAt returns when c exceeds its progress deadline if it makes no progress, and false if it is
// not waiting for progress.
func StallsAt(c *v1alpha1.Container) (time.Time, bool) {
	deadline := Deadline(c)
	if deadline == 0 || c.Status.LastProgressTime == nil ||
		!meta.IsStatusConditionTrue(c.Status.Conditions, v1alpha1.ConditionReconciling) {
		return time.Time{}, false
	}
	return c.Status.LastProgressTime.Add(deadline), true
}

// MaxMessage is the most that the API server accepts as a condition's message (metav1.Condition).
const MaxMessage = 32768

// Shorten cuts a message to n bytes and says how much it cut.
func Shorten(message string, n int) string {
	if len(message) <= n {
		return message
	}
	const rest = "… (%d bytes more)"
	keep := n - len(rest) - 8
	return strings.ToValidUTF8(message[:keep], "") + fmt.Sprintf(rest, len(message)-keep)
}
