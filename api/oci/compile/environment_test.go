// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/yaml"

	"github.com/berth-run/berth/api/v1alpha1"
)

const references = `
apiVersion: berth.run/v1alpha1
kind: Container
metadata: {name: a}
spec:
  image: busybox
  command: [x, $(A)]
  envFrom:
  - {prefix: P_, configMapRef: {name: settings, optional: true}}
  - secretRef: {name: keys}
  env:
  - {name: A, valueFrom: {configMapKeyRef: {name: settings, key: a.b}}}
  - {name: B, valueFrom: {secretKeyRef: {name: keys, key: b, optional: true}}}
`

// TestReferencesToObjects: the agent gets the references as they are.
func TestReferencesToObjects(t *testing.T) {
	c := &v1alpha1.Container{}
	if err := yaml.UnmarshalStrict([]byte(references), c); err != nil {
		t.Fatal(err)
	}
	b, faults := Bundle(c)
	if len(faults) > 0 {
		t.Fatal(faults.ToAggregate())
	}
	if p := b.Process; !equality.Semantic.DeepEqual(p.Env, c.Spec.Env) ||
		!equality.Semantic.DeepEqual(p.EnvFrom, c.Spec.EnvFrom) ||
		p.Command[1] != "$(A)" || strings.Contains(string(b.Config.Raw), `"env"`) {
		t.Errorf("found %+v with %s", p, b.Config.Raw)
	}
	if got := MinAgentRevision(b); got != 3 {
		t.Errorf("found the revision %d; want 3", got)
	}
}

func TestFaultsOfReferences(t *testing.T) {
	for name, tc := range map[string]struct {
		change  func(*v1alpha1.ContainerSpec)
		path    string
		message string
	}{
		"no name": {func(s *v1alpha1.ContainerSpec) {
			s.Env[0].ValueFrom.ConfigMapKeyRef.Name = ""
		}, "spec.env[0].valueFrom.configMapKeyRef.name", "name an object"},
		"bad name": {func(s *v1alpha1.ContainerSpec) {
			s.Env[1].ValueFrom.SecretKeyRef.Name = "A"
		}, "spec.env[1].valueFrom.secretKeyRef.name", "lower case"},
		"no key": {func(s *v1alpha1.ContainerSpec) {
			s.Env[0].ValueFrom.ConfigMapKeyRef.Key = ""
		}, "spec.env[0].valueFrom.configMapKeyRef.key", "name a key"},
		"bad key": {func(s *v1alpha1.ContainerSpec) {
			s.Env[1].ValueFrom.SecretKeyRef.Key = "a/b"
		}, "spec.env[1].valueFrom.secretKeyRef.key", "key"},
		"bad prefix": {func(s *v1alpha1.ContainerSpec) {
			s.EnvFrom[0].Prefix = "A="
		}, "spec.envFrom[0].prefix", "="},
		"no source": {func(s *v1alpha1.ContainerSpec) {
			s.EnvFrom[0].ConfigMapRef = nil
		}, "spec.envFrom[0]", "configMapRef and secretRef"},
		"two sources": {
			func(s *v1alpha1.ContainerSpec) { s.EnvFrom[0].SecretRef = s.EnvFrom[1].SecretRef },
			"spec.envFrom[0].secretRef", "write two items",
		},
		"a file of no volume": {
			ofFile(corev1.FileKeySelector{VolumeName: "none", Path: "p", Key: "k"}),
			"spec.env[0].valueFrom.fileKeyRef.volumeName", "Not found",
		},
		"a file without a volume": {
			ofFile(corev1.FileKeySelector{Path: "p", Key: "k"}),
			"spec.env[0].valueFrom.fileKeyRef.volumeName", "name one of volumes",
		},
		"a file of the node": {
			ofFile(corev1.FileKeySelector{VolumeName: "h", Path: "p", Key: "k"}),
			"spec.env[0].valueFrom.fileKeyRef.volumeName", "must be an emptyDir",
		},
		"a file outside": {
			ofFile(corev1.FileKeySelector{VolumeName: "e", Path: "a/../../p", Key: "k"}),
			"spec.env[0].valueFrom.fileKeyRef.path", `must not contain ".."`,
		},
		"an absolute file": {
			ofFile(corev1.FileKeySelector{VolumeName: "e", Path: "/p", Key: "k"}),
			"spec.env[0].valueFrom.fileKeyRef.path", "remove the leading /",
		},
		"a directory": {
			ofFile(corev1.FileKeySelector{VolumeName: "e", Path: "./", Key: "k"}),
			"spec.env[0].valueFrom.fileKeyRef.path", "must be the path of a file",
		},
		"a hidden file": {
			ofFile(corev1.FileKeySelector{VolumeName: "e", Path: "..data", Key: "k"}),
			"spec.env[0].valueFrom.fileKeyRef.path", "not begin with",
		},
		"a file without a key": {
			ofFile(corev1.FileKeySelector{VolumeName: "e", Path: "p"}),
			"spec.env[0].valueFrom.fileKeyRef.key", "name a key",
		},
		"a bad key of a file": {
			ofFile(corev1.FileKeySelector{VolumeName: "e", Path: "p", Key: "a=b"}),
			"spec.env[0].valueFrom.fileKeyRef.key", "=",
		},
		"a long key of a file": {
			ofFile(corev1.FileKeySelector{VolumeName: "e", Path: "p", Key: strings.Repeat("k", 129)}),
			"spec.env[0].valueFrom.fileKeyRef.key", "128",
		},
	} {
		c := &v1alpha1.Container{}
		if err := yaml.UnmarshalStrict([]byte(references), c); err != nil {
			t.Fatal(err)
		}
		tc.change(&c.Spec)
		_, faults := Bundle(c)
		if len(faults) != 1 || faults[0].Field != tc.path || !strings.Contains(faults[0].Error(),
			tc.message) {
			t.Errorf("%s: found %v; want a fault of %s with %q", name, faults.ToAggregate(), tc.path,
				tc.message)
		}
	}
}

// ofFile gives a Container two volumes, and a variable that refers to a file.
func ofFile(ref corev1.FileKeySelector) func(s *v1alpha1.ContainerSpec) {
	return func(s *v1alpha1.ContainerSpec) {
		s.Volumes = []v1alpha1.Volume{
			{Name: "e", EmptyDir: &corev1.EmptyDirVolumeSource{}},
			{Name: "h", HostPath: &corev1.HostPathVolumeSource{Path: "/h"}},
		}
		s.Env[0].ValueFrom = &corev1.EnvVarSource{FileKeyRef: &ref}
	}
}

// variableCases returns the cases of variables of objects for TestEveryField.
func variableCases() map[string]fieldCase {
	out := map[string]fieldCase{}
	for kind, source := range map[string]func(name corev1.LocalObjectReference, key string,
		optional *bool,
	) corev1.EnvVarSource{
		"configMapKeyRef": func(name corev1.LocalObjectReference, key string,
			optional *bool,
		) corev1.EnvVarSource {
			return corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{
				LocalObjectReference: name, Key: key, Optional: optional,
			}}
		},
		"secretKeyRef": func(name corev1.LocalObjectReference, key string,
			optional *bool,
		) corev1.EnvVarSource {
			return corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
				LocalObjectReference: name, Key: key, Optional: optional,
			}}
		},
	} {
		at := "process.env[A].valueFrom." + kind
		one := func(name, key string, optional *bool) fieldCase {
			arrives := byNode(arrives{at + ".name": `"` + name + `"`, at + ".key": `"` + key + `"`})
			if optional != nil {
				arrives[at+".optional"] = `true`
			}
			return fieldCase{arrives: arrives, set: func(s *v1alpha1.ContainerSpec) {
				from := source(corev1.LocalObjectReference{Name: name}, key, optional)
				s.Env[0] = corev1.EnvVar{Name: "A", ValueFrom: &from}
			}}
		}
		path := "env[].valueFrom." + kind
		out[path+".name"], out[path+".key"] = one("x", "k", nil), one("n", "x", nil)
		out[path+".optional"] = one("n", "k", new(true))
	}
	for kind, source := range map[string]func(name string, optional *bool) corev1.EnvFromSource{
		"configMapRef": func(name string, optional *bool) corev1.EnvFromSource {
			ref := &corev1.ConfigMapEnvSource{Optional: optional}
			ref.Name = name
			return corev1.EnvFromSource{ConfigMapRef: ref}
		},
		"secretRef": func(name string, optional *bool) corev1.EnvFromSource {
			ref := &corev1.SecretEnvSource{Optional: optional}
			ref.Name = name
			return corev1.EnvFromSource{SecretRef: ref}
		},
	} {
		at := "process.envFrom[" + kind + "]"
		one := func(prefix string, optional *bool) fieldCase {
			arrives := byNode(arrives{"process.env[A].value": `"1"`, at + "." + kind + ".name": `"n"`})
			if prefix != "" {
				arrives[at+".prefix"] = `"` + prefix + `"`
			}
			if optional != nil {
				arrives[at+"."+kind+".optional"] = `true`
			}
			return fieldCase{arrives: arrives, set: func(s *v1alpha1.ContainerSpec) {
				from := source("n", optional)
				from.Prefix = prefix
				s.EnvFrom = []corev1.EnvFromSource{from}
			}}
		}
		out["envFrom[]."+kind+".name"], out["envFrom[]."+kind+".optional"] = one("", nil),
			one("", new(true))
		out["envFrom[].prefix"] = one("P_", nil)
	}
	return out
}
