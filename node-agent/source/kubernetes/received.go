// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/source"
)

// received is an OCIBundle as the API server sends it: source.Decode reads it. It is known by its
// Container's name, which is what people call it and what its logs are found by; and if it replaces
// another OCIBundle, by the uid and the generation of that one, since by those the agent finds the
// container that runs.
type received struct{ v1alpha1.OCIBundle }

// receivedList is a list of received OCIBundles.
type receivedList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []received `json:"items"`
}

// receivedScheme returns a scheme with received in place of the OCIBundle of the API.
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
	for _, a := range []string{
		// the controller compiles, and nobody else has a say in it
		source.AnnotationRun, source.AnnotationFixed,
		source.AnnotationStopped, source.AnnotationRestart,
	} {
		delete(r.Annotations, a)
	}
	if named(&r.OCIBundle) {
		r.Namespace, r.Name = r.Spec.ContainerRef.Namespace, r.Spec.ContainerRef.Name
	}
	if former := r.Spec.Former; former != nil {
		r.UID = identity(&r.OCIBundle)
		r.Generation += former.Generation
		shift(&r.Status, former.Generation)
	}
	return err
}

// named reports whether an OCIBundle names its Container.
func named(b *v1alpha1.OCIBundle) bool {
	return b.Spec.ContainerRef != nil && b.Spec.ContainerRef.Namespace != ""
}

// identity returns the uid by which the agent knows an OCIBundle.
func identity(b *v1alpha1.OCIBundle) types.UID {
	if b.Spec.Former != nil {
		return b.Spec.Former.UID
	}
	return b.UID
}

// sent returns a status of b as it is written: with the generations that b has in the cluster.
func sent(b *v1alpha1.OCIBundle, status *v1alpha1.OCIBundleStatus) *v1alpha1.OCIBundleStatus {
	if b.Spec.Former == nil {
		return status
	}
	out := status.DeepCopy()
	shift(out, -b.Spec.Former.Generation)
	return out
}

// shift adds n to the generations that a status speaks of.
func shift(status *v1alpha1.OCIBundleStatus, n int64) {
	add := func(generation *int64) {
		if *generation > 0 {
			*generation = max(*generation+n, 0)
		}
	}
	add(&status.ObservedGeneration)
	for i := range status.Conditions {
		add(&status.Conditions[i].ObservedGeneration)
	}
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

// held is the part of an OCIBundle that the cache holds. It is never changed, only replaced.
type held struct {
	v1alpha1.OCIBundle // without its config, and without managedFields, which nobody reads here
	config             source.Document
}

// hold returns the part of a received OCIBundle that the cache holds.
func hold(obj any) (any, error) {
	r, ok := obj.(*received)
	if !ok {
		return obj, nil // a DeletedFinalStateUnknown, or what is held already
	}
	h := &held{OCIBundle: r.OCIBundle}
	h.ManagedFields = nil
	h.config = source.TakeDocument(&h.Spec)
	return h, nil
}
