// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"regexp"
	"sort"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	strictjson "sigs.k8s.io/json"

	"github.com/berth-run/berth/api/v1alpha1"
)

// Document is one document of a file, or one item of a List.
type Document struct {
	// Line is the first line of the document, counted from 1.
	Line int
	// Item is the path of the item in its List, such as items[0], with which the fields of its faults
	// begin; "" for a document.
	Item string
	// Pod is the name of the Pod that Container is a container of; "" for a document of a Container. A
	// Pod is returned as a document for each of its containers.
	Pod string
	// Container is the document's Container, without the fields that are wrong; nil if it is no
	// Container. It is complete only without Faults.
	Container *v1alpha1.Container
	// Kind is "ConfigMap", "Secret" or KindClaim for a document of one, else empty.
	Kind string
	// Object is the object of such a document, or nil for a document of another kind. It is complete
	// only without Faults.
	Object *Object
	// Faults are in the order of the file.
	Faults []Fault

	decoded decoder
	// origin maps fields of the Container to fields of its Pod; nil outside of a Pod.
	origin *origin
	// reported has the faults that the documents of the same Pod have reported: they have fields in
	// common, whose faults are reported once. It is nil outside of a Pod.
	reported map[Fault]bool
}

// Parse reads every document of a file, and every item of a List as a document. Documents without
// content are left out.
func Parse(data []byte) []*Document {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if at := bytes.IndexByte(data, 0); at >= 0 {
		return []*Document{{Line: 1, Faults: []Fault{{
			Line:    1 + bytes.Count(data[:at], []byte{'\n'}),
			Message: "found a NUL byte; allowed: text in UTF-8",
		}}}}
	}
	var out []*Document
	for _, c := range split(data) {
		out = append(out, parse(c)...)
	}
	return out
}

func parse(c chunk) []*Document {
	d := &Document{Line: c.line + 1}
	d.decoded.line = c.line
	root, err := readNode(append(bytes.Repeat([]byte(" "), c.column), withoutJSONEscapes(c.text)...))
	switch {
	case err != "":
		d.Faults = []Fault{syntaxFault(err, c)}
	case root == nil:
		d.Faults = []Fault{{Line: d.Line, Message: "found no content; allowed: a Container"}}
	case rootKind(root, kindList):
		return d.decodeList(root)
	case rootKind(root, kindPod):
		return d.decodePod(root)
	default:
		d.decode(root)
		d.Faults = sorted(d.Faults)
	}
	return []*Document{d}
}

// noMarker is the parser's message for text behind a document.
const noMarker = "did not find expected <document start>"

// readNode parses text with one document. An error is the parser's message without its line, which
// is that of the beginning of a map or list, and not always that.
func readNode(text []byte) (*yaml.Node, string) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var root, second yaml.Node
	if err := decoder.Decode(&root); err != nil {
		return nil, withoutLine(err)
	}
	switch err := decoder.Decode(&second); {
	case err == nil:
		return nil, noMarker
	case !errors.Is(err, io.EOF):
		return nil, withoutLine(err)
	case root.Kind != yaml.DocumentNode || len(root.Content) != 1:
		return nil, ""
	}
	return root.Content[0], ""
}

var yamlLine = regexp.MustCompile(`^yaml: (line \d+: )?`)

func withoutLine(err error) string { return yamlLine.ReplaceAllString(err.Error(), "") }

// decode reads the document's root.
func (d *Document) decode(root *yaml.Node) {
	if root.Kind == yaml.MappingNode {
		d.Line = d.decoded.line + root.Line
	}
	if kind := objectKind(root); kind != "" {
		d.decodeObject(root, kind)
		return
	}
	if fault := d.decoded.identify(root); fault != nil {
		d.Faults = []Fault{*fault}
		return
	}
	value, ok := d.decoded.value(root, reflect.TypeFor[v1alpha1.Container](), nil)
	d.Faults = d.decoded.faults
	if !ok {
		return
	}
	raw, err := json.Marshal(value)
	c := &v1alpha1.Container{}
	if err == nil {
		var strict []error
		if strict, err = strictjson.UnmarshalStrict(raw, c); err == nil {
			err = errors.Join(strict...)
		}
	}
	if err != nil { // the decoder takes something that the type does not
		if len(d.Faults) == 0 {
			d.Faults = []Fault{{Line: d.Line, Field: d.Item, Message: err.Error()}}
		}
		return
	}
	d.Container = c
}

// Named reports whether the document names a Container that there can be, though it may be wrong
// otherwise.
func (d *Document) Named() bool {
	return d.Container != nil && validation.IsDNS1123Subdomain(d.Container.Name) == nil &&
		(d.Container.Namespace == "" || validation.IsDNS1123Label(d.Container.Namespace) == nil)
}

// Report adds faults of what has been decoded, each with the position of its field. A fault that
// only follows from one that is there already, such as a missing image beside a misspelt one, is
// left out.
func (d *Document) Report(faults field.ErrorList) {
	for _, e := range faults {
		found := *e
		found.Field = d.origin.path(e.Field)
		if d.decoded.explains(&found) {
			continue
		}
		fault := d.At(e.Field, semantic(e))
		if d.reported[fault] {
			continue
		}
		if d.reported != nil {
			d.reported[fault] = true
		}
		d.Faults = append(d.Faults, fault)
	}
	d.Faults = sorted(d.Faults)
}

// Has reports whether the document has a field.
func (d *Document) Has(path string) bool { return d.decoded.places[path] != nil }

// At returns a fault at the position of a field or, if it is absent, of its nearest parent. For a
// container of a Pod, path is the path in the Container, and the fault has the path in the Pod.
func (d *Document) At(path, message string) Fault {
	path = d.origin.path(path)
	f := Fault{Line: d.Line, Column: 1, Field: d.decoded.below(path), Message: message}
	for at := path; at != ""; at = parent(at) {
		if n := d.decoded.places[at]; n != nil {
			f.Line, f.Column = d.decoded.line+n.Line, n.Column
			break
		}
	}
	return f
}

// parent cuts the last element off a path: spec.env[0] is the parent of spec.env[0].name.
func parent(path string) string {
	if strings.HasSuffix(path, "]") {
		return path[:max(strings.LastIndexByte(path, '['), 0)]
	}
	return path[:max(strings.LastIndexByte(path, '.'), 0)]
}

// secretText finds a Secret in text that is not YAML, of whose values nothing is to be shown.
var secretText = regexp.MustCompile(`\bkind["']?\s*:\s*["']?Secret\b`)

// syntaxFault returns the fault of text that is not valid YAML.
func syntaxFault(message string, c chunk) Fault {
	lines := bytes.SplitAfter(c.text, []byte{'\n'})
	// The first line with which the text fails in the same way is where people look for the
	// mistake.
	first := 0
	if len(c.text) < 1<<20 { // it is parsed some 20 times
		first = sort.Search(len(lines)-1, func(i int) bool {
			_, err := readNode(bytes.Join(lines[:i+1], nil))
			return err == message
		})
	}
	f := Fault{Line: c.line + first + 1, Message: "found text that is not YAML: " + message}
	switch {
	case strings.Contains(message, "cannot start any token"):
		if rest := bytes.TrimLeft(lines[first], " "); len(rest) > 0 && rest[0] == '\t' {
			f.Column = len(lines[first]) - len(rest) + 1
			f.Message = "found a tab in the indentation; allowed: spaces"
		} else {
			f.Message = "found text that begins with %, @ or a backquote; allowed: quotes around it"
		}
	case strings.Contains(message, "unknown anchor"):
		if secretText.Match(c.text) {
			message = "its text is not shown"
		}
		f.Message = "found text that YAML takes for an alias (" + message +
			"); allowed: quotes around text that begins with *"
	case message == noMarker:
		f.Message = "found more text after the end of the document; allowed: a line --- between documents"
	case strings.Contains(message, "mapping values are not allowed"):
		f.Message = `found ": " where no field can begin; allowed: quotes around text that has ": " in it, or another indentation`
	case strings.Contains(message, "did not find expected key"), strings.Contains(message,
		"did not find expected '-' indicator"):
		f.Message = "found a line that does not fit those above it; allowed: the same indentation for all fields of a map and all items of a list"
	case strings.Contains(message, "could not find expected ':'"):
		f.Message = "found a line without a colon; allowed: NAME: VALUE, with a space after the colon"
	case strings.Contains(message, "unexpected end of stream"):
		f.Message = "found a quote that is not closed; allowed: the same quote at the end of the text"
	case strings.Contains(message, "',' or ']'"), strings.Contains(message, "',' or '}'"):
		f.Message = "found a bracket that is not closed, or a comma that is missing before this line's end"
	}
	return f
}
