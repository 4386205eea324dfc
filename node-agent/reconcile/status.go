// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	apistatus "github.com/berth-run/berth/api/status"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// progress is work under way that is in no record.
type progress struct{ condition, reason, message string }

// reportPatience is the time that a report may take if other work is waiting.
const reportPatience = time.Second

// reporting returns the context of a report. It ends when the next step is due, or when the worker
// is to look again, though not within reportPatience: a source that does not answer must not put
// off the next start of a container, nor its SIGKILL. due is the time until the next step; 0 is
// never.
func (s *Syncer) reporting(ctx context.Context, w *worker, due time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	var timers []clock.Timer
	after := func(d time.Duration) { timers = append(timers, s.Clock.AfterFunc(d, cancel)) }
	if due > 0 {
		after(max(due, reportPatience))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w.endReport = sync.OnceFunc(func() { after(reportPatience) })
	if w.again {
		w.endReport()
	}
	return ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		w.endReport = nil
		for _, t := range timers {
			t.Stop()
		}
		cancel()
	}
}

// report reports the status to the source if it differs from the one reported last. due is the time
// until there is something else to do; 0 is never.
func (s *Syncer) report(ctx context.Context, w *worker, in Input, p *progress, due time.Duration) error {
	// Nobody reads the status of a bundle that the source does not know (yet).
	known := s.Source.Get(w.key)
	if in.Desired == nil || known == nil || known.UID != in.Desired.UID {
		return nil
	}
	// What was reported last counts as long as the source shows no newer version. A newer one may
	// hold another's words, which are no base for what is reported next, such as the time of a
	// transition.
	previous, shown := &known.Status, &known.Status
	if w.told != nil && w.toldFor == known.UID {
		previous = w.told
		if w.toldAt == known.ResourceVersion {
			shown = w.told
		}
	}
	status := Status(in, previous, p)
	if apiequality.Semantic.DeepEqual(status, shown) {
		return nil
	}
	ctx, done := s.reporting(ctx, w, due)
	defer done()
	if err := s.Source.ReportStatus(ctx, known, status); err != nil {
		return err
	}
	w.told, w.toldFor, w.toldAt = status, known.UID, known.ResourceVersion
	return nil
}

// Status returns the status of a wanted container. It is the only place where the status of a
// bundle is computed.
func Status(in Input, previous *v1alpha1.OCIBundleStatus, p *progress) *v1alpha1.OCIBundleStatus {
	b, r := in.Desired, in.Record
	if r == nil {
		r = &Record{}
	}
	status := &v1alpha1.OCIBundleStatus{ObservedGeneration: b.Generation}
	for _, c := range previous.Conditions {
		// Of others, nothing is passed on.
		if slices.Contains([]string{v1alpha1.ConditionAccepted, v1alpha1.ConditionRecompileAvailable, v1alpha1.ConditionImageReady, v1alpha1.ConditionRunning}, c.Type) {
			status.Conditions = append(status.Conditions, c)
		}
	}
	if r.ID != "" {
		status.ContainerID = containerURL(r.ID)
	}
	status.ImageID = r.ImageID
	status.IPs = slices.Clone(r.IPs)
	status.RestartCount = r.Restarts
	if r.State == stateStarting && r.Before != nil {
		// A start that is interrupted before its program runs is taken back, and its count with it.
		status.RestartCount = r.Before.Restarts
	}
	status.OOMKills = int64(r.PastOOMKills + r.OOMKills)
	status.LogPath = r.LogPath

	set := func(kind string, value metav1.ConditionStatus, reason, message string) {
		meta.SetStatusCondition(&status.Conditions, metav1.Condition{
			Type: kind, Status: value, Reason: reason, Message: shorten(message), ObservedGeneration: b.Generation,
			LastTransitionTime: metav1.NewTime(in.Now).Rfc3339Copy(),
		})
	}

	// Accepted
	switch {
	case in.Refused == "":
		meta.RemoveStatusCondition(&status.Conditions, v1alpha1.ConditionAccepted)
	case in.GoesOn:
		set(v1alpha1.ConditionAccepted, metav1.ConditionFalse, in.RefusedReason, in.Refused+"; the container goes on as its earlier spec says")
	default:
		set(v1alpha1.ConditionAccepted, metav1.ConditionFalse, in.RefusedReason, in.Refused)
	}

	// RecompileAvailable
	if in.Newer != "" {
		set(v1alpha1.ConditionRecompileAvailable, metav1.ConditionTrue, v1alpha1.ReasonNewerDefaults, in.Newer)
	} else {
		meta.RemoveStatusCondition(&status.Conditions, v1alpha1.ConditionRecompileAvailable)
	}

	// Degraded
	if r.unreadable != nil {
		set(v1alpha1.ConditionDegraded, metav1.ConditionTrue, v1alpha1.ReasonRecordUnreadable, "the agent's record cannot be read: "+r.unreadable.Error())
		return degraded(in, status, previous, set)
	}
	meta.RemoveStatusCondition(&status.Conditions, v1alpha1.ConditionDegraded)

	// ImageReady
	switch {
	case p != nil && p.condition == v1alpha1.ConditionImageReady:
		set(p.condition, metav1.ConditionFalse, p.reason, p.message)
	case r.Failure != nil && (r.Failure.Reason == v1alpha1.ReasonImagePullFailed || r.Failure.Rootfs):
		set(v1alpha1.ConditionImageReady, metav1.ConditionFalse, r.Failure.Reason, r.Failure.Message)
	case b.Spec.Image != nil && r.ImageID != "":
		set(v1alpha1.ConditionImageReady, metav1.ConditionTrue, v1alpha1.ReasonImagePulled, r.ImageID)
	case b.Spec.Image == nil && (r.State != stateNone && r.State != stateStarting || r.Failure != nil && r.Failure.AfterRootfs):
		set(v1alpha1.ConditionImageReady, metav1.ConditionTrue, v1alpha1.ReasonRootFSFound, "the root filesystem is a directory of the node")
	case r.Failure != nil && r.ImageID == "":
		set(v1alpha1.ConditionImageReady, metav1.ConditionUnknown, v1alpha1.ReasonProgressing, "not looked at, because an earlier step failed: "+r.Failure.Message)
	default:
		set(v1alpha1.ConditionImageReady, metav1.ConditionUnknown, v1alpha1.ReasonProgressing, "not looked at yet")
	}

	// Running, phase, state
	switch {
	case r.State == stateRunning:
		status.Phase = v1alpha1.ContainerRunning
		status.PID = int64(r.PID)
		status.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(r.StartedAt).Rfc3339Copy()}
		status.LastState.Terminated = seconds(r.Last)
		message := fmt.Sprintf("the process runs with pid %d", r.PID)
		if r.Stop != nil {
			message += "; it has been told to stop: " + r.Stop.Why
		}
		if r.OOMKills > 0 {
			message += fmt.Sprintf("; %d other processes of the container were killed for lack of memory", r.OOMKills)
		}
		if in.Actual != nil && in.Actual.LogError != "" {
			message += fmt.Sprintf("; its output is not logged, %d lines are lost: %s", in.Actual.LogLost, in.Actual.LogError)
		}
		set(v1alpha1.ConditionRunning, metav1.ConditionTrue, v1alpha1.ReasonStarted, message)
	case toldToStop(b) && r.State != stateStarting:
		status.Phase = v1alpha1.ContainerPending
		message := "it was told to stop, and stays so until it is told to start"
		if r.Exit != nil {
			message = ending(r.Exit) + "; " + message
		}
		status.State.Waiting = &corev1.ContainerStateWaiting{Reason: v1alpha1.ReasonStopped, Message: message}
		status.LastState.Terminated = seconds(r.Exit)
		set(v1alpha1.ConditionRunning, metav1.ConditionFalse, v1alpha1.ReasonStopped, message)
	case r.Failure != nil && p == nil:
		status.Phase = v1alpha1.ContainerPending
		wait := fmt.Sprintf("%s (next try after %s)", r.Failure.Message, r.BackOff.length(r.backOffLimits(b)))
		status.State.Waiting = &corev1.ContainerStateWaiting{Reason: r.Failure.Reason, Message: shorten(wait)}
		status.LastState.Terminated = seconds(r.Exit)
		set(v1alpha1.ConditionRunning, metav1.ConditionFalse, r.Failure.Reason, wait)
	case r.State == stateEnded && !restarts(b.Spec.RestartPolicy, r.Exit) && !in.changed():
		status.Phase = v1alpha1.ContainerSucceeded
		reason, message := v1alpha1.ReasonCompleted, "the process has ended with exit code 0"
		if r.Exit.ExitCode != 0 {
			status.Phase = v1alpha1.ContainerFailed
			reason, message = v1alpha1.ReasonExited, ending(r.Exit)
			if r.Exit.Reason == v1alpha1.ReasonOOMKilled {
				reason = v1alpha1.ReasonOOMKilled
			}
		}
		status.State.Terminated = seconds(r.Exit)
		status.LastState.Terminated = seconds(r.Last)
		set(v1alpha1.ConditionRunning, metav1.ConditionFalse, reason, message)
	case r.State == stateEnded:
		status.Phase = v1alpha1.ContainerRunning
		message := ending(r.Exit)
		if wait := r.BackOff.length(r.backOffLimits(b)); wait > 0 {
			message += fmt.Sprintf("; it is started again after a back-off of %s", wait)
		}
		status.State.Waiting = &corev1.ContainerStateWaiting{Reason: v1alpha1.ReasonCrashLoopBackOff, Message: message}
		status.LastState.Terminated = seconds(r.Exit)
		set(v1alpha1.ConditionRunning, metav1.ConditionFalse, v1alpha1.ReasonCrashLoopBackOff, message)
	default:
		status.Phase = v1alpha1.ContainerPending
		reason, message := v1alpha1.ReasonProgressing, "the container is being made"
		if p != nil {
			reason, message = p.reason, p.message
		}
		if in.Refused != "" && !in.GoesOn {
			reason, message = in.RefusedReason, in.Refused
		}
		if r.Last != nil { // it has run before
			status.Phase = v1alpha1.ContainerRunning
			status.LastState.Terminated = seconds(r.Last)
		}
		status.State.Waiting = &corev1.ContainerStateWaiting{Reason: reason, Message: message}
		set(v1alpha1.ConditionRunning, metav1.ConditionFalse, reason, message)
	}
	if in.Trouble != "" {
		running := *meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionRunning)
		reason, message := running.Reason, running.Message+"; "+in.Trouble
		if w := status.State.Waiting; w != nil {
			if r.Failure == nil && in.StorageFailed {
				reason = v1alpha1.ReasonStorageFailed
			}
			w.Reason, w.Message = reason, shorten(message)
		}
		set(v1alpha1.ConditionRunning, running.Status, reason, message)
	}
	if in.Unseen != "" && in.Record != nil && !apistatus.Finished(status.Phase) {
		last := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionRunning).Message
		since := metav1.NewTime(in.UnseenSince).Rfc3339Copy()
		if was := meta.FindStatusCondition(previous.Conditions, v1alpha1.ConditionRunning); was != nil && was.Status == metav1.ConditionUnknown {
			since = was.LastTransitionTime // as an earlier agent found
		}
		status.Phase = v1alpha1.ContainerUnknown
		set(v1alpha1.ConditionRunning, metav1.ConditionUnknown, v1alpha1.ReasonSupervisorUnreachable,
			fmt.Sprintf("not known since %s: %s; before that: %s", since.UTC().Format(time.RFC3339), in.Unseen, last))
		meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionRunning).LastTransitionTime = since
	}
	return status
}

// degraded completes the status of a container whose record cannot be read, from the previous
// status and the supervisor's.
func degraded(in Input, status, previous *v1alpha1.OCIBundleStatus, set func(string, metav1.ConditionStatus, string, string)) *v1alpha1.OCIBundleStatus {
	id := status.ContainerID
	status.Phase, status.RunStatus = previous.Phase, *previous.RunStatus.DeepCopy()
	status.ContainerID = id
	switch {
	case in.alive() && in.Actual.State == protocol.Running:
		status.Phase, status.PID = v1alpha1.ContainerRunning, int64(in.Actual.PID)
		status.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(in.Actual.StartedAt).Rfc3339Copy()}}
		set(v1alpha1.ConditionRunning, metav1.ConditionTrue, v1alpha1.ReasonRecordUnreadable,
			fmt.Sprintf("the process runs with pid %d and is left alone: the agent's record of it cannot be read", in.Actual.PID))
	default:
		status.Phase, status.PID = v1alpha1.ContainerUnknown, 0
		set(v1alpha1.ConditionRunning, metav1.ConditionUnknown, v1alpha1.ReasonRecordUnreadable,
			"it does not run, and whether it has run cannot be known, since the agent's record cannot be read: delete it and apply it again to have it run")
	}
	return status
}

// ending returns the reason and the message for the end of a process.
func ending(t *corev1.ContainerStateTerminated) string {
	var s string
	switch {
	case t.Reason == "ContainerStatusUnknown":
		s = "the process is gone and its exit code is unknown"
	case t.Reason == v1alpha1.ReasonOOMKilled:
		s = fmt.Sprintf("the process was killed for lack of memory (exit code %d)", t.ExitCode)
	case t.Signal != 0:
		s = fmt.Sprintf("the process was ended by signal %d (exit code %d)", t.Signal, t.ExitCode)
	default:
		s = fmt.Sprintf("the process has ended with exit code %d", t.ExitCode)
	}
	if t.Message != "" {
		s += ": " + t.Message
	}
	return s
}

// seconds rounds the times as JSON does, so that a status that went through the API compares equal.
func seconds(t *corev1.ContainerStateTerminated) *corev1.ContainerStateTerminated {
	if t == nil {
		return nil
	}
	out := *t
	out.StartedAt = metav1.NewTime(t.StartedAt.Truncate(time.Second)).Rfc3339Copy()
	out.FinishedAt = metav1.NewTime(t.FinishedAt.Truncate(time.Second)).Rfc3339Copy()
	return &out
}

func shorten(message string) string { return apistatus.Shorten(message, apistatus.MaxMessage) }
