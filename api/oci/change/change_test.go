// SPDX-License-Identifier: Apache-2.0

package change

import (
	"encoding/json"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/berth-run/berth/api/v1alpha1"
)

func spec(config string, change ...func(*v1alpha1.OCIBundleSpec)) *v1alpha1.OCIBundleSpec {
	s := &v1alpha1.OCIBundleSpec{
		NodeName: "n", Image: &v1alpha1.BundleImage{Reference: "busybox"},
		RestartPolicy:                 corev1.RestartPolicyAlways,
		TerminationGracePeriodSeconds: 30, CompiledGeneration: 1,
		Config: runtime.RawExtension{Raw: []byte(config)},
	}
	for _, f := range change {
		f(s)
	}
	return s
}

func TestClassify(t *testing.T) {
	type edit = func(*v1alpha1.OCIBundleSpec)
	for name, c := range map[string]struct {
		from, to string
		edit     edit
		want     []Field
	}{
		"nothing":           {from: `{"a":1}`, to: `{"a":1}`},
		"the order of keys": {from: `{"a":1,"b":{"c":2,"d":3}}`, to: `{ "b": {"d":3, "c":2}, "a":1}`},
		"what says who compiled it": {
			edit: func(s *v1alpha1.OCIBundleSpec) { s.CompiledGeneration, s.MinAgentRevision = 2, 1 },
			want: []Field{{"compiledGeneration", None}, {"minAgentRevision", None}},
		},
		"requests": {edit: func(s *v1alpha1.OCIBundleSpec) {
			s.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
		}, want: []Field{{"requests.cpu", None}}},
		"an owner": {edit: func(s *v1alpha1.OCIBundleSpec) {
			s.ContainerRef = &v1alpha1.ContainerReference{Name: "x", UID: "u"}
		}, want: []Field{{"containerRef.name", None}, {"containerRef.uid", None}}},
		"the profile's reference alone": {
			edit: func(s *v1alpha1.OCIBundleSpec) { s.SeccompProfile = "sha256:0" },
			want: []Field{{"seccompProfile", None}},
		},
		"how it is run": {edit: func(s *v1alpha1.OCIBundleSpec) {
			s.RestartPolicy, s.TerminationGracePeriodSeconds, s.Image.PullPolicy = corev1.RestartPolicyNever,
				0, corev1.PullAlways
		}, want: []Field{
			{"image.pullPolicy", None},
			{"restartPolicy", Live},
			{"terminationGracePeriodSeconds", Live},
		}},
		"the image": {edit: func(s *v1alpha1.OCIBundleSpec) {
			s.Image.Reference = "alpine"
		}, want: []Field{{"image.reference", Replace}}},
		"a command": {edit: func(s *v1alpha1.OCIBundleSpec) {
			s.Process.Command = []string{"x"}
		}, want: []Field{{"process.command", Replace}}},
		"limits": {
			from: `{"linux":{"resources":{"cpu":{"shares":2},"devices":[1]}}}`,
			to:   `{"linux":{"resources":{"cpu":{"shares":512,"quota":50000,"period":100000},"memory":{"limit":1,"swap":1},"pids":{"limit":9},"devices":[1]}}}`,
			want: []Field{
				{"config.linux.resources.cpu.period", Live},
				{"config.linux.resources.cpu.quota", Live},
				{"config.linux.resources.cpu.shares", Live},
				{"config.linux.resources.memory.limit", Live},
				{"config.linux.resources.memory.swap", Live},
				{"config.linux.resources.pids.limit", Live},
			},
		},
		"a limit that is removed": {
			from: `{"linux":{"resources":{"pids":{"limit":9}}}}`, to: `{"linux":{"resources":{}}}`,
			want: []Field{{"config.linux.resources.pids.limit", Live}},
		},
		"CPUs that are set": {
			from: `{}`, to: `{"linux":{"resources":{"cpu":{"cpus":"0"}}}}`,
			want: []Field{{"config.linux.resources.cpu.cpus", Live}},
		},
		"CPUs that are removed": {
			from: `{"linux":{"resources":{"cpu":{"cpus":"0"}}}}`, to: `{}`,
			want: []Field{{"config.linux.resources.cpu.cpus", Replace}},
		},
		"a limit beside a device": {
			from: `{"linux":{"resources":{"pids":{"limit":9},"devices":[1]}}}`,
			to:   `{"linux":{"resources":{"pids":{"limit":8},"devices":[2]}}}`,
			want: []Field{{"config.linux.resources.devices", Replace}, {
				"config.linux.resources.pids.limit",
				Live,
			}},
		},
		"objects that hold nothing": {
			from: `{"linux":{"resources":{"pids":{}}}}`, to: `{"linux":{"resources":{"memory":{}}}}`,
			want: []Field{{"config.linux.resources.memory", None}, {"config.linux.resources.pids", None}},
		},
		"an object whose presence means something": {
			from: `{}`, to: `{"linux":{"intelRdt":{}}}`,
			want: []Field{{"config.linux.intelRdt", Replace}},
		},
		"a field that nobody knows yet": {
			from: `{}`, to: `{"linux":{"resources":{"cpu":{"fresh":1}}}}`,
			want: []Field{{"config.linux.resources.cpu.fresh", Replace}},
		},
		"an annotation": {
			from: `{}`, to: `{"annotations":{"a.b/c":"d"}}`,
			want: []Field{{"config.annotations.a.b/c", Replace}},
		},
		"digits of a number": {
			from: `{"a":9007199254740993}`, to: `{"a":9007199254740992}`,
			want: []Field{{"config.a", Replace}},
		},
		"another type": {from: `{"a":{"b":1}}`, to: `{"a":[1]}`, want: []Field{{"config.a", Replace}}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.from == "" {
				c.from, c.to = `{}`, `{}`
			}
			from, to := spec(c.from), spec(c.to)
			if c.edit != nil {
				c.edit(to)
			}
			got := Classify(from, to)
			if !slices.Equal(got.Fields, c.want) {
				t.Errorf("got %v; want %v", got.Fields, c.want)
			}
			want := None
			for _, f := range c.want {
				want = max(want, f.Kind)
			}
			if got.Kind != want {
				t.Errorf("it is %v; want %v", got.Kind, want)
			}
		})
	}
	if got := Classify(spec(`{}`), spec(`{`)); got.Kind != Replace {
		t.Errorf("what is no document: %v", got)
	}
}

func TestResources(t *testing.T) {
	from := spec(
		`{"linux":{"resources":{"cpu":{"shares":2,"quota":5,"period":10},"memory":{"limit":64,"swap":64}}}}`)
	to := spec(`{"linux":{"resources":{"cpu":{"shares":512},"memory":{"limit":128,"swap":128},"pids":{"limit":9}}}}`)
	set := Classify(from, to)
	for _, c := range []struct {
		of   *v1alpha1.OCIBundleSpec
		want string
	}{
		{
			to, `{"memory":{"limit":128,"swap":128,"checkBeforeUpdate":true},"cpu":{"shares":512,"quota":-1,"period":100000},"pids":{"limit":9}}`,
		},
		{
			from, `{"memory":{"limit":64,"swap":64,"checkBeforeUpdate":true},"cpu":{"shares":2,"quota":5,"period":10},"pids":{"limit":-1}}`,
		},
	} {
		r, err := Resources(c.of, set.Limits())
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := json.Marshal(r); string(got) != c.want {
			t.Errorf("got %s; want %s", got, c.want)
		}
	}
	if _, err := Resources(to, []string{"config.linux.resources.devices"}); err == nil {
		t.Error("a field that cannot be changed is taken")
	}
}

// TestCarry: of a document that another version has compiled, no more is taken than a running
// container can be given.
func TestCarry(t *testing.T) {
	kept := spec(
		`{"ociVersion":"1.2.0","process":{"noNewPrivileges":true},"linux":{"resources":{"cpu":{"shares":2},"memory":{"limit":64},"devices":[1]},"maskedPaths":["/a"],"intelRdt":{}}}`)
	compiled := spec(
		`{"ociVersion":"1.3.0","process":{"noNewPrivileges":true},"hostname":"new","linux":{"resources":{"cpu":{"shares":512},"pids":{"limit":9},"devices":[2]},"maskedPaths":["/a","/b"]}}`)
	kept.SeccompProfile, compiled.SeccompProfile = "sha256:1", "sha256:2"
	compiled.RestartPolicy, compiled.TerminationGracePeriodSeconds,
		compiled.CompiledGeneration = corev1.RestartPolicyNever, 7, 2
	got, err := Carry(kept, compiled)
	if err != nil {
		t.Fatal(err)
	}
	want := spec(
		`{"linux":{"intelRdt":{},"maskedPaths":["/a"],"resources":{"cpu":{"shares":512},"devices":[1],"pids":{"limit":9}}},"ociVersion":"1.3.0","process":{"noNewPrivileges":true}}`)
	want.RestartPolicy, want.TerminationGracePeriodSeconds, want.CompiledGeneration,
		want.SeccompProfile = corev1.RestartPolicyNever, 7, 2, "sha256:1"
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v with %s; want %+v with %s", got, got.Config.Raw, want, want.Config.Raw)
	}
	if set := Classify(kept, got); set.Kind != Live {
		t.Errorf("from what was kept it is %v", set)
	}
}

// TestEveryFieldIsClassified walks the types of a bundle and of its document. Each field is in the
// table, or in testdata/replace.txt, which says that somebody has thought of it and that it takes a
// new container. "*" after a path is all below it.
func TestEveryFieldIsClassified(t *testing.T) {
	text, err := os.ReadFile("testdata/replace.txt")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			listed[line] = false
		}
	}
	in := map[string]bool{}
	for path := range table() {
		in[path] = false
	}
	covered := func(path string) bool {
		found := false
		for at := range listed {
			if prefix, all := strings.CutSuffix(at, "*"); at == path || all &&
				strings.HasPrefix(path, prefix) {
				listed[at], found = true, true
			}
		}
		return found
	}
	var walk func(path string, typ reflect.Type)
	walk = func(path string, typ reflect.Type) {
		for typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		if typ == reflect.TypeFor[runtime.RawExtension]() {
			typ = reflect.TypeFor[specs.Spec]()
		}
		if _, ok := in[path]; ok {
			in[path] = true
		}
		switch {
		case typ.Kind() == reflect.Map:
			path += ".*"
		case typ.Kind() == reflect.Struct && typ != reflect.TypeFor[resource.Quantity]():
			for i := range typ.NumField() {
				f := typ.Field(i)
				name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				if name == "" {
					t.Fatalf("%s.%s has no name in JSON", typ, f.Name)
				}
				if name != "-" {
					walk(strings.TrimPrefix(path+"."+name, "."), f.Type)
				}
			}
			return
		}
		_, known := in[path]
		if known {
			in[path] = true
		}
		switch both := covered(path); {
		case known && both:
			t.Errorf("%s is in the table and in testdata/replace.txt", path)
		case !known && !both:
			t.Errorf("%s is in no table: decide whether a running container can be given another value, and put it into table() or testdata/replace.txt", path)
		}
	}
	walk("", reflect.TypeFor[v1alpha1.OCIBundleSpec]())
	for path, found := range in {
		if !found {
			t.Errorf("the table has %s, which is no field", path)
		}
	}
	for path, found := range listed {
		if !found {
			t.Errorf("testdata/replace.txt has %s, which is no field", path)
		}
	}
}
