// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/berth-run/berth/api/v1alpha1"
)

// v1alpha1Mapper maps the one kind that the source asks for.
func v1alpha1Mapper() meta.RESTMapper {
	m := meta.NewDefaultRESTMapper([]schema.GroupVersion{v1alpha1.GroupVersion})
	m.AddSpecific(v1alpha1.GroupVersion.WithKind("OCIBundle"), v1alpha1.GroupVersion.WithResource("ocibundles"), v1alpha1.GroupVersion.WithResource("ocibundle"), meta.RESTScopeNamespace)
	m.AddSpecific(v1alpha1.GroupVersion.WithKind("SeccompProfile"), v1alpha1.GroupVersion.WithResource("seccompprofiles"), v1alpha1.GroupVersion.WithResource("seccompprofile"), meta.RESTScopeRoot)
	return m
}
