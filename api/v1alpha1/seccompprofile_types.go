// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// OCIBundleSeccompProfileField is the selectable field by which the OCIBundles that refer to a
// SeccompProfile are found.
const OCIBundleSeccompProfileField = "spec.seccompProfile"

// SeccompProfileSpec is the content of a SeccompProfile.
//
// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="a SeccompProfile is named by its content and cannot be changed"
type SeccompProfileSpec struct {
	// profile is linux.seccomp of a runtime-spec document, as JSON. Its SHA-256 is the object's
	// name.
	// +kubebuilder:validation:MinLength=2
	// +kubebuilder:validation:MaxLength=1048576
	Profile string `json:"profile"`
}

// SeccompProfile is a seccomp profile that OCIBundles refer to by its digest, so that the same one
// is not stored in each of them. The controller creates it, and deletes it some time after the last
// OCIBundle that refers to it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,categories=berth
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^sha256-[0-9a-f]{64}$')",message="name must be sha256- and the SHA-256 of spec.profile in hexadecimal"
type SeccompProfile struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec SeccompProfileSpec `json:"spec"`
}

// SeccompProfileList is a list of SeccompProfiles.
//
// +kubebuilder:object:root=true
type SeccompProfileList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SeccompProfile `json:"items"`
}
