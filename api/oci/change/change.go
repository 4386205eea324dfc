// SPDX-License-Identifier: Apache-2.0

package change

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/v1alpha1"
)

// Kind says how a change of a field is applied. A greater one includes the lesser ones.
type Kind int

const (
	// None says that the running container is the same with either value.
	None Kind = iota
	// Live says that the running container can be given the new value.
	Live
	// Replace says that only a new container can have the new value.
	Replace
)

// String returns the name of the kind.
func (k Kind) String() string {
	switch k {
	case None:
		return "None"
	case Live:
		return "Live"
	}
	return "Replace"
}

// Field is a field that differs.
type Field struct {
	// Path of the field below spec of the OCIBundle, such as config.linux.resources.memory.limit.
	// A list is one field.
	Path string
	Kind Kind
}

// Set is a change from one spec to another.
type Set struct {
	// Kind is the greatest Kind of the fields.
	Kind Kind
	// Fields has each field that differs, sorted by path.
	Fields []Field
}

// Of returns the paths of the fields of a kind.
func (s Set) Of(kind Kind) []string {
	var paths []string
	for _, f := range s.Fields {
		if f.Kind == kind {
			paths = append(paths, f.Path)
		}
	}
	return paths
}

// Limits returns the paths of the fields that the runtime has to change in the running container.
func (s Set) Limits() []string {
	return slices.DeleteFunc(s.Of(Live), func(path string) bool {
		return !strings.HasPrefix(path, resources)
	})
}

// Log returns the paths of the fields that the supervisor has to change for the running container.
func (s Set) Log() []string {
	return slices.DeleteFunc(s.Of(Live), func(path string) bool {
		return !strings.HasPrefix(path, logging)
	})
}

const (
	// resources is the path of the fields that a runtime's update accepts.
	resources = "config.linux.resources."
	logging   = "logging."
)

// Classify compares the spec that a running container was created from, and updated to since, with
// the one that is desired. Both hold what their specs refer to, such as the seccomp profile.
// A field that differs and has no entry in the table is Replace.
func Classify(running, desired *v1alpha1.OCIBundleSpec) Set {
	var s Set
	old, err := tree(running)
	if err != nil {
		return Set{Replace, []Field{{"config", Replace}}}
	}
	next, err := tree(desired)
	if err != nil {
		return Set{Replace, []Field{{"config", Replace}}}
	}
	if bytes.Equal(running.Config.Raw, desired.Config.Raw) {
		delete(old, "config")
		delete(next, "config")
	}
	s.compare("", old, next)
	slices.SortFunc(s.Fields, func(a, b Field) int { return strings.Compare(a.Path, b.Path) })
	return s
}

// tree decodes a spec from its JSON. Numbers keep their digits.
func tree(spec *v1alpha1.OCIBundleSpec) (map[string]any, error) {
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var out map[string]any
	if err := d.Decode(&out); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return out, nil
}

// compare adds the fields that differ between two values of the field at path; nil is an absent
// one.
func (s *Set) compare(path string, old, next any) {
	if reflect.DeepEqual(old, next) {
		return
	}
	was, wasObject := old.(map[string]any)
	is, isObject := next.(map[string]any)
	if (wasObject || old == nil) && (isObject || next == nil) && len(was)+len(is) > 0 {
		for name := range union(was, is) {
			s.compare(below(path, name), was[name], is[name])
		}
		return
	}
	f := Field{path, kindOf(path, next != nil)}
	s.Fields = append(s.Fields, f)
	s.Kind = max(s.Kind, f.Kind)
}

// kindOf returns the kind of a field that has a new value, or had one and is set no more.
func kindOf(path string, set bool) Kind {
	e, ok := table()[path]
	if !ok {
		if parent := strings.LastIndexByte(path, '.'); parent >= 0 {
			e, ok = table()[path[:parent]+".*"]
		}
	}
	switch {
	case !ok, e.kind == Live && !set && !e.canUnset:
		return Replace
	}
	return e.kind
}

// Carry returns compiled with the values that kept has in the fields that take a new container. It
// is for an edit of such fields of a Container as a running container can be given: kept is what
// was compiled before, by another version of the compiler, whose other defaults are no part of the
// edit.
func Carry(kept, compiled *v1alpha1.OCIBundleSpec) (*v1alpha1.OCIBundleSpec, error) {
	old, err := tree(kept)
	if err != nil {
		return nil, err
	}
	next, err := tree(compiled)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(carry("", old, next))
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	out := &v1alpha1.OCIBundleSpec{}
	if err := json.Unmarshal(text, out); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	// It stands for config.linux.seccomp, which is kept.
	out.SeccompProfile = kept.SeccompProfile
	return out, nil
}

func carry(path string, old, next any) any {
	if reflect.DeepEqual(old, next) {
		return next
	}
	was, wasObject := old.(map[string]any)
	is, isObject := next.(map[string]any)
	if (wasObject || old == nil) && (isObject || next == nil) && len(was)+len(is) > 0 {
		out := map[string]any{}
		for name := range union(was, is) {
			if v := carry(below(path, name), was[name], is[name]); v != nil {
				out[name] = v
			}
		}
		if len(out) == 0 {
			return nil
		}
		return out
	}
	if kindOf(path, next != nil) == Replace {
		return old
	}
	return next
}

func union(a, b map[string]any) map[string]any {
	out := map[string]any{}
	maps.Copy(out, a)
	maps.Copy(out, b)
	return out
}

// below returns the path of a field of the object at a path; "" is the spec itself.
func below(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// Resources returns the input of a runtime's update that gives a container the values of spec at
// these paths, which are some of the Limits of a Set. A field that spec does not set gets the value
// that means no limit.
func Resources(spec *v1alpha1.OCIBundleSpec, paths []string) (*specs.LinuxResources, error) {
	all, err := tree(spec)
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	for _, path := range paths {
		e, ok := table()[path]
		name, limit := strings.CutPrefix(path, resources)
		if !ok || !limit || e.kind != Live {
			return nil, fmt.Errorf("%s: found a field that cannot be changed in a running container", path)
		}
		value := lookup(all, path)
		if value == nil {
			value = e.unset
		}
		put(out, name, value)
	}
	text, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("linux.resources: %w", err)
	}
	r := &specs.LinuxResources{}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("linux.resources: %w", err)
	}
	if r.Memory != nil {
		// Cgroup v2 takes a limit below the usage, and kills for it.
		r.Memory.CheckBeforeUpdate = new(true)
	}
	return r, nil
}

// lookup returns the value at a path, or nil.
func lookup(in map[string]any, path string) any {
	name, rest, below := strings.Cut(path, ".")
	if !below {
		return in[name]
	}
	next, _ := in[name].(map[string]any)
	return lookup(next, rest)
}

// put sets the value at a path.
func put(in map[string]any, path string, value any) {
	name, rest, below := strings.Cut(path, ".")
	if !below {
		in[name] = value
		return
	}
	next, ok := in[name].(map[string]any)
	if !ok {
		next = map[string]any{}
		in[name] = next
	}
	put(next, rest, value)
}
