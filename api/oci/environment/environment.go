// SPDX-License-Identifier: Apache-2.0

package environment

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
)

// Values gives the values that are not literal.
type Values interface {
	// Field returns the value of the field of the Container, or of its node, at a path.
	Field(path string) (string, error)
	// Resource returns a limit or request in units of its divisor.
	Resource(r *corev1.ResourceFieldSelector) (string, error)
}

// Variables are variables in the order in which the process gets them.
type Variables []Variable

// Variable is one environment variable.
type Variable struct{ Name, Value string }

// List returns the variables as process.env has them: NAME=value.
func (v Variables) List() []string {
	var out []string
	for _, one := range v {
		out = append(out, one.Name+"="+one.Value)
	}
	return out
}

// Map returns the values by name, for Expand.
func (v Variables) Map() map[string]string {
	out := make(map[string]string, len(v))
	for _, one := range v {
		out[one.Name] = one.Value
	}
	return out
}

// ByNode reports whether the agent has to compute the variables of a process.
func ByNode(p *v1alpha1.BundleProcess) bool { return len(p.Env) > 0 }

// Compute returns the variables of env. In a literal value $(NAME) is replaced from the variables
// before it; values of other origin stay as they are. An error begins with the path of its variable.
func Compute(env []corev1.EnvVar, values Values) (Variables, error) {
	var out Variables
	at := map[string]int{}
	known := map[string]string{}
	set := func(name, value string) error {
		if strings.Contains(value, "\x00") {
			return fmt.Errorf("found a NUL byte; allowed: none in the value of a variable")
		}
		known[name] = value
		if i, ok := at[name]; ok {
			out[i].Value = value
			return nil
		}
		at[name] = len(out)
		out = append(out, Variable{name, value})
		return nil
	}
	for i, e := range env {
		value, err := e.Value, error(nil)
		switch from := e.ValueFrom; {
		case from == nil:
			value = Expand(e.Value, known)
		case from.FieldRef != nil:
			value, err = values.Field(from.FieldRef.FieldPath)
		case from.ResourceFieldRef != nil:
			value, err = values.Resource(from.ResourceFieldRef)
		default:
			err = fmt.Errorf("found another source of a value; allowed: fieldRef and resourceFieldRef")
		}
		if err == nil {
			err = set(e.Name, value)
		}
		if err != nil {
			return nil, fmt.Errorf("env[%d] (%s): %w", i, e.Name, err)
		}
	}
	return out, nil
}
