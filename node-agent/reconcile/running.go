// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/v1alpha1"
)

// running sets Running with the phase and the state. The first line that applies is the answer.
func (s *statusOf) running() {
	b, r := s.bundle, s.record
	switch {
	case r.State == stateRunning:
		s.isRunning()
	case toldToStop(b) && r.State != stateStarting:
		s.isStopped()
	case r.Failure != nil && s.progress == nil:
		s.hasFailed()
	case r.State == stateEnded && !restarts(b.Spec.RestartPolicy, r.Exit) && !s.in.changed():
		s.hasFinished()
	case r.State == stateEnded:
		s.backsOff()
	default:
		s.isBeingMade()
	}
}

// waits sets the state of a container that does not run, with why it does not.
func (s *statusOf) waits(phase v1alpha1.ContainerPhase, last *corev1.ContainerStateTerminated,
	reason, message string,
) {
	s.out.Phase = phase
	s.out.State.Waiting = &corev1.ContainerStateWaiting{Reason: reason, Message: message}
	s.out.LastState.Terminated = seconds(last)
	s.set(v1alpha1.ConditionRunning, metav1.ConditionFalse, reason, message)
}

func (s *statusOf) isRunning() {
	r := s.record
	s.out.Phase = v1alpha1.ContainerRunning
	s.out.PID = int64(r.PID)
	s.out.State.Running = &corev1.ContainerStateRunning{
		StartedAt: metav1.NewTime(r.StartedAt).Rfc3339Copy(),
	}
	s.out.LastState.Terminated = seconds(r.Last)
	message := fmt.Sprintf("the process runs with pid %d", r.PID)
	if r.Stop != nil {
		message += "; it has been told to stop: " + r.Stop.Why
	}
	if r.OOMKills > 0 {
		message += fmt.Sprintf("; %d other processes of the container were killed for lack of memory",
			r.OOMKills)
	}
	if actual := s.in.Actual; actual != nil && actual.LogError != "" {
		message += fmt.Sprintf("; its output is not logged, %d lines are lost: %s", actual.LogLost,
			actual.LogError)
	}
	s.set(v1alpha1.ConditionRunning, metav1.ConditionTrue, v1alpha1.ReasonStarted, message)
}

func (s *statusOf) isStopped() {
	message := "it was told to stop, and stays so until it is told to start"
	if s.record.Exit != nil {
		message = ending(s.record.Exit) + "; " + message
	}
	s.waits(v1alpha1.ContainerPending, s.record.Exit, v1alpha1.ReasonStopped, message)
}

func (s *statusOf) hasFailed() {
	r := s.record
	wait := fmt.Sprintf("%s (next try after %s)", r.Failure.Message,
		r.BackOff.length(r.backOffLimits(s.bundle)))
	s.waits(v1alpha1.ContainerPending, r.Exit, r.Failure.Reason, shorten(wait))
}

func (s *statusOf) hasFinished() {
	r := s.record
	s.out.Phase = v1alpha1.ContainerSucceeded
	reason, message := v1alpha1.ReasonCompleted, "the process has ended with exit code 0"
	if r.Exit.ExitCode != 0 {
		s.out.Phase = v1alpha1.ContainerFailed
		reason, message = v1alpha1.ReasonExited, ending(r.Exit)
		if r.Exit.Reason == v1alpha1.ReasonOOMKilled {
			reason = v1alpha1.ReasonOOMKilled
		}
	}
	if r.Exit.Reason == v1alpha1.ReasonEvicted {
		s.out.Phase = v1alpha1.ContainerFailed
		reason, message = v1alpha1.ReasonEvicted, ending(r.Exit)
	}
	s.out.State.Terminated = seconds(r.Exit)
	s.out.LastState.Terminated = seconds(r.Last)
	s.set(v1alpha1.ConditionRunning, metav1.ConditionFalse, reason, message)
}

func (s *statusOf) backsOff() {
	r := s.record
	message := ending(r.Exit)
	if wait := r.BackOff.length(r.backOffLimits(s.bundle)); wait > 0 {
		message += fmt.Sprintf("; it is started again after a back-off of %s", wait)
	}
	s.waits(v1alpha1.ContainerRunning, r.Exit, v1alpha1.ReasonCrashLoopBackOff, message)
}

func (s *statusOf) isBeingMade() {
	reason, message := v1alpha1.ReasonProgressing, "the container is being made"
	if s.progress != nil {
		reason, message = s.progress.reason, s.progress.message
	}
	if s.in.Refused != "" && !s.in.GoesOn {
		reason, message = s.in.RefusedReason, s.in.Refused
	}
	phase := v1alpha1.ContainerPending
	if s.record.Last != nil { // it has run before
		phase = v1alpha1.ContainerRunning
	}
	s.waits(phase, s.record.Last, reason, message)
}

// ending returns the reason and the message for the end of a process.
func ending(t *corev1.ContainerStateTerminated) string {
	var s string
	switch {
	case t.Reason == "ContainerStatusUnknown":
		s = "the process is gone and its exit code is unknown"
	case t.Reason == v1alpha1.ReasonOOMKilled:
		s = fmt.Sprintf("the process was killed for lack of memory (exit code %d)", t.ExitCode)
	case t.Reason == v1alpha1.ReasonEvicted:
		s = "the process was ended, since a volume holds more than it may"
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
