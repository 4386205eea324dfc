// SPDX-License-Identifier: Apache-2.0

package environment

import (
	"fmt"
	"strings"
)

// Expand replaces references to variables as Kubernetes does in command, args
// and env: $(NAME) becomes the variable's value, and stays as it is where there
// is no such variable; $$ becomes a single $, so that $$(NAME) is never replaced;
// any other $ stands for itself.
func Expand(s string, vars map[string]string) string {
	return expand(s, func(name string) string {
		if value, ok := vars[name]; ok {
			return value
		}
		return "$(" + name + ")"
	})
}

// ExpandKnown is Expand that returns an error if there is no such variable.
func ExpandKnown(s string, vars map[string]string) (string, error) {
	var err error
	out := expand(s, func(name string) string {
		value, ok := vars[name]
		if !ok && err == nil {
			err = fmt.Errorf("has $(%s), which is no variable of env and envFrom", name)
		}
		return value
	})
	return out, err
}

func expand(s string, value func(name string) string) string {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(s, "$")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		switch {
		case strings.HasPrefix(rest, "$"):
			b.WriteByte('$')
			rest = rest[1:]
		case strings.HasPrefix(rest, "("):
			name, after, closed := strings.Cut(rest[1:], ")")
			if !closed {
				b.WriteString("$(")
				rest = rest[1:]
				break
			}
			b.WriteString(value(name))
			rest = after
		default:
			b.WriteByte('$')
		}
		s = rest
	}
}

// ExpandAll returns the words with Expand applied to each.
func ExpandAll(words []string, vars map[string]string) []string {
	var out []string
	for _, w := range words {
		out = append(out, Expand(w, vars))
	}
	return out
}

// Literal returns a text that Expand turns into s, whatever variables there are.
func Literal(s string) string { return strings.ReplaceAll(s, "$", "$$") }
