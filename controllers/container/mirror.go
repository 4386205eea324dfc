// SPDX-License-Identifier: Apache-2.0

package container

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/v1alpha1"
)

// mirrored are the conditions that are the agent's word.
var mirrored = []string{
	v1alpha1.ConditionAccepted, v1alpha1.ConditionDegraded,
	v1alpha1.ConditionImageReady, v1alpha1.ConditionRunning, v1alpha1.ConditionDNSConfigured,
}

// mirror puts the agent's word into the Container's status. set adds a condition to it.
func mirror(st *v1alpha1.ContainerStatus, f findings, bundle *v1alpha1.OCIBundle,
	set func(metav1.Condition),
) {
	st.Phase = v1alpha1.ContainerPending
	if bundle == nil {
		for _, kind := range mirrored {
			meta.RemoveStatusCondition(&st.Conditions, kind)
		}
		return
	}
	st.NodeName = bundle.Spec.NodeName
	st.Bundle = bundle.Namespace + "/" + bundle.Name
	st.RunStatus = *bundle.Status.RunStatus.DeepCopy()
	if bundle.Status.Phase != "" {
		st.Phase = bundle.Status.Phase
	}
	// Where a container has ended for good, nothing about it is unknown with its node.
	unheard := f.lost != "" && !ended(bundle)
	switch {
	case abandoned(f, bundle):
		// As on a node that was booted again: nobody knows how it ended.
		st.Phase, st.PID = v1alpha1.ContainerFailed, 0
		end := &corev1.ContainerStateTerminated{
			ExitCode: 137, Reason: "ContainerStatusUnknown",
			Message: f.lost, ContainerID: st.ContainerID,
		}
		if st.State.Running != nil {
			end.StartedAt = st.State.Running.StartedAt
		}
		st.State = corev1.ContainerState{Terminated: end}
	case unheard:
		st.Phase = v1alpha1.ContainerUnknown
	}
	for _, kind := range mirrored {
		c := meta.FindStatusCondition(bundle.Status.Conditions, kind)
		if c == nil {
			meta.RemoveStatusCondition(&st.Conditions, kind)
			continue
		}
		said := *c
		// A word on an earlier generation does not become one on this by being repeated.
		said.ObservedGeneration = f.generation
		if !current(f, bundle) {
			said.ObservedGeneration = 0
			if was := meta.FindStatusCondition(st.Conditions, kind); was != nil {
				said.ObservedGeneration = was.ObservedGeneration
			}
		}
		if unheard && kind == v1alpha1.ConditionRunning {
			said.Status, said.Reason, said.Message = metav1.ConditionUnknown, v1alpha1.ReasonNodeLost, f.lost
			said.LastTransitionTime = metav1.Time{}
		}
		set(said)
	}
}
