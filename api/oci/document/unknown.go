// SPDX-License-Identifier: Apache-2.0

package document

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// unknown adds a fault for every field of an object that a struct does not have, and goes into
// those that it has.
func (c *Collector) unknown(path string, text []byte, t reflect.Type) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Slice:
		var list []json.RawMessage
		if json.Unmarshal(text, &list) == nil {
			for i, v := range list {
				c.unknown(path+"["+strconv.Itoa(i)+"]", v, t.Elem())
			}
		}
	case reflect.Map:
		var object map[string]json.RawMessage
		if json.Unmarshal(text, &object) == nil {
			for _, name := range slices.Sorted(maps.Keys(object)) {
				c.unknown(path+"["+Quote(name)+"]", object[name], t.Elem())
			}
		}
	case reflect.Struct:
		var object map[string]json.RawMessage
		if json.Unmarshal(text, &object) != nil {
			return
		}
		fields := reflect.VisibleFields(t)
		for _, name := range slices.Sorted(maps.Keys(object)) {
			i := slices.IndexFunc(fields, func(f reflect.StructField) bool {
				tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				return tag != "" && strings.EqualFold(tag, name) // encoding/json does not mind the case
			})
			if i < 0 {
				c.Error(path+"."+name, Quote(shorten(object[name])), "only fields that the specification has")
				continue
			}
			c.unknown(path+"."+name, object[name], fields[i].Type)
		}
	}
}
