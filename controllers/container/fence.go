// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/berth-run/berth/api/v1alpha1"
)

// A node whose agent is silent may still run its containers. Only a person can know that it does
// not, and says it by one of two acts: the taint node.kubernetes.io/out-of-service on the Node or
// the NodeAgent, or the deletion of the NodeAgent (after that of the Node, if it has one). Then
// nothing waits for the agent any more. docs/operate.md says when that is safe.

// host describes a node by its agent.
type host struct {
	// lost is the reason why the agent cannot be reached; empty if it can.
	lost string
	// gone reports whether an administrator has said that the machine is off, so that nothing runs
	// there any more.
	gone bool
	// wait is the time after which to look again, if time alone can make it gone; 0 is never.
	wait time.Duration
}

// look reads the objects of a node: from the cache, or from the API server before something is done
// that cannot be undone.
func (r *Reconciler) look(ctx context.Context, reader client.Reader, name string) (host, error) {
	agent, core := &v1alpha1.NodeAgent{}, &corev1.Node{}
	noAgent, err := absent(reader.Get(ctx, client.ObjectKey{Name: name}, agent))
	if err != nil {
		return host{}, fmt.Errorf("read NodeAgent %s: %w", name, err)
	}
	if !noAgent {
		ready := meta.FindStatusCondition(agent.Status.Conditions, v1alpha1.ConditionReady)
		if ready == nil || ready.Status != metav1.ConditionUnknown {
			return host{}, nil
		}
	}
	noCore, err := absent(reader.Get(ctx, client.ObjectKey{Name: name}, core))
	if err != nil {
		return host{}, fmt.Errorf("read Node %s: %w", name, err)
	}
	switch {
	case outOfService(agent.Spec.Taints) || outOfService(core.Spec.Taints):
		return host{lost: fmt.Sprintf("node %s is out of service", name), gone: true}, nil
	case !noAgent:
		ready := meta.FindStatusCondition(agent.Status.Conditions, v1alpha1.ConditionReady)
		return host{lost: fmt.Sprintf("node %s: %s", name, ready.Message)}, nil
	case !noCore:
		return host{lost: fmt.Sprintf("NodeAgent %s does not exist any more, but Node %s does", name,
			name)}, nil
	}
	// An agent that lives registers again at once. One that was lost already has nothing to
	// register.
	wait := r.absences.left(name, r.NodeGracePeriod, r.Clock.Now())
	return host{
		lost: fmt.Sprintf("NodeAgent %s does not exist any more", name), gone: wait <= 0,
		wait: max(wait, 0),
	}, nil
}

func absent(err error) (bool, error) {
	return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
}

func outOfService(taints []corev1.Taint) bool {
	return slices.ContainsFunc(taints, func(t corev1.Taint) bool {
		return t.Key == corev1.TaintNodeOutOfService
	})
}

// release takes the agent's finalizer off the OCIBundles of a Container that are being deleted, if
// their node is gone. It returns when to look again; 0 is never.
func (r *Reconciler) release(ctx context.Context, key client.ObjectKey) (time.Duration, error) {
	all, err := r.bundlesOf(ctx, key)
	if err != nil {
		return 0, err
	}
	var again time.Duration
	for _, b := range all {
		wait, err := r.releaseOne(ctx, b)
		if err != nil {
			return 0, err
		}
		again = sooner(again, wait)
	}
	return again, nil
}

func (r *Reconciler) releaseOne(ctx context.Context, b *v1alpha1.OCIBundle) (time.Duration, error) {
	if b.DeletionTimestamp == nil || !controllerutil.ContainsFinalizer(b,
		v1alpha1.OCIBundleFinalizer) {
		return 0, nil
	}
	h, err := r.look(ctx, r.Client, b.Spec.NodeName)
	if err != nil || !h.gone {
		return h.wait, err
	}
	if h, err = r.look(ctx, r.Live, b.Spec.NodeName); err != nil || !h.gone {
		return h.wait, err
	}
	before := b.DeepCopy()
	if err := r.drop(ctx, b); err != nil {
		return 0, err
	}
	ctrl.LoggerFrom(ctx).Info("released an OCIBundle without its agent", "node", b.Spec.NodeName,
		"why", h.lost)
	r.Recorder.Eventf(before, nil, corev1.EventTypeWarning, "Released", "Release",
		"%s: released without its agent", h.lost)
	return 0, nil
}

// evacuate takes a Container off a node that is gone, so that it is placed again. One that has
// ended stays: it is not run again for the loss of its node; nor is one that must not run twice, or
// that may run nowhere else.
func (r *Reconciler) evacuate(ctx context.Context, s *scope) (bool, error) {
	if s.bundle == nil || !s.found.gone || s.bundle.DeletionTimestamp != nil {
		return true, nil
	}
	if s.holdsGeneration() &&
		(ended(s.bundle) || s.container.Spec.RestartPolicy == corev1.RestartPolicyNever) {
		return true, nil
	}
	if s.container.Spec.NodeName == s.bundle.Spec.NodeName {
		return true, nil
	}
	// The cache may lag behind an agent that has come back.
	h, err := r.look(ctx, r.Live, s.bundle.Spec.NodeName)
	if err != nil || !h.gone {
		return false, err
	}
	s.fact(corev1.EventTypeWarning, "Evacuated", "Move", "%s: the Container is placed again",
		s.found.lost)
	return false, r.remove(ctx, s.bundle)
}

// absences are the NodeAgents that do not exist any more.
type absences struct {
	mu     sync.Mutex
	byName map[string]absence
}

type absence struct {
	since time.Time
	// lost reports whether the agent was lost before.
	lost bool
}

// noteDeleted records that a NodeAgent was deleted.
func (a *absences) noteDeleted(agent *v1alpha1.NodeAgent, now time.Time) {
	ready := meta.FindStatusCondition(agent.Status.Conditions, v1alpha1.ConditionReady)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byName == nil {
		a.byName = map[string]absence{}
	}
	a.byName[agent.Name] = absence{since: now, lost: ready != nil &&
		ready.Status == metav1.ConditionUnknown}
}

// notePresent records that a NodeAgent exists.
func (a *absences) notePresent(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.byName, name)
}

// left returns the rest of the grace period in which the agent of an absent NodeAgent may register
// again. It begins when this process first misses the NodeAgent.
func (a *absences) left(name string, grace time.Duration, now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byName == nil {
		a.byName = map[string]absence{}
	}
	missing, known := a.byName[name]
	if !known {
		missing.since = now
		a.byName[name] = missing
	}
	if missing.lost {
		return 0
	}
	return grace - now.Sub(missing.since)
}
