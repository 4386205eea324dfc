// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	apistatus "github.com/berth-run/berth/api/status"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// Status returns the status of a wanted container. It is the only place where the status of a
// bundle is computed.
func Status(in Input, previous *v1alpha1.OCIBundleStatus, p *progress) *v1alpha1.OCIBundleStatus {
	s := statusOf{in: in, bundle: in.Desired, record: in.Record, previous: previous, progress: p}
	if s.record == nil {
		s.record = &Record{}
	}
	s.facts()
	s.accepted()
	s.recompileAvailable()
	if s.record.unreadable != nil {
		s.degraded()
		return s.out
	}
	meta.RemoveStatusCondition(&s.out.Conditions, v1alpha1.ConditionDegraded)
	s.imageReady()
	s.running()
	s.dnsConfigured()
	s.trouble()
	s.unseen()
	return s.out
}

// statusOf is a status that is being computed.
type statusOf struct {
	in       Input
	bundle   *v1alpha1.OCIBundle
	record   *Record // never nil
	previous *v1alpha1.OCIBundleStatus
	progress *progress // nil if there is none
	out      *v1alpha1.OCIBundleStatus
}

// set sets a condition.
func (s *statusOf) set(kind string, value metav1.ConditionStatus, reason, message string) {
	meta.SetStatusCondition(&s.out.Conditions, metav1.Condition{
		Type: kind, Status: value, Reason: reason, Message: shorten(message),
		ObservedGeneration: s.bundle.Generation,
		LastTransitionTime: metav1.NewTime(s.in.Now).Rfc3339Copy(),
	})
}

// facts begins the status with the previous conditions and with the numbers of the record.
func (s *statusOf) facts() {
	r := s.record
	s.out = &v1alpha1.OCIBundleStatus{ObservedGeneration: s.bundle.Generation}
	for _, c := range s.previous.Conditions {
		if slices.Contains(source.Conditions(), c.Type) { // of others, nothing is passed on
			s.out.Conditions = append(s.out.Conditions, c)
		}
	}
	if r.ID != "" {
		s.out.ContainerID = containerURL(r.ID)
	}
	s.out.ImageID, s.out.VolumeImages = r.ImageID, slices.Clone(r.VolumeImages)
	s.out.IPs = slices.Clone(r.IPs)
	s.out.RestartCount = r.Restarts
	if r.State == stateStarting && r.Before != nil {
		// A start that is interrupted before its program runs is taken back, and its count with it.
		s.out.RestartCount = r.Before.Restarts
	}
	s.out.OOMKills = int64(r.PastOOMKills + r.OOMKills)
	s.out.LogPath = r.LogPath
}

func (s *statusOf) accepted() {
	switch in := &s.in; {
	case in.Refused == "":
		meta.RemoveStatusCondition(&s.out.Conditions, v1alpha1.ConditionAccepted)
	case in.GoesOn:
		s.set(v1alpha1.ConditionAccepted, metav1.ConditionFalse, in.RefusedReason, in.Refused+
			"; the container goes on as its earlier spec says")
	default:
		s.set(v1alpha1.ConditionAccepted, metav1.ConditionFalse, in.RefusedReason, in.Refused)
	}
}

func (s *statusOf) recompileAvailable() {
	if s.in.Newer != "" {
		s.set(v1alpha1.ConditionRecompileAvailable, metav1.ConditionTrue, v1alpha1.ReasonNewerDefaults,
			s.in.Newer)
	} else {
		meta.RemoveStatusCondition(&s.out.Conditions, v1alpha1.ConditionRecompileAvailable)
	}
}

// degraded completes the status of a container whose record cannot be read, from the previous
// status and the supervisor's.
func (s *statusOf) degraded() {
	s.set(v1alpha1.ConditionDegraded, metav1.ConditionTrue, v1alpha1.ReasonRecordUnreadable,
		"the agent's record cannot be read: "+s.record.unreadable.Error())
	id, actual := s.out.ContainerID, s.in.Actual
	s.out.Phase, s.out.RunStatus = s.previous.Phase, *s.previous.RunStatus.DeepCopy()
	s.out.ContainerID = id
	switch {
	case s.in.alive() && actual.State == protocol.Running:
		s.out.Phase, s.out.PID = v1alpha1.ContainerRunning, int64(actual.PID)
		s.out.State = corev1.ContainerState{
			Running: &corev1.ContainerStateRunning{
				StartedAt: metav1.NewTime(actual.StartedAt).Rfc3339Copy(),
			},
		}
		s.set(v1alpha1.ConditionRunning, metav1.ConditionTrue, v1alpha1.ReasonRecordUnreadable,
			fmt.Sprintf(
				"the process runs with pid %d and is left alone: the agent's record of it cannot be read",
				actual.PID))
	default:
		s.out.Phase, s.out.PID = v1alpha1.ContainerUnknown, 0
		s.set(v1alpha1.ConditionRunning, metav1.ConditionUnknown, v1alpha1.ReasonRecordUnreadable,
			"it does not run, and whether it has run cannot be known, since the agent's record cannot be read: delete it and apply it again to have it run")
	}
}

func (s *statusOf) imageReady() {
	r, p := s.record, s.progress
	switch {
	case p != nil && p.condition == v1alpha1.ConditionImageReady:
		s.set(p.condition, metav1.ConditionFalse, p.reason, p.message)
	case r.Failure != nil && (r.Failure.Reason == v1alpha1.ReasonImagePullFailed || r.Failure.Rootfs):
		s.set(v1alpha1.ConditionImageReady, metav1.ConditionFalse, r.Failure.Reason, r.Failure.Message)
	case s.bundle.Spec.Image != nil && r.ImageID != "":
		s.set(v1alpha1.ConditionImageReady, metav1.ConditionTrue, v1alpha1.ReasonImagePulled, r.ImageID)
	case s.bundle.Spec.Image == nil && (r.State != stateNone && r.State != stateStarting ||
		r.Failure != nil && r.Failure.AfterRootfs):
		s.set(v1alpha1.ConditionImageReady, metav1.ConditionTrue, v1alpha1.ReasonRootFSFound,
			"the root filesystem is a directory of the node")
	case r.Failure != nil && r.ImageID == "":
		s.set(v1alpha1.ConditionImageReady, metav1.ConditionUnknown, v1alpha1.ReasonProgressing,
			"not looked at, because an earlier step failed: "+r.Failure.Message)
	default:
		s.set(v1alpha1.ConditionImageReady, metav1.ConditionUnknown, v1alpha1.ReasonProgressing,
			"not looked at yet")
	}
}

// dnsConfigured reports the DNS settings of the Container that its resolv.conf lacks.
func (s *statusOf) dnsConfigured() {
	if r := s.record; r.DNS != nil && r.State == stateRunning {
		s.set(v1alpha1.ConditionDNSConfigured, metav1.ConditionFalse, r.DNS.Reason, r.DNS.Message)
		return
	}
	meta.RemoveStatusCondition(&s.out.Conditions, v1alpha1.ConditionDNSConfigured)
}

// trouble adds what the agent tries again.
func (s *statusOf) trouble() {
	if s.in.Trouble == "" {
		return
	}
	running := *meta.FindStatusCondition(s.out.Conditions, v1alpha1.ConditionRunning)
	reason, message := running.Reason, running.Message+"; "+s.in.Trouble
	if w := s.out.State.Waiting; w != nil {
		if s.record.Failure == nil && s.in.StorageFailed {
			reason = v1alpha1.ReasonStorageFailed
		}
		w.Reason, w.Message = reason, shorten(message)
	}
	s.set(v1alpha1.ConditionRunning, running.Status, reason, message)
}

// unseen has the status say that nothing is known of a container that may run still.
func (s *statusOf) unseen() {
	if s.in.Unseen == "" || s.in.Record == nil || apistatus.Finished(s.out.Phase) {
		return
	}
	last := meta.FindStatusCondition(s.out.Conditions, v1alpha1.ConditionRunning).Message
	since := metav1.NewTime(s.in.UnseenSince).Rfc3339Copy()
	if was := meta.FindStatusCondition(s.previous.Conditions, v1alpha1.ConditionRunning); was != nil &&
		was.Status == metav1.ConditionUnknown {
		since = was.LastTransitionTime // as an earlier agent found
	}
	s.out.Phase = v1alpha1.ContainerUnknown
	s.set(v1alpha1.ConditionRunning, metav1.ConditionUnknown, v1alpha1.ReasonSupervisorUnreachable,
		fmt.Sprintf("not known since %s: %s; before that: %s", since.UTC().Format(time.RFC3339),
			s.in.Unseen, last))
	meta.FindStatusCondition(s.out.Conditions, v1alpha1.ConditionRunning).LastTransitionTime = since
}

func shorten(message string) string { return apistatus.Shorten(message, apistatus.MaxMessage) }
