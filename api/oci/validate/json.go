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
const maxTypeFaults = 32

// JSON parses a document (config.json) strictly and returns it with every fault
// of it. Unknown fields are no fault (config.md, "Extensibility"). Fields given
// twice (glossary.md, "JSON objects MUST NOT include duplicate names"), bytes
// that are not UTF-8, anything after the document and documents of more than
// MaxDocumentSize bytes are. The spec is nil if the document cannot be read as
// one; faults of its other fields are reported nevertheless.
func JSON(document []byte, o Options) (*specs.Spec, Faults) {
	var spec specs.Spec
	faults, readable := parse(document, "", &spec, func() { spec = specs.Spec{} })
	if readable {
		faults = append(faults, apart(Spec(&spec, o), faults)...)
	}
	if !readable || hasTypeFault(faults) {
		return nil, faults
	}
	return &spec, faults
}

// ProcessJSON is JSON for a process alone (process.json of `exec --process`).
func ProcessJSON(document []byte, o Options) (*specs.Process, Faults) {
	var process specs.Process
	faults, readable := parse(document, "process", &process, func() { process = specs.Process{} })
	if readable {
		faults = append(faults, apart(Process(&process, o), faults)...)
	}
	if !readable || hasTypeFault(faults) {
		return nil, faults
	}
	return &process, faults
}

// hasTypeFault tells whether parse found errors: a document of which fields are
// missing or ambiguous must not be used.
func hasTypeFault(faults Faults) bool {
	for _, f := range faults {
		if f.syntax {
			return true
		}
	}
	return false
}

// apart leaves out of found what parse has said already: a field of a wrong
// type is left empty, and would be reported as missing too.
func apart(found, parsed Faults) Faults {
	if len(parsed) == 0 {
		return found
	}
	kept := found[:0]
	for _, f := range found {
		said := false
		for _, p := range parsed {
			said = said || within(f.Path, p.Path) || within(p.Path, f.Path)
		}
		if !said {
			kept = append(kept, f)
		}
	}
	return kept
}

// within tells whether path is the field outer or one inside of it.
func within(path, outer string) bool {
	rest, ok := strings.CutPrefix(path, outer)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// parse reads the document into v, which reset empties, and returns the faults
// of its form; root is the field that the document is the value of. It reports
// false if the document is no JSON object, so that nothing more can be said.
func parse(document []byte, root string, v any, reset func()) (faults Faults, readable bool) {
	fault := func(path, found, allowed string) {
		faults = append(faults, Fault{Path: path, Found: found, Allowed: allowed, Severity: Error, syntax: true})
	}
	if len(document) > MaxDocumentSize {
		fault("", decimal(len(document))+" bytes", "at most "+decimal(MaxDocumentSize)+" bytes")
		return faults, false
	}
	if i := invalidUTF8(document); i >= 0 {
		fault(pathAt(document, i), "bytes that are not UTF-8 at "+position(document, i), "JSON in UTF-8")
		return faults, false
	}
	if trimmed := bytes.TrimLeft(document, " \t\r\n"); len(trimmed) == 0 {
		fault("", nothing, "a JSON object")
		return faults, false
	} else if trimmed[0] != '{' {
		at := len(document) - len(trimmed)
		fault("", quote(shorten(trimmed))+" at "+position(document, at), "a JSON object")
		return faults, false
	}

	// encoding/json reports the first field of a wrong type only. Each one is
	// reported, then blanked out, and the rest is read again.
	text, removed := document, 0
	for {
		err := json.Unmarshal(text, v)
		if err == nil {
			break
		}
		if syntaxErr, ok := errors.AsType[*json.SyntaxError](err); ok {
			i := int(syntaxErr.Offset)
			if i > 0 && i <= len(text) && !strings.Contains(syntaxErr.Error(), "unexpected end") {
				i-- // the offset is behind the offending byte
			}
			i = min(i, len(text))
			fault(pathAt(text, i), syntaxErr.Error()+" at "+position(text, i), "one JSON object and nothing behind it")
			return faults, false
		}
		typeErr, ok := errors.AsType[*json.UnmarshalTypeError](err)
		if !ok {
			fault("", err.Error(), "a runtime-spec document")
			return faults, false
		}
		value, found := valueAt(text, int(typeErr.Offset))
		if !found || len(faults) == maxTypeFaults {
			fault(typeErr.Field, "a "+typeErr.Value+" at offset "+decimal(int(typeErr.Offset)+removed), goType(typeErr))
			return faults, false
		}
		literal := text[value.start:value.end]
		line, _ := lineColumn(text, value.start)
		fault(value.path, quote(shorten(literal))+" at line "+decimal(line)+", offset "+decimal(value.start+removed), goType(typeErr))
		// Newlines stay, so that the lines of what follows do.
		blank := append([]byte("null"), bytes.Repeat([]byte("\n"), bytes.Count(literal, []byte("\n")))...)
		removed += len(literal) - len(blank)
		text = bytes.Join([][]byte{text[:value.start], text[value.end:]}, blank)
		reset()
	}
	s := scanner{text: document, pattern: []byte(root)}
	s.twice = func(path string, first, second int) {
		fault(path, "the name again at "+position(document, second), "each name once; the first is at "+position(document, first))
	}
	s.missing = func(path string, severity Severity) {
		faults = append(faults, Fault{Path: path, Found: nothing, Allowed: "a value: the specification requires the field", Severity: severity})
	}
	s.value()
	return faults, true
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

// position tells a place in the document to people and to programs.
func position(text []byte, offset int) string {
	line, column := lineColumn(text, offset)
	return "line " + strconv.Itoa(line) + ", column " + strconv.Itoa(column) + " (offset " + strconv.Itoa(offset) + ")"
}

// lineColumn counts from 1, in bytes.
func lineColumn(text []byte, offset int) (line, column int) {
	before := text[:min(offset, len(text))]
	return bytes.Count(before, []byte("\n")) + 1, len(before) - bytes.LastIndexByte(before, '\n')
}
