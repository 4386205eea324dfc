// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import corev1 "k8s.io/api/core/v1"

// Archive is an image that is on the node already.
type Archive struct {
	// path of the image on the node, absolute: a file that docker save, podman save, skopeo or
	// buildah has written (an OCI archive or a docker archive, plain or compressed with gzip or
	// zstd), or the directory of an OCI image layout.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="self.startsWith('/')",message="archive.path must be absolute: start it with /"
	// +kubebuilder:validation:XValidation:rule="!self.contains(':')",message="archive.path may not contain a colon: rename the file, or give a tag in archive.name"
	Path string `json:"path"`
	// name of the image, where path holds more than one: the tag of an OCI image layout, or
	// NAME:TAG.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Name string `json:"name,omitempty"`
}

// RootFS is a root filesystem that is on the node already.
type RootFS struct {
	// path of the directory on the node; absolute.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=4096
	// +kubebuilder:validation:XValidation:rule="self.startsWith('/')",message="rootfs.path must be absolute: start it with /"
	Path string `json:"path"`
}

// ConfigChangePolicy says what a change of a ConfigMap or Secret does to a running container.
type ConfigChangePolicy string

const (
	// ConfigChangeIgnore leaves the container as it is. It is the default.
	ConfigChangeIgnore ConfigChangePolicy = "Ignore"
	// ConfigChangeRestart restarts the container.
	ConfigChangeRestart ConfigChangePolicy = "Restart"
	// ConfigChangeSignal sends a signal to the first process of the container.
	ConfigChangeSignal ConfigChangePolicy = "Signal"
)

// Volume is a named source of files of one kind.
//
// +kubebuilder:validation:XValidation:rule="[has(self.hostPath), has(self.emptyDir), has(self.configMap), has(self.secret), has(self.downwardAPI), has(self.projected), has(self.persistentVolumeClaim), has(self.container), has(self.image)].exists_one(x, x)",message="set exactly one of hostPath, emptyDir, configMap, secret, downwardAPI, projected, persistentVolumeClaim, container and image"
type Volume struct {
	// name that volumeMounts refer to.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",message="the name of a volume may have lower case letters, digits and '-', and begins and ends with a letter or digit"
	Name string `json:"name"`

	// hostPath is a file or directory of the node.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.type) || self.type in ['', 'DirectoryOrCreate', 'Directory', 'FileOrCreate', 'File', 'Socket', 'CharDevice', 'BlockDevice']",message="hostPath.type may be empty, DirectoryOrCreate, Directory, FileOrCreate, File, Socket, CharDevice or BlockDevice"
	// +kubebuilder:validation:XValidation:rule="self.path.startsWith('/')",message="hostPath.path must be absolute: start it with /"
	HostPath *corev1.HostPathVolumeSource `json:"hostPath,omitempty"`

	// emptyDir is an empty directory that lives as long as the Container does.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.medium) || self.medium in ['', 'Memory', 'HugePages', 'HugePages-2Mi', 'HugePages-1Gi']",message="emptyDir.medium may be empty (the node's disk), Memory, HugePages, HugePages-2Mi or HugePages-1Gi"
	// +kubebuilder:validation:XValidation:rule="!has(self.mode)",message="emptyDir.mode is not supported: remove it; the directory's mode is 0777"
	EmptyDir *corev1.EmptyDirVolumeSource `json:"emptyDir,omitempty"`

	// configMap has a file for each key of a ConfigMap of the Container's namespace. The files of this
	// and of the following kinds are read-only, and follow their source while the container runs.
	// +optional
	ConfigMap *corev1.ConfigMapVolumeSource `json:"configMap,omitempty"`

	// secret has a file for each key of a Secret of the Container's namespace, in memory.
	// +optional
	Secret *corev1.SecretVolumeSource `json:"secret,omitempty"`

	// downwardAPI has files with fields of the Container and with its limits and requests.
	// +optional
	DownwardAPI *corev1.DownwardAPIVolumeSource `json:"downwardAPI,omitempty"`

	// projected has the files of several sources in one directory.
	// +optional
	Projected *ProjectedVolumeSource `json:"projected,omitempty"`

	// persistentVolumeClaim is the volume of a PersistentVolumeClaim of the Container's namespace. It
	// outlives the Container. In a cluster it is the PersistentVolume of type local or hostPath that
	// the claim is bound to; an agent without a cluster has the claim in its directory of manifests,
	// and keeps a directory for it.
	// +optional
	PersistentVolumeClaim *corev1.PersistentVolumeClaimVolumeSource `json:"persistentVolumeClaim,omitempty"`

	// container is an emptyDir of another Container of the namespace, which both have then. It is
	// honoured by an agent without a cluster; a cluster refuses the field.
	// +optional
	Container *ContainerVolume `json:"container,omitempty"`

	// image has the files of a container image, read-only. Each start of the container pulls it as
	// its pullPolicy says, with imagePullSecrets.
	// +optional
	Image *ImageVolumeSource `json:"image,omitempty"`
}

// ContainerVolume is an emptyDir of another Container of the namespace.
type ContainerVolume struct {
	// name of the other Container.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// volume is the name of the emptyDir among the volumes of the other Container.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Volume string `json:"volume"`
}

// ImageVolumeSource is the image that a volume has the files of.
type ImageVolumeSource struct {
	// reference as in spec.image: of a registry, such as quay.io/team/model:1, or
	// oci-archive:FILE[:TAG], oci:DIR[:TAG] and docker-archive:FILE[:REFERENCE] for a file or
	// directory of the node, which the Pod Security policy treats as a hostPath.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:XValidation:rule="self.matches('^(oci|oci-archive|docker-archive):') || !self.matches('^[./~]|[.](tar|tgz|tar[.](gz|xz|bz2|zst))$')",message="reference is an image of a registry such as quay.io/team/model:1: for a file of the node write oci-archive:/FILE"
	Reference string `json:"reference"`

	// pullPolicy says when the image is pulled, or the archive read: Always, IfNotPresent or Never.
	// Where it is absent, Always for the tag latest or no tag, else IfNotPresent.
	// +optional
	// +kubebuilder:validation:Enum=Always;IfNotPresent;Never
	PullPolicy corev1.PullPolicy `json:"pullPolicy,omitempty"`
}

// ProjectedVolumeSource has the files of several sources in one directory. A file of a later source
// replaces one of an earlier source with the same path.
type ProjectedVolumeSource struct {
	// sources of files.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	Sources []VolumeProjection `json:"sources,omitempty"`
	// defaultMode of files whose mode is not set, 0 to 0777; absent, 0644.
	// +optional
	DefaultMode *int32 `json:"defaultMode,omitempty"`
}

// VolumeProjection is one source of a projected volume, of one kind.
//
// +kubebuilder:validation:XValidation:rule="[has(self.configMap), has(self.secret), has(self.downwardAPI), has(self.serviceAccountToken)].exists_one(x, x)",message="set exactly one of configMap, secret, downwardAPI and serviceAccountToken"
type VolumeProjection struct {
	// configMap as in a volume.
	// +optional
	ConfigMap *corev1.ConfigMapProjection `json:"configMap,omitempty"`
	// secret as in a volume.
	// +optional
	Secret *corev1.SecretProjection `json:"secret,omitempty"`
	// downwardAPI as in a volume.
	// +optional
	DownwardAPI *corev1.DownwardAPIProjection `json:"downwardAPI,omitempty"`
	// serviceAccountToken is a file with a token of the Container's ServiceAccount, which the agent
	// renews. It needs a cluster.
	// +optional
	// +kubebuilder:validation:XValidation:rule="!has(self.expirationSeconds) || (self.expirationSeconds >= 600 && self.expirationSeconds <= 4294967296)",message="expirationSeconds may be 600 (10 minutes) to 4294967296"
	ServiceAccountToken *corev1.ServiceAccountTokenProjection `json:"serviceAccountToken,omitempty"`
}
