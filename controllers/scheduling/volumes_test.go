// SPDX-License-Identifier: Apache-2.0

package scheduling

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/v1alpha1"
)

// inZone returns the affinity of a volume that nodes with one of the values have.
func inZone(t *testing.T, key string, values ...string) Volume {
	t.Helper()
	v, err := NewVolume("PersistentVolume pv", &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{
				Key: key, Operator: corev1.NodeSelectorOpIn, Values: values,
			}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func coreNode(labels map[string]string) func(*Node) {
	return func(n *Node) {
		n.Core = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Agent.Name, Labels: labels}}
	}
}

// TestVolumesRestrictTheNodes: a Container goes only where all its volumes are, and is told that
// they are the reason if there is no such node.
func TestVolumesRestrictTheNodes(t *testing.T) {
	const zone = corev1.LabelTopologyZone
	nodes := func() []Node {
		return []Node{
			node("a", coreNode(map[string]string{corev1.LabelHostname: "host-a", zone: "1"})),
			node("b", coreNode(map[string]string{corev1.LabelHostname: "host-b", zone: "2"})),
			node("c"), // without a Node
		}
	}
	for name, tc := range map[string]struct {
		volumes   []Volume
		provision bool
		want      string
	}{
		"label of the Node":       {volumes: []Volume{inZone(t, zone, "2")}, want: "b"},
		"hostname of the Node":    {volumes: []Volume{inZone(t, corev1.LabelHostname, "host-b")}, want: "b"},
		"name for the hostname":   {volumes: []Volume{inZone(t, corev1.LabelHostname, "c")}, want: "c"},
		"not the name beside one": {volumes: []Volume{inZone(t, corev1.LabelHostname, "a")}, want: ""},
		"two volumes": {
			volumes: []Volume{inZone(t, zone, "1", "2"), inZone(t, corev1.LabelHostname, "host-b", "c")},
			want:    "b",
		},
		"two places":        {volumes: []Volume{inZone(t, zone, "1"), inZone(t, zone, "2")}, want: ""},
		"to be provisioned": {volumes: []Volume{inZone(t, zone, "2")}, provision: true, want: "b"},
		"nowhere to provision": {
			volumes: []Volume{inZone(t, corev1.LabelHostname, "c")}, provision: true, want: "",
		},
	} {
		got, unfit := Choose(Request{Volumes: tc.volumes, Provision: tc.provision}, nodes())
		if got != tc.want {
			t.Errorf("%s: found node %q; want %q", name, got, tc.want)
		}
		if tc.want == "" && (unfit == nil || unfit.Reason != v1alpha1.ReasonUnschedulable ||
			!strings.Contains(unfit.Message, "had volume node affinity conflict")) {
			t.Errorf("%s: found %+v; want a volume node affinity conflict", name, unfit)
		}
	}
	_, unfit := Choose(Request{Provision: true}, []Node{node("c")})
	if unfit == nil ||
		unfit.Message != "0/1 nodes fit: 1 had no Node, by which a provisioner creates a volume" {
		t.Errorf("found %+v", unfit)
	}
}

// TestNamedNodeNeedsTheVolumes: spec.nodeName does not pass the affinity of volumes, as the kubelet
// refuses such a Pod.
func TestNamedNodeNeedsTheVolumes(t *testing.T) {
	a := node("a", coreNode(map[string]string{corev1.LabelTopologyZone: "1"}))
	q := Request{Volumes: []Volume{inZone(t, corev1.LabelTopologyZone, "1")}}
	if unfit := Named(q, "a", &a); unfit != nil {
		t.Errorf("found %+v; want the node", unfit)
	}
	q.Volumes = append(q.Volumes, inZone(t, corev1.LabelTopologyZone, "2"))
	if unfit := Named(q, "a", &a); unfit == nil || !strings.Contains(unfit.Message,
		"node a has a volume node affinity conflict: PersistentVolume pv is not for this node") {
		t.Errorf("found %+v", unfit)
	}
	c := node("c")
	if unfit := Named(Request{Provision: true}, "c", &c); unfit == nil ||
		!strings.Contains(unfit.Message, "node c had no Node") {
		t.Errorf("found %+v", unfit)
	}
	if _, err := NewVolume("x", &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "a", Operator: "Odd"}},
	}}}); err == nil || !strings.Contains(err.Error(), "node selector of x") {
		t.Errorf("found %v; want the operator refused", err)
	}
}
