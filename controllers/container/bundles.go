// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/berth-run/berth/api/v1alpha1"
)

// An OCIBundle is in the namespace of its node. The Container names the node in AnnotationNode,
// which is written together with the finalizer, before the OCIBundle and on condition that the
// Container is as it was read. So there is one place where its OCIBundle can be, and a controller
// whose cache lags behind dispatches it to no second node.

// bundleKey returns the key of the OCIBundle of a Container on a node.
func bundleKey(c client.ObjectKey, node string) client.ObjectKey {
	return client.ObjectKey{
		Namespace: v1alpha1.NodeNamespace(node),
		Name:      v1alpha1.BundleName(c.Namespace, c.Name),
	}
}

// containerKey returns the key of the Container that an OCIBundle was compiled from, or whose place
// it takes, or the zero value.
func containerKey(b *v1alpha1.OCIBundle) client.ObjectKey {
	if owner := b.Owner(); owner.UID != "" {
		return client.ObjectKey{Namespace: owner.Namespace, Name: owner.Name}
	}
	if b.IsFormer() {
		return client.ObjectKeyFromObject(b)
	}
	if b.Namespace != v1alpha1.NodeNamespace(b.Spec.NodeName) {
		return client.ObjectKey{}
	}
	namespace, name, _ := strings.Cut(b.Name, ".")
	return client.ObjectKey{Namespace: namespace, Name: name}
}

// ours reports whether the OCIBundle was compiled from this very Container. One that does not say
// whose it is, but carries our label, is from a controller that did not know spec.containerRef, and
// has lost its owner reference since.
func ours(b *v1alpha1.OCIBundle, c *v1alpha1.Container) bool {
	owner := b.Owner()
	return owner.UID == c.UID || owner.UID == "" && b.IsFormer() &&
		b.Labels[v1alpha1.LabelContainer] == label(c.Name)
}

// bundlesOf returns the OCIBundles that the cache has of a Container.
func (r *Reconciler) bundlesOf(ctx context.Context, key client.ObjectKey) ([]*v1alpha1.OCIBundle,
	error,
) {
	list := &v1alpha1.OCIBundleList{}
	err := r.Client.List(ctx, list, client.MatchingFields{indexContainer: key.String()})
	if err != nil {
		return nil, fmt.Errorf("list the OCIBundles of the Container: %w", err)
	}
	out := make([]*v1alpha1.OCIBundle, len(list.Items))
	for i := range list.Items {
		out[i] = &list.Items[i]
		digestConfig(out[i])
	}
	return out, nil
}

// findBundles finds the Container's OCIBundle, and others that concern it.
func (r *Reconciler) findBundles(ctx context.Context, s *scope) error {
	all, err := r.bundlesOf(ctx, s.key())
	if err != nil {
		return err
	}
	place, dispatched := s.place()
	isThere := func(b *v1alpha1.OCIBundle) bool { return client.ObjectKeyFromObject(b) == place }
	if dispatched && !slices.ContainsFunc(all, func(b *v1alpha1.OCIBundle) bool {
		return ours(b, s.container)
	}) && !slices.ContainsFunc(all, isThere) {
		// The cache may lack an OCIBundle that was dispatched a moment ago.
		b, err := r.readLiveBundle(ctx, place)
		if err != nil {
			return err
		}
		if b != nil {
			all = append(all, b)
		}
	}
	var own []*v1alpha1.OCIBundle
	for _, b := range all {
		switch {
		case ours(b, s.container):
			own = append(own, b)
		case b.Owner().UID != "" && containerKey(b) == s.key():
			s.predecessors = append(s.predecessors, b)
		case isThere(b) && !b.IsFormer():
			s.found.foreign = fmt.Sprintf(
				"an OCIBundle %s in namespace %s exists that is not this Container's: delete it, or rename the Container", b.Name, b.Namespace)
		}
	}
	if len(own) == 0 {
		if len(s.predecessors) > 0 {
			p := s.predecessors[0]
			s.found.predecessor = string(p.Owner().UID)
			s.found.foreign = fmt.Sprintf("OCIBundle %s in namespace %s is that of an earlier Container",
				p.Name, p.Namespace)
		}
		return nil
	}
	s.found.foreign = ""
	// The one where the Container says; else one in the namespace of a node, before that of an
	// earlier controller.
	rank := func(b *v1alpha1.OCIBundle) int {
		switch {
		case isThere(b) && !b.IsFormer():
			return 0
		case !b.IsFormer():
			return 1
		}
		return 2
	}
	slices.SortStableFunc(own, func(a, b *v1alpha1.OCIBundle) int { return rank(a) - rank(b) })
	s.bundle, s.surplus = own[0], own[1:]
	return nil
}

// place returns the key of the Container's OCIBundle, and whether that has been dispatched.
func (s *scope) place() (client.ObjectKey, bool) {
	if node := s.container.Annotations[v1alpha1.AnnotationNode]; node != "" {
		return bundleKey(s.key(), node), true
	}
	// An earlier controller set the finalizer alone.
	return s.key(), controllerutil.ContainsFinalizer(s.container, v1alpha1.ContainerFinalizer)
}

// readLiveBundle reads from the API server. It returns nil if there is none.
func (r *Reconciler) readLiveBundle(ctx context.Context, key client.ObjectKey) (*v1alpha1.OCIBundle,
	error,
) {
	b, err := r.readWholeBundle(ctx, key)
	if b != nil {
		digestConfig(b)
	}
	return b, err
}

// readWholeBundle reads from the API server, with the config.
func (r *Reconciler) readWholeBundle(ctx context.Context,
	key client.ObjectKey,
) (*v1alpha1.OCIBundle, error) {
	b := &v1alpha1.OCIBundle{}
	if err := r.Live.Get(ctx, key, b); apierrors.IsNotFound(err) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("read the OCIBundle: %w", err)
	}
	return b, nil
}
