// SPDX-License-Identifier: Apache-2.0

package validate

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// errNotPlain says that a document has to be read the usual way.
var errNotPlain = errors.New("found a name that is a field's but for its case")

// Parse reads a document that JSON has accepted before.
func Parse(document []byte) (*specs.Spec, error) {
	spec := &specs.Spec{}
	if unmarshal(document, spec) == nil {
		return spec, nil
	}
	spec = &specs.Spec{}
	return spec, json.Unmarshal(document, spec)
}

// unmarshal is json.Unmarshal for a pointer to a struct, an object at a time. Before encoding/json reads its first byte into a
// struct it studies the types of all that can be in it, down to the last; of a document of the runtime specification
// that takes ten times as long as to read a common one. Here only the types of what the document has are studied.
//
// Where it fails, v is not to be used: json.Unmarshal tells the fault and its place.
func unmarshal(text []byte, v any) error {
	return unmarshalStruct(text, reflect.ValueOf(v).Elem())
}

func unmarshalStruct(text []byte, v reflect.Value) error {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(text, &object); err != nil {
		return err
	}
	t := v.Type()
	known := 0
	for i := range t.NumField() {
		if t.Field(i).Anonymous {
			return json.Unmarshal(text, v.Addr().Interface()) // its fields are the struct's own
		}
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		value, found := object[name]
		if !found {
			continue
		}
		known++
		if err := unmarshalField(value, v.Field(i)); err != nil {
			return err
		}
	}
	if known == len(object) {
		return nil
	}
	// What is left over is an extension (config.md, Extensibility), or a field to encoding/json, which does not mind the case.
	for name := range object {
		for i := range t.NumField() {
			field, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			if name != field && strings.EqualFold(name, field) {
				return errNotPlain
			}
		}
	}
	return nil
}

func unmarshalField(text json.RawMessage, v reflect.Value) error {
	switch {
	case v.Kind() == reflect.Struct && string(text) != "null":
		return unmarshalStruct(text, v)
	case v.Kind() == reflect.Pointer && v.Type().Elem().Kind() == reflect.Struct && string(text) != "null":
		v.Set(reflect.New(v.Type().Elem()))
		return unmarshalStruct(text, v.Elem())
	}
	return json.Unmarshal(text, v.Addr().Interface())
}
