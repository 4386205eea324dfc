// SPDX-License-Identifier: Apache-2.0

package nodehealth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
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

// ClusterRoles of config/rbac that the agent of a node is given in the node's namespace, and the
// RoleBindings of that name.
const (
	roleHeartbeat = "berth-node-heartbeat"
	roleBundles   = "berth-node-bundles"
)

// The controller grants what it need not have itself, by binding two roles and no other. What it
// may do with namespaces is limited by config/policy.
// +kubebuilder:rbac:groups="",resources=namespaces,verbs=get;list;watch;create;delete
// +kubebuilder:rbac:groups="",resources=serviceaccounts,namespace=berth-nodes,verbs=get;list;watch;create;delete
// +kubebuilder:rbac:groups=rbac.authorization.k8s.io,resources=rolebindings,verbs=get;list;watch;create;delete
// +kubebuilder:rbac:groups=rbac.authorization.k8s.io,resources=clusterroles,resourceNames=berth-node-heartbeat;berth-node-bundles,verbs=bind

// namespaceWorkers is the number of nodes whose namespaces are created concurrently. Each takes
// five requests one after the other, and a new cluster has thousands of nodes.
const namespaceWorkers = 4

// NamespaceReconciler gives the agent of one node at a time a namespace and an identity, and takes
// both away some time after the NodeAgent, once no OCIBundle is left there.
type NamespaceReconciler struct {
	// Client reads from the informer cache and writes to the API server.
	Client client.Client
	// Live reads from the API server itself, before something is done that cannot be undone.
	Live client.Reader
	// Recorder takes the events.
	Recorder events.EventRecorder
	// Clock measures how long a NodeAgent has been absent.
	Clock clock.PassiveClock
	// GracePeriod is the longest such time: an agent whose NodeAgent was deleted registers again.
	GracePeriod time.Duration

	mu     sync.Mutex
	absent map[string]time.Time
}

// SetupWithManager adds the reconciler to a manager, whose cache has an index of OCIBundles by
// node.
func (r *NamespaceReconciler) SetupWithManager(mgr ctrl.Manager) error {
	toNode := handler.EnqueueRequestsFromMapFunc(func(_ context.Context,
		o client.Object,
	) []reconcile.Request {
		if node := o.GetAnnotations()[v1alpha1.AnnotationNode]; node != "" {
			return []reconcile.Request{{NamespacedName: client.ObjectKey{Name: node}}}
		}
		return nil
	})
	bundleToNode := handler.EnqueueRequestsFromMapFunc(func(_ context.Context,
		o client.Object,
	) []reconcile.Request {
		return []reconcile.Request{
			{NamespacedName: client.ObjectKey{Name: o.(*v1alpha1.OCIBundle).Spec.NodeName}},
		}
	})
	// Agents write the status of their NodeAgents often, and it matters nothing here.
	comesOrGoes := predicate.Funcs{UpdateFunc: func(event.UpdateEvent) bool { return false }}
	goes := predicate.Funcs{
		CreateFunc: func(e event.CreateEvent) bool { return e.Object.(*v1alpha1.OCIBundle).IsFormer() },
		UpdateFunc: func(event.UpdateEvent) bool { return false },
	}
	// controllers/access has RoleBindings elsewhere.
	inNamespace := predicate.NewPredicateFuncs(func(o client.Object) bool {
		return v1alpha1.IsNodeNamespace(o.GetNamespace())
	})
	return ctrl.NewControllerManagedBy(mgr).
		Named("nodenamespace").
		For(&v1alpha1.NodeAgent{}, builder.WithPredicates(comesOrGoes)).
		Watches(&corev1.Namespace{}, toNode).
		Watches(&corev1.ServiceAccount{}, toNode).
		Watches(&rbacv1.RoleBinding{}, toNode, builder.WithPredicates(inNamespace)).
		Watches(&v1alpha1.OCIBundle{}, bundleToNode, builder.WithPredicates(goes)).
		WithOptions(controller.Options{MaxConcurrentReconciles: namespaceWorkers}).
		Complete(r)
}

// Reconcile implements reconcile.Reconciler.
func (r *NamespaceReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result,
	error,
) {
	agent := &v1alpha1.NodeAgent{}
	err := r.Client.Get(ctx, req.NamespacedName, agent)
	switch {
	case apierrors.IsNotFound(err):
		return r.retire(ctx, req.Name)
	case err != nil:
		return ctrl.Result{}, fmt.Errorf("read the NodeAgent: %w", err)
	}
	r.present(req.Name)
	err = r.provide(ctx, req.Name)
	if errors.Is(err, errTerminating) {
		return ctrl.Result{RequeueAfter: time.Second}, nil
	}
	if err != nil {
		r.Recorder.Eventf(agent, nil, corev1.EventTypeWarning, "NamespaceFailed", "Create", "%s", err)
	}
	return ctrl.Result{}, err
}

// provide creates the missing objects of a node: namespace, ServiceAccount and RoleBindings.
func (r *NamespaceReconciler) provide(ctx context.Context, node string) error {
	meta := func(namespace, name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{
			Namespace: namespace, Name: name, Labels: map[string]string{v1alpha1.LabelNode: ""},
			Annotations: map[string]string{v1alpha1.AnnotationNode: node},
		}
	}
	namespace := &corev1.Namespace{ObjectMeta: meta("", v1alpha1.NodeNamespace(node))}
	// No pod runs there.
	namespace.Labels["pod-security.kubernetes.io/enforce"] = "restricted"
	if err := r.ensureNamespace(ctx, namespace, node); err != nil {
		return err
	}
	account := &corev1.ServiceAccount{
		ObjectMeta:                   meta(v1alpha1.NodesNamespace, node),
		AutomountServiceAccountToken: ptr.To(false),
	}
	if err := r.ensure(ctx, account, &corev1.ServiceAccount{}); err != nil {
		return err
	}
	binding := func(role string) *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{
			ObjectMeta: meta(namespace.Name, role),
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects: []rbacv1.Subject{
				{Kind: rbacv1.ServiceAccountKind, Namespace: v1alpha1.NodesNamespace, Name: node},
				{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: v1alpha1.NodeUser(node)},
			},
		}
	}
	if err := r.ensureBinding(ctx, binding(roleHeartbeat)); err != nil {
		return err
	}
	return r.letIn(ctx, binding(roleBundles), node)
}

// letIn creates the binding that lets the agent read its OCIBundles once all of them are in the
// namespace of the node, and deletes it while some are not: the agent stops every container whose
// OCIBundle is missing there.
func (r *NamespaceReconciler) letIn(ctx context.Context, binding *rbacv1.RoleBinding,
	node string,
) error {
	exists := true
	if err := r.Client.Get(ctx, client.ObjectKeyFromObject(binding),
		binding.DeepCopy()); apierrors.IsNotFound(err) {
		exists = false
	} else if err != nil {
		return fmt.Errorf("read RoleBinding %s: %w", binding.Name, err)
	}
	all, err := complete(ctx, r.Client, node)
	if err == nil && all && !exists {
		all, err = complete(ctx, r.Live, node)
	}
	switch {
	case err != nil:
		return err
	case all:
		return r.ensureBinding(ctx, binding)
	case exists:
		return client.IgnoreNotFound(r.Client.Delete(ctx, binding))
	}
	return nil
}

// errTerminating means that the namespace is being deleted. It is created again after that.
var errTerminating = errors.New("the namespace is being deleted")

// ensureNamespace creates the namespace of a node, and refuses one that exists and is another's.
func (r *NamespaceReconciler) ensureNamespace(ctx context.Context, want *corev1.Namespace,
	node string,
) error {
	have := &corev1.Namespace{}
	err := r.Client.Get(ctx, client.ObjectKeyFromObject(want), have)
	if apierrors.IsNotFound(err) {
		if err = r.Client.Create(ctx, want); err == nil {
			return nil
		}
		if apierrors.IsAlreadyExists(err) { // the cache has those of nodes alone
			err = r.Live.Get(ctx, client.ObjectKeyFromObject(want), have)
		}
	}
	switch {
	case err != nil:
		return fmt.Errorf("namespace %s of node %s: %w", want.Name, node, err)
	case have.Annotations[v1alpha1.AnnotationNode] != node:
		return fmt.Errorf(
			"namespace %s of node %s: found the annotation %s: %q; allowed: the node's name: delete the namespace, or rename the node",
			want.Name, node, v1alpha1.AnnotationNode, have.Annotations[v1alpha1.AnnotationNode])
	case have.DeletionTimestamp != nil:
		return errTerminating
	}
	return nil
}

// ensure creates an object that the cache does not have.
func (r *NamespaceReconciler) ensure(ctx context.Context, want, have client.Object) error {
	err := r.Client.Get(ctx, client.ObjectKeyFromObject(want), have)
	if apierrors.IsNotFound(err) {
		err = r.Client.Create(ctx, want)
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("%T %s/%s: %w", want, want.GetNamespace(), want.GetName(), err)
	}
	return nil
}

// ensureBinding creates a RoleBinding, and deletes one that says something else, so that it is
// created again.
func (r *NamespaceReconciler) ensureBinding(ctx context.Context, want *rbacv1.RoleBinding) error {
	have := want.DeepCopy()
	if err := r.ensure(ctx, want, have); err != nil {
		return err
	}
	if equality.Semantic.DeepEqual(have.RoleRef, want.RoleRef) &&
		equality.Semantic.DeepEqual(have.Subjects, want.Subjects) {
		return nil
	}
	return client.IgnoreNotFound(r.Client.Delete(ctx, have))
}

// complete reports whether no OCIBundle of a node is left where an earlier controller put it.
func complete(ctx context.Context, reader client.Reader, node string) (bool, error) {
	list := &v1alpha1.OCIBundleList{}
	err := reader.List(ctx, list, client.MatchingFields{v1alpha1.OCIBundleNodeNameField: node},
		client.UnsafeDisableDeepCopy)
	if err != nil {
		return false, fmt.Errorf("list the OCIBundles of node %s: %w", node, err)
	}
	return !slices.ContainsFunc(list.Items, func(b v1alpha1.OCIBundle) bool {
		return b.IsFormer()
	}), nil
}

// retire deletes namespace and identity of a node that has no NodeAgent any more.
func (r *NamespaceReconciler) retire(ctx context.Context, node string) (ctrl.Result, error) {
	namespace := &corev1.Namespace{}
	err := r.Client.Get(ctx, client.ObjectKey{Name: v1alpha1.NodeNamespace(node)}, namespace)
	if apierrors.IsNotFound(err) || err == nil && (namespace.DeletionTimestamp != nil ||
		namespace.Annotations[v1alpha1.AnnotationNode] != node) {
		r.present(node)
		return ctrl.Result{}, r.deleteAccount(ctx, node)
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("read namespace %s: %w", v1alpha1.NodeNamespace(node), err)
	}
	if left := r.GracePeriod - r.absence(node); left > 0 {
		return ctrl.Result{RequeueAfter: left}, nil
	}
	// A container may run of which an OCIBundle is left: controllers/container decides on that.
	left := &v1alpha1.OCIBundleList{}
	if err := r.Live.List(ctx, left, client.InNamespace(namespace.Name), client.Limit(1)); err != nil {
		return ctrl.Result{}, fmt.Errorf("list the OCIBundles of node %s: %w", node, err)
	}
	if len(left.Items) > 0 {
		return ctrl.Result{RequeueAfter: r.GracePeriod}, nil
	}
	if err := r.Live.Get(ctx, client.ObjectKey{Name: node},
		&v1alpha1.NodeAgent{}); !apierrors.IsNotFound(err) {
		return ctrl.Result{RequeueAfter: time.Second}, err // it is back
	}
	ctrl.LoggerFrom(ctx).Info("deleting the namespace of a node that has no NodeAgent", "namespace",
		namespace.Name)
	err = r.Client.Delete(ctx, namespace, client.Preconditions{UID: &namespace.UID})
	return ctrl.Result{}, errors.Join(client.IgnoreNotFound(err), r.deleteAccount(ctx, node))
}

func (r *NamespaceReconciler) deleteAccount(ctx context.Context, node string) error {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{
		Namespace: v1alpha1.NodesNamespace,
		Name:      node,
	}}
	err := r.Client.Get(ctx, client.ObjectKeyFromObject(account), account)
	if err == nil {
		err = r.Client.Delete(ctx, account)
	}
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete the ServiceAccount of node %s: %w", node, err)
	}
	return nil
}

// absence returns the time for which this process has seen the NodeAgent absent.
func (r *NamespaceReconciler) absence(node string) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.absent == nil {
		r.absent = map[string]time.Time{}
	}
	if _, known := r.absent[node]; !known {
		r.absent[node] = r.Clock.Now()
	}
	return r.Clock.Since(r.absent[node])
}

// present forgets that a NodeAgent was absent.
func (r *NamespaceReconciler) present(node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.absent, node)
}
