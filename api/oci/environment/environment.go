// SPDX-License-Identifier: Apache-2.0

package environment

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
)

// Values gives the values that are not literal.
type Values interface {
	// Field returns the value of a field of the Container, or of its node, at a path.
	Field(path string) (string, error)
	// Resource returns a limit or request in units of its divisor.
	Resource(r *corev1.ResourceFieldSelector) (string, error)
	// Data returns the data of an object, or false if there is no such object.
	Data(object Object) (data map[string]string, ok bool)
	// File returns a file in a volume; ok is false if the volume does not have it.
	File(ref *corev1.FileKeySelector) (file File, ok bool, err error)
}

// File is a file of variables in a volume.
type File struct {
	// Text of the file. It is empty if Fault says why the file cannot be read, such as its size.
	Text, Fault string
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
func ByNode(p *v1alpha1.BundleProcess) bool { return len(p.Env) > 0 || len(p.EnvFrom) > 0 }

// Compute returns the variables of envFrom and, over them, those of env. In a literal value $(NAME)
// is replaced from the variables before it; values of other origin stay as they are. An error
// begins with the path of its field and never holds a value. It is a *Missing if an object or key
// may yet come.
func Compute(env []corev1.EnvVar, envFrom []corev1.EnvFromSource, values Values) (Variables,
	error,
) {
	b := builder{at: map[string]int{}, known: map[string]string{}}
	for i, from := range envFrom {
		path := fmt.Sprintf("envFrom[%d]", i)
		vars, err := all(path, from, values)
		if err != nil {
			return nil, err
		}
		for _, v := range vars {
			if err := b.set(path, v.Name, v.Value); err != nil {
				return nil, err
			}
		}
	}
	for i, e := range env {
		path := fmt.Sprintf("env[%d]", i)
		value, ok, err := b.value(path, e, values)
		if err == nil && ok {
			err = b.set(path, e.Name, value)
		}
		if err != nil {
			return nil, err
		}
	}
	return b.out, nil
}

// builder is a list of variables under way.
type builder struct {
	out   Variables
	at    map[string]int
	known map[string]string
}

// set adds a variable, or gives one that is there another value.
func (b *builder) set(path, name, value string) error {
	if strings.Contains(value, "\x00") {
		return fmt.Errorf("%s: found a NUL byte in the value of %s; allowed: none", path, name)
	}
	if !utf8.ValidString(value) { // config.json is JSON, and would have other bytes in their place
		return fmt.Errorf("%s: found bytes in the value of %s that are not UTF-8; allowed: UTF-8, or the"+
			" bytes as a file of a volume", path, name)
	}
	b.known[name] = value
	if i, ok := b.at[name]; ok {
		b.out[i].Value = value
		return nil
	}
	b.at[name] = len(b.out)
	b.out = append(b.out, Variable{name, value})
	return nil
}

// value returns the value of a variable, or false if there is to be no such variable.
func (b *builder) value(path string, e corev1.EnvVar, values Values) (value string, ok bool,
	err error,
) {
	from := e.ValueFrom
	if from == nil {
		return Expand(e.Value, b.known), true, nil
	}
	path += ".valueFrom"
	switch {
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		return one(path+".configMapKeyRef", Object{KindConfigMap, ref.Name}, ref.Key, ref.Optional,
			values)
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		return one(path+".secretKeyRef", Object{KindSecret, ref.Name}, ref.Key, ref.Optional, values)
	case from.FileKeyRef != nil:
		return ofFile(path+".fileKeyRef", from.FileKeyRef, values)
	case from.FieldRef != nil:
		value, err = values.Field(from.FieldRef.FieldPath)
	case from.ResourceFieldRef != nil:
		value, err = values.Resource(from.ResourceFieldRef)
	default:
		err = errors.New(
			"found no source that this agent knows; allowed: fieldRef, resourceFieldRef, configMapKeyRef, secretKeyRef or fileKeyRef")
	}
	if err != nil {
		return "", false, fmt.Errorf("%s: %w", path, err)
	}
	return value, true, nil
}
