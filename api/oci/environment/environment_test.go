// SPDX-License-Identifier: Apache-2.0

package environment

import (
	"errors"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// objects has the data of objects, and no fields.
type objects map[Object]map[string]string

func (o objects) Field(path string) (string, error) { return "field " + path + " $(A)", nil }
func (o objects) Resource(*corev1.ResourceFieldSelector) (string, error) {
	return "", errors.New("none")
}

func (o objects) File(ref *corev1.FileKeySelector) (File, bool, error) {
	data, ok := o[Object{KindFile, ref.VolumeName + "/" + ref.Path}]
	return File{Text: data["text"], Fault: data["fault"]}, ok, nil
}

func (o objects) Data(object Object) (map[string]string, bool) { d, ok := o[object]; return d, ok }

// TestOrderIsAPods: env counts over envFrom, a later object over an earlier one, and values of
// objects are known to those after them but are not expanded themselves.
func TestOrderIsAPods(t *testing.T) {
	values := objects{
		{KindConfigMap, "c"}: {"A": "a", "B": "$(A)", "a-b.c": "x"},
		{KindSecret, "s"}:    {"A": "secret", "D": "d"},
	}
	for text, want := range map[string]string{
		"envFrom: [{configMapRef: {name: c}}]":                                                     "A=a B=$(A) a-b.c=x",
		"envFrom: [{prefix: P_, configMapRef: {name: c}}]":                                         "P_A=a P_B=$(A) P_a-b.c=x",
		"envFrom: [{configMapRef: {name: c}}, {secretRef: {name: s}}]":                             "A=secret B=$(A) a-b.c=x D=d",
		"envFrom: [{secretRef: {name: s}}]\nenv: [{name: A, value: own}, {name: E, value: $(A)}]":  "A=own D=d E=own",
		"env: [{name: E, value: $(F)}, {name: F, value: $$(E)}]":                                   "E=$(F) F=$(E)",
		"env: [{name: E, valueFrom: {secretKeyRef: {name: s, key: D}}}, {name: F, value: $(E)$E}]": "E=d F=d$E",
		"env: [{name: E, valueFrom: {secretKeyRef: {name: s, key: x, optional: true}}}]":           "",
		"env: [{name: E, valueFrom: {configMapKeyRef: {name: x, key: x, optional: true}}}]":        "",
		"envFrom: [{secretRef: {name: c, optional: true}}]":                                        "",
		"env: [{name: A, value: x}, {name: E, valueFrom: {fieldRef: {fieldPath: p}}}]":             "A=x E=field p $(A)",
		"env: [{name: E, valueFrom: {configMapKeyRef: {name: x, key: k}}}]":                        "missing env[0].valueFrom.configMapKeyRef: ConfigMap x ",
		"env: [{name: E, valueFrom: {secretKeyRef: {name: s, key: k}}}]":                           "missing env[0].valueFrom.secretKeyRef: Secret s k",
		"envFrom: [{secretRef: {name: c}}]":                                                        "missing envFrom[0].secretRef: Secret c ",
	} {
		var in struct {
			Env     []corev1.EnvVar        `json:"env"`
			EnvFrom []corev1.EnvFromSource `json:"envFrom"`
		}
		if err := yaml.UnmarshalStrict([]byte(text), &in); err != nil {
			t.Fatal(err)
		}
		vars, err := Compute(in.Env, in.EnvFrom, values)
		got := strings.Join(vars.List(), " ")
		if m := (*Missing)(nil); errors.As(err, &m) {
			got = "missing " + m.Path + ": " + m.Kind + " " + m.Name + " " + m.Key
		} else if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: found %q; want %q", text, got, want)
		}
	}
}

// TestErrorsShowNoValue: what a process cannot be given is refused without a word of it.
func TestErrorsShowNoValue(t *testing.T) {
	env := []corev1.EnvVar{{
		Name: "A",
		ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Key: "k",
		}},
	}}
	for _, end := range []string{"\x00", "\xff"} {
		_, err := Compute(env, nil, objects{{KindSecret, "s"}: {"k": "hunter2" + end}})
		if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(),
			"env[0]") {
			t.Errorf("%q: found %v; want the path and no value", end, err)
		}
	}
	if got := References(env, nil); !slices.Equal(got, []Object{{KindSecret, "s"}}) {
		t.Errorf("found references %v", got)
	}
}
