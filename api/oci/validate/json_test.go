// SPDX-License-Identifier: Apache-2.0

package validate_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	profile "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/oci/document"
	"github.com/berth-run/berth/api/oci/validate"
)

// TestJSON: a fault of the form is not reported once more as one of the empty value, and the faults of
// other fields are reported nevertheless.
func TestJSON(t *testing.T) {
	for _, c := range []struct{ name, document, want string }{
		{
			"good", `{"ociVersion":"1.0.0","root":{"path":"r"},"process":{"cwd":"/","args":["sh"],"user":{"uid":0,"gid":0}}}` + "\n", "",
		},
		{
			"unknown fields",
			`{"ociVersion":"1.0.0","root":{"path":"r","x":1},"process":{"cwd":"/","args":["sh"]},"com.example":{"a":[{}]}}`, "",
		},
		{
			"cut off", `{"root":{"path":"r`,
			`Error root.path: found unexpected end of JSON input at line 1, column 19 (offset 18); allowed: one JSON object and nothing behind it`,
		},
		{
			"wrong type beside another fault",
			`{"ociVersion":"1.0.0","root":{"path":7},"process":{"cwd":"x","args":["sh"]}}`,
			`Error root.path: found "7" at line 1, offset 37; allowed: a string` + "\n" +
				`Error process.cwd: found "x"; allowed: an absolute path in the container`,
		},
		{
			"missing beside another fault",
			`{"ociVersion":"1.0.0","root":{"path":"r"},"process":{"cwd":"x","args":["sh"]},
"linux":{"namespaces":[{"type":"user"},{"type":"mount"}],"uidMappings":[{"containerID":0,"hostID":1}],"gidMappings":[{"containerID":0,"hostID":0,"size":1}]}}`,
			"Error linux.uidMappings[0].size: found nothing; allowed: a value: the specification requires the field\n" +
				`Error process.cwd: found "x"; allowed: an absolute path in the container` + "\n" +
				`Error process.user.uid: found 0; allowed: an id that linux.uidMappings maps, since the container has a user namespace`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec, faults := validate.JSON([]byte(c.document), validate.Options{})
			var kept document.Faults
			for _, f := range faults {
				// What a document has no mount namespace for is not the matter here.
				if f.Path != "linux.namespaces" {
					kept = append(kept, f)
				}
			}
			check(t, kept, c.want)
			if (spec == nil) != (c.want != "") {
				t.Errorf("spec is nil: %v", spec == nil)
			}
		})
	}
}

// A fault of the values, unlike one of the form, leaves the document readable.
func TestJSONReturnsInvalidSpec(t *testing.T) {
	spec, faults := validate.JSON([]byte(`{"ociVersion":"9.0.0","root":{"path":"r"}}`),
		validate.Options{})
	if spec == nil || spec.Version != "9.0.0" || faults.Err() == nil {
		t.Errorf("spec %v, faults %v", spec, faults)
	}
}

func TestProcessJSON(t *testing.T) {
	p, faults := validate.ProcessJSON([]byte(`{"args":["id"],"cwd":"/","user":{"uid":1,"gid":1}}`),
		validate.Options{})
	if len(faults) > 0 || p == nil || p.Args[0] != "id" {
		t.Errorf("process %v, faults %v", p, faults)
	}
	p, faults = validate.ProcessJSON([]byte(
		`{"args":[1],"cwd":"tmp","rlimits":[{"type":"RLIMIT_AS","soft":0}]}`), validate.Options{})
	check(t, faults, `Error args[0]: found "1" at line 1, offset 9; allowed: a string`+"\n"+
		"Error rlimits[0].hard: found nothing; allowed: a value: the specification requires the field\n"+
		`Error cwd: found "tmp"; allowed: an absolute path in the container`)
	if p != nil {
		t.Error("a process that could not be read was returned")
	}
}

// The documents that containerd, runc and the specification itself give out are
// without fault.
func TestKnownDocuments(t *testing.T) {
	t.Run("runc", func(t *testing.T) {
		// runc 1.1's own: it raises ambient capabilities that are not
		// inheritable, which the kernel refuses and runc 1.2 left off.
		var want []string
		for i, name := range []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"} {
			want = append(want,
				fmt.Sprintf(
					`Warning process.capabilities.ambient[%d]: found "%s"; allowed: only what is in permitted and in inheritable, too: `+
						`can't raise ambient capability %s: the kernel does not grant it`, i, name, name))
		}
		checkFile(t, "../document/testdata/runc-spec.json", strings.Join(want, "\n"))
	})
	t.Run("containerd", func(t *testing.T) {
		// `ctr oci spec` leaves the program to each container.
		checkFile(t, "../document/testdata/containerd-spec.json",
			"Error process.args: found nothing; allowed: at least one entry, the program to run")
	})
	const noProcess = "Warning process: found nothing; allowed: an object, without which the container can be created but not started"
	examples := filepath.Join(moduleDir(t, "github.com/opencontainers/runtime-spec"), "schema", "test",
		"config")
	for name, want := range map[string]string{
		"good/minimal.json":           noProcess,
		"good/minimal-for-start.json": "",
		"good/linux-rdma.json":        noProcess,
		"good/linux-netdevice.json": noProcess + "\n" +
			"Error linux.netDevices: found devices without a network namespace; allowed: nothing, unless linux.namespaces has one of type network",
		"good/spec-example.json": `Error ociVersion: found "0.5.0-dev"; allowed: a SemVer version of 1.0.0 to 1.3.0`,
		"good/freebsd-minimal.json": noProcess + "\n" +
			"Error freebsd: found a section of another platform; allowed: nothing: this platform is linux",
		"bad/invalid-json.json": "Error document: found invalid character ']' looking for beginning of object key string at line 1, column 2 (offset 1); " +
			"allowed: one JSON object and nothing behind it",
		"bad/linux-hugepage.json": noProcess + "\n" +
			`Error linux.resources.hugepageLimits[0].pageSize: found "64kB"; allowed: <size><K, M or G>B, such as 64KB, 2MB or 1GB`,
		"bad/linux-netdevice.json": `Error linux.netDevices["eth0"].name: found "23" at line 9, offset 160; allowed: a string` + "\n" + noProcess + "\n" +
			"Error linux.netDevices: found devices without a network namespace; allowed: nothing, unless linux.namespaces has one of type network",
		"bad/linux-rdma.json": `Error linux.resources.rdma["mlx5_1"].hcaHandles: found "\"not a uint32\"" at line 10, offset 197; ` +
			"allowed: a whole number from 0 to 4294967295" + "\n" + noProcess,
	} {
		t.Run(name, func(t *testing.T) { checkFile(t, filepath.Join(examples, name), want) })
	}
}

func checkFile(t *testing.T, file, want string) {
	t.Helper()
	document, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, faults := validate.JSON(document, validate.Options{})
	check(t, faults, want)
}

func moduleDir(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return strings.TrimSpace(string(out))
}

func TestMobySeccompProfile(t *testing.T) {
	s := good()
	s.Process.Capabilities = &specs.LinuxCapabilities{}
	var err error
	if s.Linux.Seccomp, err = profile.GetDefaultProfile(s); err != nil {
		t.Fatal(err)
	}
	document, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	_, faults := validate.JSON(document, validate.Options{})
	check(t, faults, "")
}

// FuzzJSON holds that no input makes the package panic, that what it accepts is
// accepted again, and that it does not return what it could not read.
func FuzzJSON(f *testing.F) {
	for _, file := range []string{
		"../document/testdata/runc-spec.json",
		"../document/testdata/containerd-spec.json",
	} {
		document, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(document)
		// What is in it is of the form that `exec --process` reads.
		var parts struct{ Process json.RawMessage }
		if err := json.Unmarshal(document, &parts); err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(parts.Process))
	}
	for _, s := range []string{
		`{"args":["a"],"cwd":"/","user":{"uid":1,"umask":18,"additionalGids":[2]},"scheduler":{"policy":"SCHED_DEADLINE","runtime":1,"deadline":2,"period":3},
			"ioPriority":{"class":"IOPRIO_CLASS_BE","priority":9},"execCPUAffinity":{"initial":"0-","final":"3,1-2"},"rlimits":[{"type":"RLIMIT_CPU","soft":2,"hard":1}],"consoleSize":{"height":1}}`,
		`{"ociVersion":"1.0.0","root":{"path":1},"mounts":[{"options":[1,{}]}],"process":[]}`,
		`{"linux":{"sysctl":{"net/..":"1","a\u002eb":"2"},"uidMappings":[{"size":1},{"size":4294967295}],"timeOffsets":{"x":{}}}}`,
		`{"a":{"a":{"a":[[[{"b":"\ud800"}]]]}}}`, `{"a`, `{"hooks":{"poststop":[{"timeout":-1}]}}`,
		"{\"\xff\":1}",
		`{"linux":{"netDevices":{"a":{"name":"%d"}},"cgroupsPath":"a:b:c","seccomp":{"syscalls":[{"args":[{"index":9}]}]}}}`,
		`{"vm":{"hwconfig":{"iomems":[{}]}},"linux":{"resources":{"rdma":{"a":null},"unified":{"a/b":"c"}}}}`,
	} {
		f.Add([]byte(s))
	}
	known := func(name string) bool { return len(name)%2 == 0 }
	f.Fuzz(func(t *testing.T, document []byte) {
		for _, o := range []validate.Options{{}, {VM: true, KnownSyscall: known}} {
			spec, faults := validate.JSON(document, o)
			if spec == nil && faults.Err() == nil {
				t.Fatal("no document and no error")
			}
			_ = faults.Error()
			if spec != nil && faults.Err() == nil {
				again, err := json.Marshal(spec)
				if err != nil {
					t.Fatal(err)
				}
				if _, faults := validate.JSON(again, o); faults.Err() != nil {
					t.Fatalf("accepted, and refused when written out again: %v", faults)
				}
			}
		}
		process, faults := validate.ProcessJSON(document, validate.Options{})
		if process == nil && faults.Err() == nil {
			t.Fatal("no process and no error")
		}
		if process != nil && faults.Err() == nil {
			again, err := json.Marshal(process)
			if err != nil {
				t.Fatal(err)
			}
			if _, faults := validate.ProcessJSON(again, validate.Options{}); faults.Err() != nil {
				t.Fatalf("a process accepted, and refused when written out again: %v", faults)
			}
		}
	})
}
