// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/source"
)

// received is an OCIBundle as the API server sends it: source.Decode reads it.
type received struct{ v1alpha1.OCIBundle }

// receivedList is a list of them.
type receivedList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []received `json:"items"`
}

// receivedScheme has received in place of the OCIBundle of the API.
func receivedScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	s.AddKnownTypeWithName(v1alpha1.GroupVersion.WithKind("OCIBundle"), &received{})
	s.AddKnownTypeWithName(v1alpha1.GroupVersion.WithKind("OCIBundleList"), &receivedList{})
	metav1.AddToGroupVersion(s, v1alpha1.GroupVersion)
	return s
}

// UnmarshalJSON implements json.Unmarshaler.
func (r *received) UnmarshalJSON(data []byte) error {
	r.OCIBundle = v1alpha1.OCIBundle{}
	err := source.Decode(data, &r.OCIBundle)
	delete(r.Annotations, source.AnnotationRun) // the controller compiles, and nobody else has a say in it
	delete(r.Annotations, source.AnnotationStopped)
	delete(r.Annotations, source.AnnotationRestart)
	return err
}

// DeepCopyObject implements runtime.Object.
func (r *received) DeepCopyObject() runtime.Object {
	out := &received{}
	r.DeepCopyInto(&out.OCIBundle)
	return out
}

// DeepCopyObject implements runtime.Object.
func (l *receivedList) DeepCopyObject() runtime.Object {
	out := &receivedList{TypeMeta: l.TypeMeta, Items: make([]received, len(l.Items))}
	l.ListMeta.DeepCopyInto(&out.ListMeta)
	for i := range l.Items {
		l.Items[i].DeepCopyInto(&out.Items[i].OCIBundle)
	}
	return out
}

// unwrap is what the cache keeps of a received OCIBundle: the OCIBundle without managedFields, which nobody reads here.
func unwrap(obj any) (any, error) {
	r, ok := obj.(*received)
	if !ok {
		return obj, nil // a DeletedFinalStateUnknown
	}
	b := r.OCIBundle
	b.ManagedFields = nil
	return &b, nil
}
