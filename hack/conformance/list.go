// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

// listRow matches one row of the table of programs that fail: the program, the cgroup versions it
// fails on ("v1", "v2" or both with a comma), the reason.
var listRow = regexp.MustCompile(
	"^\\| `([a-z_]+)` +\\| *((?:v1|v2)(?:, (?:v1|v2))?) *\\| *(.+?) *\\|$")

// readList returns the programs that the file names for the cgroup version, with
// their reasons. A row that looks like one of the table and is not well formed
// is an error: it would excuse nothing, and nobody would see why.
func readList(path, version string) (map[string]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	list := map[string]string{}
	in := false
	for i, line := range strings.Split(string(data), "\n") {
		switch {
		case strings.HasPrefix(line, "| program | cgroup | "):
			in = true
		case !strings.HasPrefix(line, "|"):
			in = false
		case in && !strings.HasPrefix(line, "|--"):
			m := listRow.FindStringSubmatch(line)
			if m == nil {
				return nil, fmt.Errorf("%s:%d: found %q, expected | `program` | v1, v2 | reason |", path, i+
					1, line)
			}
			if strings.Contains(m[2], version) {
				list[m[1]] = m[3]
			}
		}
	}
	return list, nil
}
