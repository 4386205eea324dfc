// SPDX-License-Identifier: Apache-2.0

package nodehealth

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/berth-run/berth/api/v1alpha1"
)

// DefaultGracePeriod is the time for which a Lease may stay unrenewed: the agent renews it every 10
// s, and kube-controller-manager's --node-monitor-grace-period was 40 s for as long.
const DefaultGracePeriod = 40 * time.Second

// ReasonHeartbeatResumed is the reason of a NodeAgent's Ready that this package has turned from
// Unknown back to True. The agent's own word follows with its next status.
const ReasonHeartbeatResumed = "HeartbeatResumed"

// +kubebuilder:rbac:groups=berth.run,resources=nodeagents,verbs=get;list;watch
// +kubebuilder:rbac:groups=berth.run,resources=nodeagents/status,verbs=patch
// +kubebuilder:rbac:groups=coordination.k8s.io,resources=leases,verbs=get;list;watch;delete
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// Reconciler judges the heartbeat of one NodeAgent at a time.
type Reconciler struct {
	// Client reads from the informer cache and writes to the API server.
	Client client.Client
	// Recorder takes the events.
	Recorder events.EventRecorder
	// Clock measures how long a Lease has stood still.
	Clock clock.PassiveClock
	// GracePeriod is the longest such time.
	GracePeriod time.Duration

	pulses pulses
}

// SetupWithManager adds the reconciler to a manager.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	toAgent := handler.EnqueueRequestsFromMapFunc(func(_ context.Context,
		o client.Object,
	) []reconcile.Request {
		if !slices.Contains(leaseNamespaces(o.GetName()), o.GetNamespace()) {
			return nil
		}
		return []reconcile.Request{{NamespacedName: client.ObjectKey{Name: o.GetName()}}}
	})
	return ctrl.NewControllerManagedBy(mgr).
		Named("node").
		For(&v1alpha1.NodeAgent{}).
		Watches(&coordinationv1.Lease{}, toAgent).
		Complete(r)
}

// Reconcile implements reconcile.Reconciler.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	agent := &v1alpha1.NodeAgent{}
	if err := r.Client.Get(ctx, req.NamespacedName, agent); err != nil {
		if apierrors.IsNotFound(err) {
			r.pulses.forget(req.Name)
			return ctrl.Result{}, r.deleteLease(ctx, req.Name)
		}
		return ctrl.Result{}, fmt.Errorf("read the NodeAgent: %w", err)
	}
	lease, err := r.readLease(ctx, req.Name)
	if err != nil {
		return ctrl.Result{}, err
	}

	p := r.pulses.observe(req.Name, lease, r.Clock.Now())
	silence := r.Clock.Since(p.at)
	want := verdict(agent, p, silence, r.GracePeriod)
	if want != nil {
		if err := r.write(ctx, agent, *want); err != nil {
			if apierrors.IsConflict(err) {
				return ctrl.Result{RequeueAfter: time.Second}, nil
			}
			return ctrl.Result{}, err
		}
	}
	if silence >= r.GracePeriod {
		// Only the Lease can change anything now, and it is watched.
		return ctrl.Result{}, nil
	}
	return ctrl.Result{RequeueAfter: r.GracePeriod - silence}, nil
}

// leaseNamespaces returns the namespaces that may have the Lease of a node, under the node's name:
// in the node's own namespace, or where an agent before AgentRevision 2 renews it.
func leaseNamespaces(node string) []string {
	return []string{v1alpha1.NodeNamespace(node), v1alpha1.FormerLeaseNamespace}
}

// readLease returns the Lease of a node that was renewed last, or nil if there is none.
func (r *Reconciler) readLease(ctx context.Context, node string) (*coordinationv1.Lease, error) {
	var newest *coordinationv1.Lease
	for _, namespace := range leaseNamespaces(node) {
		lease := &coordinationv1.Lease{}
		err := r.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: node}, lease)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the Lease: %w", err)
		}
		if newest == nil || newest.Spec.RenewTime.Before(lease.Spec.RenewTime) {
			newest = lease
		}
	}
	return newest, nil
}

// deleteLease deletes the Lease of a node that has no NodeAgent. An agent that lives fails to renew
// it, and registers the node again.
func (r *Reconciler) deleteLease(ctx context.Context, node string) error {
	lease := &coordinationv1.Lease{}
	key := client.ObjectKey{Namespace: v1alpha1.NodeNamespace(node), Name: node}
	if err := r.Client.Get(ctx, key, lease); err != nil {
		return client.IgnoreNotFound(err)
	}
	err := r.Client.Delete(ctx, lease, client.Preconditions{UID: &lease.UID})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete the Lease of node %s, which has no NodeAgent: %w", node, err)
	}
	return nil
}

// verdict returns the Ready condition to write, or nil if it is right already. It is pure.
func verdict(agent *v1alpha1.NodeAgent, p pulse, silence, grace time.Duration) *metav1.Condition {
	ready := meta.FindStatusCondition(agent.Status.Conditions, v1alpha1.ConditionReady)
	lost := ready != nil && ready.Status == metav1.ConditionUnknown &&
		ready.Reason == v1alpha1.ReasonNodeLost
	switch {
	case silence >= grace && !lost:
		return &metav1.Condition{
			Type:               v1alpha1.ConditionReady,
			Status:             metav1.ConditionUnknown,
			ObservedGeneration: agent.Generation,
			Reason:             v1alpha1.ReasonNodeLost,
			Message:            "the agent has not renewed its Lease for " + grace.String() + p.last(),
		}
	case silence < grace && lost && p.moved:
		// The agent sets Ready itself, but may have no reason to write what, to its knowledge, it
		// has said already.
		return &metav1.Condition{
			Type:               v1alpha1.ConditionReady,
			Status:             metav1.ConditionTrue,
			ObservedGeneration: agent.Generation,
			Reason:             ReasonHeartbeatResumed,
			Message:            "the agent renews its Lease again",
		}
	}
	return nil
}

// write sets the condition. The lock keeps the agent's own word from being overwritten unread.
func (r *Reconciler) write(ctx context.Context, agent *v1alpha1.NodeAgent,
	c metav1.Condition,
) error {
	before := agent.DeepCopy()
	c.LastTransitionTime = metav1.NewTime(r.Clock.Now())
	meta.SetStatusCondition(&agent.Status.Conditions, c)
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	err := r.Client.Status().Patch(ctx, agent, patch, client.FieldOwner("berth-controller"))
	if err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("write the NodeAgent's status: %w", err)
	}
	if c.Status == metav1.ConditionUnknown {
		r.Recorder.Eventf(before, nil, "Warning", "Lost", "Watch", "%s", c.Message)
	} else {
		r.Recorder.Eventf(before, nil, "Normal", "Found", "Watch", "%s", c.Message)
	}
	return nil
}

// pulse records the time at which this process last saw a heartbeat. It is its own clock that
// counts, as in kube-controller-manager's node lifecycle: the clock of the node, which renewTime is
// by, may be off.
type pulse struct {
	// beat identifies the last heartbeat; empty where there is no Lease.
	beat string
	// renewed is the renewal time in the Lease; for people only.
	renewed time.Time
	// at is the time at which this process first saw the beat.
	at time.Time
	// moved reports whether a change of the beat has been seen: the first sight of a Lease does not
	// show its age.
	moved bool
}

func (p pulse) last() string {
	if p.beat == "" {
		return "; it has none"
	}
	if p.renewed.IsZero() {
		return ""
	}
	return "; the last time was " + p.renewed.UTC().Format(time.RFC3339)
}

// pulses holds the pulse of each node.
type pulses struct {
	mu     sync.Mutex
	byName map[string]pulse
}

func (ps *pulses) observe(name string, lease *coordinationv1.Lease, now time.Time) pulse {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.byName == nil {
		ps.byName = map[string]pulse{}
	}
	p, known := ps.byName[name]
	if !known {
		p.at = now
	}
	if lease != nil {
		beat := string(lease.UID)
		if t := lease.Spec.RenewTime; t != nil {
			beat += "/" + t.UTC().Format(time.RFC3339Nano)
			p.renewed = t.Time
		}
		if beat != p.beat {
			p.beat, p.at, p.moved = beat, now, known
		}
	}
	ps.byName[name] = p
	return p
}

func (ps *pulses) forget(name string) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	delete(ps.byName, name)
}
