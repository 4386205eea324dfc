// SPDX-License-Identifier: Apache-2.0

package document

import (
	"encoding/json"
	"strconv"
	"strings"
)

// scanner walks over JSON text once and knows at each place which field that
// is. encoding/json does the parsing; the scanner reports what that does not:
// names given twice, required fields that are not there (in Go a missing
// number is 0, and a hostID of 0 is the host's root), and the path of a place.
//
// It takes any text and stops where that is no JSON.
type scanner struct {
	text []byte
	pos  int
	// steps leads from the document to where pos is.
	steps []step
	// pattern is the path of the current value with "[]" for each index, such
	// as "linux.uidMappings[]".
	pattern []byte
	// depth is the nesting depth of the value at pos.
	depth int

	// twice, if set, is called for a name given twice in an object.
	twice func(path string, first, second int)
	// missing, if set, is called for a required field that is absent.
	missing func(path string, severity Severity)
	// visit, if set, is called for each value at its end.
	visit func(start, end int)
}

// step is one step from a value into one inside of it.
type step struct {
	name   string // of a field
	index  int    // of an element, if isItem
	isItem bool
	inMap  bool // the field is a map's entry, whose name is free
}

// maxDepth is encoding/json's own limit on nesting.
const maxDepth = 10000

// path returns the path of the current value.
func (s *scanner) path() string {
	var b strings.Builder
	for _, st := range s.steps {
		if b.Len() > 1024 {
			b.WriteString("…")
			break
		}
		switch {
		case st.isItem:
			b.WriteString("[" + strconv.Itoa(st.index) + "]")
		case st.inMap:
			b.WriteString("[" + Quote(st.name) + "]")
		default:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(st.name)
		}
	}
	return b.String()
}

func (s *scanner) space() {
	for s.pos < len(s.text) {
		switch s.text[s.pos] {
		case ' ', '\t', '\r', '\n':
			s.pos++
		default:
			return
		}
	}
}

// next skips white space and reports whether the next byte is b, and if so
// passes it.
func (s *scanner) next(b byte) bool {
	s.space()
	if s.pos < len(s.text) && s.text[s.pos] == b {
		s.pos++
		return true
	}
	return false
}

// value passes a value and reports whether there was one. When there was not,
// pos and steps stay where it was missed.
func (s *scanner) value() bool {
	s.space()
	if s.pos >= len(s.text) {
		return false
	}
	start := s.pos
	var ok bool
	switch s.text[s.pos] {
	case '{':
		ok = s.object()
	case '[':
		ok = s.array()
	case '"':
		ok = s.str()
	default:
		ok = s.literal()
	}
	if ok && s.visit != nil {
		s.visit(start, s.pos)
	}
	return ok
}

// literal passes a number, true, false or null.
func (s *scanner) literal() bool {
	start := s.pos
	for s.pos < len(s.text) {
		b := s.text[s.pos]
		if !isAlphanumeric(b) && b != '-' && b != '+' && b != '.' {
			break
		}
		s.pos++
	}
	return s.pos > start
}

func isAlphanumeric(b byte) bool {
	return b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
}

// str passes a string.
func (s *scanner) str() bool {
	for i := s.pos + 1; i < len(s.text); i++ {
		switch s.text[i] {
		case '\\':
			i++
		case '"':
			s.pos = i + 1
			return true
		}
	}
	return false
}

func (s *scanner) array() bool {
	if s.depth++; s.depth > maxDepth {
		return false
	}
	s.pos++ // [
	pattern := len(s.pattern)
	s.pattern = append(s.pattern, "[]"...)
	s.steps = append(s.steps, step{isItem: true})
	top := len(s.steps) - 1
	if !s.next(']') {
		for {
			if !s.value() {
				return false
			}
			if s.next(']') {
				break
			}
			if !s.next(',') {
				return false
			}
			s.steps[top].index++
		}
	}
	s.steps = s.steps[:top]
	s.pattern = s.pattern[:pattern]
	s.depth--
	return true
}

// name is a name of an object and where it stands.
type name struct {
	text string
	at   int
	null bool // its value is null
	pipe bool // its value is "p"
}

func (s *scanner) object() bool {
	if s.depth++; s.depth > maxDepth {
		return false
	}
	s.pos++ // {
	var (
		names   []name
		room    [16]name
		pattern = len(s.pattern)
		isMap   = freeNames(s.pattern)
	)
	names = room[:0]
	s.steps = append(s.steps, step{inMap: isMap})
	top := len(s.steps) - 1
	if !s.next('}') {
		for {
			s.space()
			start := s.pos
			if s.pos >= len(s.text) || s.text[s.pos] != '"' || !s.str() {
				s.steps = s.steps[:top]
				return false
			}
			n := name{text: unquote(s.text[start:s.pos]), at: start}
			s.steps[top].name = n.text
			s.pattern = append(s.pattern[:pattern], '.')
			if pattern == 0 {
				s.pattern = s.pattern[:0]
			}
			s.pattern = append(s.pattern, n.text...)
			if !s.next(':') {
				return false
			}
			s.space()
			n.null = s.pos < len(s.text) && s.text[s.pos] == 'n'
			valueStart := s.pos
			if !s.value() {
				return false
			}
			n.pipe = string(s.text[valueStart:s.pos]) == `"p"`
			if s.twice != nil || s.missing != nil {
				names = append(names, n)
			}
			if s.next('}') {
				break
			}
			if !s.next(',') {
				return false
			}
		}
	}
	s.pattern = s.pattern[:pattern]
	s.repeated(names, top, isMap)
	s.steps = s.steps[:top]
	s.required(names)
	s.depth--
	return true
}

// repeated reports the names that come twice. In objects whose names the
// specification gives, encoding/json takes names that differ in case only for
// one, so that either could win: they count as the same.
func (s *scanner) repeated(names []name, top int, isMap bool) {
	if s.twice == nil || len(names) < 2 {
		return
	}
	report := func(first, second name) {
		s.steps[top].name = second.text
		s.twice(s.path(), first.at, second.at)
	}
	const few = 12
	if len(names) <= few {
		for i := range names {
			for j := range names[:i] {
				if names[i].text == names[j].text || !isMap && strings.EqualFold(names[i].text, names[j].text) {
					report(names[j], names[i])
					break
				}
			}
		}
		return
	}
	seen := make(map[string]name, len(names))
	for _, n := range names {
		key := n.text
		if !isMap {
			key = strings.ToLower(key)
		}
		if first, ok := seen[key]; ok {
			report(first, n)
			continue
		}
		seen[key] = n
	}
}

// required reports the fields that the specification requires and that the
// object just passed lacks, or has as null.
func (s *scanner) required(names []name) {
	if s.missing == nil {
		return
	}
	fields, severity := requiredFields(string(s.pattern))
	for _, field := range fields {
		found := false
		for _, n := range names {
			// A device of type p has no major and minor.
			found = found || !n.null && strings.EqualFold(n.text, field) || n.pipe && n.text == "type"
		}
		if !found {
			s.steps = append(s.steps, step{name: field})
			s.missing(s.path(), severity)
			s.steps = s.steps[:len(s.steps)-1]
		}
	}
}

// requiredFields returns the REQUIRED fields of the object at a pattern whose zero value is a good
// value, so that the decoded value does not show that they are missing.
func requiredFields(pattern string) ([]string, Severity) {
	switch pattern {
	case "linux.uidMappings[]", "linux.gidMappings[]", "mounts[].uidMappings[]",
		"mounts[].gidMappings[]":
		return []string{"containerID", "hostID", "size"}, Error
	case "process.rlimits[]":
		return []string{"soft", "hard"}, Error
	case "process.consoleSize":
		return []string{"height", "width"}, Error
	case "process.user":
		// REQUIRED by the text and not by the schema. Many a document written
		// by hand leaves them out and means root, as every runtime reads it.
		return []string{"uid", "gid"}, Warning
	case "linux.devices[]":
		return []string{"major", "minor"}, Error
	case "linux.resources.devices[]":
		return []string{"allow"}, Error
	case "linux.resources.blockIO.weightDevice[]":
		return []string{"major", "minor"}, Error
	case "linux.resources.blockIO.throttleReadBpsDevice[]",
		"linux.resources.blockIO.throttleWriteBpsDevice[]",
		"linux.resources.blockIO.throttleReadIOPSDevice[]",
		"linux.resources.blockIO.throttleWriteIOPSDevice[]":
		return []string{"major", "minor", "rate"}, Error
	case "linux.resources.hugepageLimits[]":
		return []string{"limit"}, Error
	case "linux.resources.network.priorities[]":
		return []string{"priority"}, Error
	case "linux.seccomp.syscalls[].args[]":
		return []string{"index", "value"}, Error
	}
	return nil, ""
}

// freeNames reports whether the object at a pattern is a map: its names are the
// user's.
func freeNames(pattern []byte) bool {
	switch string(pattern) {
	case "annotations", "linux.sysctl", "linux.netDevices", "linux.timeOffsets",
		"linux.resources.rdma", "linux.resources.unified":
		return true
	}
	return false
}

// unquote returns the text of a JSON string.
func unquote(quoted []byte) string {
	for _, b := range quoted {
		if b == '\\' {
			var text string
			if json.Unmarshal(quoted, &text) == nil {
				return text
			}
			break
		}
	}
	return string(quoted[1 : len(quoted)-1])
}
