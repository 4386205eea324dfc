// SPDX-License-Identifier: Apache-2.0

package manifest_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	strictjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/berth-run/berth/api/manifest"
	"github.com/berth-run/berth/api/v1alpha1"
)

// sameAsKubectl fails if a document without a fault is not what kubectl's decoder makes of it.
func sameAsKubectl(t *testing.T, text string) {
	t.Helper()
	all := manifest.Parse([]byte(text))
	if len(all) != 1 || all[0].Item != "" || len(all[0].Faults) > 0 || all[0].Container == nil ||
		all[0].Pod != "" || strings.Contains(text, "<<") {
		return // kubectl refuses what overrides a merged field, which is what merging is for
	}
	want := &v1alpha1.Container{}
	unmarshal := func(data []byte) error { return yaml.UnmarshalStrict(data, want) }
	if json.Valid([]byte(text)) {
		unmarshal = func(data []byte) error {
			strict, err := strictjson.UnmarshalStrict(data, want)
			return errors.Join(append(strict, err)...)
		}
	}
	if err := unmarshal([]byte(text)); err != nil {
		t.Errorf("found no fault; kubectl's decoder finds %v in\n%s", err, text)
		return
	}
	if got := all[0].Container; !equality.Semantic.DeepEqual(got, want) {
		t.Errorf("found\n%+v\nkubectl's decoder finds\n%+v\nin\n%s", got, want, text)
	}
}

// seeds are documents without faults, in all the ways that YAML has.
func seeds(t testing.TB) []string {
	out := []string{
		spec("hostNetwork: yes\nhostPID: Off"),
		spec("terminationGracePeriodSeconds: 0x10\nsecurityContext: {runAsUser: 1e3, runAsGroup: 010}"),
		spec("args: [\"1\", 'yes', text, 2026-01-02, .nan0, ~a, 1:30]"),
		spec("args:\n- 2026-01-02\n- 1:30\n- 12e\n- null0\n- |\n  a: b\n- >-\n  c\n  d"),
		spec("env:\n- &e {name: A, value: b}\n- {<<: *e, name: B}\nresources:\n  limits: &l {cpu: 1, memory: 64Mi}\n  requests: *l"),
		spec("resources: {limits: {cpu: 1.5, memory: 1e6, pids: \"100\"}}\ncommand:\nnodeSelector: {a: \"true\"}"),
		spec("volumes: [{name: a, emptyDir: {}}, {name: b, hostPath: {path: /b, type: }}]\nvolumeMounts: [{name: a, mountPath: /a}]"),
		"{\"apiVersion\": \"berth.run/v1alpha1\", \"kind\": \"Container\",\n\t\"metadata\": {\"name\": \"a\", \"creationTimestamp\": null, \"labels\": {\"a\\/b\": \"\\u00e9 \\ud83d\\ude00\"}}, \"spec\": {\"image\": \"a\"}, \"status\": {}}",
		"%YAML 1.1\n---\n" + spec("hostNetwork: true"),
	}
	samples, err := filepath.Glob("../../config/samples/[^k]*.yaml") // but kustomization.yaml
	if err != nil || len(samples) == 0 {
		t.Fatalf("found samples %v, %v", samples, err)
	}
	for _, name := range samples {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, strings.Split(string(data), "\n---\n")...)
	}
	return out
}

func TestReadsAsKubectl(t *testing.T) {
	for _, text := range seeds(t) {
		if got := check(text); len(got) > 0 {
			t.Errorf("found %q in\n%s", got, text)
		}
		sameAsKubectl(t, text)
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range append(seeds(f), wholePod, podHead+podContainers) {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		sameAsKubectl(t, text)
		faultsOfPods(t, text)
	})
}

func TestDocuments(t *testing.T) {
	text := "# nothing\n---\n" + spec("") + "--- # comment\n" + spec("") + "...\n" + spec("") +
		"...\n...\n---\n---\n" + `{"kind": "A"} {"kind": "B"}` + "\n" + `{"kind": "C"}` + "\n"
	var lines []string
	for _, d := range manifest.Parse([]byte(text)) {
		lines = append(lines, fmt.Sprint(d.Line, len(d.Faults)))
	}
	want := []string{"3 0", "11 0", "19 0", "30 1", "30 1", "31 1"}
	if !reflect.DeepEqual(lines, want) {
		t.Errorf("found documents at %q; want %q", lines, want)
	}
	if got := manifest.Parse([]byte(text))[4].Faults[0].Error(); !strings.HasPrefix(got, "30:24: ") {
		t.Errorf("found %q for the second object of line 30", got)
	}
}

func numbered(format string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, format, i)
	}
	return b.String()
}

// TestBounded: a small file does not become a large one.
func TestBounded(t *testing.T) {
	begin := time.Now()
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'j'; c++ {
		bomb += fmt.Sprintf("%c: &%c [%s*%c]\n", c, c, strings.Repeat(fmt.Sprintf("*%c,", c-1), 8), c-1)
	}
	for name, text := range map[string]string{
		"aliases": "apiVersion: berth.run/v1alpha1\nkind: Container\nmetadata: {name: web}\n" +
			bomb + "spec: {image: a, args: *i}\n",
		"merges":        "apiVersion: berth.run/v1alpha1\nkind: Container\nmetadata: {name: web}\nspec: &a\n  <<: *a\n",
		"managedFields": "apiVersion: berth.run/v1alpha1\nkind: Container\nmetadata: {name: web, managedFields: [{fieldsV1: &f {a: *f}}]}\nspec: {image: a}\n",
		"depth": "apiVersion: berth.run/v1alpha1\nkind: Container\nspec: " +
			strings.Repeat("[", 20_000) + "\n",
		"fields":       spec(strings.Repeat("colours: a\n", 20_000)),
		"other fields": spec(numbered("colour%d: a\n", 20_000)),
		"labels":       "apiVersion: berth.run/v1alpha1\nkind: Container\nmetadata: {name: web, labels: {" + numbered("l%d: a, ", 140_000) + "}}\nspec: {image: a}\n",
		"faults":       spec("args: [" + strings.Repeat("1, ", 10_000) + "1]"),
	} {
		got := check(text)
		if len(got) == 0 || len(got) > 80 {
			t.Errorf("%s: found %d faults", name, len(got))
		}
	}
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("it took %v", took)
	}
}

// TestList: the items of a List are documents, whose aliases may refer to each other.
func TestList(t *testing.T) {
	all := manifest.Parse([]byte(`apiVersion: v1
kind: List
metadata: {resourceVersion: ""}
items:
- apiVersion: berth.run/v1alpha1
  kind: Container
  metadata: {name: a}
  spec: &spec {image: x}
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: b}
- {apiVersion: berth.run/v1alpha1, kind: Container, metadata: {name: c}, spec: *spec}
---
apiVersion: berth.run/v1alpha1
kind: Container
metadata: {name: d}
spec: {image: z}
`))
	var found []string
	for _, d := range all {
		name := ""
		switch {
		case len(d.Faults) > 0:
			name = d.Faults[0].Error()
		case d.Container != nil:
			name = d.Container.Name + " " + d.Container.Spec.Image
		case d.Object != nil:
			name = d.Object.Name
		}
		found = append(found, fmt.Sprintf("%d %s: %s", d.Line, d.Item, name))
	}
	want := []string{"5 items[0]: a x", "9 items[1]: b", "12 items[2]: c x", "14 : d z"}
	if !slices.Equal(found, want) {
		t.Errorf("found %q; want %q", found, want)
	}
	if all := manifest.Parse([]byte("apiVersion: v1\nkind: List\n")); len(all) != 0 {
		t.Errorf("a List without items: found %d documents", len(all))
	}
}
