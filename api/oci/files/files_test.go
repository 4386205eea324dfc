// SPDX-License-Identifier: Apache-2.0

package files

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/berth-run/berth/api/oci/environment"
	"github.com/berth-run/berth/api/v1alpha1"
)

// objects has the data of objects, and the paths of items for their values.
type objects map[environment.Object]map[string]string

func (o objects) Item(path string, item *corev1.DownwardAPIVolumeFile) (string, error) {
	if item.FieldRef == nil {
		return "", errors.New("resourceFieldRef: none")
	}
	return path + " " + item.FieldRef.FieldPath, nil
}

func (o objects) Token(at string, token *corev1.ServiceAccountTokenProjection) (File, error) {
	switch token.Audience {
	case "none":
		return File{}, fmt.Errorf("%s: none", at)
	case "own":
		return File{Data: "own", Mode: 0o600, Owner: 7}, nil
	}
	return File{Data: "token"}, nil
}

func (o objects) Files(object environment.Object) (map[string]string, bool) {
	d, ok := o[object]
	return d, ok
}

const hidden = "hunter2"

// TestCompute: the files of a volume are a Pod's. Errors name the field, and show no value.
func TestCompute(t *testing.T) {
	values := objects{
		{Kind: environment.KindConfigMap, Name: "c"}: {"a": "1", "b.c": "\x00"},
		{Kind: environment.KindSecret, Name: "s"}:    {"a": hidden, "d": "4"},
		{Kind: environment.KindSecret, Name: "bad"}:  {"../x": hidden},
	}
	for text, want := range map[string]string{
		"configMap: {name: c}":                                   "a 644 1|b.c 644 \x00",
		"configMap: {name: c, defaultMode: 0400}":                "a 400 1|b.c 400 \x00",
		"configMap: {name: c, items: [{key: a, path: x/y}]}":     "x/y 644 1",
		"configMap: {name: x, optional: true}":                   "",
		"configMap: {name: x}":                                   "missing v[0].configMap: ConfigMap x ",
		"secret: {secretName: c}":                                "missing v[0].secret: Secret c ",
		"secret: {secretName: s, items: [{key: x, path: x}]}":    "missing v[0].secret.items[0]: Secret s x",
		"secret: {secretName: s, items: [{key: a, path: ../x}]}": `v[0].secret.items[0].path: found "../x"; must not contain ".."`,
		"secret: {secretName: bad}":                              `v[0].secret: found the key "../x" in the Secret bad as the path of a file; must not contain ".."`,
		"secret: {secretName: s, optional: true, defaultMode: 0600, items: [{key: x, path: x}, {key: d, path: d, mode: 0}]}": "d 0 4",
		"secret: {secretName: s, items: [{key: a, path: x, mode: 512}]}":                                                     "v[0].secret.items[0].mode: found 512; allowed: 0 to 0777 (decimal: 511)",
		"downwardAPI: {items: [{path: m, fieldRef: {fieldPath: metadata.name}}]}":                                            "m 644 v[0].downwardAPI.items[0] metadata.name",
		"downwardAPI: {items: [{path: m}]}":                                                                                  "v[0].downwardAPI.items[0].resourceFieldRef: none",
		"downwardAPI: {}":                                                                                                    "",
		"projected: {}":                                                                                                      "",
		"projected: {sources: [{configMap: {name: c}}, {secret: {name: s}}]}":                                                "a 644 " + hidden + "|b.c 644 \x00|d 644 4",
		"projected: {defaultMode: 0440, sources: [{secret: {name: s}}, {configMap: {name: c, items: [{key: a, path: a, mode: 0777}]}}]}": "a 777 1|d 440 4",
		"projected: {sources: [{secret: {name: s}}, {configMap: {name: c, items: [{key: a, path: d/a}]}}]}":                              `v[0]: found the files "d" and "d/a"; allowed: no file below another file`,
		"projected: {sources: [{downwardAPI: {items: [{path: m, fieldRef: {fieldPath: f}}]}}]}":                                          "m 644 v[0].projected.sources[0].downwardAPI.items[0] f",
		"projected: {sources: [{secret: {name: s}}, {secret: {name: x}}]}":                                                               "missing v[0].projected.sources[1].secret: Secret x ",
		"projected: {sources: [{serviceAccountToken: {path: t}}]}":                                                                       "t 644 token",
		"projected: {defaultMode: 0400, sources: [{serviceAccountToken: {path: a/t}}]}":                                                  "a/t 400 token",
		"projected: {defaultMode: 0400, sources: [{serviceAccountToken: {path: t, audience: own}}]}":                                     "t 600 of 7 own",
		"projected: {sources: [{serviceAccountToken: {path: t, audience: none}}]}":                                                       "v[0].projected.sources[0].serviceAccountToken: none",
		"projected: {sources: [{serviceAccountToken: {path: ../t}}]}":                                                                    `v[0].projected.sources[0].serviceAccountToken.path: found "../t"; must not contain ".."`,
		"projected: {sources: [{}]}": "v[0].projected.sources[0]: found no source that this agent knows; allowed: configMap, secret, downwardAPI or serviceAccountToken",
	} {
		v := v1alpha1.Volume{}
		if err := yaml.UnmarshalStrict([]byte(text), &v); err != nil {
			t.Fatal(text, err)
		}
		if !Has(&v) {
			t.Errorf("%s: found no files", text)
		}
		tree, err := Compute("v[0]", &v, values)
		var lines []string
		for _, p := range slices.Sorted(maps.Keys(tree)) {
			of := ""
			if tree[p].Owner != 0 {
				of = fmt.Sprintf("of %d ", tree[p].Owner)
			}
			lines = append(lines, fmt.Sprintf("%s %o %s%s", p, tree[p].Mode, of, tree[p].Data))
		}
		got := strings.Join(lines, "|")
		if m := (*environment.Missing)(nil); errors.As(err, &m) {
			got = "missing " + m.Path + ": " + m.Kind + " " + m.Name + " " + m.Key
		} else if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: found %q; want %q", text, got, want)
		}
		if err != nil && strings.Contains(err.Error(), hidden) {
			t.Errorf("%s: a value is shown: %v", text, err)
		}
	}
}

func TestReferences(t *testing.T) {
	var volumes []v1alpha1.Volume
	err := yaml.UnmarshalStrict([]byte(`
- {name: a, configMap: {name: c}}
- {name: b, emptyDir: {}}
- {name: c, secret: {secretName: s}}
- {name: d, projected: {sources: [{configMap: {name: c}}, {secret: {name: t}}, {downwardAPI: {}}]}}
`), &volumes)
	if err != nil {
		t.Fatal(err)
	}
	want := []environment.Object{
		{Kind: environment.KindConfigMap, Name: "c"},
		{Kind: environment.KindSecret, Name: "s"},
		{Kind: environment.KindSecret, Name: "t"},
	}
	if got := References(volumes); !slices.Equal(got, want) {
		t.Errorf("found %v; want %v", got, want)
	}
}
