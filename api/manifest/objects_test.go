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
		"kind: ConfigMap\nmetadata: {name: a}\nimmutable: yes please":                 `4:12: immutable: found "yes please"`,
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

// TestClaims: a claim may have the fields that the API server requires. Each field that Berth does
// not honour is refused at its place in the file.
func TestClaims(t *testing.T) {
	const begin = "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: a}\nspec:\n  accessModes: [ReadWriteOnce]\n"
	for text, want := range map[string]string{
		begin: "",
		begin + "  resources: {requests: {storage: 1Gi}}\n  storageClassName: local-path\n  volumeMode: Filesystem": "",
		begin + "  storageClassName: ''":                                      "",
		begin + "  storageClassName: gp3":                                     `6:21: spec.storageClassName: found "gp3"; allowed: "", "local-path"`,
		begin + "  volumeMode: Block":                                         `6:15: spec.volumeMode: found "Block"; allowed: "Filesystem"`,
		begin + "  selector: {matchLabels: {a: b}}":                           `6:13: spec.selector: is not supported`,
		begin + "  volumeName: pv":                                            `6:15: spec.volumeName: is not supported`,
		begin + "  dataSource: {kind: PersistentVolumeClaim, name: b}":        `6:15: spec.dataSource: is not supported`,
		begin + "  dataSourceRef: {kind: PersistentVolumeClaim, name: b}":     `6:18: spec.dataSourceRef: is not supported`,
		begin + "  volumeAttributesClassName: gold":                           `spec.volumeAttributesClassName: is not supported`,
		begin + "  resources: {limits: {storage: 1Gi}}":                       `spec.resources.limits[storage]: the kernel cannot limit`,
		begin + "  resources: {requests: {cpu: 1}}":                           `spec.resources.requests[cpu]: found "cpu"; allowed: "storage"`,
		begin + "  resources: {requests: {storage: 0}}":                       `spec.resources.requests[storage]: found "0"; must be greater than 0`,
		begin + "  storageClass: x":                                           `did you mean "storageClassName"?`,
		strings.Replace(begin, "  accessModes: [ReadWriteOnce]\n", "  {}", 1): `spec.accessModes: found nothing; set one, such as ReadWriteOnce`,
		strings.Replace(begin, "[", "[ReadWriteOncePod, ", 1):                 `5:16: spec.accessModes: ReadWriteOncePod stands alone`,
		strings.Replace(begin, "[", "[ReadWrite, ", 1):                        `5:17: spec.accessModes[0]: found "ReadWrite"; allowed: "ReadWriteOnce", "ReadWriteOncePod"`,
		strings.Replace(begin, "v1", "v2", 1):                                 `found "v2", "PersistentVolumeClaim"; allowed: "v1", "PersistentVolumeClaim"`,
	} {
		d := manifest.Parse([]byte(text))[0]
		var lines []string
		for _, f := range d.Faults {
			lines = append(lines, f.Error())
		}
		got := strings.Join(lines, "\n")
		if want == "" && got != "" || len(lines) > 1 || !strings.Contains(got, want) {
			t.Errorf("%s: found %q; want %q", text, got, want)
		}
		if want == "" && (d.Object == nil || d.Object.Kind != manifest.KindClaim ||
			d.Object.Namespace != "default" || len(d.Object.AccessModes) != 1) {
			t.Errorf("%s: found %+v", text, d.Object)
		}
	}
}
