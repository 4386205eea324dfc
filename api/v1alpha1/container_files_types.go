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

// Volume is a named source of files, one of hostPath and emptyDir.
//
// +kubebuilder:validation:XValidation:rule="has(self.hostPath) != has(self.emptyDir)",message="set exactly one of hostPath and emptyDir"
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
	// +kubebuilder:validation:XValidation:rule="!has(self.medium) || self.medium in ['', 'Memory']",message="emptyDir.medium may be empty (the node's disk) or Memory"
	// +kubebuilder:validation:XValidation:rule="!has(self.sizeLimit) || (has(self.medium) && self.medium == 'Memory')",message="the kernel cannot limit a directory of the node's disk: remove sizeLimit, or set medium to Memory"
	// +kubebuilder:validation:XValidation:rule="!has(self.mode)",message="emptyDir.mode is not supported: remove it; the directory's mode is 0777"
	EmptyDir *corev1.EmptyDirVolumeSource `json:"emptyDir,omitempty"`
}
