// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// HandlerNative is the name of Berth's own runtime among a node's handlers.
const HandlerNative = "berth"

// AgentRevision is the revision of OCIBundle.spec in this source tree. An agent reports it, and the
// controller places a Container only where the agent's revision is at least
// OCIBundle.spec.minAgentRevision.
//
// It rises by 1, at most once a release, with a field that an agent must not ignore: see
// compile.MinAgentRevision.
const AgentRevision = 3

// NodeAgentSpec holds an administrator's settings of the node.
type NodeAgentSpec struct {
	// unschedulable keeps new Containers away, as of a Node.
	// +optional
	Unschedulable bool `json:"unschedulable,omitempty"`

	// taints keep Containers away that do not tolerate them. Those of the Node of the same name
	// count too, if there is one.
	// +optional
	// +listType=atomic
	Taints []corev1.Taint `json:"taints,omitempty"`
}

// NodeAgentStatus is the agent's report of its node.
type NodeAgentStatus struct {
	// observedGeneration is the metadata.generation that this status speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration"`

	// handlers are the runtimes that the node has.
	// +optional
	// +listType=map
	// +listMapKey=name
	Handlers []NodeHandler `json:"handlers,omitempty"`

	// nodeInfo describes the machine.
	// +optional
	NodeInfo NodeInfo `json:"nodeInfo,omitempty"`

	// capacity of the machine: cpu, memory, pids.
	// +optional
	Capacity corev1.ResourceList `json:"capacity,omitempty"`

	// allocatable is the part of it that Containers may use.
	// +optional
	Allocatable corev1.ResourceList `json:"allocatable,omitempty"`

	// allocated is the sum of the requests of the OCIBundles that the agent holds.
	// +optional
	Allocated corev1.ResourceList `json:"allocated,omitempty"`

	// containers is the number of OCIBundles that the agent holds.
	// +optional
	Containers int32 `json:"containers"`

	// conditions: Ready and NetworkReady. Ready turns Unknown when the heartbeat stops.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ConditionNetworkReady says whether containers can be connected to the node's network for
// containers: whether its configuration and plugins are there, and no plugin says that it cannot
// (STATUS, from version 1.1.0 of CNI on). It is True where containers have loopback alone.
const ConditionNetworkReady = "NetworkReady"

// ReasonNetworkReady surfaces in NetworkReady when containers can be connected. Its counterpart is
// ReasonNetworkNotReady; the message says why.
const ReasonNetworkReady = "NetworkReady"

// NodeHandler is one runtime of a node.
type NodeHandler struct {
	// name that OCIBundle.spec.handler gives.
	Name string `json:"name"`
	// ociVersionMax is the newest runtime-spec version that it takes.
	// +optional
	OCIVersionMax string `json:"ociVersionMax,omitempty"`
	// namespaces that it can make.
	// +optional
	// +listType=set
	Namespaces []string `json:"namespaces,omitempty"`
	// seccomp reports whether the handler applies seccomp profiles.
	// +optional
	Seccomp bool `json:"seccomp,omitempty"`
}

// CgroupMode names the cgroup hierarchies of the node.
// +kubebuilder:validation:Enum=v1;hybrid;v2
type CgroupMode string

const (
	// CgroupV1 means every controller on a v1 hierarchy and no v2 one.
	CgroupV1 CgroupMode = "v1"
	// CgroupHybrid means controllers on v1 hierarchies beside a v2 one.
	CgroupHybrid CgroupMode = "hybrid"
	// CgroupV2 means the unified hierarchy alone.
	CgroupV2 CgroupMode = "v2"
)

// NodeInfo describes a machine.
type NodeInfo struct {
	// +optional
	AgentVersion string `json:"agentVersion,omitempty"`
	// agentRevision is the revision of OCIBundle.spec that the agent knows; absent: before
	// revisions were counted.
	// +optional
	AgentRevision int32 `json:"agentRevision,omitempty"`
	// +optional
	KernelVersion string `json:"kernelVersion,omitempty"`
	// +optional
	OSImage string `json:"osImage,omitempty"`
	// +optional
	OperatingSystem string `json:"operatingSystem,omitempty"`
	// +optional
	Architecture string `json:"architecture,omitempty"`
	// +optional
	BootID string `json:"bootID,omitempty"`
	// cgroupMode: v1, hybrid or v2.
	// +optional
	CgroupMode CgroupMode `json:"cgroupMode,omitempty"`
	// cgroupControllers that containers can be limited by.
	// +optional
	// +listType=set
	CgroupControllers []string `json:"cgroupControllers,omitempty"`
	// lsms are the active Linux security modules.
	// +optional
	// +listType=set
	LSMs []string `json:"lsms,omitempty"`
}

// NodeAgent is the agent of one node, as it describes itself; its name is the node's.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=na,categories=berth
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Network",type=string,JSONPath=`.status.conditions[?(@.type=="NetworkReady")].status`,priority=1
// +kubebuilder:printcolumn:name="Containers",type=integer,JSONPath=`.status.containers`
// +kubebuilder:printcolumn:name="Handlers",type=string,JSONPath=`.status.handlers[*].name`
// +kubebuilder:printcolumn:name="Cgroup",type=string,JSONPath=`.status.nodeInfo.cgroupMode`
// +kubebuilder:printcolumn:name="Kernel",type=string,JSONPath=`.status.nodeInfo.kernelVersion`
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.nodeInfo.agentVersion`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type NodeAgent struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec NodeAgentSpec `json:"spec,omitempty"`
	// +kubebuilder:default:={"observedGeneration":-1}
	Status NodeAgentStatus `json:"status,omitempty"`
}

// NodeAgentList is a list of NodeAgents.
//
// +kubebuilder:object:root=true
type NodeAgentList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NodeAgent `json:"items"`
}
