// SPDX-License-Identifier: Apache-2.0

package document

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// MaxSize is the greatest size in bytes of a text that is decoded. The largest real ones (a default
// seccomp profile written out, hundreds of mounts) stay below 1 MiB.
const MaxSize = 16 << 20

// maxTypeFaults is the number of fields of a wrong type that are reported one by one: each costs
// another reading of the text.
const maxTypeFaults = 16

// Value is a type that a whole text can be decoded into.
type Value interface {
	specs.Spec | specs.Process | specs.LinuxResources | specs.LinuxSeccomp
}

// Document is a text of the runtime specification, decoded.
type Document[T Value] struct {
	// Value has the decoded fields; those of a wrong type are empty. It is nil if the text is not
	// one JSON object.
	Value *T

	text []byte
	// root is the field of config.json that the text is the value of, or "".
	root string
	// strict makes fields that T does not have a fault.
	strict bool
	// found has the faults that decoding has met.
	found Collector
}

// Decode decodes a config.json strictly. Its faults are texts that are not JSON in UTF-8, anything
// behind the object, more than MaxSize bytes, and values of a wrong type. Unknown fields are no
// fault (config.md, "Extensibility").
func Decode(text []byte) *Document[specs.Spec] {
	return decode(Document[specs.Spec]{text: text})
}

// DecodeProcess decodes a process alone (process.json of `exec --process`).
func DecodeProcess(text []byte) *Document[specs.Process] {
	return decode(Document[specs.Process]{text: text, root: "process"})
}

// DecodeResources decodes limits alone (the file of `update --resources`). A field that the
// specification does not have is a fault here: who changes a limit that does not exist would
// believe that it holds.
func DecodeResources(text []byte) *Document[specs.LinuxResources] {
	return decode(Document[specs.LinuxResources]{text: text, root: "linux.resources", strict: true})
}

// DecodeSeccomp decodes a seccomp profile alone, as files of the kubelet's directory have it. A
// field that the specification does not have, such as archMap of docker's format, is a fault: it
// would be a rule that does not hold.
func DecodeSeccomp(text []byte) *Document[specs.LinuxSeccomp] {
	return decode(Document[specs.LinuxSeccomp]{text: text, root: "linux.seccomp", strict: true})
}

// Parse decodes a config.json that is known to have no fault.
func Parse(text []byte) (*specs.Spec, error) {
	spec := &specs.Spec{}
	if unmarshal(text, spec) == nil {
		return spec, nil
	}
	spec = &specs.Spec{}
	return spec, json.Unmarshal(text, spec)
}

// Faults returns every fault of the text's form: those that decoding has met, names that an object
// has twice (glossary.md, "JSON objects MUST NOT include duplicate names"), and required fields
// that are missing and whose absence Value does not show. It reads the text once more.
func (d *Document[T]) Faults() Faults {
	c := d.found
	c.faults = slices.Clip(c.faults) // a second call must not write into what this one returns
	if d.Value == nil {
		return c.All()
	}
	s := scanner{text: d.text, pattern: []byte(d.root)}
	s.twice = func(path string, first, second int) {
		c.Error(path, "the name again at "+positionAt(d.text, second).String(),
			"each name once; the first is at "+positionAt(d.text, first).String())
	}
	s.missing = func(path string, severity Severity) {
		const allowed = "a value: the specification requires the field"
		if severity == Warning {
			c.Warn(path, nothing, allowed)
		} else {
			c.Error(path, nothing, allowed)
		}
	}
	s.value()
	if d.strict {
		c.unknown(d.root, d.text, reflect.TypeFor[T]())
	}
	return c.All()
}

func decode[T Value](d Document[T]) *Document[T] {
	if !d.isObject() || !d.decode() {
		d.Value = nil
	}
	return &d
}

// isObject checks size, encoding and the opening brace before any parsing.
func (d *Document[T]) isObject() bool {
	if len(d.text) > MaxSize {
		d.found.Error("", strconv.Itoa(len(d.text))+" bytes", "at most "+strconv.Itoa(MaxSize)+" bytes")
		return false
	}
	if i := invalidUTF8(d.text); i >= 0 {
		d.found.Error(pathAt(d.text, i), "bytes that are not UTF-8 at "+positionAt(d.text, i).String(),
			"JSON in UTF-8")
		return false
	}
	trimmed := bytes.TrimLeft(d.text, " \t\r\n")
	if len(trimmed) == 0 {
		d.found.Error("", nothing, "a JSON object")
		return false
	}
	if trimmed[0] != '{' {
		d.found.Error("", Quote(shorten(trimmed))+" at "+
			positionAt(d.text, len(d.text)-len(trimmed)).String(), "a JSON object")
		return false
	}
	return true
}

// decode decodes the text into Value, and reports false if it is not JSON. encoding/json reports
// the first field of a wrong type only: each one is recorded, then blanked out, and the rest is
// read again.
func (d *Document[T]) decode() bool {
	d.Value = new(T)
	if unmarshal(d.text, d.Value) == nil {
		return true
	}
	text, removed := d.text, 0
	for {
		d.Value = new(T)
		err := json.Unmarshal(text, d.Value)
		if err == nil {
			return true
		}
		if syntaxErr, ok := errors.AsType[*json.SyntaxError](err); ok {
			i := int(syntaxErr.Offset)
			if i > 0 && !strings.Contains(syntaxErr.Error(), "unexpected end") {
				i-- // the offset is behind the offending byte
			}
			i = min(i, len(text))
			d.found.Error(pathAt(text, i), syntaxErr.Error()+" at "+positionAt(text, i).String(),
				"one JSON object and nothing behind it")
			return false
		}
		typeErr, ok := errors.AsType[*json.UnmarshalTypeError](err)
		if !ok {
			d.found.Error("", err.Error(), "a document of the runtime specification")
			return false
		}
		value, found := valueAt(text, int(typeErr.Offset))
		if !found || d.found.errors == maxTypeFaults {
			d.found.Error(typeErr.Field, "a "+typeErr.Value+" at offset "+strconv.Itoa(int(typeErr.Offset)+
				removed), goType(typeErr))
			return false
		}
		literal := text[value.start:value.end]
		d.found.Error(value.path, Quote(shorten(literal))+" at line "+
			strconv.Itoa(positionAt(text, value.start).Line)+", offset "+strconv.Itoa(value.start+removed),
			goType(typeErr))
		// Newlines stay, so that the lines of what follows do.
		blank := append([]byte("null"), bytes.Repeat([]byte("\n"), bytes.Count(literal, []byte("\n")))...)
		removed += len(literal) - len(blank)
		text = bytes.Join([][]byte{text[:value.start], text[value.end:]}, blank)
	}
}

// goType returns which JSON a field takes, from the Go type it is read into.
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

// invalidUTF8 returns the offset of the first byte that is not UTF-8, or -1.
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
