// SPDX-License-Identifier: Apache-2.0

// Package v1alpha1 is the Kubernetes API of Berth, group berth.run, version v1alpha1.
//
// People apply a Container; an OCIBundle is the unit of dispatch from the cluster controller to the
// agent of one node; a NodeAgent describes that agent's node; a SeccompProfile is shared by
// OCIBundles. The package holds types and constants alone: how a Container becomes a runtime-spec
// document is api/oci/compile's to know.
//
// +kubebuilder:object:generate=true
// +groupName=berth.run
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the group and version of every kind in this package.
var GroupVersion = schema.GroupVersion{Group: "berth.run", Version: "v1alpha1"}

// AddToScheme adds the kinds of this package to a scheme, as clients and managers need it.
func AddToScheme(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(GroupVersion,
		&Container{}, &ContainerList{},
		&OCIBundle{}, &OCIBundleList{},
		&NodeAgent{}, &NodeAgentList{},
		&SeccompProfile{}, &SeccompProfileList{},
	)
	metav1.AddToGroupVersion(scheme, GroupVersion)
	return nil
}
