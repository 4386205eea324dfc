// SPDX-License-Identifier: Apache-2.0

// Package controllers puts Berth's reconcilers together for a manager: what the informer cache
// holds, and which controllers run. Each of them is a package of its own below; none imports
// another, but for container, which uses scheduling. An OCIBundle is in another namespace than its
// Container, so it is container that collects it, and not Kubernetes.
package controllers

import (
	"context"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/oci/compile"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/controllers/access"
	"github.com/berth-run/berth/controllers/container"
	"github.com/berth-run/berth/controllers/deletion"
	"github.com/berth-run/berth/controllers/nodehealth"
	"github.com/berth-run/berth/controllers/profile"
	"github.com/berth-run/berth/controllers/scheduling"
)

// Leader election and its Lease, in the controller's own namespace.
// +kubebuilder:rbac:groups=coordination.k8s.io,resources=leases,namespace=berth-system,verbs=get;create;update
// +kubebuilder:rbac:groups="",resources=events,namespace=berth-system,verbs=create;patch

// Options are the settings of the controllers.
type Options struct {
	// NodeMonitorGracePeriod is the time for which the Lease of an agent may stay unchanged; 0 is
	// nodehealth.DefaultGracePeriod.
	NodeMonitorGracePeriod time.Duration
	// RequestTimeout is the time after which the API server has ended each request; 0 is
	// container.DefaultRequestTimeout.
	RequestTimeout time.Duration
	// Workers is the number of Containers that are reconciled concurrently; 0 is 4.
	Workers int
	// ProfileDelay is the time for which a SeccompProfile is kept after the last OCIBundle that
	// refers to it; 0 is profile.DefaultDelay.
	ProfileDelay time.Duration
	// Compile turns Containers into OCIBundles; nil is compile.Bundle. Tests stand in for another
	// version of Berth by it.
	Compile container.Compile
	// Revision is the revision of Compile; nil is compile.Revision.
	Revision func() int
	// Webhook serves the API server's request before it deletes a Container; nil is no webhook.
	Webhook *deletion.Options
}

// Scheme returns the kinds that the controllers handle.
func Scheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(s); err != nil {
		return nil, fmt.Errorf("kinds of Kubernetes: %w", err)
	}
	if err := v1alpha1.AddToScheme(s); err != nil {
		return nil, fmt.Errorf("kinds of Berth: %w", err)
	}
	return s, nil
}

// CacheOptions keep the informer caches small: no managedFields, only the namespaces, identities,
// rights and Leases of node agents, of an OCIBundle the digest of its config, and of a Node the
// fields on which a choice depends. A read of a kind that nothing watches fails. Otherwise the
// first read of a Secret would put all Secrets of the cluster into the cache.
func CacheOptions() cache.Options {
	ofNodes := labels.NewSelector()
	if has, err := labels.NewRequirement(v1alpha1.LabelNode, selection.Exists, nil); err == nil {
		ofNodes = ofNodes.Add(*has)
	}
	return cache.Options{
		DefaultTransform:            cache.TransformStripManagedFields(),
		ReaderFailOnMissingInformer: true,
		ByObject: map[client.Object]cache.ByObject{
			&v1alpha1.OCIBundle{}:    {Transform: container.TransformBundle},
			&corev1.Node{}:           {Transform: transformNode},
			&corev1.Namespace{}:      {Label: ofNodes},
			&rbacv1.Role{}:           {Label: ofNodes},
			&rbacv1.RoleBinding{}:    {Label: ofNodes},
			&corev1.ServiceAccount{}: {Namespaces: map[string]cache.Config{v1alpha1.NodesNamespace: {}}},
			&coordinationv1.Lease{}: {Namespaces: map[string]cache.Config{
				cache.AllNamespaces:           {LabelSelector: ofNodes},
				v1alpha1.FormerLeaseNamespace: {LabelSelector: labels.Everything()},
			}},
		},
	}
}

func transformNode(object any) (any, error) {
	if n, ok := object.(*corev1.Node); ok {
		n.ManagedFields = nil
		n.Annotations = nil
		n.Status = corev1.NodeStatus{}
	}
	return object, nil
}

// SetupWithManager adds every controller to a manager that was made with Scheme and CacheOptions.
func SetupWithManager(ctx context.Context, mgr ctrl.Manager, o Options) error {
	if o.NodeMonitorGracePeriod == 0 {
		o.NodeMonitorGracePeriod = nodehealth.DefaultGracePeriod
	}
	if o.Workers == 0 {
		o.Workers = 4
	}
	if o.ProfileDelay == 0 {
		o.ProfileDelay = profile.DefaultDelay
	}
	if o.RequestTimeout == 0 {
		o.RequestTimeout = container.DefaultRequestTimeout
	}
	if o.Compile == nil {
		o.Compile = compile.Bundle
	}
	recorder := mgr.GetEventRecorder(container.FieldOwner)
	profiles := profile.New(mgr.GetClient(), mgr.GetAPIReader(), clock.RealClock{}, o.ProfileDelay)
	if err := profiles.SetupWithManager(ctx, mgr); err != nil {
		return fmt.Errorf("seccomp profile controller: %w", err)
	}
	containers := &container.Reconciler{
		Client:   mgr.GetClient(),
		Live:     mgr.GetAPIReader(),
		Ledger:   scheduling.NewLedger(),
		Compile:  o.Compile,
		Revision: o.Revision,
		Profiles: profiles,
		Recorder: recorder,
		Clock:    clock.RealClock{},

		NodeGracePeriod: o.NodeMonitorGracePeriod,
		RequestTimeout:  o.RequestTimeout,
	}
	if err := containers.SetupWithManager(ctx, mgr, o.Workers); err != nil {
		return fmt.Errorf("container controller: %w", err)
	}
	nodes := &nodehealth.Reconciler{
		Client:      mgr.GetClient(),
		Recorder:    recorder,
		Clock:       clock.RealClock{},
		GracePeriod: o.NodeMonitorGracePeriod,
	}
	if err := nodes.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("node controller: %w", err)
	}
	if o.Webhook != nil {
		if err := deletion.SetupWithManager(mgr, *o.Webhook); err != nil {
			return fmt.Errorf("deletion webhook: %w", err)
		}
	}
	namespaces := &nodehealth.NamespaceReconciler{
		Client:      mgr.GetClient(),
		Live:        mgr.GetAPIReader(),
		Recorder:    recorder,
		Clock:       clock.RealClock{},
		GracePeriod: o.NodeMonitorGracePeriod,
	}
	if err := namespaces.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("node namespace controller: %w", err)
	}
	grants := &access.Reconciler{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(),
		Recorder: recorder,
	}
	if err := grants.SetupWithManager(ctx, mgr); err != nil {
		return fmt.Errorf("access controller: %w", err)
	}
	return nil
}
