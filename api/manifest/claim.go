// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// localPath is the StorageClass of Kubernetes' local-path provisioner. Its volumes are directories
// of the node as well.
const localPath = "local-path"

// checkClaim checks a PersistentVolumeClaim, whose volume is a directory of the node.
func checkClaim(c *corev1.PersistentVolumeClaim) field.ErrorList {
	faults := checkMeta(&c.ObjectMeta)
	at := field.NewPath("spec")
	refuse := func(set bool, name, instead string) {
		if set {
			faults = append(faults, field.Forbidden(at.Child(name), instead))
		}
	}
	s := &c.Spec
	faults = append(faults, checkAccessModes(at.Child("accessModes"), s.AccessModes)...)
	faults = append(faults, checkStorage(at.Child("resources"), &s.Resources)...)
	if class := s.StorageClassName; class != nil && *class != "" && *class != localPath {
		faults = append(faults, field.NotSupported(at.Child("storageClassName"), *class,
			[]string{"", localPath}))
	}
	if mode := s.VolumeMode; mode != nil && *mode != corev1.PersistentVolumeFilesystem {
		faults = append(faults, field.NotSupported(at.Child("volumeMode"), *mode,
			[]corev1.PersistentVolumeMode{corev1.PersistentVolumeFilesystem}))
	}
	const directory = "is not supported, since the volume is a new directory of the node: remove it"
	refuse(s.Selector != nil, "selector", directory)
	refuse(s.VolumeName != "", "volumeName", directory+", or mount a hostPath in the Container")
	refuse(s.DataSource != nil, "dataSource", directory+", and copy the data into the volume")
	refuse(s.DataSourceRef != nil, "dataSourceRef", directory+", and copy the data into the volume")
	refuse(s.VolumeAttributesClassName != nil, "volumeAttributesClassName", directory)
	return faults
}

func checkAccessModes(at *field.Path, modes []corev1.PersistentVolumeAccessMode) field.ErrorList {
	var faults field.ErrorList
	all := []corev1.PersistentVolumeAccessMode{
		corev1.ReadWriteOnce, corev1.ReadWriteOncePod, corev1.ReadWriteMany, corev1.ReadOnlyMany,
	}
	for i, mode := range modes {
		if !slices.Contains(all, mode) {
			faults = append(faults, field.NotSupported(at.Index(i), mode, all))
		}
	}
	switch {
	case len(modes) == 0:
		faults = append(faults, field.Required(at, "set one, such as ReadWriteOnce"))
	case len(modes) > 1 && slices.Contains(modes, corev1.ReadWriteOncePod):
		faults = append(faults, field.Forbidden(at, "ReadWriteOncePod stands alone: remove the others"))
	}
	return faults
}

// checkStorage takes the size that every claim of a cluster asks for, though nothing limits the
// directory.
func checkStorage(at *field.Path, r *corev1.VolumeResourceRequirements) field.ErrorList {
	var faults field.ErrorList
	for name := range r.Limits {
		faults = append(faults, field.Forbidden(at.Child("limits").Key(string(name)),
			"the kernel cannot limit a directory of the node's disk: remove it"))
	}
	for name, size := range r.Requests {
		at := at.Child("requests").Key(string(name))
		switch {
		case name != corev1.ResourceStorage:
			faults = append(faults, field.NotSupported(at, name, []corev1.ResourceName{
				corev1.ResourceStorage,
			}))
		case size.Sign() <= 0:
			faults = append(faults, field.Invalid(at, size.String(), "must be greater than 0"))
		}
	}
	return faults
}
