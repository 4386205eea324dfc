// SPDX-License-Identifier: Apache-2.0

package validate

import (
	"encoding/json"
	"os"
	"reflect"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// What the lazy way reads is what encoding/json reads.
func TestUnmarshalEqualsJSON(t *testing.T) {
	texts := []string{
		`{}`, `{"process":null,"linux":null,"root":{"path":"x"}}`, `{"linux":{"resources":{"cpu":{"shares":2},"memory":null,"blockIO":{"weightDevice":[{"major":8,"minor":1,"weight":3}]}}}}`,
		`{"process":{"user":{"uid":1,"additionalGids":[2]},"capabilities":{"bounding":["CAP_KILL"]},"rlimits":[{"type":"RLIMIT_NOFILE","hard":1,"soft":1}]},"x-extension":{"a":1}}`,
		`{"vm":{"hypervisor":{"path":"/x"}},"windows":{"layerFolders":["a"]},"solaris":{"milestone":"b"},"annotations":{"a":"b"}}`,
		`{"hooks":{"prestart":[{"path":"/a","timeout":3}]},"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_ERRNO","errnoRet":3}]},"intelRdt":{"schemata":["a"]}}}`,
	}
	for _, file := range []string{"testdata/runc-spec.json", "testdata/containerd-spec.json"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(text))
	}
	for _, text := range texts {
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
	for _, text := range []string{`{"Process":{"cwd":"/"}}`, `{"linux":{"SECCOMP":{}}}`, `{"process":3}`, `{"root":{"path":3}}`, `[]`, `{"root":`} {
		var got specs.Spec
		if err := unmarshal([]byte(text), &got); err == nil {
			t.Errorf("%s: no error", text)
		}
	}
}
