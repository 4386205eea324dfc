// SPDX-License-Identifier: Apache-2.0

package environment

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
)

// The kinds of objects that values come from.
const (
	KindConfigMap = "ConfigMap"
	KindSecret    = "Secret"
	KindFile      = "file" // in a volume
)

// Object names an object in the namespace of the Container.
type Object struct{ Kind, Name string }

// Missing is the error of a value that is not there yet: its object or the key in it.
type Missing struct {
	// Path of the field that refers to it.
	Path string
	Object
	// Key is empty if the whole object is missing.
	Key string
	// Volume is the name of the volume with a KindFile. Fault says why an existing file cannot be
	// read.
	Volume, Fault string
}

func (m *Missing) Error() string {
	if m.Kind == KindFile {
		return m.ofFile()
	}
	if m.Key != "" {
		return fmt.Sprintf("%s: found no key %q in the %s %s; allowed: a key that it has", m.Path, m.Key,
			m.Kind, m.Name)
	}
	return fmt.Sprintf("%s: found no %s %s; allowed: one in the namespace of the Container", m.Path,
		m.Kind, m.Name)
}

func (m *Missing) ofFile() string {
	file := fmt.Sprintf("%s in the volume %s", m.Name, m.Volume)
	switch {
	case m.Fault != "":
		return fmt.Sprintf("%s: found the file %s: %s", m.Path, file, m.Fault)
	case m.Key != "":
		return fmt.Sprintf("%s: found no key %q in the file %s; allowed: a key that it has", m.Path, m.Key,
			file)
	}
	return fmt.Sprintf("%s: found no file %s; allowed: one that is there at the start", m.Path, file)
}

// References returns the objects that variables refer to, each once.
func References(env []corev1.EnvVar, envFrom []corev1.EnvFromSource) []Object {
	var out []Object
	add := func(kind, name string) {
		if o := (Object{kind, name}); !slices.Contains(out, o) {
			out = append(out, o)
		}
	}
	for _, from := range envFrom {
		if from.ConfigMapRef != nil {
			add(KindConfigMap, from.ConfigMapRef.Name)
		}
		if from.SecretRef != nil {
			add(KindSecret, from.SecretRef.Name)
		}
	}
	for _, e := range env {
		if e.ValueFrom == nil {
			continue
		}
		if ref := e.ValueFrom.ConfigMapKeyRef; ref != nil {
			add(KindConfigMap, ref.Name)
		}
		if ref := e.ValueFrom.SecretKeyRef; ref != nil {
			add(KindSecret, ref.Name)
		}
	}
	return out
}

// PullSecrets returns the Secrets with which the images of a bundle are pulled, each once: its own
// image and those of its volumes.
func PullSecrets(spec *v1alpha1.OCIBundleSpec) []Object {
	names := spec.VolumePullSecrets
	if spec.Image != nil {
		names = slices.Concat(spec.Image.PullSecrets, names)
	}
	var out []Object
	for _, name := range names {
		if o := (Object{KindSecret, name}); !slices.Contains(out, o) {
			out = append(out, o)
		}
	}
	return out
}

// all returns the variables of one source of envFrom, sorted by name, or nil if an optional object
// is not there.
func all(path string, from corev1.EnvFromSource, values Values) (Variables, error) {
	var object Object
	var optional *bool
	switch {
	case from.ConfigMapRef != nil:
		object, optional = Object{KindConfigMap, from.ConfigMapRef.Name}, from.ConfigMapRef.Optional
		path += ".configMapRef"
	case from.SecretRef != nil:
		object, optional = Object{KindSecret, from.SecretRef.Name}, from.SecretRef.Optional
		path += ".secretRef"
	default:
		return nil, fmt.Errorf("%s: found neither configMapRef nor secretRef; allowed: one of them", path)
	}
	data, ok := values.Data(object)
	if !ok {
		if optional != nil && *optional {
			return nil, nil
		}
		return nil, &Missing{Path: path, Object: object}
	}
	var out Variables
	for _, key := range slices.Sorted(maps.Keys(data)) {
		out = append(out, Variable{from.Prefix + key, data[key]})
	}
	return out, nil
}

// one returns the value of a key, or false if it is optional and not there.
func one(path string, object Object, key string, optional *bool, values Values) (string, bool,
	error,
) {
	data, found := values.Data(object)
	value, ok := data[key]
	switch {
	case ok:
		return value, true, nil
	case optional != nil && *optional:
		return "", false, nil
	case found:
		return "", false, &Missing{Path: path, Object: object, Key: key}
	}
	return "", false, &Missing{Path: path, Object: object}
}
