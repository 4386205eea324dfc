// SPDX-License-Identifier: Apache-2.0

package main

import (
	"reflect"
	"testing"
)

func TestParseTAP(t *testing.T) {
	for name, c := range map[string]struct {
		out  string
		want tapResult
	}{
		"passes": {
			"TAP version 13\nok 1 - a\n# expect: 1\nok 2 - b\n1..2\n",
			tapResult{documents: 1, passed: 2},
		},
		"not ok": {
			"TAP version 13\nok 1 - a\nnot ok 2 - b\n1..2\n",
			tapResult{documents: 1, passed: 1, failures: []string{"b"}},
		},
		"skip, todo": {
			"TAP version 13\nok 1 # SKIP a\nnot ok 2 # TODO b\n1..2\n",
			tapResult{documents: 1, skipped: 2},
		},
		"a skip that": {
			"TAP version 13\nnot ok 1 - cannot skip\n1..1\n",
			tapResult{documents: 1, failures: []string{"cannot skip"}},
		},
		"cut off": {"TAP version 13\nok 1 - a\n", tapResult{
			documents: 1, passed: 1,
			failures: []string{"output ends after 1 tests without a plan"},
		}},
		"short": {"TAP version 13\nok 1 - a\n1..2\n", tapResult{
			documents: 1, passed: 1,
			failures: []string{"2 tests planned, 1 run"},
		}},
		"two documents": {
			"TAP version 13\nnot ok 1 - a\n1..1\nTAP version 13\nok 1 - b\n1..1\n",
			tapResult{documents: 2, passed: 1, failures: []string{"a"}},
		},
		"the error that a test expects": {
			"TAP version 13\nok 1 - a\n  ---\n  {\n    \"error\": \"exit status 1\"\n  }\n  ...\n1..1\n",
			tapResult{documents: 1, passed: 1},
		},
		"an error of no test": {
			"TAP version 13\n  ---\n  {\n    \"error\": \"hooks MUST\",\n    \"a\": 1\n  }\n  ...\n1..0\n",
			tapResult{documents: 1, failures: []string{"hooks MUST"}},
		},
		"an error after a test's own block": {
			"TAP version 13\nok 1 - a\n  ---\n  reference: x\n  ...\n  ---\n  error: b\n  ...\n1..1\n",
			tapResult{documents: 1, passed: 1, failures: []string{"b"}},
		},
		"another program's output in a block before the test": {
			"TAP version 13\n  ---\n  stdout: |\n    not ok 1 - inner\n    error: x\n  ...\nok 1 - outer\n1..1\n",
			tapResult{documents: 1, passed: 1},
		},
		"nothing": {"", tapResult{}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := parseTAP(c.out); !reflect.DeepEqual(got, c.want) {
				t.Errorf("found %+v, expected %+v", got, c.want)
			}
		})
	}
}
