// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/api/resource"
)

// kindOf returns the kind of a node in YAML 1.1, which kubectl reads: null, bool, number, string,
// map, list, or tagged for a tag that no field has.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "map"
	case yaml.SequenceNode:
		return "list"
	}
	switch n.ShortTag() {
	case "!!null":
		return "null"
	case "!!bool":
		return "bool"
	case "!!int", "!!float":
		return "number"
	case "!!timestamp":
		return "string"
	case "!!str", "!!merge":
		if n.Style == 0 && slices.Contains([]string{"y", "yes", "on", "n", "no", "off"},
			strings.ToLower(n.Value)) &&
			(n.Value == strings.ToLower(n.Value) || n.Value == strings.ToUpper(n.Value) ||
				n.Value == strings.ToUpper(n.Value[:1])+strings.ToLower(n.Value[1:])) {
			return "bool"
		}
		return "string"
	}
	return "tagged"
}

// integer returns the value of a whole number.
func integer(n *yaml.Node) (int64, bool) {
	if kindOf(n) != "number" {
		return 0, false
	}
	var v any
	if n.Decode(&v) != nil {
		return 0, false
	}
	switch v := v.(type) {
	case int:
		return int64(v), true
	case int64:
		return v, true
	case float64:
		return int64(v), v == float64(int64(v))
	}
	return 0, false
}

// quote shows text in a message.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strconv.Quote(s)
}

// describe describes a node for a message.
func describe(n *yaml.Node) string {
	switch kind := kindOf(n); kind {
	case "map":
		return "a map"
	case "list":
		return "a list"
	case "null":
		return "nothing"
	case "bool":
		if v := strings.ToLower(n.Value); v != "true" && v != "false" {
			return n.Value + ", which YAML reads as the boolean " + strconv.FormatBool(v[0] == 'y' ||
				v == "on")
		}
		return "the boolean " + n.Value
	case "number":
		return "the number " + n.Value
	}
	return quote(n.Value)
}

// quoteIt returns advice on how to write a scalar as a string.
func quoteIt(n *yaml.Node) string {
	if kind := kindOf(n); kind == "bool" || kind == "number" {
		return ": write " + strconv.Quote(n.Value)
	}
	return ""
}

// expected describes the values that a type allows.
func expected(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == reflect.TypeFor[resource.Quantity]():
		return "a quantity such as 500m (of cpu) or 64Mi (of memory)"
	case t == reflect.TypeFor[time.Time](), strings.HasSuffix(t.Name(), "Time"):
		return "a time such as 2026-01-02T15:04:05Z"
	}
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false, without quotes"
	case reflect.Int32, reflect.Int64:
		return "a whole number, without quotes"
	case reflect.Slice:
		switch items(t).Kind() {
		case reflect.Struct:
			return "a list of maps with the fields " + strings.Join(names(items(t)), ", ")
		case reflect.String:
			return `a list of strings, such as ["a", "b"]`
		}
		return "a list"
	case reflect.Map:
		if items(t).Kind() == reflect.String {
			return `a map of names to strings, such as {app: "web"}`
		}
		return "a map of names, each with " + expected(items(t))
	case reflect.Struct:
		return "a map with the fields " + strings.Join(names(t), ", ")
	}
	return "another value"
}

func items(t reflect.Type) reflect.Type {
	t = t.Elem()
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}
