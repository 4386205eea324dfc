// SPDX-License-Identifier: Apache-2.0

package environment

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// MaxFile is the greatest size of a file of variables in bytes, as under the kubelet (KEP-3721).
const MaxFile = 64 << 10

// ParseFile returns the variables of a file of NAME='value' lines, by the rules of a Pod's env
// files: a subset of a POSIX shell's. Everything between the quotes is the value, including
// newlines. An error names the line and never contains text of the file.
func ParseFile(text string) (map[string]string, error) {
	out := map[string]string{}
	for line := 1; text != ""; {
		rest := strings.TrimLeft(text, " \t")
		if rest == "" {
			break
		}
		if rest[0] == '\n' || rest[0] == '#' {
			_, text, _ = strings.Cut(rest, "\n")
			line++
			continue
		}
		name, value, after, why := assignment(rest)
		if why != "" {
			return nil, fmt.Errorf("line %d: %s", line, why)
		}
		out[name] = value
		_, text, _ = strings.Cut(after, "\n")
		line += strings.Count(value, "\n") + 1
	}
	return out, nil
}

// assignment parses NAME='value' at the beginning of a text and returns the rest of the text. If
// there is no assignment, it returns why.
func assignment(text string) (name, value, rest, why string) {
	line, _, _ := strings.Cut(text, "\n")
	name, _, found := strings.Cut(line, "=")
	switch {
	case !found:
		return "", "", "", "found no =; allowed: NAME='value'"
	case name == "":
		return "", "", "", "found no name; allowed: NAME='value'"
	case strings.ContainsAny(name, " \t"):
		return "", "", "", "found a space before the =; allowed: NAME='value'"
	}
	quoted := text[len(name)+1:]
	if !strings.HasPrefix(quoted, "'") {
		return "", "", "", "found a value without single quotes; allowed: NAME='value'"
	}
	value, rest, found = strings.Cut(quoted[1:], "'")
	if !found {
		return "", "", "", "found no end of the value; allowed: a second single quote"
	}
	after, _, _ := strings.Cut(rest, "\n")
	trimmed := strings.TrimLeft(after, " \t")
	if trimmed != "" && (trimmed[0] != '#' || trimmed == after) {
		return "", "", "", "found more after the value; allowed: nothing, or a space and a comment"
	}
	return name, value, rest, ""
}

// ofFile returns the value of a key of a file; false if it is optional and missing.
func ofFile(path string, ref *corev1.FileKeySelector, values Values) (string, bool, error) {
	missing := &Missing{Path: path, Object: Object{KindFile, ref.Path}, Volume: ref.VolumeName}
	file, found, err := values.File(ref)
	if err != nil {
		return "", false, fmt.Errorf("%s: %w", path, err)
	}
	if found {
		variables, err := ParseFile(file.Text)
		if err != nil {
			file.Fault = err.Error()
		}
		if file.Fault != "" {
			missing.Fault = file.Fault
			return "", false, missing
		}
		if value, ok := variables[ref.Key]; ok {
			return value, true, nil
		}
		missing.Key = ref.Key
	}
	if ref.Optional != nil && *ref.Optional {
		return "", false, nil
	}
	return "", false, missing
}
