// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Fault is one thing that is wrong with a file.
type Fault struct {
	// Line and Column count from 1; both are 0 if the fault is the file's as a whole.
	Line   int `json:"line,omitempty"`
	Column int `json:"column,omitempty"`
	// Field is the path of the field, such as spec.env[2].value.
	Field string `json:"field,omitempty"`
	// Message says what was found and what is allowed.
	Message string `json:"message"`
}

// Error returns LINE:COLUMN: FIELD: MESSAGE, to follow the name of the file and a colon.
func (f Fault) Error() string {
	var b strings.Builder
	if f.Line > 0 {
		fmt.Fprintf(&b, "%d:", f.Line)
		if f.Column > 0 {
			fmt.Fprintf(&b, "%d:", f.Column)
		}
		b.WriteByte(' ')
	}
	if f.Field != "" {
		b.WriteString(f.Field + ": ")
	}
	return b.String() + f.Message
}

// semantic returns the message for a fault of a field whose form is right.
func semantic(e *field.Error) string {
	found := fmt.Sprint(e.BadValue)
	if s, ok := e.BadValue.(string); ok || e.Type == field.ErrorTypeNotSupported ||
		e.Type == field.ErrorTypeDuplicate {
		if !ok {
			s = found
		}
		found = quote(s)
	}
	switch e.Type {
	case field.ErrorTypeRequired:
		return "found nothing; " + e.Detail
	case field.ErrorTypeForbidden:
		return e.Detail
	case field.ErrorTypeDuplicate:
		return "found " + found + " a second time; allowed: once"
	case field.ErrorTypeNotFound:
		return "found " + found + ", which is not defined" + prefixed("; ", e.Detail)
	case field.ErrorTypeNotSupported:
		allowed := strings.TrimPrefix(e.Detail, "supported values: ")
		message := "found " + found + "; allowed: " + allowed
		var words []string
		for word := range strings.SplitSeq(allowed, ", ") {
			words = append(words, strings.Trim(word, `"`))
		}
		if near := nearest(fmt.Sprint(e.BadValue), words); near != "" {
			message += "; did you mean " + quote(near) + "?"
		}
		return message
	}
	// the regular expressions of apimachinery help nobody
	detail, _, _ := strings.Cut(e.Detail, " (e.g. ")
	return "found " + found + "; " + detail
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

// maxFaults bounds the faults of a document that are listed: nobody reads more.
const maxFaults = 64

// sorted orders faults by their place in the file, and says how many are left out.
func sorted(faults []Fault) []Fault {
	slices.SortStableFunc(faults, func(a, b Fault) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	faults = slices.Compact(faults)
	if more := len(faults) - maxFaults; more > 0 {
		faults = append(faults[:maxFaults:maxFaults], Fault{
			Line:    faults[maxFaults].Line,
			Message: fmt.Sprintf("and at least %d more faults", more),
		})
	}
	return faults
}
