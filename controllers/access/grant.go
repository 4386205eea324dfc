// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/controllers/serverside"
)

// grant brings the Role and then the RoleBinding up to date: the API server accepts no RoleBinding
// of a Role that does not exist.
func (r *Reconciler) grant(ctx context.Context, key client.ObjectKey, node string,
	rules []rbacv1.PolicyRule,
) error {
	meta := metav1.ObjectMeta{
		Namespace: key.Namespace, Name: key.Name,
		Labels:      map[string]string{v1alpha1.LabelNode: ""},
		Annotations: map[string]string{v1alpha1.AnnotationNode: node},
	}
	kind := func(kind string) metav1.TypeMeta {
		return metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: kind}
	}
	role := &rbacv1.Role{TypeMeta: kind("Role"), ObjectMeta: meta, Rules: rules}
	if err := r.ensure(ctx, role, &rbacv1.Role{}); err != nil {
		return err
	}
	return r.ensure(ctx, &rbacv1.RoleBinding{
		TypeMeta: kind("RoleBinding"), ObjectMeta: meta,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: key.Name},
		Subjects: []rbacv1.Subject{
			{Kind: rbacv1.ServiceAccountKind, Namespace: v1alpha1.NodesNamespace, Name: node},
			{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: v1alpha1.NodeUser(node)},
		},
	}, &rbacv1.RoleBinding{})
}

// ensure brings one object up to date. It changes none that is not ours. have is an empty object of
// the same kind.
func (r *Reconciler) ensure(ctx context.Context, want, have client.Object) error {
	key := client.ObjectKeyFromObject(want)
	err := r.Client.Get(ctx, key, have)
	if apierrors.IsNotFound(err) {
		if err = r.apply(ctx, want, nil); !apierrors.IsConflict(err) {
			return err
		}
		// The cache lags behind, or the object has lost its label, or it is somebody else's.
		err = r.Live.Get(ctx, key, have)
	}
	switch {
	case err != nil:
		return fmt.Errorf("read %s %s: %w", kindOf(want), key, err)
	case !ours(have):
		return r.refuse(have, want)
	case upToDate(have, want):
		return nil
	case !sameRole(have, want): // the API server accepts no other roleRef
		if err := r.remove(ctx, have); err != nil {
			return err
		}
		have = nil
	}
	return r.apply(ctx, want, have)
}

// ours reports whether the controller created an object. An object that has lost both marks does
// not count.
func ours(o client.Object) bool {
	_, label := o.GetLabels()[v1alpha1.LabelNode]
	return label || o.GetAnnotations()[v1alpha1.AnnotationNode] != ""
}

// refuse reports an object that has the name of one of ours.
func (r *Reconciler) refuse(have, want client.Object) error {
	node := want.GetAnnotations()[v1alpha1.AnnotationNode]
	err := fmt.Errorf(
		"%s %s: found one that berth-controller did not create; allowed: none of this name, which lets node %s read the ConfigMaps and Secrets of its Containers: delete it",
		kindOf(want), client.ObjectKeyFromObject(have), node)
	r.Recorder.Eventf(have, nil, corev1.EventTypeWarning, "NotCreatedByBerth", "Grant", "%s", err)
	return err
}

// upToDate reports whether have has all that is wanted. Other labels and annotations are others'.
func upToDate(have, want client.Object) bool {
	_, label := have.GetLabels()[v1alpha1.LabelNode]
	if !label || have.GetAnnotations()[v1alpha1.AnnotationNode] !=
		want.GetAnnotations()[v1alpha1.AnnotationNode] {
		return false
	}
	switch want := want.(type) {
	case *rbacv1.Role:
		return equality.Semantic.DeepEqual(have.(*rbacv1.Role).Rules, want.Rules)
	case *rbacv1.RoleBinding:
		return sameRole(have, want) &&
			equality.Semantic.DeepEqual(have.(*rbacv1.RoleBinding).Subjects, want.Subjects)
	}
	return false
}

// sameRole reports whether two RoleBindings are of the same Role. It is true for Roles.
func sameRole(have, want client.Object) bool {
	binding, ok := want.(*rbacv1.RoleBinding)
	return !ok || have.(*rbacv1.RoleBinding).RoleRef == binding.RoleRef
}

// apply creates an object, if have is nil, or changes have and no later one of that name.
func (r *Reconciler) apply(ctx context.Context, want, have client.Object) error {
	var uid types.UID
	if have != nil {
		uid = have.GetUID()
	}
	u, err := serverside.Configuration(want, uid)
	if err == nil {
		err = r.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(u),
			client.FieldOwner(fieldOwner), client.ForceOwnership)
	}
	if err != nil {
		return fmt.Errorf("apply %s %s: %w", kindOf(want), client.ObjectKeyFromObject(want), err)
	}
	return nil
}

// revoke deletes the RoleBinding and the Role of a node that no longer names anything.
func (r *Reconciler) revoke(ctx context.Context, key client.ObjectKey) error {
	for _, o := range []client.Object{&rbacv1.RoleBinding{}, &rbacv1.Role{}} {
		err := r.Client.Get(ctx, key, o)
		if apierrors.IsNotFound(err) || err == nil && o.GetDeletionTimestamp() != nil {
			continue
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", key, err)
		}
		ctrl.LoggerFrom(ctx).V(1).Info("no OCIBundle of the node names a ConfigMap or Secret any more",
			"node", o.GetAnnotations()[v1alpha1.AnnotationNode])
		if err := r.remove(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

func (r *Reconciler) remove(ctx context.Context, o client.Object) error {
	uid := o.GetUID()
	err := r.Client.Delete(ctx, o, client.Preconditions{UID: &uid})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete %s %s: %w", kindOf(o), client.ObjectKeyFromObject(o), err)
	}
	return nil
}

// kindOf returns the kind of an object for messages: reads leave it empty in the object itself.
func kindOf(o client.Object) string {
	if _, ok := o.(*rbacv1.Role); ok {
		return "Role"
	}
	return "RoleBinding"
}
