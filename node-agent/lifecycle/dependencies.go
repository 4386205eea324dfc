// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/source"
)

// dependencyStage has each start of a container wait for those that dependsOn names, before its
// image is looked for and before the values that they may have left for it.
type dependencyStage struct {
	Neighbours
	followers *Followers
}

func (dependencyStage) Name() string { return "dependencies" }
func (dependencyStage) Scope() Scope { return PerRun }

func (s dependencyStage) Ensure(_ context.Context, c *Container) error {
	for i, d := range c.Bundle.Spec.DependsOn {
		if why := s.unmet(c.Key, d); why != "" {
			return &Pending{
				Condition: v1alpha1.ConditionRunning, Reason: v1alpha1.ReasonDependencyNotReady,
				Message: fmt.Sprintf("spec.dependsOn[%d]: found %s, %s", i, d.Name, why),
			}
		}
	}
	return nil
}

// Release ends the wait.
func (s dependencyStage) Release(_ context.Context, c *Container) error {
	s.followers.unfollow(c.Key)
	return nil
}

// unmet returns why a dependency is not met; "" if it is.
func (s dependencyStage) unmet(of source.Key, d v1alpha1.Dependency) string {
	other := source.Key{Namespace: of.Namespace, Name: d.Name}
	s.followers.follow(other, of) // before it is looked at
	if s.Bundle == nil {
		return "of which this agent knows nothing"
	}
	b := s.Bundle(other)
	if b == nil || b.DeletionTimestamp != nil {
		return "and no Container of that name in the namespace " + of.Namespace + "; it waits for one"
	}
	if path := s.way(other, of, map[source.Key]bool{}); path != nil {
		return fmt.Sprintf("which needs this Container itself (%s); allowed: no circle",
			strings.Join(append([]string{of.Name}, path...), " needs "))
	}
	// A status of another generation, or of another boot, says nothing.
	st := &b.Status
	known := st.ObservedGeneration == b.Generation
	switch {
	case d.Condition == v1alpha1.DependencyStarted &&
		(!known || st.State.Running == nil && st.State.Terminated == nil):
		return "which does not run; it waits for its start"
	case d.Condition != v1alpha1.DependencyCompleted || known && st.Phase ==
		v1alpha1.ContainerSucceeded:
		return ""
	case b.Spec.RestartPolicy == corev1.RestartPolicyAlways:
		return "which never ends for good, as its restartPolicy is Always; allowed: OnFailure or Never"
	case known && st.Phase == v1alpha1.ContainerFailed:
		return "which has failed; it waits for exit code 0"
	}
	return "which is not Completed; it waits for exit code 0"
}

// way returns the names on a way by which a Container needs another one, both included, or nil.
func (s dependencyStage) way(from, to source.Key, seen map[source.Key]bool) []string {
	if from == to {
		return []string{to.Name}
	}
	b := s.Bundle(from)
	if seen[from] || b == nil {
		return nil
	}
	seen[from] = true
	var next []string
	for _, d := range b.Spec.DependsOn {
		next = append(next, d.Name)
	}
	if n := b.Spec.Network; n != nil && n.Container != "" {
		next = append(next, n.Container)
	}
	for _, name := range next {
		way := s.way(source.Key{Namespace: from.Namespace, Name: name}, to, seen)
		if way != nil {
			return append([]string{from.Name}, way...)
		}
	}
	return nil
}
