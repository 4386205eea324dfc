// SPDX-License-Identifier: Apache-2.0

package validate

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// MaxDocumentSize is the greatest size in bytes of a document that JSON and
// ProcessJSON read. The largest real ones (a default seccomp profile written
// out, hundreds of mounts) stay below 1 MiB.
const MaxDocumentSize = 16 << 20

// maxTypeFaults is how many fields of a wrong type are reported one by one:
// each costs another reading of the document.
const maxTypeFaults = 16

// JSON parses a document (config.json) strictly and returns it with every fault
// of it. Unknown fields are no fault (config.md, "Extensibility"). Fields given
// twice (glossary.md, "JSON objects MUST NOT include duplicate names"), bytes
// that are not UTF-8, anything after the document and documents of more than
// MaxDocumentSize bytes are. The spec is nil if the document cannot be read as
// one; faults of its other fields are reported nevertheless.
func JSON(document []byte, o Options) (*specs.Spec, Faults) {
	var spec specs.Spec
	r := reader{text: document}
	if o.Early != nil {
		r.early = func() { o.Early(&spec) }
	}
	if !r.read(&spec, func() { spec = specs.Spec{} }) {
		return nil, r.all()
	}
	faults := append(r.all(), r.apart(Spec(&spec, o))...)
	if r.errors > 0 {
		return nil, faults
	}
	return &spec, faults
}

// ProcessJSON is JSON for a process alone (process.json of `exec --process`).
func ProcessJSON(document []byte, o Options) (*specs.Process, Faults) {
	var process specs.Process
	r := reader{text: document, root: "process"}
	if !r.read(&process, func() { process = specs.Process{} }) {
		return nil, r.all()
	}
	faults := append(r.all(), r.apart(Process(&process, o))...)
	if r.errors > 0 {
		return nil, faults
	}
	return &process, faults
}

// reader reads one document. Its faults are those of the document's form.
type reader struct {
	text []byte
	// root is the field that the document is the value of, or "".
	root string
	// early, if set, is called once the document is read.
	early func()
	collector
}

// read reads the document into v, which reset empties. It reports false if the
// document is no JSON object, so that nothing more can be said.
func (r *reader) read(v any, reset func()) bool {
	if !r.isObject() || !r.decode(v, reset) {
		return false
	}
	if r.early != nil {
		r.early()
	}
	s := scanner{text: r.text, pattern: []byte(r.root)}
	s.twice = func(path string, first, second int) {
		r.err(path, "the name again at "+position(r.text, second), "each name once; the first is at "+position(r.text, first))
	}
	s.missing = func(path string, severity Severity) {
		const allowed = "a value: the specification requires the field"
		if severity == Warning {
			r.warn(path, nothing, allowed)
		} else {
			r.err(path, nothing, allowed)
		}
	}
	s.value()
	return true
}

// isObject checks what must hold before any parsing.
func (r *reader) isObject() bool {
	if len(r.text) > MaxDocumentSize {
		r.err("", decimal(len(r.text))+" bytes", "at most "+decimal(MaxDocumentSize)+" bytes")
		return false
	}
	if i := invalidUTF8(r.text); i >= 0 {
		r.err(pathAt(r.text, i), "bytes that are not UTF-8 at "+position(r.text, i), "JSON in UTF-8")
		return false
	}
	trimmed := bytes.TrimLeft(r.text, " \t\r\n")
	if len(trimmed) == 0 {
		r.err("", nothing, "a JSON object")
		return false
	}
	if trimmed[0] != '{' {
		r.err("", quote(shorten(trimmed))+" at "+position(r.text, len(r.text)-len(trimmed)), "a JSON object")
		return false
	}
	return true
}

// decode parses the document into v. encoding/json reports the first field of
// a wrong type only: each one is recorded, then blanked out, and the rest is
// read again.
func (r *reader) decode(v any, reset func()) bool {
	if unmarshal(r.text, v) == nil {
		return true
	}
	reset()
	text, removed := r.text, 0
	for {
		err := json.Unmarshal(text, v)
		if err == nil {
			return true
		}
		if syntaxErr, ok := errors.AsType[*json.SyntaxError](err); ok {
			i := int(syntaxErr.Offset)
			if i > 0 && !strings.Contains(syntaxErr.Error(), "unexpected end") {
				i-- // the offset is behind the offending byte
			}
			i = min(i, len(text))
			r.err(pathAt(text, i), syntaxErr.Error()+" at "+position(text, i), "one JSON object and nothing behind it")
			return false
		}
		typeErr, ok := errors.AsType[*json.UnmarshalTypeError](err)
		if !ok {
			r.err("", err.Error(), "a document of the runtime specification")
			return false
		}
		value, found := valueAt(text, int(typeErr.Offset))
		if !found || r.errors == maxTypeFaults {
			r.err(typeErr.Field, "a "+typeErr.Value+" at offset "+decimal(int(typeErr.Offset)+removed), goType(typeErr))
			return false
		}
		literal := text[value.start:value.end]
		line, _ := lineColumn(text, value.start)
		r.err(value.path, quote(shorten(literal))+" at line "+decimal(line)+", offset "+decimal(value.start+removed), goType(typeErr))
		// Newlines stay, so that the lines of what follows do.
		blank := append([]byte("null"), bytes.Repeat([]byte("\n"), bytes.Count(literal, []byte("\n")))...)
		removed += len(literal) - len(blank)
		text = bytes.Join([][]byte{text[:value.start], text[value.end:]}, blank)
		reset()
	}
}

// apart leaves out of found what the reader has said already: a field that is
// missing or of a wrong type is left empty, and Spec would complain of that.
func (r *reader) apart(found Faults) Faults {
	if len(r.faults) == 0 {
		return found
	}
	kept := found[:0]
	for _, f := range found {
		said := false
		for _, p := range r.faults {
			said = said || within(f.Path, p.Path) || f.Path == parent(p.Path)
		}
		if !said {
			kept = append(kept, f)
		}
	}
	return kept
}

// within reports whether path is the field outer or one inside of it.
func within(path, outer string) bool {
	rest, ok := strings.CutPrefix(path, outer)
	return ok && outer != "" && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// parent returns the path of the object or array that a field is in.
func parent(path string) string {
	return path[:max(0, strings.LastIndexAny(path, ".["))]
}

// goType says which JSON a field takes, from the Go type it is read into.
func goType(e *json.UnmarshalTypeError) string {
	kind := ""
	if e.Type != nil {
		kind = e.Type.Kind().String()
	}
	switch kind {
	case "string":
		return "a string"
	case "bool":
		return "true or false"
	case "slice", "array":
		return "an array"
	case "struct", "map", "ptr":
		return "an object"
	case "int", "int64":
		return "a whole number from -9223372036854775808 to 9223372036854775807"
	case "int32":
		return "a whole number from -2147483648 to 2147483647"
	case "uint", "uint64":
		return "a whole number from 0 to 18446744073709551615"
	case "uint32":
		return "a whole number from 0 to 4294967295"
	case "uint16":
		return "a whole number from 0 to 65535"
	}
	return "another type of value"
}

// shorten returns the start of a value's text on one line.
func shorten(text []byte) string {
	if i := bytes.IndexByte(text, '\n'); i >= 0 {
		text = text[:i]
	}
	return string(bytes.TrimRight(text[:min(len(text), 4*maxQuoted)], " \t\r"))
}

// invalidUTF8 returns where the first byte that is not UTF-8 stands, or -1.
func invalidUTF8(text []byte) int {
	if utf8.Valid(text) {
		return -1
	}
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

// position describes a place in the document, for people and for programs.
func position(text []byte, offset int) string {
	line, column := lineColumn(text, offset)
	return "line " + strconv.Itoa(line) + ", column " + strconv.Itoa(column) + " (offset " + strconv.Itoa(offset) + ")"
}

// lineColumn counts from 1, in bytes.
func lineColumn(text []byte, offset int) (line, column int) {
	before := text[:min(offset, len(text))]
	return bytes.Count(before, []byte("\n")) + 1, len(before) - bytes.LastIndexByte(before, '\n')
}
