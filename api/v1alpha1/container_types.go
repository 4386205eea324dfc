// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// ResourcePIDs is the resource name of the number of processes and threads a container may have, in
// spec.resources.limits beside cpu and memory. The kernel counts them in the pids cgroup
// controller.
const ResourcePIDs corev1.ResourceName = "pids"

// ResourceSwap is the resource name of the swap space in bytes that a container may use beside its
// memory, in spec.resources.limits.
const ResourceSwap corev1.ResourceName = "swap"

// AnnotationIngressBandwidth and AnnotationEgressBandwidth on a Container limit its traffic to a
// quantity of bits a second, as on a Pod: ingress is what the container receives.
const (
	AnnotationIngressBandwidth = "kubernetes.io/ingress-bandwidth"
	AnnotationEgressBandwidth  = "kubernetes.io/egress-bandwidth"
)

// DefaultProgressDeadlineSeconds is the default of spec.progressDeadlineSeconds; a Deployment has
// the same.
const DefaultProgressDeadlineSeconds = 600

// ContainerFinalizer holds a Container until the agent has said that nothing of it is left on its
// node.
const ContainerFinalizer = "berth.run/container"

// ClaimFinalizer keeps a deleted PersistentVolumeClaim until no OCIBundle names it.
const ClaimFinalizer = "berth.run/claim-in-use"

// AnnotationClaimUser on a PersistentVolumeClaim of access mode ReadWriteOncePod names the
// Container that uses it or used it last: NAME/UID.
const AnnotationClaimUser = "berth.run/used-by"

// AnnotationRecompile on a Container has it compiled anew each time that its value changes, by the
// version of Berth that runs then. Otherwise what was compiled is kept until the spec is edited.
const AnnotationRecompile = "berth.run/recompile"

// AnnotationShowCompiled on a Container, with any value, has the controller keep its
// status.compiled.
const AnnotationShowCompiled = "berth.run/show-compiled"

// AnnotationPod is the name of the Pod that a Container was made of, by an agent without a cluster.
const AnnotationPod = "berth.run/pod"

// ContainerSpec describes a container to run. Names and meanings are a Pod's and its containers'.
//
// +kubebuilder:validation:XValidation:rule="(has(self.image) ? 1 : 0) + (has(self.archive) ? 1 : 0) + (has(self.rootfs) ? 1 : 0) == 1",message="set exactly one of image, archive and rootfs"
// +kubebuilder:validation:XValidation:rule="!has(self.rootfs) || has(self.command)",message="a container with rootfs has no image to take a command from: set command"
// +kubebuilder:validation:XValidation:rule="!has(self.volumeMounts) || self.volumeMounts.all(m, has(self.volumes) && self.volumes.exists(v, v.name == m.name))",message="each of volumeMounts must name one of volumes: add the volume or correct the name"
// +kubebuilder:validation:XValidation:rule="!(has(self.hostNetwork) && self.hostNetwork && has(self.hostname))",message="hostname needs a UTS namespace, which a container on the host's network does not have: remove hostname or hostNetwork"
// +kubebuilder:validation:XValidation:rule="!(has(self.hostNetwork) && self.hostNetwork && has(self.network) && has(self.network.none) && self.network.none)",message="a container is in the node's network or in none: remove network.none or hostNetwork"
// +kubebuilder:validation:XValidation:rule="!has(self.networks) || !(has(self.hostNetwork) && self.hostNetwork)",message="a container in the node's network is in no other: remove networks or hostNetwork"
// +kubebuilder:validation:XValidation:rule="!has(self.networks) || !(has(self.network) && has(self.network.none) && self.network.none)",message="a container without a network is in none: remove networks or network.none"
// +kubebuilder:validation:XValidation:rule="!has(self.network) || !has(self.network.container) || size(self.network.container) == 0",message="network.container is honoured by an agent without a cluster only, since the other Container may be on another node: remove it"
// +kubebuilder:validation:XValidation:rule="!has(self.volumeMounts) || self.volumeMounts.all(m, !has(m.mountPropagation) || m.mountPropagation != 'Bidirectional') || (has(self.securityContext) && has(self.securityContext.privileged) && self.securityContext.privileged)",message="mountPropagation Bidirectional is for privileged containers: set securityContext.privileged, or use HostToContainer"
// +kubebuilder:validation:XValidation:rule="!has(self.configChangeSignal) || (has(self.onConfigChange) && self.onConfigChange == 'Signal')",message="configChangeSignal is for onConfigChange Signal: set that, or remove configChangeSignal"
// +kubebuilder:validation:XValidation:rule="!has(self.dependsOn) || size(self.dependsOn) == 0",message="dependsOn is honoured by an agent without a cluster only, since the other Container may be on another node: remove it"
// +kubebuilder:validation:XValidation:rule="!has(self.devices) || self.devices.all(d, has(d.cdi)) || !(has(self.securityContext) && has(self.securityContext.privileged) && self.securityContext.privileged)",message="a privileged container has all devices of the node: remove devices by path or privileged"
// +kubebuilder:validation:XValidation:rule="!has(self.shmSize) || !has(self.volumeMounts) || self.volumeMounts.all(m, !(m.mountPath in ['/dev/shm', '/dev/shm/']))",message="one of volumeMounts replaces /dev/shm: remove shmSize or the mount"
// +kubebuilder:validation:XValidation:rule="!has(self.shmSize) || !(has(self.hostIPC) && self.hostIPC)",message="a container in the node's IPC namespace has the node's /dev/shm: remove shmSize or hostIPC"
// +kubebuilder:validation:XValidation:rule="!has(self.securityContext) || !has(self.securityContext.sysctls) || !(has(self.hostNetwork) && self.hostNetwork) || self.securityContext.sysctls.all(s, !s.name.startsWith('net'))",message="sysctls of net are the node's in the node's network: remove them or hostNetwork"
// +kubebuilder:validation:XValidation:rule="!has(self.securityContext) || !has(self.securityContext.sysctls) || !(has(self.hostIPC) && self.hostIPC) || self.securityContext.sysctls.all(s, s.name.startsWith('net'))",message="sysctls of kernel and fs are the node's in the node's IPC namespace: remove them or hostIPC"
// +kubebuilder:validation:XValidation:rule="!has(self.ports) || !(has(self.network) && has(self.network.none) && self.network.none) || self.ports.all(p, !has(p.hostPort) || p.hostPort == 0)",message="a container without a network cannot have a port of the node: remove hostPort or network.none"
// +kubebuilder:validation:XValidation:rule="!has(self.ports) || !(has(self.hostNetwork) && self.hostNetwork) || self.ports.all(p, !has(p.hostPort) || p.hostPort == 0 || p.hostPort == p.containerPort)",message="a container in the node's network listens on the node's own ports: remove hostPort, or make it the same as containerPort"
// +kubebuilder:validation:XValidation:rule="!(has(self.network) && has(self.network.none) && self.network.none) || !has(self.env) || self.env.all(e, !has(e.valueFrom) || !has(e.valueFrom.fieldRef) || !(e.valueFrom.fieldRef.fieldPath in ['status.podIP', 'status.podIPs']))",message="a container without a network has no address: remove network.none, or the variable with status.podIP"
// +kubebuilder:validation:XValidation:rule="!(has(self.hostNetwork) && self.hostNetwork && has(self.subdomain))",message="subdomain is part of a hostname, which a container on the host's network does not have: remove subdomain or hostNetwork"
// +kubebuilder:validation:XValidation:rule="!(has(self.hostNetwork) && self.hostNetwork && has(self.setHostnameAsFQDN) && self.setHostnameAsFQDN)",message="setHostnameAsFQDN needs a UTS namespace, which a container on the host's network does not have: remove setHostnameAsFQDN or hostNetwork"
// +kubebuilder:validation:XValidation:rule="!(has(self.allowSocketcall) && self.allowSocketcall) || !has(self.securityContext) || !has(self.securityContext.seccompProfile) || self.securityContext.seccompProfile.type != 'Localhost'",message="allowSocketcall changes the default seccomp profile: remove it, and allow socketcall in the file of localhostProfile"
// +kubebuilder:validation:XValidation:rule="!has(self.hostUsers) || self.hostUsers || !(has(self.hostNetwork) && self.hostNetwork || has(self.hostPID) && self.hostPID || has(self.hostIPC) && self.hostIPC)",message="a user namespace does not own the node's namespaces: remove hostUsers, or hostNetwork, hostPID and hostIPC"
// +kubebuilder:validation:XValidation:rule="!has(self.hostUsers) || self.hostUsers || !has(self.securityContext) || !(has(self.securityContext.privileged) && self.securityContext.privileged)",message="a privileged container has the power of the node's root: remove hostUsers or privileged"
// +kubebuilder:validation:XValidation:rule="!has(self.securityContext) || !has(self.securityContext.procMount) || self.securityContext.procMount != 'Unmasked' || has(self.hostUsers) && !self.hostUsers",message="procMount Unmasked shows all of /proc, which takes a user namespace: set hostUsers: false"
// +kubebuilder:validation:XValidation:rule="!has(self.hostUsers) || self.hostUsers || !has(self.securityContext) || (!has(self.securityContext.runAsUser) || self.securityContext.runAsUser < 65536) && (!has(self.securityContext.runAsGroup) || self.securityContext.runAsGroup < 65536) && (!has(self.securityContext.supplementalGroups) || self.securityContext.supplementalGroups.all(g, g < 65536)) && (!has(self.securityContext.fsGroup) || self.securityContext.fsGroup < 65536)",message="with hostUsers: false a container has the ids 0 to 65535: lower runAsUser, runAsGroup, supplementalGroups and fsGroup"
// +kubebuilder:validation:XValidation:rule="!has(self.dnsPolicy) || self.dnsPolicy != 'None' || (has(self.dnsConfig) && has(self.dnsConfig.nameservers) && size(self.dnsConfig.nameservers) > 0)",message="dnsPolicy None takes no servers from the node: add dnsConfig.nameservers, or set another dnsPolicy"
type ContainerSpec struct {
	// image is a registry reference, such as docker.io/library/busybox:1.36. Exactly one of image,
	// archive and rootfs is set.
	//
	// oci:DIR[:TAG], oci-archive:FILE[:TAG] and docker-archive:FILE[:REFERENCE] are the earlier
	// spelling of archive, which the Pod Security policy treats the same.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="self.matches('^(oci|oci-archive|docker-archive):') || !self.matches('^[./~]|[.](tar|tgz|tar[.](gz|xz|bz2|zst))$')",message="image is a registry reference such as docker.io/library/busybox:1.36: for a file of the node write archive: {path: /FILE} in place of image"
	Image string `json:"image,omitempty"`

	// archive is an image in a file or directory of the node, in place of image.
	// +optional
	Archive *Archive `json:"archive,omitempty"`

	// imagePullPolicy says when the image is pulled, or the archive read: Always, IfNotPresent or
	// Never. Where it is absent, Always for the tag latest or no tag, else IfNotPresent.
	// +optional
	// +kubebuilder:validation:Enum=Always;IfNotPresent;Never
	ImagePullPolicy corev1.PullPolicy `json:"imagePullPolicy,omitempty"`

	// imagePullSecrets are Secrets of the Container's namespace with credentials for registries, of
	// the type kubernetes.io/dockerconfigjson. They are tried before the node's own.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:rule="self.all(s, has(s.name) && s.name != '')",message="name a Secret of the Container's namespace"
	ImagePullSecrets []corev1.LocalObjectReference `json:"imagePullSecrets,omitempty"`

	// rootfs is a directory of the node that is the container's root filesystem, in place of an
	// image.
	// +optional
	RootFS *RootFS `json:"rootfs,omitempty"`

	// command is the program and its first arguments; it replaces the image's entrypoint and its
	// default arguments. $(NAME) is replaced from env as in a Pod.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=1024
	Command []string `json:"command,omitempty"`

	// args are the arguments after command, or after the image's entrypoint where command is
	// absent.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=4096
	Args []string `json:"args,omitempty"`

	// workingDir is the absolute path of the process's working directory; absent, the image's, else
	// /.
	// +optional
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:XValidation:rule="self.startsWith('/')",message="workingDir must be absolute: start it with /"
	WorkingDir string `json:"workingDir,omitempty"`

	// env are environment variables, over the image's own. valueFrom takes a value from a field of
	// the Container (metadata.name, namespace, uid, labels['KEY'] and annotations['KEY']), of its
	// node (spec.nodeName, status.hostIP, status.hostIPs), of its resources, from its addresses
	// (status.podIP, status.podIPs; with hostNetwork those of the node), from a key of a ConfigMap or
	// Secret of its namespace, or from a file of NAME='value' lines in an emptyDir, as it is at each
	// start. Labels and annotations are those of when the spec was last edited.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=512
	// +kubebuilder:validation:XValidation:rule="self.all(e, !has(e.valueFrom) || [has(e.valueFrom.fieldRef), has(e.valueFrom.resourceFieldRef), has(e.valueFrom.configMapKeyRef), has(e.valueFrom.secretKeyRef), has(e.valueFrom.fileKeyRef)].exists_one(x, x))",message="set exactly one of fieldRef, resourceFieldRef, configMapKeyRef, secretKeyRef and fileKeyRef"
	// +kubebuilder:validation:XValidation:rule="self.all(e, !has(e.valueFrom) || !has(e.value) || e.value == '')",message="set one of value and valueFrom"
	Env []corev1.EnvVar `json:"env,omitempty"`

	// envFrom are ConfigMaps and Secrets of the Container's namespace of which each key becomes a
	// variable, beneath env. A later one counts over an earlier one.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:rule="self.all(e, has(e.configMapRef) != has(e.secretRef))",message="set exactly one of configMapRef and secretRef"
	EnvFrom []corev1.EnvFromSource `json:"envFrom,omitempty"`

	// hostname of the container's UTS namespace; absent, the Container's name.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="hostname may have lower case letters, digits and '-', and begins and ends with a letter or digit"
	Hostname string `json:"hostname,omitempty"`

	// subdomain with the hostname, the namespace and the node's --cluster-domain is the container's
	// fully qualified domain name: HOSTNAME.SUBDOMAIN.NAMESPACE.svc.CLUSTER-DOMAIN.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="subdomain may have lower case letters, digits and '-', and begins and ends with a letter or digit"
	Subdomain string `json:"subdomain,omitempty"`

	// hostNetwork joins the network and UTS namespaces of the node.
	// +optional
	HostNetwork bool `json:"hostNetwork,omitempty"`

	// setHostnameAsFQDN makes the fully qualified domain name the hostname of the container. It has no
	// effect without subdomain, as in a Pod.
	// +optional
	SetHostnameAsFQDN bool `json:"setHostnameAsFQDN,omitempty"`

	// hostAliases are further lines of /etc/hosts.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	HostAliases []HostAlias `json:"hostAliases,omitempty"`

	// dnsPolicy says which servers /etc/resolv.conf names: Default (the node's), ClusterFirst (the
	// cluster's, but the node's with hostNetwork), ClusterFirstWithHostNet (the cluster's) or None
	// (those of dnsConfig alone). The cluster's are the flags --cluster-dns and --cluster-domain of
	// the node's agent; without them ClusterFirst is Default. Absent, Default: a Pod has
	// ClusterFirst.
	// +optional
	// +kubebuilder:validation:Enum=ClusterFirst;ClusterFirstWithHostNet;Default;None
	DNSPolicy corev1.DNSPolicy `json:"dnsPolicy,omitempty"`

	// dnsConfig adds servers, search domains and options to those of dnsPolicy.
	// +optional
	DNSConfig *DNSConfig `json:"dnsConfig,omitempty"`

	// dependsOn has the container started only while each of these other Containers of the namespace
	// is in a state. Honoured by an agent without a cluster.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=64
	DependsOn []Dependency `json:"dependsOn,omitempty"`

	// network says which network the container is in. Absent, and without hostNetwork, it is in
	// the node's network for containers.
	// +optional
	Network *Network `json:"network,omitempty"`

	// networks that the container is in, in place of the node's network for containers: eth0 is its
	// device in the first, eth1 in the second. Ports of the node lead to the first that can map them.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:XValidation:rule="self.all(n, self.exists_one(m, (has(m.name) ? m.name : '') == (has(n.name) ? n.name : '')))",message="a container is once in a network: remove the second of the same name"
	Networks []NetworkAttachment `json:"networks,omitempty"`

	// ports of the container. One with a hostPort is reachable by that port of the node, from the
	// node itself and from outside; any other is there for people to read, as in a Pod.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=128
	// +kubebuilder:validation:XValidation:rule="self.all(p, p.containerPort >= 1 && p.containerPort <= 65535)",message="containerPort may be 1 to 65535"
	// +kubebuilder:validation:XValidation:rule="self.all(p, !has(p.hostPort) || p.hostPort >= 0 && p.hostPort <= 65535)",message="hostPort may be 1 to 65535, or absent"
	// +kubebuilder:validation:XValidation:rule="self.all(p, !has(p.protocol) || p.protocol in ['TCP', 'UDP', 'SCTP'])",message="protocol of a port may be TCP, UDP or SCTP"
	Ports []corev1.ContainerPort `json:"ports,omitempty"`

	// hostPID joins the pid namespace of the node.
	// +optional
	HostPID bool `json:"hostPID,omitempty"`

	// hostIPC joins the IPC namespace of the node.
	// +optional
	HostIPC bool `json:"hostIPC,omitempty"`

	// hostUsers false runs the container in a user namespace of its own: its root is an unprivileged
	// user of the node, and its ids 0 to 65535 are 65536 of the node's that no other container has.
	// True, its ids are the node's. Absent, the agent's --host-users-default says which: if it is not
	// set, the node's.
	// +optional
	HostUsers *bool `json:"hostUsers,omitempty"`

	// resources are requests (cpu, memory) and limits (cpu, memory, swap, pids, hugepages-2Mi,
	// hugepages-1Gi). Requests place the Container and weigh its cpu; limits are the kernel's. A
	// container with a limit of memory may use as much swap as limits.swap says; absent, none. A
	// request of huge pages is equal to its limit, and does not place the Container.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.claims) || size(self.claims) == 0",message="claims are not supported: remove claims"
	// +kubebuilder:validation:XValidation:rule="!has(self.limits) || self.limits.all(k, k in ['cpu', 'memory', 'swap', 'pids', 'hugepages-2Mi', 'hugepages-1Gi'])",message="limits may name cpu, memory, swap, pids, hugepages-2Mi and hugepages-1Gi only"
	// +kubebuilder:validation:XValidation:rule="!has(self.limits) || !('swap' in self.limits) || 'memory' in self.limits",message="without a limit of memory nothing limits swap: set limits.memory, or remove swap"
	// +kubebuilder:validation:XValidation:rule="!has(self.requests) || self.requests.all(k, k in ['cpu', 'memory', 'hugepages-2Mi', 'hugepages-1Gi'])",message="requests may name cpu, memory, hugepages-2Mi and hugepages-1Gi only"
	// +kubebuilder:validation:XValidation:rule="!has(self.limits) || ['cpu', 'memory', 'swap', 'pids', 'hugepages-2Mi', 'hugepages-1Gi'].all(k, !(k in self.limits) || type(self.limits[k]) == int || isQuantity(self.limits[k]))",message="limits are quantities: write 2, 0.5 or 500m for cpu, and 64Mi, 1Gi or 500M for memory"
	// +kubebuilder:validation:XValidation:rule="!has(self.requests) || ['cpu', 'memory', 'hugepages-2Mi', 'hugepages-1Gi'].all(k, !(k in self.requests) || type(self.requests[k]) == int || isQuantity(self.requests[k]))",message="requests are quantities: write 2, 0.5 or 500m for cpu, and 64Mi, 1Gi or 500M for memory"
	Resources corev1.ResourceRequirements `json:"resources,omitempty"`

	// securityContext holds the fields of a Pod's container, and some of the Pod's own.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!(has(self.privileged) && self.privileged && has(self.capabilities))",message="a privileged container has all capabilities: remove capabilities or privileged"
	// +kubebuilder:validation:XValidation:rule="!(has(self.privileged) && self.privileged && has(self.allowPrivilegeEscalation) && !self.allowPrivilegeEscalation)",message="a privileged container may gain privileges: remove allowPrivilegeEscalation or privileged"
	// +kubebuilder:validation:XValidation:rule="!(has(self.privileged) && self.privileged && has(self.seLinuxOptions) && (!has(self.seLinuxOptions.type) || self.seLinuxOptions.type == ''))",message="seLinuxOptions of a privileged container need a type that does not confine it: set type, such as spc_t, or remove seLinuxOptions"
	// +kubebuilder:validation:XValidation:rule="!has(self.windowsOptions)",message="windowsOptions is for Windows: remove it"
	// +kubebuilder:validation:XValidation:rule="!has(self.appArmorProfile) || self.appArmorProfile.type in ['RuntimeDefault', 'Unconfined', 'Localhost']",message="appArmorProfile.type may be RuntimeDefault, Unconfined or Localhost"
	// +kubebuilder:validation:XValidation:rule="!has(self.appArmorProfile) || (self.appArmorProfile.type == 'Localhost' ? has(self.appArmorProfile.localhostProfile) && self.appArmorProfile.localhostProfile != '' : !has(self.appArmorProfile.localhostProfile))",message="appArmorProfile.localhostProfile names a profile for the type Localhost: set both or neither"
	// +kubebuilder:validation:XValidation:rule="!(has(self.privileged) && self.privileged && has(self.appArmorProfile) && self.appArmorProfile.type != 'Unconfined')",message="no AppArmor profile confines a privileged container: remove appArmorProfile or privileged"
	// +kubebuilder:validation:XValidation:rule="!has(self.procMount) || self.procMount in ['Default', 'Unmasked']",message="procMount may be Default or Unmasked"
	// +kubebuilder:validation:XValidation:rule="!has(self.seccompProfile) || self.seccompProfile.type in ['RuntimeDefault', 'Unconfined', 'Localhost']",message="seccompProfile.type may be RuntimeDefault, Unconfined or Localhost"
	// +kubebuilder:validation:XValidation:rule="!has(self.seccompProfile) || (self.seccompProfile.type == 'Localhost' ? has(self.seccompProfile.localhostProfile) && self.seccompProfile.localhostProfile != '' : !has(self.seccompProfile.localhostProfile))",message="seccompProfile.localhostProfile names a file of the node for the type Localhost: set both or neither"
	// +kubebuilder:validation:XValidation:rule="!has(self.fsGroupChangePolicy) || has(self.fsGroup)",message="fsGroupChangePolicy is for fsGroup: set both, or neither"
	// +kubebuilder:validation:XValidation:rule="!(has(self.runAsNonRoot) && self.runAsNonRoot && has(self.runAsUser) && self.runAsUser == 0)",message="runAsNonRoot forbids runAsUser 0: set another runAsUser"
	SecurityContext *SecurityContext `json:"securityContext,omitempty"`

	// allowSocketcall lets the default seccomp profile pass socketcall(2), by which older 32-bit
	// programs open sockets. A filter cannot see the address family of that call: it opens also the
	// families that the profile denies, such as AF_ALG and AF_VSOCK. Without it the call fails with
	// ENOSYS.
	// +optional
	AllowSocketcall bool `json:"allowSocketcall,omitempty"`

	// ulimits are resource limits of the container's processes (getrlimit(2)). Of a resource that is
	// not named they have the supervisor's.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	Ulimits []Ulimit `json:"ulimits,omitempty"`

	// shmSize is the size of /dev/shm, such as 256Mi; absent, 64Mi.
	// +optional
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self > 0 : isQuantity(self) && quantity(self).compareTo(quantity('0')) > 0",message="shmSize is a quantity greater than 0: write 256Mi or 1Gi"
	ShmSize *resource.Quantity `json:"shmSize,omitempty"`

	// devices of the node that the container may use.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	Devices []Device `json:"devices,omitempty"`

	// volumes that volumeMounts may name.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=128
	// +kubebuilder:validation:XValidation:rule="self.all(v, !has(v.container))",message="a volume of another Container is honoured by an agent without a cluster only, since the other Container may be on another node: use an emptyDir, or remove it"
	Volumes []Volume `json:"volumes,omitempty"`

	// volumeMounts say where volumes appear in the container. subPath is a path in the volume;
	// subPathExpr is one in which $(NAME) is replaced by a variable of env. What does not exist there
	// is created, as a directory.
	// +optional
	// +listType=map
	// +listMapKey=mountPath
	// +kubebuilder:validation:MaxItems=128
	// +kubebuilder:validation:XValidation:rule="self.all(m, m.mountPath.startsWith('/'))",message="mountPath must be absolute: start it with /"
	// +kubebuilder:validation:XValidation:rule="self.all(m, !has(m.subPath) || m.subPath == '' || !has(m.subPathExpr) || m.subPathExpr == '')",message="set one of subPath and subPathExpr"
	// +kubebuilder:validation:XValidation:rule="self.all(m, (!has(m.subPath) || !m.subPath.startsWith('/')) && (!has(m.subPathExpr) || !m.subPathExpr.startsWith('/')))",message="subPath and subPathExpr are relative to the volume: remove the leading /"
	// +kubebuilder:validation:XValidation:rule="self.all(m, !has(m.mountPropagation) || m.mountPropagation in ['None', 'HostToContainer', 'Bidirectional'])",message="mountPropagation may be None, HostToContainer or Bidirectional"
	VolumeMounts []corev1.VolumeMount `json:"volumeMounts,omitempty"`

	// restartPolicy: Always (the default), OnFailure or Never. Restarts back off from 10 s, doubled
	// each time, to 5 min, and start afresh after 10 min of running, as the kubelet's do;
	// restartBackOff gives other times.
	// +optional
	// +kubebuilder:default=Always
	// +kubebuilder:validation:Enum=Always;OnFailure;Never
	RestartPolicy corev1.RestartPolicy `json:"restartPolicy,omitempty"`

	// restartBackOff limits the wait before the next start of a container that has ended, or could
	// not be started. A change holds at once: a shorter maxSeconds also shortens a wait that is
	// under way.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.initialSeconds) || self.initialSeconds <= (has(self.maxSeconds) ? self.maxSeconds : 300)",message="initialSeconds may be at most maxSeconds, which is 300 if it is absent: lower initialSeconds or raise maxSeconds"
	RestartBackOff *RestartBackOff `json:"restartBackOff,omitempty"`

	// logging limits the log files that the node keeps of the container. A change holds at once,
	// without a restart.
	// +optional
	Logging *Logging `json:"logging,omitempty"`

	// terminationGracePeriodSeconds between SIGTERM (or the image's StopSignal) and SIGKILL when
	// the container is stopped.
	// +optional
	// +kubebuilder:default=30
	// +kubebuilder:validation:Minimum=0
	TerminationGracePeriodSeconds *int64 `json:"terminationGracePeriodSeconds,omitempty"`

	// progressDeadlineSeconds is the time within which the Container must become Ready. After it,
	// the condition Stalled is True, with the cause. Work on it goes on after that. The time starts
	// with each change of the spec, and again when a Container stops being Ready that was Ready for
	// at least as long.
	// +optional
	// +kubebuilder:default=600
	// +kubebuilder:validation:Minimum=1
	ProgressDeadlineSeconds *int32 `json:"progressDeadlineSeconds,omitempty"`

	// onConfigChange says what happens to a running container when a ConfigMap or Secret changes that
	// its variables or volumes refer to: Ignore leaves it as it is, with new files in its volumes;
	// Restart restarts it within its grace period; Signal sends configChangeSignal to its program,
	// once its volumes have the new files.
	// +optional
	// +kubebuilder:validation:Enum=Ignore;Restart;Signal
	OnConfigChange ConfigChangePolicy `json:"onConfigChange,omitempty"`

	// configChangeSignal is the signal for onConfigChange Signal: SIGHUP (the default), SIGUSR1,
	// SIGUSR2, SIGWINCH, SIGQUIT or SIGINT.
	// +optional
	// +kubebuilder:validation:Enum=SIGHUP;SIGUSR1;SIGUSR2;SIGWINCH;SIGQUIT;SIGINT
	ConfigChangeSignal string `json:"configChangeSignal,omitempty"`

	// serviceAccountName names the ServiceAccount of the Container's namespace whose tokens the
	// sources serviceAccountToken of its volumes have; absent, default. A Container without such a
	// source has no token. It needs a cluster.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	ServiceAccountName string `json:"serviceAccountName,omitempty"`

	// nodeName places the Container on this NodeAgent, past the scheduler's choice.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	NodeName string `json:"nodeName,omitempty"`

	// nodeSelector are labels that the node must have.
	// +optional
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`

	// tolerations of taints of the node.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:rule="self.all(t, !has(t.tolerationSeconds))",message="tolerationSeconds is not supported: Containers are not evicted by taints"
	// +kubebuilder:validation:XValidation:rule="self.all(t, !has(t.operator) || t.operator in ['Equal', 'Exists'])",message="operator of a toleration may be Equal or Exists"
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`

	// runtimeClassName names the RuntimeClass whose handler runs the container; absent, Berth's own
	// runtime. Without Kubernetes (agent standalone) it is the handler's name.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	RuntimeClassName *string `json:"runtimeClassName,omitempty"`
}

// ContainerStatus is the observed state of a Container. All of it can be computed afresh from the
// cluster and the node.
type ContainerStatus struct {
	// observedGeneration is the metadata.generation that this status speaks of; -1 before the first
	// look, so that kstatus does not take a new object for a finished one.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration"`

	// phase sums it up in a word.
	// +optional
	Phase ContainerPhase `json:"phase,omitempty"`

	// printableStatus is the word for people that kubectl prints as PHASE: the phase or, while that
	// does not say what happens, the reason, such as CrashLoopBackOff, ImagePullFailed or
	// Terminating. Programs read phase and conditions.
	// +optional
	PrintableStatus string `json:"printableStatus,omitempty"`

	// conditions: SpecValid, RecompileAvailable, Scheduled, Accepted, ImageReady, Running, Ready,
	// Reconciling, Stalled.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +patchStrategy=merge
	// +patchMergeKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty" patchStrategy:"merge" patchMergeKey:"type"`

	// lastProgressTime is the time at which progressDeadlineSeconds started.
	// +optional
	LastProgressTime *metav1.Time `json:"lastProgressTime,omitempty"`

	// nodeName is the NodeAgent that it has been dispatched to.
	// +optional
	NodeName string `json:"nodeName,omitempty"`

	// bundle is the OCIBundle, NAMESPACE/NAME. Its namespace is the node's, which administrators
	// can read.
	// +optional
	Bundle string `json:"bundle,omitempty"`

	// compiled is the compiled runtime spec of the OCIBundle, as long as the Container has the
	// annotation berth.run/show-compiled.
	// +optional
	Compiled *CompiledSpec `json:"compiled,omitempty"`

	RunStatus `json:",inline"`
}

// CompiledSpec is the spec of an OCIBundle, for people to read.
type CompiledSpec struct {
	// digest is the digest of the spec that the controller wrote. The controller compares it to see
	// that another spec is in force.
	Digest string `json:"digest"`
	// spec is OCIBundle.spec: config is the runtime-spec document.
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	Spec runtime.RawExtension `json:"spec"`
}

// VolumeImage is the image that a volume has.
type VolumeImage struct {
	// name of the volume.
	Name string `json:"name"`
	// imageID is the image reference with the digest of its manifest.
	ImageID string `json:"imageID"`
}

// RunStatus is the agent's report of the container on its node; it stands in OCIBundle.status and
// is mirrored into Container.status.
type RunStatus struct {
	// containerID is the id that the runtime knows it by (berth://ID).
	// +optional
	ContainerID string `json:"containerID,omitempty"`

	// imageID is the image reference with the digest of its manifest.
	// +optional
	ImageID string `json:"imageID,omitempty"`

	// volumeImages are the images of the volumes of the kind image.
	// +optional
	// +listType=map
	// +listMapKey=name
	VolumeImages []VolumeImage `json:"volumeImages,omitempty"`

	// ips are the addresses that the container has in its network: at most one of IPv4 and one of
	// IPv6 in a network of the usual kind. A container in the node's network has none of its own.
	// +optional
	// +listType=atomic
	IPs []corev1.PodIP `json:"ips,omitempty"`

	// pid of the container's first process in the node's pid namespace; 0 when it does not run.
	// +optional
	PID int64 `json:"pid,omitempty"`

	// restartCount counts how often the process has been started again on this node.
	// +optional
	RestartCount int32 `json:"restartCount"`

	// oomKills counts the processes of the container that the kernel has killed for lack of memory,
	// in this run and those before. The first process is one of them where a state has the reason
	// OOMKilled; the death of another ends no container.
	// +optional
	OOMKills int64 `json:"oomKills,omitempty"`

	// state now: waiting, running or terminated, as of a Pod's container.
	// +optional
	State corev1.ContainerState `json:"state,omitempty"`

	// lastState is the end of the run before this one.
	// +optional
	LastState corev1.ContainerState `json:"lastState,omitempty"`

	// logPath is the CRI-format log file on the node.
	// +optional
	LogPath string `json:"logPath,omitempty"`
}

// Container runs one OCI container on one node.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=ctr,categories={all,berth}
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.printableStatus`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Restarts",type=integer,JSONPath=`.status.restartCount`
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.status.nodeName`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Image",type=string,priority=1,JSONPath=`.spec.image`
// +kubebuilder:printcolumn:name="IP",type=string,priority=1,JSONPath=`.status.ips[0].ip`
// +kubebuilder:printcolumn:name="PID",type=integer,priority=1,JSONPath=`.status.pid`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
type Container struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec ContainerSpec `json:"spec"`
	// +kubebuilder:default:={"observedGeneration":-1,"restartCount":0,"phase":"Pending","printableStatus":"Pending"}
	Status ContainerStatus `json:"status,omitempty"`
}

// ContainerList is a list of Containers.
//
// +kubebuilder:object:root=true
type ContainerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Container `json:"items"`
}
