// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"sigs.k8s.io/yaml"

	"github.com/berth-run/berth/api/oci/capability"
	"github.com/berth-run/berth/api/oci/validate"
	"github.com/berth-run/berth/api/v1alpha1"
)

var update = flag.Bool("update", false, "write testdata/*.json anew")

// readContainer returns the Container of a file, which is its last document.
func readContainer(t *testing.T, file string) *v1alpha1.Container {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	documents := strings.Split(string(b), "\n---\n")
	c := &v1alpha1.Container{}
	if err := yaml.UnmarshalStrict([]byte(documents[len(documents)-1]), c); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if c.Kind != "Container" {
		t.Fatalf("%s: found a %s; want a Container", file, c.Kind)
	}
	return c
}

// compiled returns the bundle of a Container that has no fault, and its document.
func compiled(t *testing.T, c *v1alpha1.Container) (*v1alpha1.OCIBundleSpec, *specs.Spec) {
	t.Helper()
	b, faults := Bundle(c, Architecture("amd64"))
	if len(faults) > 0 {
		t.Fatal(faults.ToAggregate())
	}
	spec := &specs.Spec{}
	if err := json.Unmarshal(b.Config.Raw, spec); err != nil {
		t.Fatal(err)
	}
	return b, spec
}

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs; look at the change with: go test ./api/oci/compile -update && git diff\ngot:\n%s", file, got)
	}
}

// TestGolden holds the whole result for each file of testdata. The seccomp rules
// are left out, for they are the same ones in each; TestDefaultSeccomp has them.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no testdata:", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			c := readContainer(t, file)
			before := c.DeepCopy()
			b, spec := compiled(t, c)
			if !reflect.DeepEqual(c, before) {
				t.Error("the Container was changed")
			}
			again, _ := compiled(t, c)
			if !reflect.DeepEqual(b, again) {
				t.Error("two compilations differ")
			}

			if spec.Linux.Seccomp != nil {
				spec.Linux.Seccomp.Syscalls = nil
			}
			b.Config.Raw, err = json.Marshal(spec)
			if err != nil {
				t.Fatal(err)
			}
			out, err := json.MarshalIndent(b, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden(t, strings.TrimSuffix(file, ".yaml")+".json", append(out, '\n'))
		})
	}
}

// TestCompiledIsValid: a compiled document is valid once the node has added the image's program.
func TestCompiledIsValid(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.yaml")
	samples, _ := filepath.Glob("../../../config/samples/*.yaml")
	standalone, _ := filepath.Glob("../../../config/samples/standalone/web.yaml")
	samples = append(samples, standalone...)
	for _, file := range append(files, samples...) {
		if filepath.Base(file) == "kustomization.yaml" {
			continue
		}
		t.Run(filepath.Base(file), func(t *testing.T) {
			_, spec := compiled(t, readContainer(t, file))
			if len(spec.Process.Args) == 0 {
				spec.Process.Args = []string{"/entrypoint"}
			}
			document, err := json.Marshal(spec)
			if err != nil {
				t.Fatal(err)
			}
			_, faults := validate.JSON(document, validate.Options{})
			for _, f := range faults {
				t.Errorf("%s: %s", f.Severity, f.Error())
			}
		})
	}
}

// TestDefaultSeccomp: the profile is the library's own, which can only be asked
// for on the architecture and the kernel that the test runs on.
func TestDefaultSeccomp(t *testing.T) {
	for _, caps := range [][]string{
		nil, defaultCapabilities(), capability.Names(),
		{"CAP_SYS_ADMIN"},
	} {
		want, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{
			Capabilities: &specs.LinuxCapabilities{Bounding: caps},
		}})
		if err != nil {
			t.Fatal(err)
		}
		if got := defaultSeccomp(runtime.GOARCH, caps); !reflect.DeepEqual(got, want) {
			t.Errorf("capabilities %v: got %d rules, want %d", caps, len(got.Syscalls), len(want.Syscalls))
		}
	}
	for arch, want := range map[string][]specs.Arch{
		"amd64":   {specs.ArchX86_64, specs.ArchX86, specs.ArchX32},
		"arm64":   {specs.ArchAARCH64, specs.ArchARM},
		"riscv64": {specs.ArchRISCV64},
		"ppc64le": nil,
	} {
		got := defaultSeccomp(arch, nil)
		if !reflect.DeepEqual(got.Architectures, want) {
			t.Errorf("%s: architectures %v, want %v", arch, got.Architectures, want)
		}
		has := false
		for _, s := range got.Syscalls {
			for _, n := range s.Names {
				has = has || n == "arch_prctl"
			}
		}
		if has != (arch == "amd64") {
			t.Errorf("%s: arch_prctl allowed is %v", arch, has)
		}
	}
}

// TestSocketcall: the compiled profile denies socketcall(2) before all other rules, on every
// architecture, unless the Container allows it; the library's own profile is left as it is.
func TestSocketcall(t *testing.T) {
	named := func(rules []specs.LinuxSyscall) (lines []int) {
		for i, rule := range rules {
			if slices.Contains(rule.Names, "socketcall") {
				lines = append(lines, i)
			}
		}
		return lines
	}
	for _, arch := range []string{"amd64", "arm64", "s390x", "ppc64le"} {
		c := base()
		b, faults := Bundle(c, Architecture(arch))
		if len(faults) > 0 {
			t.Fatal(faults)
		}
		spec := specs.Spec{}
		if err := json.Unmarshal(b.Config.Raw, &spec); err != nil {
			t.Fatal(err)
		}
		rules := spec.Linux.Seccomp.Syscalls
		first := rules[0]
		if lines := named(rules); !slices.Equal(lines, []int{0}) || len(first.Names) != 1 ||
			len(first.Args) != 0 ||
			first.Action != specs.ActErrno || *first.ErrnoRet != uint(syscall.ENOSYS) {
			t.Errorf("%s: socketcall stands in rules %v; rule 0 is for %d calls, %s", arch, lines,
				len(first.Names), first.Action)
		}

		c.Spec.AllowSocketcall = true
		b, _ = Bundle(c, Architecture(arch))
		spec = specs.Spec{}
		if err := json.Unmarshal(b.Config.Raw, &spec); err != nil {
			t.Fatal(err)
		}
		want := defaultSeccomp(arch, spec.Process.Capabilities.Bounding)
		if !reflect.DeepEqual(spec.Linux.Seccomp, want) {
			t.Errorf("%s: with allowSocketcall the profile is not the library's", arch)
		}
		if len(named(defaultSeccomp(arch, nil).Syscalls)) != 1 {
			t.Errorf("%s: the library's profile was changed", arch)
		}
	}
}
