// SPDX-License-Identifier: Apache-2.0

package scheduling

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/v1alpha1"
)

// node is one that fits any request for Berth's own runtime of up to 4 cpus and 8 GiB.
func node(name string, changes ...func(*Node)) Node {
	n := Node{Agent: &v1alpha1.NodeAgent{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status: v1alpha1.NodeAgentStatus{
			Handlers: []v1alpha1.NodeHandler{{Name: v1alpha1.HandlerNative}},
			Allocatable: corev1.ResourceList{
				corev1.ResourceCPU:    resource.MustParse("4"),
				corev1.ResourceMemory: resource.MustParse("8Gi"),
			},
			Conditions: []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue}},
		},
	}}
	for _, change := range changes {
		change(&n)
	}
	return n
}

func used(requests corev1.ResourceList, containers int) func(*Node) {
	return func(n *Node) {
		for range containers {
			n.Used = n.Used.plus(usageOf(requests))
		}
	}
}

func ready(status metav1.ConditionStatus) func(*Node) {
	return func(n *Node) { n.Agent.Status.Conditions[0].Status = status }
}

func revision(n int32) func(*Node) {
	return func(node *Node) { node.Agent.Status.NodeInfo.AgentRevision = n }
}

func core(change func(*corev1.Node)) func(*Node) {
	return func(n *Node) {
		n.Core = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Agent.Name}}
		change(n.Core)
	}
}

func list(cpu, memory string) corev1.ResourceList {
	l := corev1.ResourceList{}
	if cpu != "" {
		l[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		l[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	return l
}

func TestChoose(t *testing.T) {
	gpu := corev1.Taint{Key: "dedicated", Value: "gpu", Effect: corev1.TaintEffectNoSchedule}
	cases := map[string]struct {
		request Request
		nodes   []Node
		want    string
		unfit   string
	}{
		"no nodes": {unfit: "no NodeAgent is registered"},
		"an agent that does not know a field": {
			request: Request{MinAgent: 2},
			nodes:   []Node{node("a", revision(1)), node("b", revision(2))}, want: "b",
		},
		"no agent knows a field": {
			request: Request{MinAgent: 2}, nodes: []Node{node("a"), node("b", revision(1))},
			unfit: "2 had an agent too old",
		},
		"one node":           {nodes: []Node{node("a")}, want: "a"},
		"by name when equal": {nodes: []Node{node("c"), node("b"), node("d")}, want: "b"},
		"fewest containers when room is equal": {
			nodes: []Node{
				node("a", used(list("200m", "400Mi"), 1)),
				node("b", used(list("100m", "200Mi"), 2)),
			}, want: "a",
		},
		"least allocated": {
			request: Request{Resources: list("1", "")},
			nodes:   []Node{node("a", used(list("2", "1Gi"), 1)), node("b", used(list("1", "1Gi"), 1))},
			want:    "b",
		},
		"least allocated counts shares, not sums": {
			nodes: []Node{
				node("small", used(list("1", "1Gi"), 1)),
				node("large", used(list("2", "2Gi"), 1), func(n *Node) {
					n.Agent.Status.Allocatable = list("64", "128Gi")
				}),
			}, want: "large",
		},
		"containers without requests spread": {nodes: []Node{
			node("a", used(nil, 3)),
			node("b", used(nil, 2)),
		}, want: "b"},
		"a full node is passed over": {
			request: Request{Resources: list("1", "")},
			nodes:   []Node{node("a", used(list("3500m", ""), 1)), node("b", used(list("3", "7Gi"), 1))},
			want:    "b",
		},
		"to the brim": {
			request: Request{Resources: list("1", "1Gi")},
			nodes:   []Node{node("a", used(list("3", "7Gi"), 1))}, want: "a",
		},
		"a container without requests always fits": {
			nodes: []Node{node("a", used(list("9", "9Gi"), 1))},
			want:  "a",
		},
		"too little of both": {
			request: Request{Resources: list("5", "9Gi")}, nodes: []Node{node("a")},
			unfit: "0/1 nodes fit: 1 had too little cpu and memory left",
		},
		"not ready": {nodes: []Node{node("a", ready(metav1.ConditionFalse))}, unfit: "1 was not ready"},
		"unknown": {
			nodes: []Node{
				node("a", ready(metav1.ConditionUnknown)),
				node("b", ready(metav1.ConditionUnknown)),
			},
			unfit: "0/2 nodes fit: 2 had not been heard of lately",
		},
		"no word yet": {nodes: []Node{node("a", func(n *Node) {
			n.Agent.Status.Conditions = nil
		})}, unfit: "1 had not reported yet"},
		"going": {
			nodes: []Node{node("a", func(n *Node) { n.Agent.DeletionTimestamp = &metav1.Time{} })},
			unfit: "1 was being deleted",
		},
		"cordoned by the agent": {nodes: []Node{node("a", func(n *Node) {
			n.Agent.Spec.Unschedulable = true
		})}, unfit: "1 was unschedulable"},
		"cordoned by the Node": {nodes: []Node{node("a", core(func(n *corev1.Node) {
			n.Spec.Unschedulable = true
		}))}, unfit: "1 was unschedulable"},
		"cordon tolerated": {
			request: Request{Tolerations: []corev1.Toleration{{
				Key:      corev1.TaintNodeUnschedulable,
				Operator: corev1.TolerationOpExists,
			}}},
			nodes: []Node{node("a", func(n *Node) { n.Agent.Spec.Unschedulable = true })}, want: "a",
		},
		"taint of the agent": {
			nodes: []Node{node("a", func(n *Node) { n.Agent.Spec.Taints = []corev1.Taint{gpu} })},
			unfit: "1 had untolerated taint {dedicated=gpu:NoSchedule}",
		},
		"taint of the Node": {
			nodes: []Node{node("a", core(func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{gpu} }))},
			unfit: "1 had untolerated taint {dedicated=gpu:NoSchedule}",
		},
		"NoExecute": {nodes: []Node{node("a", func(n *Node) {
			n.Agent.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoExecute}}
		})}, unfit: "1 had untolerated taint {k:NoExecute}"},
		"PreferNoSchedule does not forbid": {nodes: []Node{node("a", func(n *Node) {
			n.Agent.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectPreferNoSchedule}}
		})}, want: "a"},
		"taint tolerated by value": {
			request: Request{Tolerations: []corev1.Toleration{{
				Key: "dedicated", Value: "gpu",
				Effect: corev1.TaintEffectNoSchedule,
			}}},
			nodes: []Node{node("a", func(n *Node) { n.Agent.Spec.Taints = []corev1.Taint{gpu} })}, want: "a",
		},
		"taint not tolerated by another value": {
			request: Request{Tolerations: []corev1.Toleration{{
				Key: "dedicated", Value: "tpu",
				Effect: corev1.TaintEffectNoSchedule,
			}}},
			nodes: []Node{node("a", func(n *Node) {
				n.Agent.Spec.Taints = []corev1.Taint{gpu}
			})}, unfit: "untolerated taint",
		},
		"label of the agent": {
			request: Request{Selectors: []map[string]string{{"disk": "ssd"}}},
			nodes: []Node{node("a"), node("b", func(n *Node) {
				n.Agent.Labels = map[string]string{"disk": "ssd"}
			})}, want: "b",
		},
		"label of the Node": {
			request: Request{Selectors: []map[string]string{{"disk": "ssd"}}},
			nodes: []Node{node("a"), node("b", core(func(n *corev1.Node) {
				n.Labels = map[string]string{"disk": "ssd"}
			}))}, want: "b",
		},
		"labels of both together": {
			request: Request{Selectors: []map[string]string{{"disk": "ssd", "zone": "1"}}},
			nodes: []Node{node("b", core(func(n *corev1.Node) {
				n.Labels = map[string]string{"disk": "ssd"}
			}),
				func(n *Node) { n.Agent.Labels = map[string]string{"zone": "1"} })}, want: "b",
		},
		"hostname": {
			request: Request{Selectors: []map[string]string{{corev1.LabelHostname: "b"}}},
			nodes:   []Node{node("a"), node("b")}, want: "b",
		},
		"selectors that clash": {
			request: Request{Selectors: []map[string]string{{"z": "1"}, {"z": "2"}}},
			nodes: []Node{node("a", func(n *Node) {
				n.Agent.Labels = map[string]string{"z": "1"}
			})}, unfit: "1 did not match the node selector",
		},
		"handler": {
			request: Request{Handler: "vm"},
			nodes: []Node{node("a"), node("b", func(n *Node) {
				n.Agent.Status.Handlers = append(n.Agent.Status.Handlers, v1alpha1.NodeHandler{Name: "vm"})
			})}, want: "b",
		},
		"handler missing": {
			request: Request{Handler: "vm"}, nodes: []Node{node("a")},
			unfit: `1 lacked handler "vm"`,
		},
		"counts, the most frequent first": {
			nodes: []Node{
				node("a", ready(metav1.ConditionFalse)), node("b", ready(metav1.ConditionFalse)),
				node("c", func(n *Node) { n.Agent.Spec.Unschedulable = true }),
			},
			unfit: "0/3 nodes fit: 2 were not ready, 1 was unschedulable",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, unfit := Choose(c.request, c.nodes)
			if got != c.want {
				t.Errorf("chose %q (%+v); wanted %q", got, unfit, c.want)
			}
			if (unfit == nil) != (c.unfit == "") {
				t.Fatalf("unfit is %+v", unfit)
			}
			if unfit != nil && (!strings.Contains(unfit.Message, c.unfit) ||
				unfit.Reason != v1alpha1.ReasonUnschedulable) {
				t.Errorf("unfit is %+v; wanted %q", unfit, c.unfit)
			}
		})
	}
}

// TestLabelsOfANodeAgentDrawNothing: labels that an agent writes into its NodeAgent do not draw
// Containers to its node.
func TestLabelsOfANodeAgentDrawNothing(t *testing.T) {
	says := func(key, value string) func(*Node) {
		return func(n *Node) { n.Agent.Labels = map[string]string{key: value} }
	}
	labelled := func(key, value string) func(*Node) {
		return core(func(c *corev1.Node) { c.Labels = map[string]string{key: value} })
	}
	const tenant = "node-restriction.kubernetes.io/tenant"
	for name, tc := range map[string]struct {
		node       Node
		key, value string
		fits       bool
	}{
		"a label of the NodeAgent": {
			node("a", says("disk", "ssd")), "disk",
			"ssd", true,
		},
		"a label of both: the Node's": {node("a", says("zone", "b"),
			labelled("zone", "a")), "zone", "a", true},
		"a label of both: not the NodeAgent's": {node("a", says("zone", "b"),
			labelled("zone", "a")), "zone", "b", false},
		"a restricted label of the Node": {
			node("a", labelled(tenant, "a")), tenant,
			"a", true,
		},
		"a restricted label of the NodeAgent": {node("a", says(tenant, "a"),
			labelled("zone", "a")), tenant, "a", false},
		"a restricted label without a Node": {node("a", says(tenant, "a")), tenant, "a", false},
		"a restricted label of a subdomain": {
			node("a", says("x."+tenant, "a")), "x." + tenant,
			"a", false,
		},
		"the name of another node as its own": {
			node("a", says(corev1.LabelHostname, "b")),
			corev1.LabelHostname, "b", false,
		},
		"its name": {node("a", says(corev1.LabelHostname, "b")), corev1.LabelHostname, "a", true},
		"the name that Kubernetes knows for the node": {node("a", labelled(corev1.LabelHostname,
			"a.example.com")), corev1.LabelHostname, "a.example.com", true},
	} {
		t.Run(name, func(t *testing.T) {
			_, unfit := Choose(Request{Selectors: []map[string]string{{tc.key: tc.value}}}, []Node{tc.node})
			if (unfit == nil) != tc.fits {
				t.Errorf("found %+v; wanted a fit: %t", unfit, tc.fits)
			}
		})
	}
}

func TestNamed(t *testing.T) {
	n := node("a", ready(metav1.ConditionFalse), func(n *Node) { n.Agent.Spec.Unschedulable = true })
	if unfit := Named(Request{Resources: list("99", "")}, "a", &n); unfit != nil {
		t.Errorf("a node that is named is asked for more than its handler: %+v", unfit)
	}
	if unfit := Named(Request{}, "a", nil); unfit == nil ||
		unfit.Reason != v1alpha1.ReasonUnschedulable {
		t.Errorf("a node that does not exist: %+v", unfit)
	}
	if unfit := Named(Request{Handler: "vm"}, "a", &n); unfit == nil ||
		unfit.Reason != v1alpha1.ReasonHandlerNotFound {
		t.Errorf("a node without the handler: %+v", unfit)
	}
}

func TestOutdated(t *testing.T) {
	old := node("a", revision(1), func(n *Node) { n.Agent.Status.NodeInfo.AgentVersion = "0.1.0" })
	if unfit := Outdated(Request{MinAgent: 1}, old); unfit != nil {
		t.Errorf("found %+v for an agent that is new enough", unfit)
	}
	unfit := Outdated(Request{MinAgent: 2}, old)
	if unfit == nil || unfit.Reason != v1alpha1.ReasonAgentTooOld {
		t.Fatalf("found %+v", unfit)
	}
	for _, part := range []string{
		"node a", "version 0.1.0", "found revision 1; allowed: 2",
		"upgrade berth-agent",
	} {
		if !strings.Contains(unfit.Message, part) {
			t.Errorf("the message lacks %q: %s", part, unfit.Message)
		}
	}
}
