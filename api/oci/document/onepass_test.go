// SPDX-License-Identifier: Apache-2.0

package document

import (
	"encoding"
	"encoding/json"
	"os"
	"reflect"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// documents are read in one pass.
func documents(t testing.TB) []string {
	t.Helper()
	texts := []string{
		`{}`, `{"process":null,"linux":null,"root":{"path":"x"}}`,
		`{"linux":{"resources":{"cpu":{"shares":2},"memory":null,"blockIO":{"weightDevice":[{"major":8,"minor":1,"weight":3}]}}}}`,
		`{"process":{"user":{"uid":1,"additionalGids":[2]},"capabilities":{"bounding":["CAP_KILL"]},"rlimits":[{"type":"RLIMIT_NOFILE","hard":1,"soft":1}]},"x-extension":{"a":1}}`,
		`{"vm":{"hypervisor":{"path":"/x"}},"windows":{"layerFolders":["a"]},"solaris":{"milestone":"b"},"annotations":{"a":"b"}}`,
		` { "root" : { "path" : "x" , "readonly" : true } , "mounts" : [ ] , "annotations" : { } , "process" : { "args" : [ "" , "\u00fc" , "ü" , null ] , "rlimits" : null } } ` + "\n",
		`{"linux":{"resources":{"memory":{"limit":-9223372036854775808,"swappiness":18446744073709551615},"devices":[{"allow":false,"major":-0},{},null]},"rootfsPropagation":"a\tb"}}`,
		`{"linux":{"sysctl":{"":"","a":null},"netDevices":{"a":{"name":"b"},"b":{}},"namespaces":[{"path":"/x","type":"pid"},{"type":"user"}]},"domainname":null,"hostname":"a"}`,
		`{"process":{"user":{"umask":18,"additionalGids":[]},"consoleSize":{"width":1,"height":2},"oomScoreAdj":-3,"ioPriority":{"class":"IOPRIO_CLASS_BE","priority":1}},"a":[{"b":[1e5,"\n",true]}],"b":null}`,
		`{"hooks":{"prestart":[{"path":"/a","timeout":3}]},"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_ERRNO","errnoRet":3}]},"intelRdt":{"schemata":["a"]}}}`,
	}
	for _, file := range []string{"testdata/runc-spec.json", "testdata/containerd-spec.json"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(text))
	}
	return texts
}

// TestUnmarshalEqualsJSON: reading in one pass gives the result of encoding/json.
func TestUnmarshalEqualsJSON(t *testing.T) {
	for _, text := range documents(t) {
		var want, got specs.Spec
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatal(err)
		}
		if err := unmarshal([]byte(text), &got); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\nfound %+v\nwant  %+v", text, got, want)
		}
	}
	// encoding/json does not mind the case, and knows a fault's place: these are its own to read.
	for _, text := range []string{
		`{"Process":{"cwd":"/"}}`, `{"linux":{"SECCOMP":{}}}`, `{"process":3}`, `{"root":{"path":3}}`,
		`[]`, `{"root":`, ``, `null1`, `{}x`, `{},`,
		`{"root":{"path":"a\xff"}}`, `{"root":{"path":"a` + "\n" + `"}}`, `{"root":{"readonly":truex}}`,
		`{"root":{"readonly":1}}`, `{"a":01}`, `{"a":tru}`, `{"a" 1}`, `{"a":1 "b":2}`,
		`{"mounts":[{}{}]}`, `{"mounts":[,]}`, `{"mounts":[{},]}`,
		`{"linux":{"resources":{"memory":{"limit":01}}}}`,
		`{"linux":{"resources":{"memory":{"limit":+1}}}}`,
		`{"linux":{"resources":{"memory":{"limit":-}}}}`,
		`{"linux":{"resources":{"memory":{"limit":1.0}}}}`,
		`{"linux":{"resources":{"memory":{"limit":9223372036854775808}}}}`,
		`{"process":{"user":{"uid":-1}}}`, `{"process":{"user":{"uid":4294967296}}}`,
	} {
		var got specs.Spec
		if err := unmarshal([]byte(text), &got); err == nil {
			t.Errorf("%s: no error", text)
		}
	}
}

// TestNoTypeReadsItself: what is read in one pass does not ask a type whether it has a way of its
// own.
func TestNoTypeReadsItself(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var look func(reflect.Type)
	look = func(typ reflect.Type) {
		if seen[typ] {
			return
		}
		seen[typ] = true
		for _, own := range []reflect.Type{
			reflect.TypeFor[json.Unmarshaler](),
			reflect.TypeFor[encoding.TextUnmarshaler](),
		} {
			if reflect.PointerTo(typ).Implements(own) {
				t.Errorf("%v has a method of %v", typ, own)
			}
		}
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice:
			look(typ.Elem())
		case reflect.Map:
			look(typ.Key())
			look(typ.Elem())
		case reflect.Struct:
			for i := range typ.NumField() {
				look(typ.Field(i).Type)
			}
		}
	}
	look(reflect.TypeFor[specs.Spec]())
	if len(seen) < 90 {
		t.Errorf("found %d types", len(seen))
	}
}

// FuzzUnmarshal checks that reading in one pass gives the result of encoding/json.
func FuzzUnmarshal(f *testing.F) {
	for _, text := range documents(f) {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var want, got specs.Spec
		if unmarshal(text, &got) != nil {
			return
		}
		s, twice := scanner{text: text}, false
		s.twice = func(string, int, int) { twice = true } // which Faults reports
		if s.value(); twice {
			return
		}
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatalf("encoding/json: %v", err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("found %+v\nwant  %+v", got, want)
		}
	})
}
