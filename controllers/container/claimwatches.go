// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/berth-run/berth/api/v1alpha1"
)

// indexClaims has the cache find Containers and OCIBundles by their claims.
func (r *Reconciler) indexClaims(ctx context.Context, index client.FieldIndexer) error {
	err := index.IndexField(ctx, &v1alpha1.Container{}, indexClaim, func(o client.Object) []string {
		return claimNames(o.(*v1alpha1.Container))
	})
	if err != nil {
		return fmt.Errorf("index Containers: %w", err)
	}
	err = index.IndexField(ctx, &v1alpha1.OCIBundle{}, indexClaim, func(o client.Object) []string {
		return bundleClaims(o.(*v1alpha1.OCIBundle))
	})
	if err != nil {
		return fmt.Errorf("index OCIBundles: %w", err)
	}
	return nil
}

// claimEvents reconciles the Containers that name a claim.
func (r *Reconciler) claimEvents() handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context,
		o client.Object,
	) []reconcile.Request {
		return r.naming(ctx, client.ObjectKeyFromObject(o))
	})
}

// volumeEvents reconciles the Containers that name the claim of a PersistentVolume.
func (r *Reconciler) volumeEvents() handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context,
		o client.Object,
	) []reconcile.Request {
		ref := o.(*corev1.PersistentVolume).Spec.ClaimRef
		if ref == nil {
			return nil
		}
		return r.naming(ctx, client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name})
	})
}

// freed reconciles the other Containers that name a claim of a deleted Container.
func (r *Reconciler) freed(ctx context.Context, e event.DeleteEvent, q queue) {
	for _, name := range claimNames(e.Object.(*v1alpha1.Container)) {
		for _, other := range r.naming(ctx, client.ObjectKey{
			Namespace: e.Object.GetNamespace(), Name: name,
		}) {
			q.Add(other)
		}
	}
}

// naming returns the Containers that name a claim.
func (r *Reconciler) naming(ctx context.Context, claim client.ObjectKey) []reconcile.Request {
	list := &v1alpha1.ContainerList{}
	err := r.Client.List(ctx, list, client.InNamespace(claim.Namespace),
		client.MatchingFields{indexClaim: claim.Name}, client.UnsafeDisableDeepCopy)
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "list the Containers with a PersistentVolumeClaim", "claim", claim)
		return nil
	}
	out := make([]reconcile.Request, len(list.Items))
	for i := range list.Items {
		out[i].NamespacedName = client.ObjectKeyFromObject(&list.Items[i])
	}
	return out
}

// setUpReleaser adds the controller that releases claims to a manager.
func (r *Reconciler) setUpReleaser(mgr ctrl.Manager) error {
	claims := func(_ context.Context, q queue, o client.Object) {
		b := o.(*v1alpha1.OCIBundle)
		for _, c := range b.Spec.Claims {
			q.Add(reconcile.Request{NamespacedName: client.ObjectKey{
				Namespace: containerKey(b).Namespace, Name: c.Name,
			}})
		}
	}
	err := mgr.Add(manager.RunnableFunc(func(context.Context) error { // once this process leads
		r.attempts.noteLeads(r.Clock.Now())
		return nil
	}))
	if err != nil {
		return fmt.Errorf("claim controller: %w", err)
	}
	err = ctrl.NewControllerManagedBy(mgr).
		Named("claim").
		For(&corev1.PersistentVolumeClaim{}, builder.WithPredicates(
			predicate.NewPredicateFuncs(func(o client.Object) bool {
				return released(o.(*corev1.PersistentVolumeClaim))
			}))).
		Watches(&v1alpha1.OCIBundle{}, handler.Funcs{
			UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
				if e.ObjectOld.GetGeneration() != e.ObjectNew.GetGeneration() {
					claims(ctx, q, e.ObjectOld)
				}
			},
			DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) {
				claims(ctx, q, e.Object)
			},
		}).
		Complete(claimReleaser{r})
	if err != nil {
		return fmt.Errorf("claim controller: %w", err)
	}
	return nil
}
