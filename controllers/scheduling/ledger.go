// SPDX-License-Identifier: Apache-2.0

package scheduling

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Ledger records the resources that each node has given away. Entries come from the watch of
// OCIBundles (Observe, Remove), and ahead of it from Place, as kube-scheduler's assumed pods do. It
// is safe for concurrent use.
type Ledger struct {
	mu      sync.Mutex
	entries map[types.NamespacedName]entry
	nodes   map[string]Usage
}

type entry struct {
	node    string
	usage   Usage
	assumed bool
}

// NewLedger returns an empty book.
func NewLedger() *Ledger {
	return &Ledger{entries: map[types.NamespacedName]entry{}, nodes: map[string]Usage{}}
}

// Observe records an OCIBundle as the watch shows it. One that has ended for good takes nothing,
// but is still known.
func (l *Ledger) Observe(key types.NamespacedName, node string, requests corev1.ResourceList,
	ended bool,
) {
	e := entry{node: node}
	if !ended {
		e.usage = usageOf(requests)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set(key, e)
}

// Remove strikes out an OCIBundle that is gone.
func (l *Ledger) Remove(key types.NamespacedName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unset(key)
}

// Withdraw removes the entry of Place, unless the watch has shown the OCIBundle since.
func (l *Ledger) Withdraw(key types.NamespacedName) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.entries[key].assumed {
		l.unset(key)
	}
}

// Assumed returns the node that Place or Enter has entered the OCIBundle for, if the watch has not
// shown it yet.
func (l *Ledger) Assumed(key types.NamespacedName) (node string, assumed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entries[key]
	return e.node, e.assumed
}

// Usage returns the sum of requests on the node.
func (l *Ledger) Usage(node string) Usage {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.nodes[node]
}

// Place chooses a node for the OCIBundle and records the choice, in one step, so that each of many
// concurrent choices knows those before it. It fills in the Used of nodes, without the OCIBundle's
// own earlier share.
func (l *Ledger) Place(key types.NamespacedName, r Request, nodes []Node) (string, *Unfit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	own, known := l.entries[key]
	for i := range nodes {
		name := nodes[i].Agent.Name
		nodes[i].Used = l.nodes[name]
		if known && own.node == name {
			nodes[i].Used = nodes[i].Used.minus(own.usage)
		}
	}
	name, unfit := Choose(r, nodes)
	if unfit != nil {
		return "", unfit
	}
	// While the old OCIBundle is there, the book is the watch's to write: the new one is chosen
	// again once it is gone.
	if !known || own.assumed {
		l.set(key, entry{node: name, usage: usageOf(r.Resources), assumed: true})
	}
	return name, nil
}

// Enter records an OCIBundle that goes to a node without a choice, ahead of the watch, as Place
// does.
func (l *Ledger) Enter(key types.NamespacedName, node string, requests corev1.ResourceList) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if own, known := l.entries[key]; !known || own.assumed {
		l.set(key, entry{node: node, usage: usageOf(requests), assumed: true})
	}
}

func (l *Ledger) set(key types.NamespacedName, e entry) {
	l.unset(key)
	l.entries[key] = e
	l.nodes[e.node] = l.nodes[e.node].plus(e.usage)
}

func (l *Ledger) unset(key types.NamespacedName) {
	old, ok := l.entries[key]
	if !ok {
		return
	}
	delete(l.entries, key)
	left := l.nodes[old.node].minus(old.usage)
	if left == (Usage{}) {
		delete(l.nodes, old.node)
		return
	}
	l.nodes[old.node] = left
}
