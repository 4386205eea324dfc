// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/berth-run/berth/api/v1alpha1"
)

// unknownField notes a field that a struct does not have, and returns the name of the field that
// was meant if it is plainly one of the same struct.
func (d *decoder) unknownField(p pair, t reflect.Type, at *field.Path) string {
	name, path, where := p.key.Value, child(at, p.key.Value), d.pattern(at)
	key := d.places[pathOf(at)+"\x00"+name]
	if key == nil { // brought by a merge key
		key = p.key
	}
	if d.pod {
		return d.unknownPodField(key, name, t, at)
	}
	if h, ok := habits()[joined(where, name)]; ok {
		value := resolve(p.value)
		message := fmt.Sprintf("found %s; ", h.what)
		if h.what == "" {
			message = "found an unknown field; "
		}
		if h.write != nil {
			message += h.write(value)
		}
		d.fault(key, path, message+h.fix, h.instead...)
		return ""
	}
	if same := sameWord(name, names(t)); same != "" {
		d.fault(key, path, fmt.Sprintf("found an unknown field; did you mean %q?", same),
			pathOf(child(at, same)))
		return same
	}
	if owner := podOwner(where, name); owner != "" {
		message := "found a field of " + owner + " that Berth does not have yet; remove it"
		if strings.HasPrefix(where, "spec.volumes[]") {
			kinds := slices.DeleteFunc(names(t), func(n string) bool {
				return n == "name"
			})
			message += ", or use one of " + strings.Join(kinds, ", ")
		}
		d.fault(key, path, message)
		return ""
	}
	elsewhere := homeOf(name, reflect.TypeFor[v1alpha1.Container]())
	if elsewhere != "" && elsewhere != joined(where, name) {
		message := "found an unknown field; it belongs in " + parent(elsewhere) +
			": check the indentation"
		d.fault(key, path, message, strings.ReplaceAll(elsewhere, "[]", ""))
		return ""
	}
	if near := nearest(name, names(t)); near != "" {
		d.fault(key, path, fmt.Sprintf("found an unknown field; did you mean %q?", near),
			pathOf(child(at, near)))
		return near
	}
	d.fault(key, path, "found an unknown field; allowed: "+strings.Join(names(t), ", "))
	return ""
}

// unknownPodField is unknownField for a document that is a Pod.
func (d *decoder) unknownPodField(key *yaml.Node, name string, t reflect.Type, at *field.Path,
) string {
	path := child(at, name)
	same := sameWord(name, names(t))
	elsewhere := homeOf(name, reflect.TypeFor[corev1.Pod]())
	if _, ok := fields(reflect.TypeFor[corev1.Container]())[name]; ok && pattern(at) == "spec" {
		elsewhere = "spec.containers[]." + name
	}
	_, known := fields(reflect.TypeFor[v1alpha1.ContainerSpec]())[name]
	_, ofVolume := fields(reflect.TypeFor[v1alpha1.Volume]())[name]
	near := nearest(name, names(t))
	switch message := "found an unknown field; "; {
	case same == "" && elsewhere != "" && elsewhere != joined(pattern(at), name):
		message += "it belongs in " + parent(elsewhere) + ": check the indentation"
		d.fault(key, path, message, strings.ReplaceAll(elsewhere, "[]", ""))
	case same == "" && known && d.pattern(at) == "spec",
		same == "" && ofVolume && pattern(at) == "spec.volumes[]":
		d.fault(key, path,
			"found a field of a Container that no Pod has; write the Pod's containers as Containers, or remove it")
	case near != "":
		d.fault(key, path, fmt.Sprintf(message+"did you mean %q?", near), pathOf(child(at, near)))
		return near
	default:
		d.fault(key, path, message+"allowed: "+strings.Join(names(t), ", "))
	}
	return ""
}

// pattern returns the pattern of a path, which is the key of advice about fields of a Container.
// Fields of a Pod's container get the same advice.
func (d *decoder) pattern(at *field.Path) string {
	where := pattern(at)
	for _, list := range []string{"spec.containers[]", "spec.initContainers[]"} {
		if rest, ok := strings.CutPrefix(where, list); ok && d.pod {
			return "spec" + rest
		}
	}
	return where
}

// pattern returns a path without the numbers and keys of its items: spec.env[].
func pattern(at *field.Path) string {
	path := pathOf(at)
	var b strings.Builder
	for {
		before, rest, ok := strings.Cut(path, "[")
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		b.WriteString("[]")
		_, path, _ = strings.Cut(rest, "]")
	}
}

func joined(where, name string) string {
	if where == "" {
		return name
	}
	return where + "." + name
}

// podOwner returns which type of a Pod has a field that stands at a place of a Container, or "".
func podOwner(where, name string) string {
	owners := map[string][]struct {
		t    reflect.Type
		name string
	}{
		"spec": {
			{reflect.TypeFor[corev1.Container](), "a Pod's container"},
			{reflect.TypeFor[corev1.PodSpec](), "a Pod"},
		},
		"spec.securityContext": {{
			reflect.TypeFor[corev1.PodSecurityContext](),
			"a Pod's securityContext",
		}},
		"spec.volumes[]": {{reflect.TypeFor[corev1.VolumeSource](), "a Pod's volume"}},
		"spec.volumes[].projected.sources[]": {{
			reflect.TypeFor[corev1.VolumeProjection](), "a Pod's projected volume",
		}},
	}
	for _, o := range owners[where] {
		if _, ok := fields(o.t)[name]; ok {
			return o.name
		}
	}
	return ""
}

// homeOf returns the path of a field of this name in a Container or Pod: its only one, or the one
// nearest to the root.
func homeOf(name string, root reflect.Type) string {
	type place struct {
		path string
		t    reflect.Type
	}
	level := []place{{"", root}}
	for range 4 {
		var found []string
		var next []place
		for _, p := range level {
			for _, n := range names(p.t) {
				ft := fields(p.t)[n]
				path := joined(p.path, n)
				if path == "status" || path == "metadata.managedFields" || path == "metadata.ownerReferences" {
					continue
				}
				if n == name {
					found = append(found, path)
				}
				for ft.Kind() == reflect.Pointer || ft.Kind() == reflect.Slice {
					if ft.Kind() == reflect.Slice {
						path += "[]"
					}
					ft = ft.Elem()
				}
				if ft.Kind() == reflect.Struct && ft != reflect.TypeFor[resource.Quantity]() {
					next = append(next, place{path, ft})
				}
			}
		}
		if len(found) > 0 {
			if len(found) > 1 {
				return ""
			}
			return found[0]
		}
		level = next
	}
	return ""
}

// sameWord returns the word that differs in case and separators only: restart_policy is
// restartPolicy.
func sameWord(s string, words []string) string {
	fold := func(s string) string {
		return strings.ToLower(strings.ReplaceAll(strings.ReplaceAll(s, "_", ""), "-", ""))
	}
	s = fold(s)
	for _, w := range words {
		if fold(w) == s {
			return w
		}
	}
	return ""
}

// nearest returns the word that somebody most likely meant: another case, or a slip or two of the
// keyboard. It returns "" if no word is near, or if s is one of the words.
func nearest(s string, words []string) string {
	if slices.Contains(words, s) {
		return ""
	}
	if same := sameWord(s, words); same != "" {
		return same
	}
	best, least := "", 1+min(len(s)/3, 2)
	if len(s) < 3 {
		return ""
	}
	for _, w := range words {
		if strings.HasPrefix(strings.ToLower(w), strings.ToLower(s)) {
			return w
		}
	}
	for _, w := range words {
		if n := distance(strings.ToLower(s), strings.ToLower(w)); n < least {
			best, least = w, n
		}
	}
	return best
}

// distance counts the letters to insert, remove, replace or swap with their neighbour to turn one
// word into another (optimal string alignment).
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

// enums returns the words that fields of a Container may hold, for a hint about another kind of
// value.
func enums() map[string][]string {
	return map[string][]string{
		"spec.restartPolicy":   {"Always", "OnFailure", "Never"},
		"spec.imagePullPolicy": {"Always", "IfNotPresent", "Never"},
	}
}

// fields returns the names and the types of a struct's fields, including those of embedded structs.
func fields(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case f.Anonymous && name == "" || strings.Contains(options, "inline"):
			inner := f.Type
			if inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			maps.Copy(out, fields(inner))
		case name != "":
			out[name] = f.Type
		}
	}
	return out
}

// names returns the sorted names of a struct's fields.
func names(t reflect.Type) []string { return slices.Sorted(maps.Keys(fields(t))) }
