// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/oci/compile"
	"github.com/berth-run/berth/api/oci/seccompref"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/controllers/scheduling"
)

// verdict holds the node chosen for a Container, or the reason and message why no node is suitable.
type verdict struct {
	node            string
	reason, message string
}

// schedule settles the handler and the node. A Container that has been dispatched stays where it
// is, whatever its node turns into: labels, taints and room count when it is placed
// ("IgnoredDuringExecution", as for Pods). It moves only where spec.nodeName says so, or where its
// node does not have the handler that its RuntimeClass now asks for.
func (r *Reconciler) schedule(ctx context.Context, s *scope) (bool, error) {
	if s.found.foreign != "" {
		// An earlier Container's OCIBundle goes first. Another owner's is left alone: the Container
		// is stalled until somebody decides.
		return false, nil
	}
	if s.bundle != nil && s.bundle.DeletionTimestamp != nil {
		// The old one has to go first; the watch calls again when it has.
		return false, nil
	}
	request := s.request()
	unfit := s.settleHandler(&request)
	if unfit != nil {
		s.found.scheduled = &verdict{reason: unfit.Reason, message: unfit.Message}
		return false, nil
	}

	if s.kept {
		if node := s.bundle.Spec.NodeName; s.stays(node, request) {
			s.found.scheduled = placed(node)
			return true, nil
		}
		// Not the Container has changed, but the handler that its RuntimeClass names.
		if !r.compileAnew(s) {
			return false, nil
		}
		request = s.request()
		s.settleHandler(&request)
	}

	var err error
	s.found.scheduled, err = r.choose(ctx, s, request)
	if err != nil || s.found.scheduled.node == "" {
		return false, err
	}
	node := s.found.scheduled.node

	chosen, err := r.readNode(ctx, node)
	if err != nil {
		return false, err
	}
	if chosen == nil {
		// The NodeAgent has gone, so nobody reads the OCIBundle, and for which machine to compile
		// is not known either.
		return false, nil
	}
	if unfit := scheduling.Outdated(request, *chosen); unfit != nil {
		s.found.scheduled = &verdict{reason: unfit.Reason, message: unfit.Message}
		return false, nil
	}
	if err := r.compileFor(s, chosen.Agent.Status.NodeInfo.Architecture); err != nil {
		return false, err
	}
	if s.profile, err = seccompref.Split(s.desired); err != nil {
		return false, err
	}
	s.desired.Claims = s.boundClaims()
	s.keepRun(node, request.Handler)
	s.desired.NodeName = node
	s.desired.Handler = request.Handler
	s.desired.Requests = request.Resources
	return true, nil
}

// choose settles the volumes and the node: the node must reach the volumes that exist, and the
// others are created for the node.
func (r *Reconciler) choose(ctx context.Context, s *scope, q scheduling.Request) (*verdict, error) {
	wait, err := r.resolveVolumes(ctx, s, &q)
	if err != nil || wait != nil {
		r.withdrawFirst(s)
		return wait, err
	}
	node, unfit, err := r.place(ctx, s, q)
	if err != nil {
		return nil, err
	}
	if unfit != nil {
		return &verdict{reason: unfit.Reason, message: unfit.Message}, nil
	}
	// The room on the node is kept until the volume is there.
	if wait, err = r.selectNode(ctx, s, node); err != nil || wait != nil {
		return wait, err
	}
	return placed(node), nil
}

func placed(node string) *verdict {
	return &verdict{node: node, reason: v1alpha1.ReasonScheduled, message: "placed on node " + node}
}

// request returns a Container's demand on a node.
func (s *scope) request() scheduling.Request {
	spec := &s.container.Spec
	q := scheduling.Request{
		Selectors:   []map[string]string{spec.NodeSelector},
		Tolerations: spec.Tolerations,
		Resources:   s.desired.Requests,
		MinAgent:    compile.MinAgentRevision(s.desired),
	}
	rc := s.runtimeClass
	if rc == nil {
		return q
	}
	if rc.Scheduling != nil {
		q.Selectors = append(q.Selectors, rc.Scheduling.NodeSelector)
		q.Tolerations = append(append([]corev1.Toleration(nil), q.Tolerations...),
			rc.Scheduling.Tolerations...)
	}
	if rc.Overhead != nil {
		q.Resources = withOverhead(q.Resources, rc.Overhead.PodFixed)
	}
	return q
}

// withOverhead adds the overhead of a RuntimeClass's handler to a request.
func withOverhead(requests, overhead corev1.ResourceList) corev1.ResourceList {
	sum := corev1.ResourceList{}
	for name, q := range requests {
		sum[name] = q.DeepCopy()
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if extra, ok := overhead[name]; ok {
			total := resource.Quantity{Format: extra.Format}
			if q, ok := sum[name]; ok {
				total = q
			}
			total.Add(extra)
			sum[name] = total
		}
	}
	return sum
}

// settleHandler resolves spec.runtimeClassName.
func (s *scope) settleHandler(q *scheduling.Request) *scheduling.Unfit {
	name := s.container.Spec.RuntimeClassName
	switch {
	case name == nil:
	case s.runtimeClass != nil:
		q.Handler = s.runtimeClass.Handler
	case s.bundle != nil && s.bundle.Annotations[AnnotationRuntimeClass] == *name:
		// A RuntimeClass cannot be changed, so the handler that was resolved from this name is
		// still what it means; what it added to the requests is in the OCIBundle too.
		q.Handler = s.bundle.Spec.Handler
		q.Resources = s.bundle.Spec.Requests
	default:
		return &scheduling.Unfit{
			Reason:  v1alpha1.ReasonRuntimeClassNotFound,
			Message: fmt.Sprintf("spec.runtimeClassName: there is no RuntimeClass %q", *name),
		}
	}
	return nil
}

// place names the node.
func (r *Reconciler) place(ctx context.Context, s *scope, q scheduling.Request) (string,
	*scheduling.Unfit, error,
) {
	if name := s.container.Spec.NodeName; name != "" {
		node, err := r.readNode(ctx, name)
		if err != nil {
			return "", nil, err
		}
		if s.stays(name, q) && (node == nil || scheduling.Reaches(q, *node)) {
			return name, nil, nil
		}
		if unfit := scheduling.Named(q, name, node); unfit != nil {
			return "", unfit, nil
		}
		r.Ledger.Enter(s.key(), name, q.Resources)
		return name, nil, nil
	}
	if s.bundle != nil {
		name := s.bundle.Spec.NodeName
		node, err := r.readNode(ctx, name)
		if err != nil {
			return "", nil, err
		}
		if s.stays(name, q) && (node == nil || scheduling.Reaches(q, *node)) {
			return name, nil, nil
		}
		if node == nil || scheduling.Named(q, name, node) == nil {
			// A node that is not there any more may still run it: it is not placed elsewhere before
			// that is known to be over.
			return name, nil, nil
		}
	}
	if name, assumed := r.Ledger.Assumed(s.key()); assumed && s.bundle == nil {
		// The API server may be about to create it there, since nobody knows what became of an
		// earlier attempt.
		node, err := r.readNode(ctx, name)
		if err != nil || node != nil && scheduling.Named(q, name, node) == nil {
			return name, nil, err
		}
	}
	nodes, err := r.readNodes(ctx)
	if err != nil {
		return "", nil, err
	}
	name, unfit := r.Ledger.Place(s.key(), q, nodes)
	return name, unfit, nil
}

// stays reports whether the Container is on that node already, under the handler that it is to
// have.
func (s *scope) stays(node string, q scheduling.Request) bool {
	return s.bundle != nil && s.bundle.Spec.NodeName == node && s.bundle.Spec.Handler == q.Handler
}

// readNode returns a node without the usage of its resources, or nil if there is no NodeAgent of
// the name.
func (r *Reconciler) readNode(ctx context.Context, name string) (*scheduling.Node, error) {
	agent := &v1alpha1.NodeAgent{}
	if err := r.Client.Get(ctx, client.ObjectKey{Name: name}, agent); err != nil {
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("read NodeAgent %s: %w", name, err)
	}
	core := &corev1.Node{}
	switch err := r.Client.Get(ctx, client.ObjectKey{Name: name}, core); {
	case apierrors.IsNotFound(err):
		core = nil
	case err != nil:
		return nil, fmt.Errorf("read Node %s: %w", name, err)
	}
	return &scheduling.Node{Agent: agent, Core: core}, nil
}

// readNodes returns every NodeAgent with the Node of its name. They are the cache's own objects, to
// be read only: a copy of a thousand nodes for each Container would be most of the work.
func (r *Reconciler) readNodes(ctx context.Context) ([]scheduling.Node, error) {
	agents, cores := &v1alpha1.NodeAgentList{}, &corev1.NodeList{}
	if err := r.Client.List(ctx, agents, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list NodeAgents: %w", err)
	}
	if err := r.Client.List(ctx, cores, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list Nodes: %w", err)
	}
	byName := make(map[string]*corev1.Node, len(cores.Items))
	for i := range cores.Items {
		byName[cores.Items[i].Name] = &cores.Items[i]
	}
	nodes := make([]scheduling.Node, len(agents.Items))
	for i := range agents.Items {
		nodes[i] = scheduling.Node{Agent: &agents.Items[i], Core: byName[agents.Items[i].Name]}
	}
	return nodes, nil
}
