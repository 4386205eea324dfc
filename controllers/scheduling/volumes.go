// SPDX-License-Identifier: Apache-2.0

package scheduling

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/berth-run/berth/api/v1alpha1"
)

// Volume says which nodes a volume of a Container can be mounted on, or be created for.
type Volume struct {
	// name is for people.
	name     string
	selector *nodeaffinity.NodeSelector
	// keys are the labels that the selector asks for.
	keys []string
}

// NewVolume returns a volume that only the nodes of a selector reach, such as the nodeAffinity of a
// PersistentVolume.
func NewVolume(name string, of *corev1.NodeSelector) (Volume, error) {
	selector, err := nodeaffinity.NewNodeSelector(of)
	if err != nil {
		return Volume{}, fmt.Errorf("node selector of %s: %w", name, err)
	}
	v := Volume{name: name, selector: selector}
	for _, term := range of.NodeSelectorTerms {
		for _, e := range term.MatchExpressions {
			v.keys = append(v.keys, e.Key)
		}
	}
	return v, nil
}

// reaches reports whether the volume can be on a node. It reads the labels that nodeSelector reads.
func (v Volume) reaches(n Node) bool {
	labels := make(map[string]string, len(v.keys))
	for _, key := range v.keys {
		if value, ok := n.label(key); ok {
			labels[key] = value
		}
	}
	return v.selector.Match(&corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Agent.Name, Labels: labels},
	})
}

// missed returns the first volume of a request that the node does not reach, or nil.
func missed(r Request, n Node) *Volume {
	for i := range r.Volumes {
		if !r.Volumes[i].reaches(n) {
			return &r.Volumes[i]
		}
	}
	return nil
}

// Reaches reports whether all volumes of a request can be mounted on a node.
func Reaches(r Request, n Node) bool { return missed(r, n) == nil }

// reachesVolumes has the words of kube-scheduler.
func reachesVolumes(r Request, n Node) string {
	if !Reaches(r, n) {
		return "had volume node affinity conflict"
	}
	return ""
}

// canProvision asks for a Node beside the NodeAgent: a provisioner that creates a volume for one
// node looks that up.
func canProvision(r Request, n Node) string {
	if r.Provision && n.Core == nil {
		return "had no Node, by which a provisioner creates a volume"
	}
	return ""
}

// namedVolumes returns why volumes of the Container cannot be on the node that it names, or nil.
func namedVolumes(r Request, name string, n Node) *Unfit {
	if v := missed(r, n); v != nil {
		return &Unfit{
			v1alpha1.ReasonUnschedulable,
			fmt.Sprintf("node %s has a volume node affinity conflict: %s is not for this node", name, v.name),
		}
	}
	if what := canProvision(r, n); what != "" {
		return &Unfit{v1alpha1.ReasonUnschedulable, fmt.Sprintf("node %s %s", name, what)}
	}
	return nil
}
