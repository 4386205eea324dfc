// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/berth-run/berth/api/v1alpha1"
)

// Indexes of the informer cache.
const (
	// indexWaiting holds the Containers that no node has been chosen for, under "true".
	indexWaiting = "berth.run/waiting"
	// indexContainer holds OCIBundles under their Containers.
	indexContainer = "berth.run/container"
	// indexClaim holds Containers under the names of their PersistentVolumeClaims, and OCIBundles
	// under NAMESPACE/NAME of theirs.
	indexClaim = "berth.run/claim"
)

// What has failed is tried again after 5 ms at first, and at least once a minute: a refused
// dispatch would otherwise wait up to 16 minutes, and its progress deadline with it.
const (
	firstRetry = 5 * time.Millisecond
	lastRetry  = time.Minute
)

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// SetupWithManager adds the reconciler to a manager. workers is how many Containers are reconciled
// at once.
func (r *Reconciler) SetupWithManager(ctx context.Context, mgr ctrl.Manager, workers int) error {
	index := mgr.GetFieldIndexer()
	if err := index.IndexField(ctx, &v1alpha1.Container{}, indexWaiting, waiting); err != nil {
		return fmt.Errorf("index Containers: %w", err)
	}
	if err := index.IndexField(ctx, &v1alpha1.OCIBundle{}, indexContainer, ofContainer); err != nil {
		return fmt.Errorf("index OCIBundles: %w", err)
	}
	err := index.IndexField(ctx, &v1alpha1.OCIBundle{}, v1alpha1.OCIBundleNodeNameField, onNode)
	if err != nil {
		return fmt.Errorf("index OCIBundles: %w", err)
	}
	if err := r.indexClaims(ctx, index); err != nil {
		return err
	}
	retries := workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](
		firstRetry, lastRetry)
	err = ctrl.NewControllerManagedBy(mgr).
		Named("container").
		For(&v1alpha1.Container{}).
		// Not Owns: an OCIBundle is in another namespace, and one that is not the Container's own
		// matters, too.
		Watches(&v1alpha1.OCIBundle{}, r.bundleEvents()).
		Watches(&v1alpha1.NodeAgent{}, r.agentEvents()).
		Watches(&corev1.Node{}, r.nodeEvents(), changed(nodeMatters)).
		Watches(&nodev1.RuntimeClass{}, r.wakeWaiting()).
		Watches(&storagev1.StorageClass{}, r.wakeWaiting()).
		Watches(&corev1.PersistentVolumeClaim{}, r.claimEvents()).
		Watches(&corev1.PersistentVolume{}, r.volumeEvents()).
		// Another Container may wait for a claim of the deleted one.
		Watches(&v1alpha1.Container{}, handler.Funcs{DeleteFunc: r.freed}).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: workers,
			RateLimiter:             retries,
		}).
		Complete(r)
	if err != nil {
		return err
	}
	return r.setUpReleaser(mgr)
}

func waiting(o client.Object) []string {
	c := o.(*v1alpha1.Container)
	if meta.IsStatusConditionFalse(c.Status.Conditions, v1alpha1.ConditionScheduled) {
		return []string{"true"}
	}
	return nil
}

func onNode(o client.Object) []string {
	return []string{o.(*v1alpha1.OCIBundle).Spec.NodeName}
}

func ofContainer(o client.Object) []string {
	return []string{containerKey(o.(*v1alpha1.OCIBundle)).String()}
}

// answerPriority puts reports of agents before new Containers, whose priority is 0. Otherwise, in a
// burst, a running process would be shown only after all new Containers have been dispatched.
const answerPriority = 100

// addAnswer reconciles a Container whose OCIBundle its agent has changed.
func addAnswer(q queue, key client.ObjectKey) {
	request := reconcile.Request{NamespacedName: key}
	if q, ok := q.(priorityqueue.PriorityQueue[reconcile.Request]); ok {
		q.AddWithOpts(priorityqueue.AddOpts{Priority: new(answerPriority)}, request)
		return
	}
	q.Add(request)
}

// bundleEvents keeps the ledger, reconciles the Container of the OCIBundle, and wakes those that
// wait for room when some comes free.
func (r *Reconciler) bundleEvents() handler.EventHandler {
	observe := func(b *v1alpha1.OCIBundle) client.ObjectKey {
		key := containerKey(b)
		if key.Name != "" {
			r.Ledger.Observe(key, b.Spec.NodeName, b.Spec.Requests, ended(b))
		}
		return key
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) {
			if key := observe(e.Object.(*v1alpha1.OCIBundle)); key.Name != "" {
				q.Add(reconcile.Request{NamespacedName: key})
			}
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			was, is := e.ObjectOld.(*v1alpha1.OCIBundle), e.ObjectNew.(*v1alpha1.OCIBundle)
			key := observe(is)
			switch {
			case key.Name == "":
				return
			case was.ResourceVersion == is.ResourceVersion: // the cache was only read again
				q.Add(reconcile.Request{NamespacedName: key})
				return
			}
			if was.Generation == is.Generation {
				r.answers.note(is.Spec.NodeName, r.Clock.Now())
			}
			addAnswer(q, key)
			if ended(is) && !ended(was) || !slices.Equal(was.Spec.Claims, is.Spec.Claims) {
				r.wake(ctx, q)
			}
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) {
			key := containerKey(e.Object.(*v1alpha1.OCIBundle))
			if key.Name == "" {
				return
			}
			r.Ledger.Remove(key)
			left, err := r.bundlesOf(ctx, key) // the one that has replaced it
			if err != nil {
				ctrl.LoggerFrom(ctx).Error(err, "list the OCIBundles of a Container", "container", key)
			}
			for _, b := range left {
				observe(b)
			}
			addAnswer(q, key)
			r.wake(ctx, q)
		},
	}
}

// agentEvents wakes the Containers that wait for a node when a field changes on which a choice
// depends, and reconciles those on the node when it is lost or found.
func (r *Reconciler) agentEvents() handler.EventHandler {
	both := func(ctx context.Context, q queue, o client.Object) {
		r.wake(ctx, q)
		r.wakeNode(ctx, q, o.GetName())
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) {
			r.absences.notePresent(e.Object.GetName())
			both(ctx, q, e.Object)
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) {
			r.absences.noteDeleted(e.Object.(*v1alpha1.NodeAgent), r.Clock.Now())
			r.answers.forget(e.Object.GetName())
			both(ctx, q, e.Object)
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			// An agent writes its status with every container that comes and goes; most of that is
			// nobody's business here.
			before, after := e.ObjectOld.(*v1alpha1.NodeAgent), e.ObjectNew.(*v1alpha1.NodeAgent)
			heard := !sameReady(before, after)
			upgraded := before.Status.NodeInfo.AgentRevision != after.Status.NodeInfo.AgentRevision
			if heard || upgraded || outOfService(before.Spec.Taints) != outOfService(after.Spec.Taints) {
				r.wakeNode(ctx, q, after.Name)
			}
			if heard || agentMatters(before, after) {
				r.wake(ctx, q)
			}
		},
	}
}

// nodeEvents wakes the Containers that wait for a node when a field of a Node changes on which a
// choice depends, and reconciles those on the node when an administrator says that its machine is
// gone.
func (r *Reconciler) nodeEvents() handler.EventHandler {
	waiting := r.wakeWaiting()
	return handler.Funcs{
		CreateFunc: waiting.CreateFunc,
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			before, after := e.ObjectOld.(*corev1.Node), e.ObjectNew.(*corev1.Node)
			if outOfService(before.Spec.Taints) != outOfService(after.Spec.Taints) {
				r.wakeNode(ctx, q, e.ObjectNew.GetName())
			}
			waiting.UpdateFunc(ctx, e, q)
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) {
			r.wakeNode(ctx, q, e.Object.GetName())
			waiting.DeleteFunc(ctx, e, q)
		},
	}
}

func sameReady(a, b *v1alpha1.NodeAgent) bool {
	x, y := meta.FindStatusCondition(a.Status.Conditions, v1alpha1.ConditionReady),
		meta.FindStatusCondition(b.Status.Conditions, v1alpha1.ConditionReady)
	return x == nil && y == nil || x != nil && y != nil && x.Status == y.Status
}

// agentMatters reports whether a change of a NodeAgent may change the choice of a node.
func agentMatters(a, b *v1alpha1.NodeAgent) bool {
	return !equality.Semantic.DeepEqual(a.Spec, b.Spec) ||
		!equality.Semantic.DeepEqual(a.Labels, b.Labels) ||
		!equality.Semantic.DeepEqual(a.Status.Handlers, b.Status.Handlers) ||
		a.Status.NodeInfo.AgentRevision != b.Status.NodeInfo.AgentRevision ||
		!equality.Semantic.DeepEqual(a.Status.Allocatable, b.Status.Allocatable)
}

func nodeMatters(before, after client.Object) bool {
	a, b := before.(*corev1.Node), after.(*corev1.Node)
	return a.Spec.Unschedulable != b.Spec.Unschedulable ||
		!equality.Semantic.DeepEqual(a.Spec.Taints, b.Spec.Taints) ||
		!equality.Semantic.DeepEqual(a.Labels, b.Labels)
}

// wakeWaiting reconciles the Containers that wait for a node.
func (r *Reconciler) wakeWaiting() handler.Funcs {
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, _ event.CreateEvent, q queue) { r.wake(ctx, q) },
		UpdateFunc: func(ctx context.Context, _ event.UpdateEvent, q queue) { r.wake(ctx, q) },
		DeleteFunc: func(ctx context.Context, _ event.DeleteEvent, q queue) { r.wake(ctx, q) },
	}
}

func (r *Reconciler) wake(ctx context.Context, q queue) {
	list := &v1alpha1.ContainerList{}
	err := r.Client.List(ctx, list, client.MatchingFields{indexWaiting: "true"},
		client.UnsafeDisableDeepCopy)
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "list the Containers that wait for a node")
		return
	}
	for i := range list.Items {
		q.Add(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
}

// wakeNode reconciles the Containers on a node.
func (r *Reconciler) wakeNode(ctx context.Context, q queue, node string) {
	list := &v1alpha1.OCIBundleList{}
	err := r.Client.List(ctx, list, client.MatchingFields{v1alpha1.OCIBundleNodeNameField: node},
		client.UnsafeDisableDeepCopy)
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "list the OCIBundles of a node", "node", node)
		return
	}
	for i := range list.Items {
		if key := containerKey(&list.Items[i]); key.Name != "" {
			q.Add(reconcile.Request{NamespacedName: key})
		}
	}
}

// changed lets an update through only where it matters.
func changed(matters func(before, after client.Object) bool) builder.WatchesOption {
	return builder.WithPredicates(predicate.Funcs{
		UpdateFunc: func(e event.UpdateEvent) bool { return matters(e.ObjectOld, e.ObjectNew) },
	})
}
