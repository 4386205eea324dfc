// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// ContainerPhase is the one-word summary of where a Container stands, with the meanings of a Pod's
// phase.
// +kubebuilder:validation:Enum=Pending;Running;Succeeded;Failed;Unknown
type ContainerPhase string

const (
	// ContainerPending means accepted, but its process does not run yet, or waits to be restarted
	// for the first time.
	ContainerPending ContainerPhase = "Pending"
	// ContainerRunning means placed on a node and started; it runs, or is being restarted.
	ContainerRunning ContainerPhase = "Running"
	// ContainerSucceeded means ended with exit code 0, and is not to be restarted.
	ContainerSucceeded ContainerPhase = "Succeeded"
	// ContainerFailed means ended with another exit code or by a signal, and is not to be
	// restarted.
	ContainerFailed ContainerPhase = "Failed"
	// ContainerUnknown means that the agent of its node is not reachable.
	ContainerUnknown ContainerPhase = "Unknown"
)

// Condition types of a Container. Ready, Reconciling and Stalled are computed from the others in
// one place, controllers/container/status.go, and follow kstatus.
const (
	// ConditionSpecValid means the spec compiles to a valid runtime-spec document. Its message
	// lists every fault with its field path.
	ConditionSpecValid = "SpecValid"
	// ConditionScheduled means a node has been chosen.
	ConditionScheduled = "Scheduled"
	// ConditionImageReady means the node has the image unpacked, or the rootfs is there.
	ConditionImageReady = "ImageReady"
	// ConditionAccepted is False on an OCIBundle that its agent cannot honour, and absent
	// otherwise. What ran before goes on.
	ConditionAccepted = "Accepted"
	// ConditionDegraded is True while the agent cannot read its own record of the container, and
	// absent otherwise. What runs is left alone.
	ConditionDegraded = "Degraded"
	// ConditionDNSConfigured is False if resolv.conf of the running container is not all that its
	// dnsPolicy and dnsConfig ask for, and absent otherwise.
	ConditionDNSConfigured = "DNSConfigured"
	// ConditionRecompileAvailable is True while this version of Berth would compile the spec to
	// something else than the stored document, and absent otherwise. AnnotationRecompile requests
	// that.
	ConditionRecompileAvailable = "RecompileAvailable"
	// ConditionRunning is true from the start of the process to its end.
	ConditionRunning = "Running"
	// ConditionReady means that the Container runs, or has ended with success if it is meant to
	// end.
	ConditionReady = "Ready"
	// ConditionReconciling is true while work towards the spec goes on; kstatus reads it.
	ConditionReconciling = "Reconciling"
	// ConditionStalled is true if nothing more happens until somebody changes something, or if the
	// Container did not become Ready within its progressDeadlineSeconds; kstatus reads it.
	ConditionStalled = "Stalled"
)

// Reasons of the conditions of a Container.
const (
	// ReasonCompiled surfaces in SpecValid when the spec compiled without a fault.
	ReasonCompiled = "Compiled"
	// ReasonInvalidSpec surfaces in SpecValid, Ready and Stalled when the spec cannot be compiled.
	ReasonInvalidSpec = "InvalidSpec"
	// ReasonScheduled surfaces in Scheduled when a node has been chosen.
	ReasonScheduled = "Scheduled"
	// ReasonUnschedulable surfaces in Scheduled when no node fits; the message counts the nodes by
	// the resources or features that they lack.
	ReasonUnschedulable = "Unschedulable"
	// ReasonRuntimeClassNotFound surfaces in Scheduled when runtimeClassName names no RuntimeClass.
	ReasonRuntimeClassNotFound = "RuntimeClassNotFound"
	// ReasonHandlerNotFound surfaces when the named node does not have the handler that the
	// RuntimeClass asks for.
	ReasonHandlerNotFound = "HandlerNotFound"
	// ReasonAgentTooOld surfaces in Scheduled when the spec uses a field that the agent of the node
	// does not know yet, and in Accepted and Stalled when the agent has refused the OCIBundle for
	// that.
	ReasonAgentTooOld = "AgentTooOld"
	// ReasonVolumeNotBound surfaces in Scheduled while the Container waits for a PersistentVolumeClaim
	// that is missing, is being deleted, or is not bound to a PersistentVolume.
	ReasonVolumeNotBound = "VolumeNotBound"
	// ReasonVolumeUnsupported surfaces in Scheduled, Ready and Stalled when a PersistentVolumeClaim is
	// bound to a PersistentVolume that Berth cannot mount; the message names its type.
	ReasonVolumeUnsupported = "VolumeUnsupported"
	// ReasonUnowned surfaces in Accepted of an OCIBundle that was compiled from no Container; the
	// agent does not run it.
	ReasonUnowned = "Unowned"
	// ReasonUnresolved surfaces in Accepted when the agent cannot read an object that the OCIBundle
	// refers to, such as its SeccompProfile. It tries again.
	ReasonUnresolved = "Unresolved"
	// ReasonUpdateRefused surfaces in Accepted, Ready and Reconciling when a running container
	// cannot get a changed value, such as a memory limit below its usage. It goes on as it was, and
	// the agent tries again.
	ReasonUpdateRefused = "UpdateRefused"
	// ReasonDispatched surfaces in Reconciling from when the OCIBundle is applied until the agent
	// answers.
	ReasonDispatched = "Dispatched"
	// ReasonDispatchFailed surfaces in Ready and Reconciling when the API server refused the
	// OCIBundle; it is tried again with back-off.
	ReasonDispatchFailed = "DispatchFailed"
	// ReasonBundleConflict surfaces in Ready and Stalled when an OCIBundle that is not the
	// Container's own has the name that its own needs.
	ReasonBundleConflict = "BundleConflict"
	// ReasonNewerDefaults surfaces in RecompileAvailable; the message names the fields that differ.
	ReasonNewerDefaults = "NewerDefaults"
	// ReasonVolumeChanged surfaces in RecompileAvailable when a PersistentVolumeClaim was deleted and
	// created again, or was bound to another volume, after the container was created.
	ReasonVolumeChanged = "VolumeChanged"
	// ReasonImagePulled surfaces in ImageReady when the image is on the node.
	ReasonImagePulled = "ImagePulled"
	// ReasonPulling surfaces in ImageReady while the image is being fetched.
	ReasonPulling = "Pulling"
	// ReasonRootFSFound surfaces in ImageReady when the container has a rootfs in place of an
	// image, and it is there.
	ReasonRootFSFound = "RootFSFound"
	// ReasonImagePullFailed surfaces in ImageReady when the image could not be had; the agent tries
	// again with back-off.
	ReasonImagePullFailed = "ImagePullFailed"
	// ReasonCreateFailed surfaces in Running when bundle or container could not be made; the
	// message names field and cause.
	ReasonCreateFailed = "CreateFailed"
	// ReasonConfigMissing surfaces in Running while the container waits for a ConfigMap or Secret, a
	// file of variables, a key in one, or a PersistentVolumeClaim, which the message names. It is the
	// kubelet's word.
	ReasonConfigMissing = "CreateContainerConfigError"
	// ReasonVolumeInUse surfaces in Scheduled, or without a cluster in Running, while the container
	// waits for a PersistentVolumeClaim of access mode ReadWriteOncePod that another Container has,
	// which the message names.
	ReasonVolumeInUse = "VolumeInUse"
	// ReasonVolumeNotReady surfaces in Running while the container waits for a volume of another
	// Container, or until other containers have left one of its own that is to be made anew.
	ReasonVolumeNotReady = "VolumeNotReady"
	// ReasonStorageFailed surfaces in Running when the container waits because the agent cannot
	// write its own files, such as on a full disk; the message names file and cause.
	ReasonStorageFailed = "StorageFailed"
	// ReasonNetworkFailed surfaces in Running when the container could not be connected to its
	// network; the agent tries again after a back-off.
	ReasonNetworkFailed = "NetworkFailed"
	// ReasonNetworkNotReady: the Container in whose network the container is to be has none yet.
	ReasonNetworkNotReady = "NetworkNotReady"
	// ReasonDependencyNotReady surfaces in Running while the container waits for one that dependsOn
	// names.
	ReasonDependencyNotReady = "DependencyNotReady"
	// ReasonMissingClusterDNS surfaces in DNSConfigured when dnsPolicy asks for the cluster's servers
	// and the agent does not know them: the container has the node's. The kubelet has the same word.
	ReasonMissingClusterDNS = "MissingClusterDNS"
	// ReasonDNSConfigForming surfaces in DNSConfigured when the node and the Container have more
	// servers or search domains together than resolv.conf may have. The kubelet has the same word.
	ReasonDNSConfigForming = "DNSConfigForming"
	// ReasonStarted surfaces in Running and Ready when the process runs.
	ReasonStarted = "Started"
	// ReasonCrashLoopBackOff surfaces in Running when the process ended and waits for its next
	// start.
	ReasonCrashLoopBackOff = "CrashLoopBackOff"
	// ReasonStopped surfaces in Running and Ready when an administrator of the node has stopped the
	// container.
	ReasonStopped = "Stopped"
	// ReasonCompleted surfaces when the process ended with exit code 0 and is not to be restarted.
	ReasonCompleted = "Completed"
	// ReasonExited surfaces when the process ended otherwise and is not to be restarted.
	ReasonExited = "Exited"
	// ReasonOOMKilled surfaces when the kernel's out-of-memory killer ended the process.
	ReasonOOMKilled = "OOMKilled"
	// ReasonEvicted surfaces when the agent ended the process since an emptyDir volume on disk held
	// more than its sizeLimit; the message names the volume and both numbers.
	ReasonEvicted = "Evicted"
	// ReasonNodeLost surfaces in Running and Ready when the heartbeat of the node's agent has
	// stopped.
	ReasonNodeLost = "NodeLost"
	// ReasonRecordUnreadable surfaces in Degraded and Running.
	ReasonRecordUnreadable = "RecordUnreadable"
	// ReasonProgressDeadlineExceeded surfaces in Stalled when the Container did not become Ready
	// within progressDeadlineSeconds. The message and the condition Ready name the cause.
	ReasonProgressDeadlineExceeded = "ProgressDeadlineExceeded"
	// ReasonSupervisorUnreachable surfaces in Running and Ready, which are Unknown then, when the
	// agent cannot ask the supervisor of its node; the message says since when.
	ReasonSupervisorUnreachable = "SupervisorUnreachable"
	// ReasonTerminating surfaces in Reconciling while the container is being stopped for deletion
	// or replacement.
	ReasonTerminating = "Terminating"
	// ReasonProgressing surfaces in Reconciling for any other work under way.
	ReasonProgressing = "Progressing"
)
