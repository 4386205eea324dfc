// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"

	"github.com/berth-run/berth/api/v1alpha1"
)

// fileVolumes returns volumes of files for base.
func fileVolumes() []v1alpha1.Volume {
	uid := func() []corev1.DownwardAPIVolumeFile {
		return []corev1.DownwardAPIVolumeFile{{
			Path: "uid", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.uid"},
		}}
	}
	out := []v1alpha1.Volume{
		{Name: "d", DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: uid()}},
		{Name: "p", Projected: &v1alpha1.ProjectedVolumeSource{Sources: []v1alpha1.VolumeProjection{
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: uid()}},
			{ConfigMap: &corev1.ConfigMapProjection{Items: keys("pc")}},
			{Secret: &corev1.SecretProjection{Items: keys("ps")}},
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
		}}},
		{Name: "c", ConfigMap: &corev1.ConfigMapVolumeSource{Items: keys("c")}},
		{Name: "s", Secret: &corev1.SecretVolumeSource{SecretName: "s", Items: keys("s")}},
	}
	out[1].Projected.Sources[1].ConfigMap.Name = "pc"
	out[1].Projected.Sources[2].Secret.Name = "ps"
	out[2].ConfigMap.Name = "c"
	return out
}

// ofClaim returns a volume of a PersistentVolumeClaim in place of the first one of base.
func ofClaim(readOnly bool) v1alpha1.Volume {
	return v1alpha1.Volume{
		Name: "e", PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{
			ClaimName: "c", ReadOnly: readOnly,
		},
	}
}

func keys(path string) []corev1.KeyToPath { return []corev1.KeyToPath{{Key: "k", Path: path}} }

// fileCases returns the cases of volumes of files for TestEveryField.
func fileCases() map[string]fieldCase {
	type spec = v1alpha1.ContainerSpec
	refused := func(path string, set func(*spec)) fieldCase {
		return fieldCase{set: set, refused: path}
	}
	source := func(s *spec) *v1alpha1.VolumeProjection { return &s.Volumes[4].Projected.Sources[0] }
	const tokenAt = "volumes[p].projected.sources[serviceAccountToken].serviceAccountToken."
	token := func(s *spec) *corev1.ServiceAccountTokenProjection {
		return s.Volumes[4].Projected.Sources[3].ServiceAccountToken
	}
	out := map[string]fieldCase{
		"onConfigChange": {
			arrives: arrives{"onConfigChange": `"Restart"`},
			set:     func(s *spec) { s.OnConfigChange = v1alpha1.ConfigChangeRestart },
		},
		"configChangeSignal": {
			arrives: arrives{"onConfigChange": `"Signal"`, "configChangeSignal": `"SIGUSR1"`},
			set: func(s *spec) {
				s.OnConfigChange, s.ConfigChangeSignal = v1alpha1.ConfigChangeSignal, "SIGUSR1"
			},
		},
		"volumes[].configMap.defaultMode": {
			arrives: arrives{"volumes[c].configMap.defaultMode": `256`},
			set:     func(s *spec) { s.Volumes[5].ConfigMap.DefaultMode = new(int32(0o400)) },
		},
		"volumes[].configMap.defaultUser": refused("spec.volumes[5].configMap.defaultUser",
			func(s *spec) { s.Volumes[5].ConfigMap.DefaultUser = new(int64(1)) }),
		"volumes[].secret.defaultMode": {
			arrives: arrives{"volumes[s].secret.defaultMode": `256`},
			set:     func(s *spec) { s.Volumes[6].Secret.DefaultMode = new(int32(0o400)) },
		},
		"volumes[].secret.defaultUser": refused("spec.volumes[6].secret.defaultUser",
			func(s *spec) { s.Volumes[6].Secret.DefaultUser = new(int64(1)) }),
		"volumes[].persistentVolumeClaim.claimName": {
			arrives: arrives{
				"volumes[e].persistentVolumeClaim.claimName": `"c"`, "config.mounts[/e].source": `"claims/e"`,
			},
			set: func(s *spec) { s.Volumes[0] = ofClaim(false) },
		},
		"volumes[].persistentVolumeClaim.readOnly": {
			arrives: arrives{
				"volumes[e].persistentVolumeClaim.claimName": `"c"`, "config.mounts[/e].source": `"claims/e"`,
				"volumes[e].persistentVolumeClaim.readOnly": `true`,
				"config.mounts[/e].options":                 `["rbind","rprivate","ro"]`,
			},
			set: func(s *spec) { s.Volumes[0] = ofClaim(true) },
		},
		"volumes[].container": refused("spec.volumes[0].container", func(s *spec) {
			s.Volumes[0] = v1alpha1.Volume{
				Name: "e", Container: &v1alpha1.ContainerVolume{Name: "web", Volume: "data"},
			}
		}),
		"volumes[].image.reference": {
			arrives: arrives{"volumes[x].name": `"x"`, "volumes[x].image.reference": `"x:1"`},
			set: func(s *spec) {
				s.Volumes = append(s.Volumes, v1alpha1.Volume{
					Name: "x", Image: &v1alpha1.ImageVolumeSource{Reference: "x:1"},
				})
			},
		},
		"volumes[].image.pullPolicy": {
			arrives: arrives{
				"volumes[x].name": `"x"`, "volumes[x].image.reference": `"x:1"`,
				"volumes[x].image.pullPolicy": `"Never"`,
			},
			set: func(s *spec) {
				s.Volumes = append(s.Volumes, v1alpha1.Volume{Name: "x", Image: &v1alpha1.ImageVolumeSource{
					Reference: "x:1", PullPolicy: corev1.PullNever,
				}})
			},
		},
		"volumes[].downwardAPI.defaultMode": {
			arrives: arrives{"volumes[d].downwardAPI.defaultMode": `256`},
			set:     func(s *spec) { s.Volumes[3].DownwardAPI.DefaultMode = new(int32(0o400)) },
		},
		"volumes[].downwardAPI.defaultUser": refused("spec.volumes[3].downwardAPI.defaultUser",
			func(s *spec) { s.Volumes[3].DownwardAPI.DefaultUser = new(int64(1)) }),
		"volumes[].projected.defaultMode": {
			arrives: arrives{"volumes[p].projected.defaultMode": `256`},
			set:     func(s *spec) { s.Volumes[4].Projected.DefaultMode = new(int32(0o400)) },
		},
		"volumes[].projected.sources[].serviceAccountToken.path": {
			arrives: arrives{tokenAt + "path": `"t"`},
			set:     func(s *spec) { token(s).Path = "t" },
		},
		"volumes[].projected.sources[].serviceAccountToken.audience": {
			arrives: arrives{tokenAt + "audience": `"vault"`},
			set:     func(s *spec) { token(s).Audience = "vault" },
		},
		"volumes[].projected.sources[].serviceAccountToken.expirationSeconds": {
			arrives: arrives{tokenAt + "expirationSeconds": `600`},
			set:     func(s *spec) { token(s).ExpirationSeconds = new(int64(600)) },
		},
		"volumes[].projected.sources[].serviceAccountToken.user": refused(
			"spec.volumes[4].projected.sources[3].serviceAccountToken.user",
			func(s *spec) { token(s).User = new(int64(1)) }),
		"serviceAccountName": {
			arrives: arrives{"serviceAccountName": `"robot"`},
			set:     func(s *spec) { s.ServiceAccountName = "robot" },
		},
	}
	maps.Copy(out, itemCases("volumes[].downwardAPI.items[]", "volumes[d].downwardAPI.items",
		"volumes[3].downwardAPI.items[0]",
		func(s *spec) *corev1.DownwardAPIVolumeFile { return &s.Volumes[3].DownwardAPI.Items[0] }))
	maps.Copy(out, itemCases("volumes[].projected.sources[].downwardAPI.items[]",
		"volumes[p].projected.sources[downwardAPI].downwardAPI.items",
		"volumes[4].projected.sources[0].downwardAPI.items[0]",
		func(s *spec) *corev1.DownwardAPIVolumeFile { return &source(s).DownwardAPI.Items[0] }))
	for _, o := range []objectFields{
		{
			"volumes[].configMap", "volumes[c].configMap", "volumes[5].configMap", "name", "c",
			func(s *spec) (*string, **bool, *corev1.KeyToPath) {
				o := s.Volumes[5].ConfigMap
				return &o.Name, &o.Optional, &o.Items[0]
			},
		},
		{
			"volumes[].secret", "volumes[s].secret", "volumes[6].secret", "secretName", "s",
			func(s *spec) (*string, **bool, *corev1.KeyToPath) {
				o := s.Volumes[6].Secret
				return &o.SecretName, &o.Optional, &o.Items[0]
			},
		},
		{
			"volumes[].projected.sources[].configMap",
			"volumes[p].projected.sources[configMap].configMap",
			"volumes[4].projected.sources[1].configMap", "name", "pc",
			func(s *spec) (*string, **bool, *corev1.KeyToPath) {
				o := s.Volumes[4].Projected.Sources[1].ConfigMap
				return &o.Name, &o.Optional, &o.Items[0]
			},
		},
		{
			"volumes[].projected.sources[].secret", "volumes[p].projected.sources[secret].secret",
			"volumes[4].projected.sources[2].secret", "name", "ps",
			func(s *spec) (*string, **bool, *corev1.KeyToPath) {
				o := s.Volumes[4].Projected.Sources[2].Secret
				return &o.Name, &o.Optional, &o.Items[0]
			},
		},
	} {
		maps.Copy(out, o.cases())
	}
	return out
}

// objectFields are the fields of a volume, or of a source of one, that refer to an object.
type objectFields struct {
	path, at, place string
	name            string // of the field with the object's name
	file            string // the path of the item
	of              func(*v1alpha1.ContainerSpec) (name *string, optional **bool, item *corev1.KeyToPath)
}

func (o objectFields) cases() map[string]fieldCase {
	type spec = v1alpha1.ContainerSpec
	item := o.at + ".items[" + o.file + "]"
	set := func(change func(name *string, optional **bool, item *corev1.KeyToPath)) func(*spec) {
		return func(s *spec) { change(o.of(s)) }
	}
	return map[string]fieldCase{
		o.path + "." + o.name: {
			arrives: arrives{o.at + "." + o.name: `"x"`},
			set:     set(func(name *string, _ **bool, _ *corev1.KeyToPath) { *name = "x" }),
		},
		o.path + ".optional": {
			arrives: arrives{o.at + ".optional": `true`},
			set:     set(func(_ *string, optional **bool, _ *corev1.KeyToPath) { *optional = new(true) }),
		},
		o.path + ".items[].key": {
			arrives: arrives{item + ".key": `"x"`},
			set:     set(func(_ *string, _ **bool, item *corev1.KeyToPath) { item.Key = "x" }),
		},
		o.path + ".items[].path": {
			arrives: arrives{
				item + ".*": "", o.at + ".items[x].key": `"k"`, o.at + ".items[x].path": `"x"`,
			},
			set: set(func(_ *string, _ **bool, item *corev1.KeyToPath) { item.Path = "x" }),
		},
		o.path + ".items[].mode": {
			arrives: arrives{item + ".mode": `256`},
			set:     set(func(_ *string, _ **bool, item *corev1.KeyToPath) { item.Mode = new(int32(0o400)) }),
		},
		o.path + ".items[].user": {
			refused: "spec." + o.place + ".items[0].user",
			set:     set(func(_ *string, _ **bool, item *corev1.KeyToPath) { item.User = new(int64(1)) }),
		},
	}
}

// itemCases returns the cases of an item of downwardAPI.
func itemCases(path, at, place string,
	item func(*v1alpha1.ContainerSpec) *corev1.DownwardAPIVolumeFile,
) map[string]fieldCase {
	type spec = v1alpha1.ContainerSpec
	limit := func(divisor, name string) fieldCase {
		of := arrives{
			at + "[uid].fieldRef.*":                "",
			at + "[uid].resourceFieldRef.resource": `"limits.cpu"`,
			at + "[uid].resourceFieldRef.divisor":  `"` + divisor + `"`,
		}
		if name != "" {
			of[at+"[uid].resourceFieldRef.containerName"] = `"` + name + `"`
		}
		return fieldCase{arrives: of, set: func(s *spec) {
			item(s).FieldRef = nil
			item(s).ResourceFieldRef = &corev1.ResourceFieldSelector{
				Resource: "limits.cpu", ContainerName: name,
			}
			if divisor != "0" {
				item(s).ResourceFieldRef.Divisor = resource.MustParse(divisor)
			}
		}}
	}
	return map[string]fieldCase{
		path + ".path": {
			arrives: arrives{
				at + "[uid].*": "", at + "[x].path": `"x"`, at + "[x].fieldRef.fieldPath": `"metadata.uid"`,
			},
			set: func(s *spec) { item(s).Path = "x" },
		},
		path + ".mode": {
			arrives: arrives{at + "[uid].mode": `256`},
			set:     func(s *spec) { item(s).Mode = new(int32(0o400)) },
		},
		path + ".user": {
			refused: "spec." + place + ".user", set: func(s *spec) { item(s).User = new(int64(1)) },
		},
		path + ".fieldRef.fieldPath": {
			arrives: arrives{
				at + "[uid].fieldRef.fieldPath": `"metadata.name"`,
				"downward[" + place + "].path":  `"` + place + `"`,
				"downward[" + place + "].value": `"base"`,
			},
			set: func(s *spec) { item(s).FieldRef.FieldPath = "metadata.name" },
		},
		path + ".fieldRef.apiVersion": {
			arrives: arrives{at + "[uid].fieldRef.apiVersion": `"v1"`},
			set:     func(s *spec) { item(s).FieldRef.APIVersion = "v1" },
		},
		path + ".resourceFieldRef.resource":      limit("0", ""),
		path + ".resourceFieldRef.divisor":       limit("1m", ""),
		path + ".resourceFieldRef.containerName": limit("0", "base"),
	}
}

const fileVolumesOfObjects = `
apiVersion: berth.run/v1alpha1
kind: Container
metadata:
  name: a
  labels: {b: "two\nlines", a: x}
  annotations: {berth.run/recompile: "1", team: shop}
spec:
  image: busybox
  onConfigChange: Restart
  resources: {limits: {memory: 64Mi}}
  volumes:
  - name: c
    configMap: {name: settings, optional: true, defaultMode: 0400, items: [{key: a.b, path: d/a, mode: 0777}]}
  - name: s
    secret: {secretName: keys}
  - name: d
    downwardAPI:
      items:
      - {path: labels, fieldRef: {fieldPath: metadata.labels}}
      - {path: annotations, fieldRef: {fieldPath: metadata.annotations}}
      - {path: a, fieldRef: {fieldPath: "metadata.labels['a']"}}
      - {path: uid, fieldRef: {fieldPath: metadata.uid}}
      - {path: memory, resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}
      - {path: cpu, resourceFieldRef: {resource: limits.cpu}}
  - name: p
    projected:
      sources:
      - configMap: {name: settings}
      - secret: {name: keys, items: [{key: k, path: d/k}]}
      - downwardAPI: {items: [{path: d/name, fieldRef: {fieldPath: metadata.name}}]}
  volumeMounts:
  - {name: c, mountPath: /c}
  - {name: s, mountPath: /s, readOnly: true}
  - {name: p, mountPath: /p, readOnly: true, recursiveReadOnly: Enabled}
`

func fileContainer(t *testing.T) *v1alpha1.Container {
	t.Helper()
	c := &v1alpha1.Container{}
	if err := yaml.UnmarshalStrict([]byte(fileVolumesOfObjects), c); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestFilesOfObjects: the agent gets the volumes as they are, mounted read-only, with the values
// that are known.
func TestFilesOfObjects(t *testing.T) {
	c := fileContainer(t)
	b, faults := Bundle(c)
	if len(faults) > 0 {
		t.Fatal(faults.ToAggregate())
	}
	if !equality.Semantic.DeepEqual(b.Volumes, c.Spec.Volumes) {
		t.Errorf("found %+v", b.Volumes)
	}
	want := []v1alpha1.DownwardValue{
		{Path: "volumes[2].downwardAPI.items[0]", Value: "a=\"x\"\nb=\"two\\nlines\""},
		{Path: "volumes[2].downwardAPI.items[1]", Value: `team="shop"`},
		{Path: "volumes[2].downwardAPI.items[2]", Value: "x"},
		{Path: "volumes[2].downwardAPI.items[4]", Value: "64"},
		{Path: "volumes[3].projected.sources[2].downwardAPI.items[0]", Value: "a"},
	}
	if !equality.Semantic.DeepEqual(b.Downward, want) {
		t.Errorf("found %+v; want %+v", b.Downward, want)
	}
	if b.OnConfigChange != v1alpha1.ConfigChangeRestart {
		t.Errorf("found onConfigChange %q", b.OnConfigChange)
	}
	if got := MinAgentRevision(b); got != 3 {
		t.Errorf("found the revision %d; want 3", got)
	}
	found := flatten(t, b)
	for path, want := range map[string]string{
		"config.mounts[/c].source":  `"files/c"`,
		"config.mounts[/c].options": `["rbind","rprivate","ro"]`,
		"config.mounts[/s].options": `["rbind","rprivate","ro"]`,
		"config.mounts[/p].options": `["rbind","rprivate","rro"]`,
	} {
		if found[path] != want {
			t.Errorf("%s is %s; want %s", path, found[path], want)
		}
	}
}

func TestFaultsOfFiles(t *testing.T) {
	type spec = v1alpha1.ContainerSpec
	configMap := func(s *spec) *corev1.ConfigMapVolumeSource { return s.Volumes[0].ConfigMap }
	item := func(s *spec) *corev1.DownwardAPIVolumeFile { return &s.Volumes[2].DownwardAPI.Items[0] }
	const first, third = "spec.volumes[0].configMap", "spec.volumes[2].downwardAPI.items[0]"
	for name, tc := range map[string]struct {
		change  func(*spec)
		path    string
		message string
	}{
		"1025 items": {
			func(s *spec) {
				items := make([]corev1.DownwardAPIVolumeFile, 1025)
				for i := range items {
					items[i] = *item(s)
					items[i].Path = fmt.Sprint("x", i)
				}
				s.Volumes[2].DownwardAPI.Items = items
			},
			"spec.volumes[2].downwardAPI.items", "items of downwardAPI in the Container, which may have 1024: remove some",
		},
		"another policy": {
			func(s *spec) { s.OnConfigChange = "Reload" }, "spec.onConfigChange", `"Restart"`,
		},
		"a signal without Signal": {
			func(s *spec) { s.ConfigChangeSignal = "SIGHUP" }, "spec.configChangeSignal", "onConfigChange Signal",
		},
		"a signal that ends every program": {
			func(s *spec) {
				s.OnConfigChange, s.ConfigChangeSignal = v1alpha1.ConfigChangeSignal, "SIGKILL"
			}, "spec.configChangeSignal", `"SIGUSR1"`,
		},
		"no name": {func(s *spec) { configMap(s).Name = "" }, first + ".name", "name an object"},
		"bad name": {
			func(s *spec) { s.Volumes[1].Secret.SecretName = "A" },
			"spec.volumes[1].secret.secretName", "lower case",
		},
		"no key":  {func(s *spec) { configMap(s).Items[0].Key = "" }, first + ".items[0].key", "name a key"},
		"bad key": {func(s *spec) { configMap(s).Items[0].Key = "a/b" }, first + ".items[0].key", "key"},
		"no path": {func(s *spec) { configMap(s).Items[0].Path = "" }, first + ".items[0].path", "needs a path"},
		"absolute": {
			func(s *spec) { configMap(s).Items[0].Path = "/etc/passwd" },
			first + ".items[0].path", "relative",
		},
		"way up": {
			func(s *spec) { configMap(s).Items[0].Path = "a/../../b" },
			first + ".items[0].path", `".."`,
		},
		"own link": {
			func(s *spec) { configMap(s).Items[0].Path = "..data" },
			first + ".items[0].path", `must not start with ".."`,
		},
		"long": {
			func(s *spec) { configMap(s).Items[0].Path = strings.Repeat("x", 256) },
			first + ".items[0].path", "255",
		},
		"not clean": {
			func(s *spec) { configMap(s).Items[0].Path = "a//b" },
			first + ".items[0].path", `write "a/b"`,
		},
		"twice": {func(s *spec) {
			configMap(s).Items = append(configMap(s).Items, configMap(s).Items[0])
		}, first + ".items[1].path", "Duplicate"},
		"below a file": {
			func(s *spec) { item(s).Path = "uid/x" },
			"spec.volumes[2].downwardAPI.items[3].path", "a file and a directory",
		},
		"mode": {
			func(s *spec) { configMap(s).Items[0].Mode = new(int32(0o1000)) },
			first + ".items[0].mode", "0777",
		},
		"default mode": {
			func(s *spec) { configMap(s).DefaultMode = new(int32(-1)) },
			first + ".defaultMode", "0777",
		},
		"user": {
			func(s *spec) { configMap(s).Items[0].User = new(int64(1)) },
			first + ".items[0].user", "belong to root",
		},
		"default user": {
			func(s *spec) { s.Volumes[1].Secret.DefaultUser = new(int64(1)) },
			"spec.volumes[1].secret.defaultUser", "belong to root",
		},
		"no field": {func(s *spec) { item(s).FieldRef = nil }, third, "fieldRef and resourceFieldRef"},
		"two fields": {func(s *spec) {
			item(s).ResourceFieldRef = &corev1.ResourceFieldSelector{Resource: "limits.cpu"}
		}, third + ".resourceFieldRef", "beside fieldRef"},
		"a field of variables": {
			func(s *spec) { item(s).FieldRef.FieldPath = "status.hostIP" },
			third + ".fieldRef.fieldPath", "metadata.uid",
		},
		"no source": {
			func(s *spec) { s.Volumes[3].Projected.Sources[0].ConfigMap = nil },
			"spec.volumes[3].projected.sources[0]", "exactly one",
		},
		"two sources": {func(s *spec) {
			s.Volumes[3].Projected.Sources[0].Secret = s.Volumes[3].Projected.Sources[1].Secret
		}, "spec.volumes[3].projected.sources[0]", "exactly one"},
		"a token of no path": {func(s *v1alpha1.ContainerSpec) {
			s.Volumes[3].Projected.Sources[0] = v1alpha1.VolumeProjection{
				ServiceAccountToken: &corev1.ServiceAccountTokenProjection{},
			}
		}, "spec.volumes[3].projected.sources[0].serviceAccountToken.path", "needs a path"},
		"a short token": {func(s *v1alpha1.ContainerSpec) {
			s.Volumes[3].Projected.Sources[0] = v1alpha1.VolumeProjection{
				ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
					Path: "t", ExpirationSeconds: new(int64(599)),
				},
			}
		}, "spec.volumes[3].projected.sources[0].serviceAccountToken.expirationSeconds", "must be 600"},
		"the name of no ServiceAccount": {func(s *v1alpha1.ContainerSpec) {
			s.ServiceAccountName = "A_b"
		}, "spec.serviceAccountName", "RFC 1123"},
		"the same path in two sources": {func(s *spec) {
			s.Volumes[3].Projected.Sources[2].DownwardAPI.Items[0].Path = "d/k"
		}, "spec.volumes[3].projected.sources[2].downwardAPI.items[0].path", "Duplicate"},
	} {
		c := fileContainer(t)
		tc.change(&c.Spec)
		_, faults := Bundle(c)
		if len(faults) != 1 || faults[0].Field != tc.path ||
			!strings.Contains(faults[0].Error(), tc.message) {
			t.Errorf("%s: found %v; want a fault of %s with %q", name, faults.ToAggregate(), tc.path,
				tc.message)
		}
	}
}

// TestTokensWithoutACluster: an agent alone refuses tokens, and the ServiceAccount's name.
func TestTokensWithoutACluster(t *testing.T) {
	c := fileContainer(t)
	c.Spec.ServiceAccountName = "robot"
	c.Spec.Volumes[3].Projected.Sources[0] = v1alpha1.VolumeProjection{
		ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "t"},
	}
	_, faults := Bundle(c, WithoutServiceAccounts())
	const token = "spec.volumes[3].projected.sources[0].serviceAccountToken"
	if len(faults) != 2 || faults[0].Field != "spec.serviceAccountName" || faults[1].Field != token {
		t.Errorf("found %v; want the name and the token refused", faults.ToAggregate())
	}
	out, faults := Bundle(c)
	if len(faults) > 0 || out.ServiceAccountName != "robot" {
		t.Errorf("in a cluster: found %+v, %v", out, faults.ToAggregate())
	}
	c.Spec.ServiceAccountName = ""
	if out, _ := Bundle(c); out == nil || out.ServiceAccountName != "default" {
		t.Errorf("without a name: found %+v; want default", out)
	}
}
