// SPDX-License-Identifier: Apache-2.0

package manifest_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/berth-run/berth/api/manifest"
)

func TestObjects(t *testing.T) {
	for text, want := range map[string]map[string]string{
		"kind: ConfigMap\nmetadata: {name: a}\ndata: {a: b, c.d: 'yes'}\nbinaryData: {e: AAE=}": {"a": "b", "c.d": "yes"},
		"kind: Secret\nmetadata: {name: a}\ntype: Opaque\ndata: {a: aHVudGVyMg==, b: eA==}": {
			"a": "hunter2", "b": "x",
		},
		"kind: Secret\nmetadata: {name: a}\nstringData: {a: text}\ndata: {a: aHVudGVyMg==, b: \"\"}": {"a": "text", "b": ""},
		"kind: ConfigMap\nmetadata: {name: a}":                                                       {},
	} {
		d := manifest.Parse([]byte("apiVersion: v1\n" + text))[0]
		if len(d.Faults) > 0 || d.Container != nil || d.Object == nil {
			t.Errorf("%s: found %v, %v", text, d.Object, d.Faults)
			continue
		}
		o := d.Object
		if o.Namespace != "default" || o.Name != "a" || !strings.Contains(text, "kind: "+o.Kind) ||
			!maps.Equal(o.Data, want) ||
			strings.Contains(text, "binaryData") != (o.Binary["e"] == "\x00\x01") {
			t.Errorf("%s: found %+v; want %v", text, o, want)
		}
	}
}

// TestFaultsOfObjects: a fault has its place, and one of a Secret never shows a value.
func TestFaultsOfObjects(t *testing.T) {
	for text, want := range map[string]string{
		"kind: ConfigMap\nmetadata: {name: a}\ndata: {a: 1}":                          `4:11: data[a]: found the number 1`,
		"kind: ConfigMap\nmetadata: {name: a}\ndata: {a/b: x}":                        `4:13: data[a/b]: found "a/b"`,
		"kind: ConfigMap\nmetadata: {name: a}\ndata: {a: x}\nbinaryData: {a: eA==}":   `5:17: binaryData[a]: the key is in data as well`,
		"kind: ConfigMap\nmetadata: {name: a}\nbinaryData: {a: x}":                    `4:17: binaryData[a]: found "x"; allowed: text in base64`,
		"kind: ConfigMap\nmetadata: {name: a}\nimmutable: true":                       `immutable: is not supported in a file`,
		"kind: ConfigMap\ndata: {}":                                                   `metadata.name: found nothing`,
		"kind: ConfigMap\nmetadata: {name: A}":                                        `metadata.name: found "A"`,
		"kind: ConfigMap\nmetadata: {name: a}\ndta: {}":                               `did you mean "data"?`,
		"kind: Secret\nmetadata: {name: a}\ndata: {a: hunter2}":                       `4:11: data[a]: found a value of another form, which is not shown`,
		"kind: Secret\nmetadata: {name: a}\nstringData: {a: 42711}":                   `4:17: stringData[a]: found a value of another form, which is not shown`,
		"kind: Secret\nmetadata: {name: a}\nstringData: {a: {b: hunter2}}":            `stringData[a]: found a value of another form`,
		"kind: Secret\nmetadata: {name: a}\ndata: hunter2":                            `data: found a value of another form`,
		"kind: Secret\nmetadata: {name: a}\nstringData: {a: *hunter2 }":               `its text is not shown`,
		"kind: Secret\nmetadata: {name: a}\nstringData: {a: hunter2, b: \"42711":      ``,
		"kind: Secret\nmetadata: {name: a}\nstringData:\n  a: hunter2: x\n\tb: 42711": ``,
	} {
		d := manifest.Parse([]byte("apiVersion: v1\n" + text))[0]
		var lines []string
		for _, f := range d.Faults {
			lines = append(lines, f.Error())
		}
		got := strings.Join(lines, "\n")
		if len(lines) == 0 || !strings.Contains(got, want) {
			t.Errorf("%s: found %q; want %q", text, got, want)
		}
		if strings.Contains(got, "hunter2") || strings.Contains(got, "42711") {
			t.Errorf("%s: a value is shown: %q", text, got)
		}
	}
}
