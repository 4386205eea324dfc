// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/berth-run/berth/api/v1alpha1"
)

// Nobody can grant what he does not have, unless by the verb escalate, which knows no limit. So the
// controller may read all ConfigMaps and Secrets, and does not. config/policy limits the Roles and
// RoleBindings that it may write.
// +kubebuilder:rbac:groups="",resources=configmaps;secrets,verbs=get;list;watch
// The same holds for tokens of ServiceAccounts, which config/policy denies to the controller.
// +kubebuilder:rbac:groups="",resources=serviceaccounts/token,verbs=create
// +kubebuilder:rbac:groups=rbac.authorization.k8s.io,resources=roles;rolebindings,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// fieldOwner is the name under which the controller owns fields in server-side apply.
const fieldOwner = "berth-controller"

// indexRole holds the OCIBundles that name ConfigMaps or Secrets under the keys of their Roles.
const indexRole = "berth.run/access"

// workers is the number of Roles that are written concurrently.
const workers = 4

// Failed requests are retried after 5 ms at first, and at least once a minute.
const (
	firstRetry = 5 * time.Millisecond
	lastRetry  = time.Minute
)

// Reconciler keeps one Role and one RoleBinding at a time.
type Reconciler struct {
	// Client reads from the informer cache, which has the Roles and RoleBindings with LabelNode
	// alone, and writes to the API server.
	Client client.Client
	// Live reads from the API server itself.
	Live client.Reader
	// Recorder takes the events.
	Recorder events.EventRecorder
}

// SetupWithManager adds the reconciler to a manager.
func (r *Reconciler) SetupWithManager(ctx context.Context, mgr ctrl.Manager) error {
	index := func(o client.Object) []string {
		if key := keyOf(o.(*v1alpha1.OCIBundle)); key.Name != "" {
			return []string{key.String()}
		}
		return nil
	}
	err := mgr.GetFieldIndexer().IndexField(ctx, &v1alpha1.OCIBundle{}, indexRole, index)
	if err != nil {
		return fmt.Errorf("index OCIBundles: %w", err)
	}
	toRole := handler.EnqueueRequestsFromMapFunc(func(_ context.Context,
		o client.Object,
	) []reconcile.Request {
		if key := keyOf(o.(*v1alpha1.OCIBundle)); key.Name != "" {
			return []reconcile.Request{{NamespacedName: key}}
		}
		return nil
	})
	// Agents write the status of their OCIBundles often, and it matters nothing here.
	names := predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		was, is := e.ObjectOld.(*v1alpha1.OCIBundle), e.ObjectNew.(*v1alpha1.OCIBundle)
		return keyOf(was) != keyOf(is) || !slices.Equal(named(was), named(is))
	}}
	// The same label marks the RoleBindings of controllers/nodehealth.
	here := builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool {
		return !v1alpha1.IsNodeNamespace(o.GetNamespace()) && v1alpha1.IsNodeNamespace(o.GetName())
	}))
	return ctrl.NewControllerManagedBy(mgr).
		Named("access").
		For(&rbacv1.Role{}, here).
		Watches(&rbacv1.RoleBinding{}, &handler.EnqueueRequestForObject{}, here).
		Watches(&v1alpha1.OCIBundle{}, toRole, builder.WithPredicates(names)).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: workers,
			RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](
				firstRetry, lastRetry),
		}).
		Complete(r)
}

// Reconcile implements reconcile.Reconciler. The request is the key of Role and RoleBinding.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	list := &v1alpha1.OCIBundleList{}
	err := r.Client.List(ctx, list, client.MatchingFields{indexRole: req.String()},
		client.UnsafeDisableDeepCopy)
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("list the OCIBundles that name ConfigMaps or Secrets: %w", err)
	}
	if len(list.Items) == 0 {
		return ctrl.Result{}, r.revoke(ctx, req.NamespacedName)
	}
	node := list.Items[0].Spec.NodeName
	for i := range list.Items {
		if other := list.Items[i].Spec.NodeName; other != node {
			return ctrl.Result{}, fmt.Errorf(
				"the Role %s: found OCIBundles of the nodes %s and %s, whose names have the same hash; allowed: one node: rename the other", req, node, other)
		}
	}
	err = r.grant(ctx, req.NamespacedName, node, rulesFor(list.Items))
	if noNamespace(err) {
		// Its ConfigMaps and Secrets are gone, or are being deleted, too.
		return ctrl.Result{}, nil
	}
	return ctrl.Result{}, err
}

// noNamespace reports whether a write failed since the namespace does not exist or is being
// deleted.
func noNamespace(err error) bool {
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return true
	}
	var status apierrors.APIStatus
	return apierrors.IsNotFound(err) && errors.As(err, &status) && status.Status().Details != nil &&
		status.Status().Details.Kind == "namespaces"
}
