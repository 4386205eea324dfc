// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"
	"maps"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/berth-run/berth/api/v1alpha1"
)

// Controllers before AgentRevision 2 created OCIBundles in the Container's namespace. Such an
// OCIBundle stays there, and is mirrored and deleted there, until its node has an agent that reads
// the namespace of its node. Then it is replaced by one there, which names it in spec.former, so
// that the agent finds its container again. The agent is let into that namespace once all
// OCIBundles of the node are in it (controllers/nodehealth): it never sees a part of them.

// readsNamespace reports whether the agent of a node reads its OCIBundles in the namespace of the
// node.
func (r *Reconciler) readsNamespace(ctx context.Context, node string) (bool, error) {
	n, err := r.readNode(ctx, node)
	return err == nil && n != nil && n.Agent.Status.NodeInfo.AgentRevision >= 2, err
}

// relocate replaces an OCIBundle of an earlier controller by one in the namespace of its node, and
// removes the surplus ones.
func (r *Reconciler) relocate(ctx context.Context, s *scope) (bool, error) {
	if s.bundle != nil && s.bundle.IsFormer() {
		if reads, err := r.readsNamespace(ctx, s.bundle.Spec.NodeName); err != nil || !reads {
			return err == nil, err
		}
		if err := r.replaceFormer(ctx, s); err != nil {
			return false, err
		}
	}
	for _, b := range s.surplus {
		if former := s.bundle.Spec.Former; former != nil && former.UID == b.UID {
			if err := r.carryStatus(ctx, s.bundle, b); err != nil {
				return false, err
			}
			if err := r.drop(ctx, b); err != nil {
				return false, err
			}
		} else if err := r.remove(ctx, b); err != nil {
			return false, err
		}
	}
	return true, nil
}

// replaceFormer creates the OCIBundle that replaces s.bundle, which becomes surplus.
func (r *Reconciler) replaceFormer(ctx context.Context, s *scope) error {
	former, err := r.readWholeBundle(ctx, client.ObjectKeyFromObject(s.bundle))
	if err != nil {
		return err
	}
	if former == nil || former.UID != s.bundle.UID {
		return apierrors.NewConflict(bundleResource, s.bundle.Name, errChanged)
	}
	if err := r.claim(ctx, s, former.Spec.NodeName); err != nil {
		return err
	}
	next, err := r.createNext(ctx, s, former)
	if err != nil {
		return err
	}
	if former.DeletionTimestamp != nil {
		if err := r.remove(ctx, next); err != nil {
			return err
		}
	}
	digestConfig(former)
	s.surplus = append(s.surplus, former)
	s.bundle = next
	return nil
}

// createNext creates the OCIBundle that replaces former, with the same spec.
func (r *Reconciler) createNext(ctx context.Context, s *scope,
	former *v1alpha1.OCIBundle,
) (*v1alpha1.OCIBundle, error) {
	next := s.newBundle(former.Spec)
	next.Spec.Former = &v1alpha1.FormerBundle{UID: former.UID, Generation: former.Generation}
	next.Spec.CompiledGeneration = compiledGeneration(former, s.before)
	next.Spec.MinAgentRevision = max(2, former.Spec.MinAgentRevision)
	next.Annotations = maps.Clone(former.Annotations)
	if unedited(former) && next.Annotations[AnnotationSpecDigest] != "" {
		next.Annotations[AnnotationSpecDigest] = specDigest(&next.Spec)
	}
	applied, err := r.apply(ctx, nil, next)
	if apierrors.IsConflict(err) {
		// It exists, if an earlier attempt was cut off.
		have, errRead := r.readLiveBundle(ctx, client.ObjectKeyFromObject(next))
		if errRead == nil && have != nil && have.Spec.Former != nil &&
			have.Spec.Former.UID == former.UID {
			return have, nil
		}
	}
	return applied, err
}

// carryStatus gives next the status of former, until the agent has said something itself.
func (r *Reconciler) carryStatus(ctx context.Context, next, former *v1alpha1.OCIBundle) error {
	if next.Status.ObservedGeneration >= 0 || former.Status.ObservedGeneration < 0 {
		return nil
	}
	base := next.DeepCopy()
	next.Status = *former.Status.DeepCopy()
	generation := int64(0)
	if former.Status.ObservedGeneration >= former.Generation {
		generation = next.Generation
	}
	next.Status.ObservedGeneration = generation
	for i := range next.Status.Conditions {
		next.Status.Conditions[i].ObservedGeneration = generation
	}
	patch := client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Status().Patch(ctx, next, patch, client.FieldOwner(FieldOwner)); err != nil {
		return fmt.Errorf("carry the status over to the OCIBundle: %w", err)
	}
	digestConfig(next)
	return nil
}

// remove deletes an OCIBundle. The agent's finalizer holds it until nothing is left on the node;
// but the finalizer of one that its agent does not read is taken off, since the agent stops every
// container that has no OCIBundle.
func (r *Reconciler) remove(ctx context.Context, b *v1alpha1.OCIBundle) error {
	if b.IsFormer() {
		if reads, err := r.readsNamespace(ctx, b.Spec.NodeName); err != nil || reads {
			if err != nil {
				return err
			}
			return r.drop(ctx, b)
		}
	}
	if b.DeletionTimestamp != nil {
		return nil
	}
	err := r.Client.Delete(ctx, b, client.Preconditions{UID: &b.UID})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete the OCIBundle: %w", err)
	}
	b.DeletionTimestamp = &metav1.Time{Time: r.Clock.Now()}
	return nil
}

// drop removes an OCIBundle without its agent. The finalizer goes first: one of an earlier
// controller that is being deleted and has it was deleted by somebody else.
func (r *Reconciler) drop(ctx context.Context, b *v1alpha1.OCIBundle) error {
	if controllerutil.ContainsFinalizer(b, v1alpha1.OCIBundleFinalizer) {
		base := b.DeepCopy()
		controllerutil.RemoveFinalizer(b, v1alpha1.OCIBundleFinalizer)
		patch := client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
		if err := r.Client.Patch(ctx, b, patch, client.FieldOwner(FieldOwner)); err != nil {
			return client.IgnoreNotFound(fmt.Errorf("release the OCIBundle: %w", err))
		}
		digestConfig(b)
	}
	if b.DeletionTimestamp != nil {
		return nil
	}
	err := r.Client.Delete(ctx, b, client.Preconditions{UID: &b.UID})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete the OCIBundle: %w", err)
	}
	return nil
}
