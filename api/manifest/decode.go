// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"encoding"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/berth-run/berth/api/v1alpha1"
)

// maxNodes bounds how much a document may become by aliases.
const maxNodes = 1 << 18

// decoder turns the nodes of a document into JSON values of a type, and notes every fault on the
// way.
type decoder struct {
	line   int // that of the file at which the document's text begins
	visits int
	large  bool // more than maxNodes were visited
	faults []Fault
	// places are the nodes of the fields by path.
	places map[string]*yaml.Node
	// touched are the paths that faults concern: what is wrong with these has been said.
	touched []string
}

// manyFaults is how many faults of a document are noted at most. Explaining one takes some time.
const manyFaults = 512

// fault notes that a field is wrong. The fault also concerns the paths of others.
func (d *decoder) fault(n *yaml.Node, at *field.Path, message string, others ...string) {
	if len(d.faults) >= manyFaults {
		return
	}
	path := pathOf(at)
	d.faults = append(d.faults, Fault{Line: d.line + n.Line, Column: n.Column, Field: path, Message: message})
	d.touched = append(append(d.touched, path), others...)
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

// identify refuses what is no Container at all; another spelling of its kind or version is only
// noted.
func (d *decoder) identify(root *yaml.Node) *Fault {
	fault := func(n *yaml.Node, path, message string) *Fault {
		return &Fault{Line: d.line + n.Line, Column: n.Column, Field: path, Message: message}
	}
	if root.Kind != yaml.MappingNode {
		return fault(root, "", "found "+describe(root)+"; allowed: a Container, which begins with apiVersion and kind")
	}
	entry := func(name string) *yaml.Node {
		for i := 0; i+1 < len(root.Content); i += 2 {
			if root.Content[i].Value == name {
				return resolve(root.Content[i+1])
			}
		}
		return nil
	}
	apiVersion, kind := entry("apiVersion"), entry("kind")
	text := func(n *yaml.Node) string {
		if n == nil || n.Kind != yaml.ScalarNode {
			return ""
		}
		return n.Value
	}
	version := v1alpha1.GroupVersion.String()
	if text(apiVersion) == version && text(kind) == containerKind {
		return nil
	}
	at := root
	switch {
	case kind != nil && text(kind) != containerKind:
		at = kind
	case apiVersion != nil:
		at = apiVersion
	}
	message := fmt.Sprintf("found %q, %q; allowed: %q, %q", text(apiVersion), text(kind), version, containerKind)
	switch {
	case apiVersion == nil && kind == nil && entry("services") != nil:
		message += "; this looks like a compose file: write each service as a Container of its own"
	case text(kind) == "List" || text(kind) == containerKind+"List":
		message += "; write each item as a document of its own, with a line --- between them"
	case text(kind) != containerKind && nearest(text(kind), []string{containerKind}) != "":
		message += fmt.Sprintf("; did you mean %q?", containerKind)
	case slices.Contains([]string{"Pod", "Deployment", "DaemonSet", "StatefulSet", "ReplicaSet", "Job", "CronJob"}, text(kind)):
		message += "; write each container of the " + text(kind) + " as a Container: its fields stand directly in spec"
	case text(kind) == "ConfigMap" || text(kind) == "Secret":
		message += "; Berth does not read it yet: write values into env, or files of the node as hostPath volumes"
	}
	return fault(at, "apiVersion, kind", message)
}

const containerKind = "Container"

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
	case reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()), reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()):
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
		d.fault(n, at, fmt.Sprintf("found more than %d values; allowed: fewer (aliases count each time they are used)", maxNodes))
	}
}

// own is a type that reads JSON itself, such as a time.
func (d *decoder) own(n, place *yaml.Node, t reflect.Type, at *field.Path) (any, bool) {
	v, ok := d.plain(n)
	if raw, err := json.Marshal(v); ok && err == nil && json.Unmarshal(raw, reflect.New(t).Interface()) == nil {
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
			d.fault(key, child(at, name.Value), fmt.Sprintf("found field %q a second time; the first is at line %d", name.Value, d.line+other.Line))
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

// merge returns what a merge key brings: a map, or several of which the first one counts.
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

// kindOf returns what YAML 1.1, which kubectl reads, takes a node for: null, bool, number, string,
// map, list, or tagged for a tag that no field has.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "map"
	case yaml.SequenceNode:
		return "list"
	}
	switch n.ShortTag() {
	case "!!null":
		return "null"
	case "!!bool":
		return "bool"
	case "!!int", "!!float":
		return "number"
	case "!!timestamp":
		return "string"
	case "!!str", "!!merge":
		if n.Style == 0 && slices.Contains([]string{"y", "yes", "on", "n", "no", "off"}, strings.ToLower(n.Value)) &&
			(n.Value == strings.ToLower(n.Value) || n.Value == strings.ToUpper(n.Value) || n.Value == strings.ToUpper(n.Value[:1])+strings.ToLower(n.Value[1:])) {
			return "bool"
		}
		return "string"
	}
	return "tagged"
}

// integer returns the value of a whole number.
func integer(n *yaml.Node) (int64, bool) {
	if kindOf(n) != "number" {
		return 0, false
	}
	var v any
	if n.Decode(&v) != nil {
		return 0, false
	}
	switch v := v.(type) {
	case int:
		return int64(v), true
	case int64:
		return v, true
	case float64:
		return int64(v), v == float64(int64(v))
	}
	return 0, false
}

// fields are the names of a struct's fields, those of embedded structs included, with their types.
func fields(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case f.Anonymous && name == "" || strings.Contains(options, "inline"):
			inner := f.Type
			if inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			maps.Copy(out, fields(inner))
		case name != "":
			out[name] = f.Type
		}
	}
	return out
}

// names returns the sorted names of a struct's fields.
func names(t reflect.Type) []string { return slices.Sorted(maps.Keys(fields(t))) }

// quote shows text in a message.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strconv.Quote(s)
}

// describe says what a node is.
func describe(n *yaml.Node) string {
	switch kind := kindOf(n); kind {
	case "map":
		return "a map"
	case "list":
		return "a list"
	case "null":
		return "nothing"
	case "bool":
		if v := strings.ToLower(n.Value); v != "true" && v != "false" {
			return n.Value + ", which YAML reads as the boolean " + strconv.FormatBool(v[0] == 'y' || v == "on")
		}
		return "the boolean " + n.Value
	case "number":
		return "the number " + n.Value
	}
	return quote(n.Value)
}

// quoteIt says how to write a scalar as a string.
func quoteIt(n *yaml.Node) string {
	if kind := kindOf(n); kind == "bool" || kind == "number" {
		return ": write " + strconv.Quote(n.Value)
	}
	return ""
}

// expected says what a type allows.
func expected(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == reflect.TypeFor[resource.Quantity]():
		return "a quantity such as 500m (of cpu) or 64Mi (of memory)"
	case t == reflect.TypeFor[time.Time](), strings.HasSuffix(t.Name(), "Time"):
		return "a time such as 2026-01-02T15:04:05Z"
	}
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false, without quotes"
	case reflect.Int32, reflect.Int64:
		return "a whole number, without quotes"
	case reflect.Slice:
		switch items(t).Kind() {
		case reflect.Struct:
			return "a list of maps with the fields " + strings.Join(names(items(t)), ", ")
		case reflect.String:
			return `a list of strings, such as ["a", "b"]`
		}
		return "a list"
	case reflect.Map:
		if items(t).Kind() == reflect.String {
			return `a map of names to strings, such as {app: "web"}`
		}
		return "a map of names, each with " + expected(items(t))
	case reflect.Struct:
		return "a map with the fields " + strings.Join(names(t), ", ")
	}
	return "another value"
}

func items(t reflect.Type) reflect.Type {
	t = t.Elem()
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}
