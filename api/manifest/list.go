// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"reflect"

	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// kindList is the kind of a list of documents, of apiVersion v1.
const kindList = "List"

// decodeList returns a document for each item of a List. If the List has faults of its own, d comes
// first with these.
func (d *Document) decodeList(root *yaml.Node) []*Document {
	d.Line = d.decoded.line + root.Line
	d.decoded.places = map[string]*yaml.Node{}
	var items *yaml.Node
	for _, p := range d.decoded.pairs(root, nil) {
		at := child(nil, p.key.Value)
		switch p.key.Value {
		case "apiVersion", "kind":
		case "metadata":
			d.decoded.value(p.value, reflect.TypeFor[metav1.ListMeta](), at)
		case "items":
			items = resolve(p.value)
			if items.Kind != yaml.SequenceNode && kindOf(items) != "null" {
				d.decoded.fault(p.value, at, "found "+describe(items)+"; allowed: a list of documents")
			}
		default:
			d.decoded.fault(p.key, at,
				"found an unknown field; allowed: apiVersion, kind, metadata and items")
		}
	}
	var out []*Document
	if d.Faults = sorted(d.decoded.faults); len(d.Faults) > 0 {
		out = append(out, d)
	}
	if items == nil || items.Kind != yaml.SequenceNode {
		return out
	}
	visits := d.decoded.visits // of all items together
	for i, n := range items.Content {
		item := &Document{Line: d.decoded.line + n.Line, Item: fmt.Sprintf("items[%d]", i)}
		item.decoded = decoder{line: d.decoded.line, item: item.Item, visits: visits}
		out = append(out, item.decodeItem(n)...)
		if visits = item.decoded.visits; item.decoded.large {
			break // it has a fault, so the others do not matter
		}
	}
	return out
}

// decodeItem reads an item of a List, and returns it, or a document for each container of a Pod.
func (d *Document) decodeItem(place *yaml.Node) []*Document {
	n := resolve(place)
	switch {
	case kindOf(n) == "null":
		d.decoded.fault(place, nil, "found nothing; allowed: a Container")
		d.Faults = d.decoded.faults
	case rootKind(n, kindList):
		d.decoded.fault(place, nil, "found a List in a List; allowed: its items in its place")
		d.Faults = d.decoded.faults
	case rootKind(n, kindPod):
		return d.decodePod(n)
	default:
		d.decode(n)
		d.Faults = sorted(d.Faults)
	}
	return []*Document{d}
}
