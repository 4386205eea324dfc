// SPDX-License-Identifier: Apache-2.0

package document

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Severity decides whether a fault forbids running the container.
type Severity string

const (
	// Error is the severity of a fault that forbids running the container.
	Error Severity = "Error"
	// Warning is the severity of a fault that a runtime may log and go on with.
	Warning Severity = "Warning"
)

// Fault is one thing that is wrong with a document.
type Fault struct {
	// Path is the field's place in the document, such as "process.args",
	// "linux.namespaces[2].path" or `linux.sysctl["net.core.somaxconn"]`.
	// It is empty when the fault is the document's as a whole.
	Path string
	// Found is the offending value, quoted if it is a string and shortened if
	// it is long, or words such as "nothing".
	Found string
	// Allowed describes the allowed values and, if that is not evident, the remedy.
	Allowed string
	// Severity is Error unless the fault is to be logged only.
	Severity Severity
}

// Error returns "path: found X; allowed: Y".
func (f Fault) Error() string {
	path := f.Path
	if path == "" {
		path = "document"
	}
	return path + ": found " + f.Found + "; allowed: " + f.Allowed
}

// Faults lists every fault of a document, in the order of the specification's sections. The zero
// value has none.
type Faults []Fault

// Error returns all faults, each on a line of its own.
func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// Errors returns the faults that forbid running the container.
func (fs Faults) Errors() Faults { return fs.of(Error) }

// Warnings returns the faults that do not.
func (fs Faults) Warnings() Faults { return fs.of(Warning) }

func (fs Faults) of(s Severity) Faults {
	var out Faults
	for _, f := range fs {
		if f.Severity == s {
			out = append(out, f)
		}
	}
	return out
}

// Err returns the errors among the faults as one error of type Faults, or nil
// if there are only warnings or nothing at all.
func (fs Faults) Err() error {
	if errs := fs.Errors(); len(errs) > 0 {
		return errs
	}
	return nil
}

// maxFaults is the number of faults of each severity that are listed. Nobody reads more, and a
// hostile document could make millions.
const maxFaults = 256

// Collector gathers faults. The zero value is ready to use.
type Collector struct {
	faults           Faults
	errors, warnings int
}

// Error adds an error.
func (c *Collector) Error(path, found, allowed string) {
	if c.errors++; c.errors <= maxFaults {
		c.faults = append(c.faults, Fault{Path: path, Found: found, Allowed: allowed, Severity: Error})
	}
}

// Warn adds a warning. Errors are counted apart: warnings never crowd them out.
func (c *Collector) Warn(path, found, allowed string) {
	if c.warnings++; c.warnings <= maxFaults {
		c.faults = append(c.faults, Fault{Path: path, Found: found, Allowed: allowed, Severity: Warning})
	}
}

// All returns the faults in the order in which they were added. It is called once, at the end: the
// last of them say how many were left out.
func (c *Collector) All() Faults {
	more := func(n int, kind string, s Severity) {
		if n > maxFaults {
			c.faults = append(c.faults, Fault{
				Found:   strconv.Itoa(n-maxFaults) + " more " + kind,
				Allowed: "none", Severity: s,
			})
		}
	}
	more(c.errors, "errors", Error)
	more(c.warnings, "warnings", Warning)
	return c.faults
}

// nothing is the found value of a missing field.
const nothing = "nothing"

// maxQuoted is the number of bytes of a value that a fault shows: enough to recognise it, little
// enough for a condition's message or a log line.
const maxQuoted = 96

// Quote shows a string in a fault.
func Quote(s string) string {
	if len(s) <= maxQuoted {
		return strconv.Quote(s)
	}
	cut := maxQuoted
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strconv.Quote(s[:cut]) + "… (" + strconv.Itoa(len(s)) + " bytes)"
}
