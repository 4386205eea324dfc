// SPDX-License-Identifier: Apache-2.0

package environment

import "strings"

// Expand replaces references to variables as Kubernetes does in command, args
// and env: $(NAME) becomes the variable's value, and stays as it is where there
// is no such variable; $$ becomes a single $, so that $$(NAME) is never replaced;
// any other $ stands for itself.
func Expand(s string, vars map[string]string) string {
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
			if value, ok := vars[name]; ok {
				b.WriteString(value)
			} else {
				b.WriteString("$(" + name + ")")
			}
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
