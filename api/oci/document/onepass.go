// SPDX-License-Identifier: Apache-2.0

package document

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// errNotDecoded leaves the text to encoding/json.
var errNotDecoded = errors.New("found what only encoding/json reads, or refuses")

// unmarshal is json.Unmarshal for a pointer to a struct, in one pass. Before encoding/json reads
// its first byte into a struct it studies the types of all that can be in it, down to the last; of
// a document of the runtime specification that takes ten times as long as to read a common one.
// Here only the types of what the document has are looked at, and each byte once.
//
// It reads what documents have mostly, and leaves the values of other types to encoding/json. Where
// it fails, v is not to be used: json.Unmarshal then finds the fault and its place, or reads the
// document after all.
func unmarshal(text []byte, v any) error {
	p := onePass{scanner: scanner{text: text}, strings: string(text)}
	if !p.into(reflect.ValueOf(v).Elem()) {
		return errNotDecoded
	}
	if p.space(); p.pos < len(text) {
		return errNotDecoded
	}
	return nil
}

// onePass decodes one text. No type of the runtime specification reads itself (json.Unmarshaler),
// which a test holds.
type onePass struct {
	scanner
	// strings is the text once more, which the strings of the document are parts of.
	strings string
}

// into reads the next value. It reports false for a value that it does not support.
func (p *onePass) into(v reflect.Value) bool {
	p.space()
	if p.pos >= len(p.text) {
		return false
	}
	if p.text[p.pos] == 'n' {
		return p.viaEncodingJSON(v) // null leaves alone what cannot be nil
	}
	switch v.Kind() {
	case reflect.String:
		s, ok := p.unescaped()
		if !ok {
			return p.viaEncodingJSON(v)
		}
		v.SetString(s)
		return true
	case reflect.Bool:
		start := p.pos
		p.literal()
		word := p.strings[start:p.pos]
		v.SetBool(word == "true")
		return word == "true" || word == "false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(p.digits(), 10, v.Type().Bits())
		v.SetInt(n)
		return err == nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(p.digits(), 10, v.Type().Bits())
		v.SetUint(n)
		return err == nil
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		return p.into(v.Elem())
	case reflect.Struct:
		return p.fields(v)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return p.viaEncodingJSON(v) // base64
		}
		return p.elements(v)
	case reflect.Map:
		if v.Type().Key().Kind() != reflect.String {
			return p.viaEncodingJSON(v)
		}
		return p.entries(v)
	}
	return p.viaEncodingJSON(v)
}

// viaEncodingJSON decodes the next value with encoding/json.
func (p *onePass) viaEncodingJSON(v reflect.Value) bool {
	start := p.pos
	return p.value() && json.Unmarshal(p.text[start:p.pos], v.Addr().Interface()) == nil
}

// unescaped passes a string without escapes. If it reports false, it has passed nothing.
func (p *onePass) unescaped() (string, bool) {
	if p.pos >= len(p.text) || p.text[p.pos] != '"' {
		return "", false
	}
	start := p.pos + 1
	n := bytes.IndexByte(p.text[start:], '"')
	if n < 0 {
		return "", false
	}
	s, ascii := p.strings[start:start+n], true
	for i := range len(s) {
		if s[i] == '\\' || s[i] < ' ' {
			return "", false
		}
		ascii = ascii && s[i] < utf8.RuneSelf
	}
	if !ascii && !utf8.ValidString(s) {
		return "", false
	}
	p.pos = start + n + 1
	return s, true
}

// digits skips a whole number and returns it. It returns nothing if JSON does not allow the number.
func (p *onePass) digits() string {
	start := p.pos
	p.literal()
	s := p.strings[start:p.pos]
	if digits := strings.TrimPrefix(s, "-"); digits == "" || digits[0] == '+' || digits[0] == '0' &&
		digits != "0" {
		return ""
	}
	return s
}

// each passes the members of an object or an array, up to the bracket that ends it.
func (p *onePass) each(first, last byte, member func() bool) bool {
	if !p.next(first) {
		return false
	}
	if p.next(last) {
		return true
	}
	for {
		if p.space(); !member() {
			return false
		}
		if p.next(last) {
			return true
		}
		if !p.next(',') {
			return false
		}
	}
}

// name passes the name of a member and the colon behind it.
func (p *onePass) name() (string, bool) {
	name, ok := p.unescaped()
	return name, ok && p.next(':')
}

func (p *onePass) fields(v reflect.Value) bool {
	var room [32]string
	names, ok := fieldNames(v.Type(), room[:0])
	if !ok {
		return p.viaEncodingJSON(v)
	}
	at := 0 // most documents have their fields in the order of the types
	return p.each('{', '}', func() bool {
		name, ok := p.name()
		if !ok {
			return false
		}
		for range names {
			if at %= len(names); names[at] == name {
				return p.into(v.Field(at))
			}
			at++
		}
		return p.unknown(name, names)
	})
}

// fieldNames returns the names of a struct's fields in JSON. ok reports whether encoding/json uses
// the same names.
func fieldNames(t reflect.Type, names []string) (_ []string, ok bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, option, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || !f.IsExported() || name == "" || name == "-" || option != "" &&
			option != "omitempty" {
			return nil, false
		}
		names = append(names, name)
	}
	return names, true
}

// unknown passes the value of an extension (config.md, Extensibility). A name that is a field's but
// for its case is a field to encoding/json.
func (p *onePass) unknown(name string, names []string) bool {
	for _, field := range names {
		if strings.EqualFold(name, field) {
			return false
		}
	}
	p.space()
	start := p.pos
	return p.value() && json.Valid(p.text[start:p.pos])
}

func (p *onePass) elements(v reflect.Value) bool {
	n := 0
	if v.IsNil() {
		v.Set(reflect.MakeSlice(v.Type(), 0, 4))
	}
	v.SetLen(0)
	return p.each('[', ']', func() bool {
		if n == v.Cap() {
			v.Grow(1)
		}
		v.SetLen(n + 1)
		element := v.Index(n)
		element.SetZero()
		n++
		return p.into(element)
	})
}

func (p *onePass) entries(v reflect.Value) bool {
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	key, element := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
	return p.each('{', '}', func() bool {
		name, ok := p.name()
		element.SetZero()
		if !ok || !p.into(element) {
			return false
		}
		key.SetString(name)
		v.SetMapIndex(key, element)
		return true
	})
}
