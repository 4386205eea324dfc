// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// OCIBundleFinalizer holds an OCIBundle until the agent of its node has stopped the container and
// removed all of it. The controller sets it when it creates the object, so that no moment is
// without it. Only the agent removes it, or the controller once an administrator has said that the
// node is gone.
const OCIBundleFinalizer = "berth.run/node-agent"

// OCIBundleNodeNameField is the selectable field by which the OCIBundles of a node are found.
const OCIBundleNodeNameField = "spec.nodeName"

// LabelContainer and LabelNamespace on an OCIBundle are the name and namespace of its Container,
// for people to select by.
const (
	LabelContainer = "berth.run/container"
	LabelNamespace = "berth.run/namespace"
)

// IsFormer reports whether the OCIBundle is where controllers before AgentRevision 2 created them:
// in the namespace of its Container, under its name.
func (b *OCIBundle) IsFormer() bool {
	return b.Namespace != NodeNamespace(b.Spec.NodeName) &&
		(b.Owner().UID != "" || b.Labels[LabelContainer] != "")
}

// OCIBundleSpec is one container made ready for one node.
//
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.containerRef) || has(self.containerRef)",message="containerRef cannot be removed: delete the OCIBundle and create another"
type OCIBundleSpec struct {
	// containerRef is the Container that this was compiled from. Its uid is the identity of the
	// pair: the two are in different namespaces, which no owner reference can span. Only an
	// OCIBundle of a controller that did not know the field is without it.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="containerRef cannot be changed: delete the OCIBundle and create another"
	ContainerRef *ContainerReference `json:"containerRef,omitempty"`

	// former is the OCIBundle of an earlier controller that this one replaces, in the Container's
	// namespace. The agent knows the container by the uid of that one, so it goes on running.
	// +optional
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="former cannot be changed"
	Former *FormerBundle `json:"former,omitempty"`

	// nodeName is the NodeAgent that is to run it. It cannot be changed: another node is another
	// OCIBundle.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="nodeName cannot be changed: delete the OCIBundle and create another"
	NodeName string `json:"nodeName"`

	// handler is the runtime that runs it; empty is Berth's own.
	// +optional
	Handler string `json:"handler,omitempty"`

	// image whose layers are the root filesystem; absent where config.root.path is an absolute
	// directory of the node.
	// +optional
	Image *BundleImage `json:"image,omitempty"`

	// process holds the user's settings of the process; absent ones come from the image's config.
	// The agent merges both into config.process.
	// +optional
	Process BundleProcess `json:"process,omitempty"`

	// config is the compiled OCI runtime-spec document, but for what only the node knows. Relative
	// paths in it (root.path, the sources of bind mounts) are relative to the bundle's directory:
	// "rootfs", "volumes/NAME", "files/NAME", "images/NAME", "subpaths/NUMBER".
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	Config runtime.RawExtension `json:"config"`

	// seccompProfile is the digest of the SeccompProfile that is linux.seccomp of config, which
	// does not hold it then: sha256:HEX for the SeccompProfile sha256-HEX. The agent puts it there.
	// +optional
	// +kubebuilder:validation:Pattern=`^sha256:[0-9a-f]{64}$`
	SeccompProfile string `json:"seccompProfile,omitempty"`

	// volumes that the agent has to check or make before the container is created.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=128
	Volumes []Volume `json:"volumes,omitempty"`

	// serviceAccountName is the ServiceAccount of the Container's namespace whose tokens volumes ask
	// for; absent where none does.
	// +optional
	ServiceAccountName string `json:"serviceAccountName,omitempty"`

	// volumePullSecrets are the names of Secrets of the Container's namespace with credentials for the
	// registries of volumes of the kind image.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	VolumePullSecrets []string `json:"volumePullSecrets,omitempty"`

	// claims are the PersistentVolumes that the PersistentVolumeClaims of volumes are bound to. An
	// agent without a cluster keeps the directories of claims itself, and has none here.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=128
	Claims []BundleClaim `json:"claims,omitempty"`

	// subPaths are the paths in volumes that the agent has to mount, since mounts of config name them.
	// +optional
	// +listType=map
	// +listMapKey=mount
	// +kubebuilder:validation:MaxItems=128
	SubPaths []BundleSubPath `json:"subPaths,omitempty"`

	// downward has the values of items of downwardAPI that are known without the node.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=1024
	Downward []DownwardValue `json:"downward,omitempty"`

	// devices of the node that the agent has to add to config: by path with containerPath and
	// permissions, or by cdi.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Devices []Device `json:"devices,omitempty"`

	// allDevices has the agent add every device of the node to config, with all permissions.
	// +optional
	AllDevices bool `json:"allDevices,omitempty"`

	// userNamespace has the agent run the container in a user namespace, with a range of the node's
	// ids for its own.
	// +optional
	UserNamespace bool `json:"userNamespace,omitempty"`

	// hostUsers has the container keep the node's ids, also under an agent that gives containers a
	// user namespace by default.
	// +optional
	HostUsers bool `json:"hostUsers,omitempty"`

	// security has fields of the Container's securityContext that depend on the node.
	// +optional
	Security *BundleSecurity `json:"security,omitempty"`

	// dependsOn are the Containers that must be in a state when the container is started.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	DependsOn []Dependency `json:"dependsOn,omitempty"`

	// network that the agent is to connect the container to, where config has a network namespace.
	// Absent, the node's network for containers.
	// +optional
	Network *BundleNetwork `json:"network,omitempty"`

	// names says how the container finds names. Absent, by the node's /etc/resolv.conf, and its own
	// name.
	// +optional
	Names *BundleNames `json:"names,omitempty"`

	// restartPolicy: Always, OnFailure or Never.
	// +kubebuilder:validation:Enum=Always;OnFailure;Never
	RestartPolicy corev1.RestartPolicy `json:"restartPolicy"`

	// terminationGracePeriodSeconds between the stop signal and SIGKILL.
	// +kubebuilder:validation:Minimum=0
	TerminationGracePeriodSeconds int64 `json:"terminationGracePeriodSeconds"`

	// restartBackOff is the Container's; an absent field has the agent's default.
	// +optional
	RestartBackOff *RestartBackOff `json:"restartBackOff,omitempty"`

	// logging is the Container's; an absent field has the agent's default.
	// +optional
	Logging *Logging `json:"logging,omitempty"`

	// onConfigChange is Restart if the container is to be restarted when an object changes that
	// process or volumes refer to, and Signal if its program is to get configChangeSignal.
	// +optional
	// +kubebuilder:validation:Enum=Ignore;Restart;Signal
	OnConfigChange ConfigChangePolicy `json:"onConfigChange,omitempty"`

	// configChangeSignal is there with onConfigChange Signal.
	// +optional
	ConfigChangeSignal string `json:"configChangeSignal,omitempty"`

	// requests count against the node's capacity in the scheduler.
	// +optional
	Requests corev1.ResourceList `json:"requests,omitempty"`

	// compiledGeneration is the metadata.generation of the Container that this spec was compiled
	// for. The controller compiles once for each generation, so a new version of it leaves the spec
	// as it is.
	// +optional
	CompiledGeneration int64 `json:"compiledGeneration,omitempty"`

	// minAgentRevision is the lowest NodeAgent.status.nodeInfo.agentRevision that knows every field
	// used here.
	// +optional
	MinAgentRevision int32 `json:"minAgentRevision,omitempty"`
}

// ContainerReference names one Container, and no later one of the same name.
type ContainerReference struct {
	// namespace of the Container. Only an OCIBundle of a controller that did not know the field is
	// without it: it is in that namespace.
	// +optional
	// +kubebuilder:validation:MaxLength=63
	Namespace string `json:"namespace,omitempty"`
	// name of the Container.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// uid of the Container.
	UID types.UID `json:"uid"`
}

// FormerBundle identifies an OCIBundle that was replaced without a restart.
type FormerBundle struct {
	// uid of it.
	UID types.UID `json:"uid"`
	// generation that it had. The agent counts on from there.
	Generation int64 `json:"generation"`
}

// BundleImage is an image and when it is to be pulled.
type BundleImage struct {
	// reference as in Container.spec.image, or archive:PATH[:NAME] for Container.spec.archive.
	// +kubebuilder:validation:MinLength=1
	Reference string `json:"reference"`
	// pullPolicy: Always, IfNotPresent or Never; empty: by the tag.
	// +optional
	PullPolicy corev1.PullPolicy `json:"pullPolicy,omitempty"`
	// pullSecrets are the names of Secrets of the Container's namespace with credentials for the
	// registry.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	PullSecrets []string `json:"pullSecrets,omitempty"`
}

// BundleProcess says which settings of the process come from the image, where the user gave none.
type BundleProcess struct {
	// +optional
	// +listType=atomic
	Command []string `json:"command,omitempty"`
	// +optional
	// +listType=atomic
	Args []string `json:"args,omitempty"`
	// +optional
	WorkingDir string `json:"workingDir,omitempty"`
	// +optional
	RunAsUser *int64 `json:"runAsUser,omitempty"`
	// +optional
	RunAsGroup *int64 `json:"runAsGroup,omitempty"`
	// runAsNonRoot makes the agent refuse to run the process as user 0, whoever said so.
	// +optional
	RunAsNonRoot bool `json:"runAsNonRoot,omitempty"`
	// env are the Container's variables if the agent has to find the value of one of them, such as
	// the node's address. config.process.env and config.process.args are absent then, and in
	// command and args $(NAME) is not replaced yet.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=512
	Env []corev1.EnvVar `json:"env,omitempty"`
	// envFrom are the ConfigMaps and Secrets of which all keys are variables, beneath env. They are in
	// the namespace of the Container. Their values are nowhere but on the node.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	EnvFrom []corev1.EnvFromSource `json:"envFrom,omitempty"`
	// ulimits become config.process.rlimits. They are not in config, since an API server reads the
	// kernel's number for no limit as a floating-point number.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	Ulimits []Ulimit `json:"ulimits,omitempty"`
}

// BundleClaim is a PersistentVolumeClaim, and the part of its PersistentVolume that the agent
// needs.
type BundleClaim struct {
	// name of the PersistentVolumeClaim, in the Container's namespace.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// uid of the PersistentVolumeClaim: a later one of the same name is another.
	UID types.UID `json:"uid"`
	// volumeName is the PersistentVolume that it is bound to.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	VolumeName string `json:"volumeName"`
	// kind of the PersistentVolume: local or hostPath. As in a Pod, securityContext.fsGroup applies to
	// the files of a local one only.
	// +kubebuilder:validation:Enum=local;hostPath
	Kind string `json:"kind"`
	// path of the volume on the node.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Path string `json:"path"`
	// type of the file at path, with the values of hostPath.type in volumes. The type of a local
	// PersistentVolume is Directory.
	// +optional
	Type corev1.HostPathType `json:"type,omitempty"`
	// readOnly makes all mounts of the volume read-only.
	// +optional
	ReadOnly bool `json:"readOnly,omitempty"`
}

// Values of BundleClaim.kind.
const (
	ClaimLocal    = "local"
	ClaimHostPath = "hostPath"
)

// BundleSubPath is a path in a volume. The source of its mount in config is subpaths/MOUNT.
type BundleSubPath struct {
	// mount is the number of the volumeMount in the Container, from 0.
	// +kubebuilder:validation:Minimum=0
	Mount int32 `json:"mount"`
	// source is the volume, as the source of a mount in config.
	// +kubebuilder:validation:MaxLength=4096
	Source string `json:"source"`
	// path in the volume, without "." and "..".
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	Path string `json:"path"`
	// expand is true if path has variables, $(NAME), whose values the agent has to find.
	// +optional
	Expand bool `json:"expand,omitempty"`
}

// DownwardValue is the value of one item of downwardAPI.
type DownwardValue struct {
	// path of the item below spec, such as volumes[0].downwardAPI.items[1].
	// +kubebuilder:validation:MaxLength=128
	Path string `json:"path"`
	// value is the content of its file.
	// +optional
	Value string `json:"value,omitempty"`
}

// BundleNetwork says which network a container is in.
type BundleNetwork struct {
	// none leaves it with loopback alone.
	// +optional
	None bool `json:"none,omitempty"`
	// container is the name of the Container whose network namespace it is in.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Container string `json:"container,omitempty"`
	// ports of the node that the container has.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=128
	Ports []HostPort `json:"ports,omitempty"`
	// networks of the Container.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	Networks []NetworkAttachment `json:"networks,omitempty"`
	// bandwidth limits the container's traffic in each of its networks.
	// +optional
	Bandwidth *Bandwidth `json:"bandwidth,omitempty"`
}

// Bandwidth limits the traffic of a container, in bits a second.
type Bandwidth struct {
	// ingress is the limit of what the container receives; absent, none.
	// +optional
	// +kubebuilder:validation:Minimum=1000
	Ingress int64 `json:"ingress,omitempty"`
	// egress is the limit of what the container sends; absent, none.
	// +optional
	// +kubebuilder:validation:Minimum=1000
	Egress int64 `json:"egress,omitempty"`
}

// BundleNames holds the fields of the Container for the files in /etc that the agent writes.
type BundleNames struct {
	// subdomain of the Container.
	// +optional
	Subdomain string `json:"subdomain,omitempty"`
	// setHostnameAsFQDN of the Container.
	// +optional
	SetHostnameAsFQDN bool `json:"setHostnameAsFQDN,omitempty"`
	// hostAliases of the Container.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	HostAliases []HostAlias `json:"hostAliases,omitempty"`
	// dnsPolicy of the Container.
	// +optional
	DNSPolicy corev1.DNSPolicy `json:"dnsPolicy,omitempty"`
	// dnsConfig of the Container.
	// +optional
	DNSConfig *DNSConfig `json:"dnsConfig,omitempty"`
}

// HostPort is a port of the node that leads to one of a container.
type HostPort struct {
	// hostPort of the node.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	HostPort int32 `json:"hostPort"`
	// hostIP is the node's address that the port is of; absent, all of them.
	// +optional
	HostIP string `json:"hostIP,omitempty"`
	// containerPort that it leads to.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	ContainerPort int32 `json:"containerPort"`
	// protocol: TCP, UDP or SCTP.
	// +kubebuilder:validation:Enum=TCP;UDP;SCTP
	Protocol corev1.Protocol `json:"protocol"`
}

// OCIBundleStatus is the agent's own word on the bundle.
type OCIBundleStatus struct {
	// observedGeneration is the metadata.generation that this status speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration"`

	// phase sums it up in a word.
	// +optional
	Phase ContainerPhase `json:"phase,omitempty"`

	// conditions: ImageReady and Running, and Accepted while it is False.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	RunStatus `json:",inline"`
}

// Owner returns the Container that the OCIBundle was compiled from, or the zero value if it belongs
// to none. An OCIBundle of a controller that did not know spec.containerRef says it by its owner
// reference.
func (b *OCIBundle) Owner() ContainerReference {
	if b.Spec.ContainerRef != nil {
		ref := *b.Spec.ContainerRef
		if ref.Namespace == "" {
			ref.Namespace = b.Namespace
		}
		return ref
	}
	owner := metav1.GetControllerOf(b)
	if owner == nil || owner.Kind != "Container" || owner.APIVersion != GroupVersion.String() {
		return ContainerReference{}
	}
	return ContainerReference{Namespace: b.Namespace, Name: owner.Name, UID: owner.UID}
}

// OCIBundle is the unit of dispatch: one container, compiled and placed on one node. It is in the
// namespace of the node, see NodeNamespace, under the name BundleName.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=bundle,categories=berth
// +kubebuilder:selectablefield:JSONPath=`.spec.nodeName`
// +kubebuilder:selectablefield:JSONPath=`.spec.seccompProfile`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.spec.nodeName`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Running")].reason`
// +kubebuilder:printcolumn:name="PID",type=integer,JSONPath=`.status.pid`
// +kubebuilder:printcolumn:name="Restarts",type=integer,JSONPath=`.status.restartCount`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type OCIBundle struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec OCIBundleSpec `json:"spec"`
	// +kubebuilder:default:={"observedGeneration":-1,"restartCount":0}
	Status OCIBundleStatus `json:"status,omitempty"`
}

// OCIBundleList is a list of OCIBundles.
//
// +kubebuilder:object:root=true
type OCIBundleList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []OCIBundle `json:"items"`
}
