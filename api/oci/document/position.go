// SPDX-License-Identifier: Apache-2.0

package document

import (
	"bytes"
	"strconv"
)

// Position is a place in a text. Line and Column count from 1 and Offset from 0, in bytes.
type Position struct{ Line, Column, Offset int }

// String returns the position in words, for people and for programs.
func (p Position) String() string {
	return "line " + strconv.Itoa(p.Line) + ", column " + strconv.Itoa(p.Column) + " (offset " +
		strconv.Itoa(p.Offset) + ")"
}

// positionAt returns the position of an offset in text.
func positionAt(text []byte, offset int) Position {
	before := text[:min(offset, len(text))]
	return Position{
		Line:   bytes.Count(before, []byte("\n")) + 1,
		Column: len(before) - bytes.LastIndexByte(before, '\n'),
		Offset: offset,
	}
}

// pathAt returns the path of the field at an offset of a text that need not be
// JSON behind it.
func pathAt(text []byte, offset int) string {
	s := scanner{text: text[:min(offset, len(text))]}
	if s.value() {
		return "" // the document has ended before
	}
	return s.path()
}

// span is a value's place.
type span struct {
	start, end int
	path       string
}

// valueAt returns the innermost value that an offset of encoding/json's is in
// or just behind of.
func valueAt(text []byte, offset int) (span, bool) {
	var (
		found span
		ok    bool
	)
	s := scanner{text: text}
	s.visit = func(start, end int) {
		// Inner values end before the outer ones do: the first is innermost.
		if !ok && start < offset && offset <= end {
			found, ok = span{start, end, s.path()}, true
		}
	}
	s.value()
	return found, ok
}
