// SPDX-License-Identifier: Apache-2.0

package document_test

import (
	"strings"
	"testing"

	"github.com/berth-run/berth/internal/importtest"

	"github.com/berth-run/berth/api/oci/document"
)

// check compares faults with lines of "Severity path: found ...; allowed: ...".
func check(t *testing.T, faults document.Faults, want string) {
	t.Helper()
	var lines []string
	for _, f := range faults {
		lines = append(lines, string(f.Severity)+" "+f.Error())
	}
	if got := strings.Join(lines, "\n"); got != want {
		t.Errorf("faults:\n%s\nwant:\n%s", got, want)
	}
}

func TestDecode(t *testing.T) {
	for _, c := range []struct{ name, document, want string }{
		{
			"good", `{"ociVersion":"1.0.0","root":{"path":"r"},"process":{"cwd":"/","args":["sh"],"user":{"uid":0,"gid":0}}}` + "\n", "",
		},
		{
			"unknown fields",
			`{"ociVersion":"1.0.0","root":{"path":"r","x":1},"process":{"cwd":"/","args":["sh"]},"com.example":{"a":[{}]}}`, "",
		},
		{
			"wrong types", `{"ociVersion":1,"root":{"path":["r"]},
"process":{"cwd":"/","args":"sh",
"user":{"uid":-1,"gid":1.5},"terminal":"yes"},
"mounts":[{"destination":"/a","type":"proc"},{"destination":"/b","type":"proc","options":"ro"}],
"hooks":[],"linux":{"namespaces":[{"type":5}],"resources":{"memory":{"limit":99999999999999999999},"blockIO":{"weight":70000}}}}`,
			`Error ociVersion: found "1" at line 1, offset 14; allowed: a string` + "\n" +
				`Error root.path: found "[\"r\"]" at line 1, offset 31; allowed: a string` + "\n" +
				`Error process.args: found "\"sh\"" at line 2, offset 67; allowed: an array` + "\n" +
				`Error process.user.uid: found "-1" at line 3, offset 87; allowed: a whole number from 0 to 4294967295` + "\n" +
				`Error process.user.gid: found "1.5" at line 3, offset 96; allowed: a whole number from 0 to 4294967295` + "\n" +
				`Error process.terminal: found "\"yes\"" at line 3, offset 112; allowed: true or false` + "\n" +
				`Error mounts[1].options: found "\"ro\"" at line 4, offset 209; allowed: an array` + "\n" +
				`Error hooks: found "[]" at line 5, offset 225; allowed: an object` + "\n" +
				`Error linux.namespaces[0].type: found "5" at line 5, offset 259; allowed: a string` + "\n" +
				`Error linux.resources.memory.limit: found "99999999999999999999" at line 5, offset 294; allowed: a whole number from -9223372036854775808 to 9223372036854775807` + "\n" +
				`Error linux.resources.blockIO.weight: found "70000" at line 5, offset 336; allowed: a whole number from 0 to 65535`,
		},
		{
			"names twice", `{"ociVersion":"1.0.0","root":{"path":"r","path":"/"},
"process":{"cwd":"/","args":["sh"]},"Process":{"cwd":"/"},
"annotations":{"a":"1","A":"2","\u0061":"3"}}`,
			`Error root.path: found the name again at line 1, column 42 (offset 41); allowed: each name once; the first is at line 1, column 31 (offset 30)` + "\n" +
				`Error annotations["a"]: found the name again at line 3, column 32 (offset 144); allowed: each name once; the first is at line 3, column 16 (offset 128)` + "\n" +
				`Error Process: found the name again at line 2, column 37 (offset 90); allowed: each name once; the first is at line 2, column 1 (offset 54)`,
		},
		{
			"missing numbers",
			`{"ociVersion":"1.0.0","root":{"path":"r"},"process":{"cwd":"/","args":["sh"],"user":{"uid":1},"rlimits":[{"type":"RLIMIT_AS","hard":null}]},
"linux":{"namespaces":[{"type":"user"},{"type":"mount"}],"uidMappings":[{"containerID":1,"size":1}],"gidMappings":[{"containerID":0,"hostID":0,"size":1}],
"devices":[{"type":"c","path":"/a"},{"type":"p","path":"/p"}],"resources":{"devices":[{"access":"rwm"}],"hugepageLimits":[{"pageSize":"2MB"}],
"network":{"priorities":[{"name":"a"}]},"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0}]}},
"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_ERRNO","args":[{"op":"SCMP_CMP_EQ"}]}]}}}`,
			"Warning process.user.gid: found nothing; allowed: a value: the specification requires the field\n" +
				"Error process.rlimits[0].soft: found nothing; allowed: a value: the specification requires the field\n" +
				"Error process.rlimits[0].hard: found nothing; allowed: a value: the specification requires the field\n" +
				"Error linux.uidMappings[0].hostID: found nothing; allowed: a value: the specification requires the field\n" +
				"Error linux.devices[0].major: found nothing; allowed: a value: the specification requires the field\n" +
				"Error linux.devices[0].minor: found nothing; allowed: a value: the specification requires the field\n" +
				"Error linux.resources.devices[0].allow: found nothing; allowed: a value: the specification requires the field\n" +
				"Error linux.resources.hugepageLimits[0].limit: found nothing; allowed: a value: the specification requires the field\n" +
				"Error linux.resources.network.priorities[0].priority: found nothing; allowed: a value: the specification requires the field\n" +
				"Error linux.resources.blockIO.throttleReadBpsDevice[0].rate: found nothing; allowed: a value: the specification requires the field\n" +
				"Error linux.seccomp.syscalls[0].args[0].index: found nothing; allowed: a value: the specification requires the field\n" +
				"Error linux.seccomp.syscalls[0].args[0].value: found nothing; allowed: a value: the specification requires the field",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := document.Decode([]byte(c.document))
			check(t, d.Faults(), c.want)
			check(t, d.Faults(), c.want) // it may be called again
			if d.Value == nil {
				t.Error("no value")
			}
		})
	}
}

func TestNoObject(t *testing.T) {
	for _, c := range []struct{ name, document, want string }{
		{"empty", "", "Error document: found nothing; allowed: a JSON object"},
		{"blank", " \n\t", "Error document: found nothing; allowed: a JSON object"},
		{
			"null", "null",
			`Error document: found "null" at line 1, column 1 (offset 0); allowed: a JSON object`,
		},
		{
			"array", "\n [1]",
			`Error document: found "[1]" at line 2, column 2 (offset 2); allowed: a JSON object`,
		},
		{
			"yaml", "ociVersion: 1.0.0\nroot: x",
			`Error document: found "ociVersion: 1.0.0" at line 1, column 1 (offset 0); allowed: a JSON object`,
		},
		{
			"byte order mark", "\ufeff{}",
			`Error document: found "\ufeff{}" at line 1, column 1 (offset 0); allowed: a JSON object`,
		},
		{
			"cut off", `{"root":{"path":"r`,
			`Error root.path: found unexpected end of JSON input at line 1, column 19 (offset 18); allowed: one JSON object and nothing behind it`,
		},
		{
			"comma", "{\"mounts\":[{\"type\":\"proc\"},\n{\"options\":[\"ro\",]}]}",
			`Error mounts[1].options[1]: found invalid character ']' looking for beginning of value at line 2, column 18 (offset 45); allowed: one JSON object and nothing behind it`,
		},
		{
			"unquoted", `{"root":{"path":r}}`,
			`Error root.path: found invalid character 'r' looking for beginning of value at line 1, column 17 (offset 16); allowed: one JSON object and nothing behind it`,
		},
		{
			"trailing data", `{"ociVersion":"1.0.0"} {"x":1}`,
			`Error document: found invalid character '{' after top-level value at line 1, column 24 (offset 23); allowed: one JSON object and nothing behind it`,
		},
		{
			"not utf-8", "{\"ociVersion\":\"1.0.0\",\n\"hostname\":\"\xff\"}",
			`Error hostname: found bytes that are not UTF-8 at line 2, column 13 (offset 35); allowed: JSON in UTF-8`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := document.Decode([]byte(c.document))
			check(t, d.Faults(), c.want)
			if d.Value != nil {
				t.Errorf("found the value %+v", d.Value)
			}
		})
	}
}

func TestSize(t *testing.T) {
	text := []byte(`{"ociVersion":"1.0.0","root":{"path":"r"},"x":"`)
	text = append(text, strings.Repeat("a", document.MaxSize)...)
	text = append(text, `"}`...)
	check(t, document.Decode(text).Faults(),
		"Error document: found 16777265 bytes; allowed: at most 16777216 bytes")
}

// TestWrongTypesLeaveTheRest: fields beside one of a wrong type are decoded.
func TestWrongTypesLeaveTheRest(t *testing.T) {
	d := document.Decode([]byte(`{"ociVersion":1,"hostname":"a","root":{"path":[],"readonly":true}}`))
	if d.Value.Version != "" || d.Value.Hostname != "a" || d.Value.Root.Path != "" ||
		!d.Value.Root.Readonly {
		t.Errorf("found %+v", d.Value)
	}
}

func TestDecodeProcess(t *testing.T) {
	d := document.DecodeProcess([]byte(`{"args":["id"],"cwd":"/","user":{"uid":1,"gid":1}}`))
	check(t, d.Faults(), "")
	if d.Value.Args[0] != "id" {
		t.Errorf("found %+v", d.Value)
	}
	check(t, document.DecodeProcess([]byte(
		`{"args":[1],"cwd":"tmp","rlimits":[{"type":"RLIMIT_AS","soft":0}]}`)).Faults(),
		`Error args[0]: found "1" at line 1, offset 9; allowed: a string`+"\n"+
			"Error rlimits[0].hard: found nothing; allowed: a value: the specification requires the field")
}

func TestDecodeResources(t *testing.T) {
	d := document.DecodeResources([]byte(`{"memory":{"Limit":5},"unified":{"a":"b"}}`))
	check(t, d.Faults(), "")
	if *d.Value.Memory.Limit != 5 || d.Value.Unified["a"] != "b" {
		t.Errorf("found %+v", d.Value)
	}
	check(t, document.DecodeResources([]byte(
		`{"memory":{"limits":5},"hugepageLimits":[{"pageSize":"2MB","limit":1,"x":"y"}],"rdma":{"a":{"b":1}},"z":{}}`)).Faults(),
		`Error linux.resources.hugepageLimits[0].x: found "\"y\""; allowed: only fields that the specification has`+"\n"+
			`Error linux.resources.memory.limits: found "5"; allowed: only fields that the specification has`+"\n"+
			`Error linux.resources.rdma["a"].b: found "1"; allowed: only fields that the specification has`+
			"\n"+
			`Error linux.resources.z: found "{}"; allowed: only fields that the specification has`)
}

// TestImports holds that the package stays small: it is in the hot path of `berth run`, in programs
// that must not link Kubernetes, and below api/oci/validate.
func TestImports(t *testing.T) {
	deps := importtest.Deps(t)
	importtest.AllowOnly(t, deps, "github.com/opencontainers/runtime-spec/specs-go",
		"github.com/berth-run/berth/api/oci/document")
	importtest.Forbid(t, deps, "regexp", "net", "os/exec")
}
