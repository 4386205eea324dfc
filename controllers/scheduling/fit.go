// SPDX-License-Identifier: Apache-2.0

package scheduling

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"github.com/berth-run/berth/api/v1alpha1"
)

// Request is a Container's demand on its node.
type Request struct {
	// Selectors are labels that the node must have, all of each: the Container's own and its
	// RuntimeClass's.
	Selectors []map[string]string
	// Tolerations are the tolerations of the Container and of its RuntimeClass.
	Tolerations []corev1.Toleration
	// Handler is the runtime that the node must have; empty is Berth's own.
	Handler string
	// Resources are the requests; only cpu and memory count.
	Resources corev1.ResourceList
	// MinAgent is the lowest revision of an agent that knows every field of the OCIBundle.
	MinAgent int32
	// Volumes are the volumes of its claims that not every node reaches.
	Volumes []Volume
	// Provision reports that a volume is still to be created for the node.
	Provision bool
}

// handler returns the name under which a NodeAgent lists the runtime that is asked for.
func (r Request) handler() string {
	if r.Handler == "" {
		return v1alpha1.HandlerNative
	}
	return r.Handler
}

// Node is one node as the choice sees it.
type Node struct {
	// Agent is the NodeAgent; its name is the node's.
	Agent *v1alpha1.NodeAgent
	// Core is the Node of the same name, or nil. Its labels win over those of the NodeAgent; taints
	// of both count.
	Core *corev1.Node
	// Used is the sum of requests on the node. Ledger.Place fills it in.
	Used Usage
}

// label returns the value of a label: that of the core Node before that of the NodeAgent. An agent
// writes some of the latter itself, and must not be able to move Containers of others to its node.
// Labels of the prefix node-restriction.kubernetes.io/ count on a Node alone, where Kubernetes
// keeps kubelets from setting them.
func (n Node) label(key string) (value string, ok bool) {
	if n.Core != nil {
		if value, ok = n.Core.Labels[key]; ok {
			return value, true
		}
	}
	if key == corev1.LabelHostname {
		// A node without a core Node is still found by its name, as every kubelet's is.
		return n.Agent.Name, true
	}
	prefix, _, _ := strings.Cut(key, "/")
	if prefix == labelRestricted || strings.HasSuffix(prefix, "."+labelRestricted) {
		return "", false
	}
	value, ok = n.Agent.Labels[key]
	return value, ok
}

// labelRestricted is the prefix of labels that isolate nodes, also of its subdomains:
// https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction
const labelRestricted = "node-restriction.kubernetes.io"

// taints returns the taints of the NodeAgent and of the core Node; a cordoned one counts as
// tainted, as in kube-scheduler, so that a toleration of node.kubernetes.io/unschedulable works.
func (n Node) taints() []corev1.Taint {
	out := slices.Clone(n.Agent.Spec.Taints)
	cordoned := n.Agent.Spec.Unschedulable
	if n.Core != nil {
		out = append(out, n.Core.Spec.Taints...)
		cordoned = cordoned || n.Core.Spec.Unschedulable
	}
	if cordoned {
		out = append(out, corev1.Taint{
			Key:    corev1.TaintNodeUnschedulable,
			Effect: corev1.TaintEffectNoSchedule,
		})
	}
	return out
}

// Unfit says why no node was chosen.
type Unfit struct {
	// Reason is one of the reasons of the condition Scheduled.
	Reason string
	// Message is for people; it counts the nodes by the reason why they do not fit.
	Message string
}

// A check returns the reason why a node does not fit a request, as words that follow a number of
// nodes ("2 lacked handler \"kata\""), or nothing where it fits.
type check func(Request, Node) string

// checks in the order in which a node is judged; the first lack is the one that is reported.
var checks = []check{
	isReady, isTolerated, isSelected, hasHandler, isNewEnough, reachesVolumes, canProvision, hasRoom,
}

func isReady(_ Request, n Node) string {
	if n.Agent.DeletionTimestamp != nil {
		return "were being deleted"
	}
	switch c := meta.FindStatusCondition(n.Agent.Status.Conditions, v1alpha1.ConditionReady); {
	case c == nil:
		return "had not reported yet"
	case c.Status == metav1.ConditionUnknown:
		return "had not been heard of lately"
	case c.Status != metav1.ConditionTrue:
		return "were not ready"
	}
	return ""
}

func isTolerated(r Request, n Node) string {
	taint, found := corev1helpers.FindMatchingUntoleratedTaint(klog.Background(), n.taints(),
		r.Tolerations, func(t *corev1.Taint) bool {
			return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
		}, true)
	switch {
	case !found:
		return ""
	case taint.Key == corev1.TaintNodeUnschedulable:
		return "were unschedulable"
	case taint.Value == "":
		return fmt.Sprintf("had untolerated taint {%s:%s}", taint.Key, taint.Effect)
	}
	return fmt.Sprintf("had untolerated taint {%s=%s:%s}", taint.Key, taint.Value, taint.Effect)
}

// isSelected asks only for labels that a selector names: thousands of nodes may be looked at for
// each Container.
func isSelected(r Request, n Node) string {
	for _, selector := range r.Selectors {
		for key, want := range selector {
			if value, ok := n.label(key); !ok || value != want {
				return "did not match the node selector"
			}
		}
	}
	return ""
}

func hasHandler(r Request, n Node) string {
	for _, h := range n.Agent.Status.Handlers {
		if h.Name == r.handler() {
			return ""
		}
	}
	return fmt.Sprintf("lacked handler %q", r.handler())
}

func isNewEnough(r Request, n Node) string {
	if n.Agent.Status.NodeInfo.AgentRevision >= r.MinAgent {
		return ""
	}
	return "had an agent too old for a field of the spec"
}

// hasRoom reports whether the request fits into the node's allocatable resources. A resource that
// the Container does not request always fits, as in kube-scheduler, and so does one that the agent
// does not report.
func hasRoom(r Request, n Node) string {
	want := usageOf(r.Resources)
	var lacks []string
	if have, ok := n.Agent.Status.Allocatable[corev1.ResourceCPU]; ok && want.MilliCPU > 0 &&
		n.Used.MilliCPU+want.MilliCPU > have.MilliValue() {
		lacks = append(lacks, "cpu")
	}
	if have, ok := n.Agent.Status.Allocatable[corev1.ResourceMemory]; ok && want.Memory > 0 &&
		n.Used.Memory+want.Memory > have.Value() {
		lacks = append(lacks, "memory")
	}
	if len(lacks) == 0 {
		return ""
	}
	return "had too little " + strings.Join(lacks, " and ") + " left"
}

// lack returns the first thing that the node lacks, or nothing.
func lack(r Request, n Node) string {
	for _, c := range checks {
		if what := c(r, n); what != "" {
			return what
		}
	}
	return ""
}

// Choose returns the name of the node with the most room among those that fit, or the reason why
// none fits. Equal nodes are told apart by how many containers they have, then by name, so that the
// answer does not depend on the order of nodes.
func Choose(r Request, nodes []Node) (string, *Unfit) {
	if len(nodes) == 0 {
		return "", &Unfit{
			v1alpha1.ReasonUnschedulable,
			"no NodeAgent is registered: start berth-agent on a node",
		}
	}
	lacks := map[string]int{}
	best, bestRoom := -1, 0.0
	for i, n := range nodes {
		if what := lack(r, n); what != "" {
			lacks[what]++
			continue
		}
		room := roomAfter(r, n)
		if best < 0 || room > bestRoom || room == bestRoom && before(n, nodes[best]) {
			best, bestRoom = i, room
		}
	}
	if best >= 0 {
		return nodes[best].Agent.Name, nil
	}
	return "", &Unfit{v1alpha1.ReasonUnschedulable, fmt.Sprintf("0/%d nodes fit: %s", len(nodes),
		summary(lacks))}
}

func before(a, b Node) bool {
	if a.Used.Containers != b.Used.Containers {
		return a.Used.Containers < b.Used.Containers
	}
	return a.Agent.Name < b.Agent.Name
}

// summary returns "2 lacked …, 1 had …", the most frequent lack first.
func summary(lacks map[string]int) string {
	parts := make([]string, 0, len(lacks))
	for what := range lacks {
		parts = append(parts, what)
	}
	sort.Slice(parts, func(i, j int) bool {
		if lacks[parts[i]] != lacks[parts[j]] {
			return lacks[parts[i]] > lacks[parts[j]]
		}
		return parts[i] < parts[j]
	})
	for i, what := range parts {
		n := lacks[what]
		if n == 1 {
			what = strings.Replace(what, "were ", "was ", 1)
		}
		parts[i] = fmt.Sprintf("%d %s", n, what)
	}
	return strings.Join(parts, ", ")
}

// Named reports whether a Container may go to the node that it names, past the choice: the node
// must exist, have the handler and reach the volumes. Taints, labels, room and readiness are not
// asked, as for a Pod with spec.nodeName. node is nil where there is no NodeAgent of that name.
func Named(r Request, name string, node *Node) *Unfit {
	if node == nil {
		return &Unfit{
			v1alpha1.ReasonUnschedulable,
			fmt.Sprintf("spec.nodeName: there is no NodeAgent %q", name),
		}
	}
	if what := hasHandler(r, *node); what != "" {
		have := make([]string, 0, len(node.Agent.Status.Handlers))
		for _, h := range node.Agent.Status.Handlers {
			have = append(have, h.Name)
		}
		return &Unfit{v1alpha1.ReasonHandlerNotFound, fmt.Sprintf("node %s has no handler %q; it has: %s",
			name, r.handler(), orNone(have))}
	}
	return namedVolumes(r, name, *node)
}

// Outdated returns why the agent of the node that was chosen cannot run the Container, nil if it
// can: its version does not know a field that the spec uses.
func Outdated(r Request, n Node) *Unfit {
	if isNewEnough(r, n) == "" {
		return nil
	}
	info := n.Agent.Status.NodeInfo
	return &Unfit{
		v1alpha1.ReasonAgentTooOld,
		fmt.Sprintf("the agent of node %s (version %s) does not know a field that the spec uses: "+
			"found revision %d; allowed: %d or newer: upgrade berth-agent there", n.Agent.Name,
			orUnknown(info.AgentVersion), info.AgentRevision, r.MinAgent),
	}
}

func orUnknown(version string) string {
	if version == "" {
		return "unknown"
	}
	return version
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
