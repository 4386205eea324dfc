// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	apistatus "github.com/berth-run/berth/api/status"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/apiserver"
)

const (
	// fieldOwner owns the fields of a NodeAgent that the agent applies; spec belongs to the
	// administrator.
	fieldOwner = "berth-agent"
	// LeaseSeconds after which an agent that has not renewed its Lease counts as lost.
	LeaseSeconds = 40
	// renewEvery is a quarter of it, as the kubelet has it.
	renewEvery = 10 * time.Second
	// firstRetry is the time after which a heartbeat that failed is tried again; later ones wait
	// twice as long, up to renewEvery.
	firstRetry = time.Second
	// applyEvery is the default of Options.ApplyEvery.
	applyEvery = time.Minute
)

// Options of an Agent.
type Options struct {
	Config *rest.Config
	// Name of the NodeAgent and of the Lease.
	Name  string
	Facts Facts
	// Handlers is optional, and is asked each time the status is looked at.
	Handlers func() []v1alpha1.NodeHandler
	// Load is asked each time the status is looked at.
	Load func(ctx context.Context) Load
	// ApplyEvery is the interval at which the status is applied even if it has not changed; 0 is a
	// minute. It costs the API server more than the Lease.
	ApplyEvery time.Duration
	// Log receives the messages; optional.
	Log *slog.Logger
}

// Agent keeps a NodeAgent and its Lease.
type Agent struct {
	o      Options
	berth  rest.Interface // of NodeAgents
	leases rest.Interface

	uid      types.UID // of the NodeAgent
	seen     int64     // its generation
	labelled bool      // whether it has the agent's labels
	lease    *coordinationv1.Lease
	written  *v1alpha1.NodeAgentStatus
	at       time.Time // when it was written
	stale    bool      // whether the NodeAgent may not be what the agent knows of it
}

// New returns an Agent, which sends no request to the API server before Run.
func New(o Options) (*Agent, error) {
	if o.Name == "" || o.Load == nil {
		return nil, errors.New("node agent: found no name or load; allowed: both")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.ApplyEvery == 0 {
		o.ApplyEvery = applyEvery
	}
	if o.Handlers == nil {
		o.Handlers = func() []v1alpha1.NodeHandler { return nil }
	}
	scheme := runtime.NewScheme()
	err := errors.Join(v1alpha1.AddToScheme(scheme), coordinationv1.AddToScheme(scheme))
	if err != nil {
		return nil, err
	}
	berth, errBerth := apiserver.NewClient(o.Config, v1alpha1.GroupVersion, scheme)
	leases, errLeases := apiserver.NewClient(o.Config, coordinationv1.SchemeGroupVersion, scheme)
	if err := errors.Join(errBerth, errLeases); err != nil {
		return nil, fmt.Errorf("node agent: %w", err)
	}
	return &Agent{o: o, berth: berth, leases: leases}, nil
}

// Run keeps NodeAgent and Lease fresh until ctx ends. What fails is logged and tried again at the
// next beat.
func (a *Agent) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Second) // a change of the status is reported within a second
	defer tick.Stop()
	var renewed, next time.Time
	var wait time.Duration // since the last failure
	for {
		if now := time.Now(); now.Before(next) {
			a.tryStatus(ctx)
		} else {
			// Around a gap, others may have called the node lost: the status of the NodeAgent is
			// what counts.
			a.stale = a.stale || !renewed.IsZero() && now.Sub(renewed) >= LeaseSeconds*time.Second
			if err := a.beat(ctx); err == nil {
				renewed, next, wait = now, now.Add(renewEvery), 0
			} else {
				// Thousands of nodes may wait for the controller at once. Their requests must not keep
				// it from its own.
				wait = min(max(2*wait, firstRetry), renewEvery)
				next = time.Now().Add(wait)
				if ctx.Err() == nil {
					a.o.Log.Warn("heartbeat failed; trying again", "error", err, "after", wait)
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// beat registers the node where that may be needed, and renews the Lease. Where the controller
// deletes the Lease since the NodeAgent is gone, the renewal fails, and the next beat registers the
// node again.
func (a *Agent) beat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, renewEvery)
	defer cancel()
	if a.stale || a.uid == "" || !a.labelled {
		if err := a.register(ctx); err != nil {
			return err
		}
	}
	// The Lease says that the agent lives, even if its status cannot be written.
	a.tryStatus(ctx)
	if a.uid == "" {
		return errors.New("the NodeAgent was deleted")
	}
	return a.renew(ctx)
}

// tryStatus writes the status. If that fails it is tried again with the next beat.
func (a *Agent) tryStatus(ctx context.Context) {
	err := a.status(ctx)
	if err == nil || ctx.Err() != nil {
		return
	}
	a.written = nil
	if strings.Contains(err.Error(), "field not declared in schema") {
		err = fmt.Errorf("%w: the cluster's CRDs are older than this agent: kubectl apply -k config/crd",
			err)
	}
	a.o.Log.Warn("cannot write the NodeAgent's status; trying again", "error", err)
}

// register applies the NodeAgent and its labels.
func (a *Agent) register(ctx context.Context) error {
	now, err := a.apply(ctx, map[string]any{"metadata": map[string]any{
		"name":   a.o.Name,
		"labels": Labels(a.o.Name),
	}})
	if err != nil {
		return fmt.Errorf("apply NodeAgent %s: %w", a.o.Name, err)
	}
	// Where an earlier agent said the same, the time of the transition stays.
	a.written = now.Status.DeepCopy()
	a.at = time.Time{}
	a.stale = false
	return nil
}

// apply applies fields of the NodeAgent, or of its subresource, and notes the API server's answer.
func (a *Agent) apply(ctx context.Context, fields map[string]any,
	subresource ...string,
) (*v1alpha1.NodeAgent, error) {
	fields["apiVersion"], fields["kind"] = v1alpha1.GroupVersion.String(), "NodeAgent"
	data, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	now := &v1alpha1.NodeAgent{}
	err = a.berth.Patch(types.ApplyPatchType).Resource(
		"nodeagents").Name(a.o.Name).SubResource(subresource...).
		Param("fieldManager", fieldOwner).Param("force", "true").Body(data).Do(ctx).Into(now)
	if err != nil {
		return nil, err
	}
	if a.uid != now.UID {
		a.lease = nil // its owner is another
	}
	a.uid, a.seen, a.labelled = now.UID, now.Generation, true
	for k, v := range Labels(a.o.Name) {
		a.labelled = a.labelled && now.Labels[k] == v
	}
	return now, nil
}

// status applies the status if it has changed, and from time to time, to correct what somebody else
// has written: the API server writes nothing where nothing differs, and its answer contains the
// fields of the NodeAgent that the agent needs and cannot read.
func (a *Agent) status(ctx context.Context) error {
	if a.uid == "" {
		return nil
	}
	status := a.compute(ctx)
	if a.written != nil && apiequality.Semantic.DeepEqual(status, a.written) &&
		time.Since(a.at) < a.o.ApplyEvery {
		return nil
	}
	_, err := a.apply(ctx, map[string]any{
		"metadata": map[string]any{"name": a.o.Name},
		"status":   status,
	}, "status")
	if err != nil {
		if apierrors.IsNotFound(err) {
			a.uid = "" // somebody deleted it: it is registered again
		}
		return fmt.Errorf("apply status of NodeAgent %s: %w", a.o.Name, err)
	}
	a.written, a.at = status, time.Now()
	return nil
}

func (a *Agent) compute(ctx context.Context) *v1alpha1.NodeAgentStatus {
	load := a.o.Load(ctx)
	status := &v1alpha1.NodeAgentStatus{
		ObservedGeneration: a.seen,
		Handlers:           a.o.Handlers(), NodeInfo: a.o.Facts.Info,
		Capacity: maps.Clone(a.o.Facts.Capacity), Allocatable: maps.Clone(a.o.Facts.Capacity),
		Allocated: load.Allocated, Containers: load.Containers,
	}
	if a.written != nil {
		status.Conditions = append(status.Conditions, a.written.Conditions...)
	}
	ready := metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue,
		Reason: "AgentReady", Message: "the agent runs containers",
		LastTransitionTime: metav1.Now().Rfc3339Copy(),
	}
	if load.Ready != nil {
		ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, "AgentNotReady",
			load.Ready.Error()
	}
	meta.SetStatusCondition(&status.Conditions, ready)
	if load.Network != "" || load.NetworkErr != nil {
		meta.SetStatusCondition(&status.Conditions, networkCondition(load))
	}
	return status
}

// networkCondition returns the condition of the node's network for containers.
func networkCondition(load Load) metav1.Condition {
	c := metav1.Condition{
		Type: v1alpha1.ConditionNetworkReady, Status: metav1.ConditionTrue,
		Reason: v1alpha1.ReasonNetworkReady, Message: load.Network,
		LastTransitionTime: metav1.Now().Rfc3339Copy(),
	}
	if load.NetworkErr != nil {
		c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.ReasonNetworkNotReady
		// Plugins print as much as they like, and the API server would refuse the whole status.
		c.Message = apistatus.Shorten(load.NetworkErr.Error(), apistatus.MaxMessage)
	}
	return c
}

// renew renews the Lease, and makes it if it is not there.
func (a *Agent) renew(ctx context.Context) error {
	now := metav1.NowMicro()
	seconds := int32(LeaseSeconds)
	want := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: v1alpha1.NodeNamespace(a.o.Name), Name: a.o.Name,
			Labels: map[string]string{v1alpha1.LabelNode: ""}, OwnerReferences: []metav1.OwnerReference{{
				APIVersion: v1alpha1.GroupVersion.String(), Kind: "NodeAgent", Name: a.o.Name, UID: a.uid,
			}},
		},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: &a.o.Name, LeaseDurationSeconds: &seconds,
			RenewTime: &now,
		},
	}
	if a.lease == nil {
		have := &coordinationv1.Lease{}
		err := a.leases.Get().Namespace(want.Namespace).Resource(
			"leases").Name(want.Name).Do(ctx).Into(have)
		switch {
		case apierrors.IsNotFound(err):
			err := a.leases.Post().Namespace(want.Namespace).Resource("leases").Body(want).Do(ctx).Into(want)
			if err != nil {
				return fmt.Errorf("create Lease: %w", err)
			}
			a.lease = want
			return nil
		case err != nil:
			return fmt.Errorf("get Lease: %w", err)
		}
		a.lease = have
	}
	next := a.lease.DeepCopy()
	next.Spec, next.OwnerReferences, next.Labels = want.Spec, want.OwnerReferences, want.Labels
	err := a.leases.Put().Namespace(next.Namespace).Resource(
		"leases").Name(next.Name).Body(next).Do(ctx).Into(next)
	if err != nil {
		a.lease = nil // it is read afresh at the next beat
		a.stale = a.stale || apierrors.IsNotFound(err) || apierrors.IsConflict(err) ||
			apierrors.IsForbidden(err)
		return fmt.Errorf("renew Lease: %w", err)
	}
	a.lease = next
	return nil
}
