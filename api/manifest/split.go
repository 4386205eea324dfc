// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"encoding/json"
	"slices"
	"unicode/utf8"
)

// chunk is the text of one document and its place in the file.
type chunk struct {
	text         []byte
	line, column int // of the first byte, from 0
}

// split cuts a file into its documents. The YAML parser cannot: it reads nothing beyond the first
// JSON object, and refuses a document without --- after a line of "...", which YAML 1.2 allows
// (9.2, bare documents).
//
// A line that begins with --- or ... is a marker wherever it stands, within quotes and blocks too
// (c-forbidden).
func split(data []byte) []chunk {
	var out []chunk
	add := func(begin, end, line int) {
		for _, c := range splitJSON(chunk{text: data[begin:end], line: line}) {
			if !blank(c.text) {
				out = append(out, c)
			}
		}
	}
	begin, line, offset, number := 0, 0, 0, 0
	for text := range bytes.Lines(data) {
		switch {
		case marks(text, "---"):
			add(begin, offset, line)
			begin, line = offset, number // with the marker, if content follows on its line
			if blank(text) {
				begin, line = offset+len(text), number+1
			}
		case marks(text, "..."):
			add(begin, offset, line)
			begin, line = offset+len(text), number+1
		}
		offset += len(text)
		number++
	}
	add(begin, len(data), line)
	return out
}

func marks(line []byte, marker string) bool {
	rest, ok := bytes.CutPrefix(line, []byte(marker))
	return ok && (len(rest) == 0 || bytes.ContainsAny(rest[:1], " \t\r\n"))
}

// splitJSON splits text that begins with a JSON object before each further object.
func splitJSON(c chunk) []chunk {
	var out []chunk
	for {
		text := bytes.TrimLeft(c.text, " \t\r\n")
		if len(text) == 0 || text[0] != '{' {
			return append(out, c)
		}
		decoder := json.NewDecoder(bytes.NewReader(c.text))
		var object json.RawMessage
		if decoder.Decode(&object) != nil {
			return append(out, c) // YAML that looks like it, or a mistake that the YAML parser finds
		}
		end := int(decoder.InputOffset())
		if next := bytes.TrimLeft(c.text[end:], " \t\r\n"); len(next) == 0 || next[0] != '{' {
			return append(out, c)
		}
		out = append(out, chunk{text: c.text[:end], line: c.line, column: c.column})
		if last := bytes.LastIndexByte(c.text[:end], '\n'); last >= 0 {
			c.line += bytes.Count(c.text[:end], []byte{'\n'})
			c.column = end - last - 1
		} else {
			c.column += end
		}
		c.text = c.text[end:]
	}
}

// withoutJSONEscapes returns JSON text without the two escapes that the YAML parser does not know:
// \/ and pairs of surrogates.
func withoutJSONEscapes(text []byte) []byte {
	if !bytes.ContainsRune(text, '\\') || !json.Valid(text) {
		return text
	}
	var out []byte
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' { // which stands in strings alone
			out = append(out, text[i])
			continue
		}
		var pair string
		switch {
		case text[i+1] == '/':
			out = append(out, '/')
			i++
		case text[i+1] == 'u' && i+12 <= len(text) &&
			json.Unmarshal(slices.Concat([]byte{'"'}, text[i:i+12], []byte{'"'}), &pair) == nil &&
			utf8.RuneCountInString(pair) == 1:
			out = append(out, pair...)
			i += 11
		default:
			out = append(out, text[i], text[i+1])
			i++
		}
	}
	return out
}

// blank reports whether a document has nothing but comments, directives and markers.
func blank(text []byte) bool {
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		if bytes.HasPrefix(line, []byte("---")) {
			line = bytes.TrimSpace(line[3:])
		}
		if len(line) > 0 && line[0] != '#' && line[0] != '%' {
			return false
		}
	}
	return true
}
