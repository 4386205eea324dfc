// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxNodes bounds how much a document may become by aliases.
const maxNodes = 1 << 18

// decoder turns the nodes of a document into JSON values of a type, and notes every fault on the
// way.
type decoder struct {
	// secret hides the values of data in messages.
	secret bool
	// pod reports whether the document is a Pod.
	pod    bool
	line   int    // line of the file at which the document's text begins
	item   string // the path of the document in a List, or ""
	visits int
	large  bool // more than maxNodes were visited
	faults []Fault
	// places are the nodes of the fields by path.
	places map[string]*yaml.Node
	// touched has the paths of reported faults, so that none is reported twice.
	touched []string
}

// manyFaults is the greatest number of faults that are noted of a document. Explaining one takes
// some time.
const manyFaults = 512

// fault notes that a field is wrong. The fault also concerns the paths of others.
func (d *decoder) fault(n *yaml.Node, at *field.Path, message string, others ...string) {
	if len(d.faults) >= manyFaults {
		return
	}
	path := pathOf(at)
	message = d.withoutValue(path, message)
	d.faults = append(d.faults, Fault{
		Line: d.line + n.Line, Column: n.Column, Field: d.below(path),
		Message: message,
	})
	d.touched = append(append(d.touched, path), others...)
}

// below returns the path of a field in the document. Before it is the document's place in a List.
func (d *decoder) below(path string) string {
	if d.item == "" || path == "" {
		return d.item + path
	}
	return d.item + "." + path
}

func pathOf(at *field.Path) string {
	if at == nil {
		return ""
	}
	return at.String()
}

func child(at *field.Path, name string) *field.Path {
	if at == nil {
		return field.NewPath(name)
	}
	return at.Child(name)
}

// explains reports whether a fault of the content follows from one that has been noted.
func (d *decoder) explains(e *field.Error) bool {
	below := func(path, above string) bool {
		rest, ok := strings.CutPrefix(path, above)
		return ok && (rest == "" || above == "" || rest[0] == '.' || rest[0] == '[')
	}
	return slices.ContainsFunc(d.touched, func(path string) bool {
		switch {
		case below(e.Field, path):
			return true
		case e.Type == field.ErrorTypeNotFound:
			return below(path, "spec.volumes")
		case e.Field == "spec.image" && (below(path, "spec.rootfs") || below(path, "spec.archive")):
			return true
		}
		return e.Type == field.ErrorTypeRequired && below(path, e.Field)
	})
}

// resolve follows aliases.
func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	return n
}

// value returns a node as a JSON value of a type, or false if the node cannot be one.
func (d *decoder) value(n *yaml.Node, t reflect.Type, at *field.Path) (any, bool) {
	if d.visits++; d.visits > maxNodes || len(d.faults) >= manyFaults {
		d.tooMuch(n, at)
		return nil, false
	}
	if d.places == nil {
		d.places = map[string]*yaml.Node{}
	}
	d.places[pathOf(at)] = n
	place := n
	n = resolve(n)
	if kind := kindOf(n); kind == "null" {
		return nil, true
	} else if kind == "tagged" {
		d.fault(place, at, "found the tag "+n.Tag+"; allowed: no tag")
		return nil, false
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == reflect.TypeFor[resource.Quantity]():
		return d.quantity(n, place, at)
	case t == reflect.TypeFor[[]byte]():
		return d.binary(n, place, at)
	case reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()),
		reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()):
		return d.own(n, place, t, at)
	}
	switch t.Kind() {
	case reflect.Struct:
		return d.object(n, place, t, at)
	case reflect.Map:
		return d.dictionary(n, place, t, at)
	case reflect.Slice:
		return d.list(n, place, t, at)
	case reflect.String:
		if kindOf(n) == "string" {
			return n.Value, true
		}
	case reflect.Bool:
		if kindOf(n) == "bool" {
			return slices.Contains([]string{"true", "yes", "on", "y"}, strings.ToLower(n.Value)), true
		}
	case reflect.Int32, reflect.Int64:
		if v, ok := integer(n); ok && !reflect.Zero(t).OverflowInt(v) {
			return v, true
		}
	}
	d.wrongForm(n, place, t, at)
	return nil, false
}

// tooMuch notes once that a document has more values than a Container can have.
func (d *decoder) tooMuch(n *yaml.Node, at *field.Path) {
	if d.visits > maxNodes && !d.large {
		d.large = true
		d.fault(n, at,
			fmt.Sprintf("found more than %d values; allowed: fewer (aliases count each time they are used)",
				maxNodes))
	}
}

// own reports whether a type reads JSON itself, such as a time.
func (d *decoder) own(n, place *yaml.Node, t reflect.Type, at *field.Path) (any, bool) {
	v, ok := d.plain(n)
	if raw, err := json.Marshal(v); ok && err == nil &&
		json.Unmarshal(raw, reflect.New(t).Interface()) == nil {
		return v, true
	}
	d.wrongForm(n, place, t, at)
	return nil, false
}

// plain returns a node as JSON without a type.
func (d *decoder) plain(n *yaml.Node) (any, bool) {
	if d.visits++; d.visits > maxNodes {
		return nil, false
	}
	n = resolve(n)
	switch n.Kind {
	case yaml.SequenceNode:
		out := []any{}
		for _, item := range n.Content {
			v, ok := d.plain(item)
			if !ok {
				return nil, false
			}
			out = append(out, v)
		}
		return out, true
	case yaml.MappingNode:
		out := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			v, ok := d.plain(n.Content[i+1])
			if !ok {
				return nil, false
			}
			out[n.Content[i].Value] = v
		}
		return out, true
	}
	switch kindOf(n) {
	case "string":
		return n.Value, true
	case "null":
		return nil, true
	}
	var v any
	err := n.Decode(&v)
	return v, err == nil
}

func (d *decoder) quantity(n, place *yaml.Node, at *field.Path) (any, bool) {
	if kind := kindOf(n); kind == "string" || kind == "number" {
		if _, err := resource.ParseQuantity(n.Value); err == nil {
			return n.Value, true
		}
		d.fault(place, at, "found "+describe(n)+"; "+quantityHint(n.Value, at))
		return nil, false
	}
	d.wrongForm(n, place, reflect.TypeFor[resource.Quantity](), at)
	return nil, false
}

// pair is a field of a map.
type pair struct{ key, value *yaml.Node }

// pairs returns the fields of a map, those that a merge key (<<) brings included, and notes names
// that are no strings or come twice.
func (d *decoder) pairs(n *yaml.Node, at *field.Path) []pair {
	var out, merged []pair
	first := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if d.visits++; d.visits > maxNodes || len(d.faults) >= manyFaults {
			d.tooMuch(n, at)
			break
		}
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge" {
			merged = append(merged, d.merge(value, at, 0)...)
			continue
		}
		name := resolve(key)
		if kindOf(name) != "string" {
			d.fault(key, at, "found "+describe(name)+" as a name; allowed: a string"+quoteIt(name))
			continue
		}
		if other := first[name.Value]; other != nil {
			d.fault(key, child(at, name.Value),
				fmt.Sprintf("found field %q a second time; the first is at line %d", name.Value, d.line+
					other.Line))
			continue
		}
		first[name.Value] = key
		out = append(out, pair{name, value})
		d.places[pathOf(at)+"\x00"+name.Value] = key
	}
	for _, p := range merged {
		if first[p.key.Value] == nil {
			first[p.key.Value] = p.key
			out = append(out, p)
		}
	}
	return out
}

// merge returns the value of a merge key: a map, or several of which the first one counts.
func (d *decoder) merge(n *yaml.Node, at *field.Path, depth int) []pair {
	n = resolve(n)
	switch {
	case n.Kind == yaml.MappingNode && d.visits < maxNodes:
		d.visits += len(n.Content)
		return d.pairs(n, at)
	case n.Kind == yaml.SequenceNode && depth == 0:
		var out []pair
		for _, item := range n.Content {
			out = append(out, d.merge(item, at, 1)...)
		}
		return out
	}
	d.fault(n, at, "found "+describe(n)+" to merge; allowed: a map, or a list of maps")
	return nil
}

func (d *decoder) object(n, place *yaml.Node, t reflect.Type, at *field.Path) (any, bool) {
	if n.Kind != yaml.MappingNode {
		d.wrongForm(n, place, t, at)
		return nil, false
	}
	known := fields(t)
	out := map[string]any{}
	for _, p := range d.pairs(n, at) {
		name := p.key.Value
		ft, ok := known[name]
		if !ok {
			if len(d.faults) >= manyFaults {
				break
			}
			same := d.unknownField(p, t, at)
			if ft, ok = known[same]; !ok || has(n, same) {
				continue
			}
			name = same // read on as what was meant, to find all that is wrong with it
		}
		if v, ok := d.value(p.value, ft, child(at, name)); ok && v != nil {
			out[name] = v
		} else if v == nil && ok {
			d.emptyField(p, child(at, name))
		}
	}
	return out, true
}

// has reports whether a map has a field.
func has(n *yaml.Node, name string) bool {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return true
		}
	}
	return false
}

func (d *decoder) dictionary(n, place *yaml.Node, t reflect.Type, at *field.Path) (any, bool) {
	if n.Kind != yaml.MappingNode {
		d.wrongForm(n, place, t, at)
		return nil, false
	}
	out := map[string]any{}
	for _, p := range d.pairs(n, at) {
		key := at.Key(p.key.Value)
		if kindOf(resolve(p.value)) == "null" && t.Elem().Kind() != reflect.String {
			d.fault(p.value, key, "found nothing; allowed: "+expected(t.Elem()))
			continue
		}
		if v, ok := d.value(p.value, t.Elem(), key); ok {
			if v == nil {
				v = ""
			}
			out[p.key.Value] = v
		}
	}
	return out, true
}

// list keeps a place for an item that is wrong, so that the others keep their numbers.
func (d *decoder) list(n, place *yaml.Node, t reflect.Type, at *field.Path) (any, bool) {
	if n.Kind != yaml.SequenceNode {
		d.wrongForm(n, place, t, at)
		return nil, false
	}
	out := []any{}
	for i, item := range n.Content {
		if kindOf(resolve(item)) == "null" {
			d.fault(item, at.Index(i), "found nothing; allowed: "+expected(t.Elem()))
			out = append(out, nil)
			continue
		}
		v, ok := d.value(item, t.Elem(), at.Index(i))
		if !ok {
			v = nil
		}
		out = append(out, v)
	}
	return out, true
}
