// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

var (
	tapTest = regexp.MustCompile(`^(not ok|ok)(?: +(\d+))?(?: +(.*))?$`)
	tapPlan = regexp.MustCompile(`^1\.\.(\d+)`)
	// tapDirective excuses a failed test; TAP 13 ignores its case.
	tapDirective = regexp.MustCompile(`(?i)# *(skip|todo)\b`)
	// tapError is the key "error" of a YAML block, which is JSON as a rule.
	tapError = regexp.MustCompile(`^ +"?error"?: "?(.*?)"?,?$`)
)

// tapResult is the parsed standard output of one program.
type tapResult struct {
	documents int // how often "TAP version" was seen
	passed    int
	skipped   int // "# SKIP" and "# TODO"
	failures  []string
}

// parseTAP reads TAP 13 as the suite writes it. Three things differ from plain
// TAP, and each would hide failures:
//
//   - one program may write several documents, one after the other;
//   - a failure may be no "not ok" but a YAML block of its own that has the key
//     "error" and belongs to no test: poststart and others write nothing else;
//   - a document without its plan was cut off: runtimetest ends in the middle
//     when something it needs is absent, and its exit status is lost.
//
// What stands in a YAML block counts for nothing: some hold the output of
// another program.
func parseTAP(out string) tapResult {
	var r tapResult
	tests, planned := 0, true
	owned := false  // whether a YAML block that begins here belongs to a test
	pending := ""   // the error of a block that belongs to no test so far
	inYAML := false // between "---" and "..."
	closeDocument := func() {
		if !planned {
			r.failures = append(r.failures, fmt.Sprintf("output ends after %d tests without a plan", tests))
		}
		if pending != "" {
			r.failures = append(r.failures, pending)
		}
		pending = ""
	}
	lines := bufio.NewScanner(strings.NewReader(out))
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		line := lines.Text()
		if inYAML {
			if strings.TrimRight(line, " ") == "  ..." {
				inYAML = false
				owned = false
			} else if m := tapError.FindStringSubmatch(line); m != nil && !owned {
				pending = m[1]
			}
			continue
		}
		switch {
		case strings.HasPrefix(line, "TAP version"):
			closeDocument()
			r.documents++
			tests, planned, owned = 0, false, false
		case strings.TrimRight(line, " ") == "  ---":
			inYAML = true
		case tapPlan.MatchString(line):
			planned = true
			if n, _ := strconv.Atoi(tapPlan.FindStringSubmatch(line)[1]); n != tests {
				r.failures = append(r.failures, fmt.Sprintf("%d tests planned, %d run", n, tests))
			}
		default:
			m := tapTest.FindStringSubmatch(line)
			if m == nil {
				continue
			}
			tests++
			owned = true
			pending = "" // the block stood before its test
			switch {
			case tapDirective.MatchString(m[3]):
				r.skipped++
			case m[1] == "ok":
				r.passed++
			default:
				r.failures = append(r.failures, strings.TrimPrefix(m[3], "- "))
			}
		}
	}
	closeDocument()
	return r
}
