// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/berth-run/berth/api/v1alpha1"
)

// TestClaims: the agent gets the claims as they are, with mounts that it fills in.
// A name that no claim can have is refused.
func TestClaims(t *testing.T) {
	const text = `
metadata: {name: x}
spec:
  image: x
  volumes:
  - {name: a, persistentVolumeClaim: {claimName: data}}
  - {name: b, persistentVolumeClaim: {claimName: data.old, readOnly: true}}
  volumeMounts:
  - {name: a, mountPath: /a}
  - {name: a, mountPath: /ro, readOnly: true}
  - {name: b, mountPath: /b}
`
	compile := func(text string) (*v1alpha1.OCIBundleSpec, string) {
		t.Helper()
		c := &v1alpha1.Container{}
		if err := yaml.UnmarshalStrict([]byte(text), c); err != nil {
			t.Fatal(err)
		}
		b, faults := Bundle(c)
		if len(faults) > 0 {
			return nil, faults.ToAggregate().Error()
		}
		return b, ""
	}
	b, fault := compile(text)
	if fault != "" {
		t.Fatal(fault)
	}
	if got := MinAgentRevision(b); got != 3 {
		t.Errorf("found the revision %d; want 3", got)
	}
	found := flatten(t, b)
	for path, want := range map[string]string{
		"config.mounts[/a].source":                   `"claims/a"`,
		"config.mounts[/a].options":                  `["rbind","rprivate","rw"]`,
		"config.mounts[/ro].options":                 `["rbind","rprivate","ro"]`,
		"config.mounts[/b].source":                   `"claims/b"`,
		"config.mounts[/b].options":                  `["rbind","rprivate","ro"]`,
		"volumes[a].persistentVolumeClaim.claimName": `"data"`,
		"volumes[b].persistentVolumeClaim.claimName": `"data.old"`,
		"volumes[b].persistentVolumeClaim.readOnly":  `true`,
	} {
		if found[path] != want {
			t.Errorf("%s is %s; want %s", path, found[path], want)
		}
	}
	for name, want := range map[string]string{
		`""`:   "name a PersistentVolumeClaim of the Container's namespace",
		"../x": "lower case",
		"Data": "lower case",
	} {
		const at = "spec.volumes[0].persistentVolumeClaim.claimName: "
		_, fault := compile(strings.Replace(text, "claimName: data}", "claimName: "+name+"}", 1))
		if !strings.HasPrefix(fault, at) || !strings.Contains(fault, want) {
			t.Errorf("%s: found %q; want %q", name, fault, want)
		}
	}
}

// TestVolumeOfContainer: an agent without a cluster gets a volume of another Container as it is,
// with mounts and paths in it that the agent fills in. A cluster refuses it.
func TestVolumeOfContainer(t *testing.T) {
	const text = "image: x\nvolumes: [{name: a, container: {name: web, volume: data}}]\n"
	b, faults := Bundle(parse(t, text+"volumeMounts: [{name: a, mountPath: /a},"+
		" {name: a, mountPath: /b, subPath: b, readOnly: true}]"), Neighbours())
	if len(faults) > 0 {
		t.Fatal(faults.ToAggregate())
	}
	if got := MinAgentRevision(b); got != 3 {
		t.Errorf("found the revision %d; want 3", got)
	}
	found := flatten(t, b)
	for path, want := range map[string]string{
		"config.mounts[/a].source":    `"claims/a"`,
		"config.mounts[/a].options":   `["rbind","rprivate","rw"]`,
		"config.mounts[/b].source":    `"subpaths/1"`,
		"config.mounts[/b].options":   `["rbind","rprivate","ro"]`,
		"subPaths[b].source":          `"claims/a"`,
		"volumes[a].container.name":   `"web"`,
		"volumes[a].container.volume": `"data"`,
	} {
		if found[path] != want {
			t.Errorf("%s is %s; want %s", path, found[path], want)
		}
	}
	refused := func(text, want string, options ...Option) {
		t.Helper()
		_, faults := Bundle(parse(t, text), options...)
		if len(faults) != 1 || !strings.Contains(faults[0].Error(), want) {
			t.Errorf("%s: found %v; want %s", text, faults, want)
		}
	}
	const at = "spec.volumes[0].container"
	refused(text, at+": Forbidden: is honoured by an agent without a cluster only")
	for volume, want := range map[string]string{
		"{name: A_b, volume: data}": at + ".name: Invalid",
		"{volume: data}":            at + ".name: Invalid",
		"{name: x, volume: data}":   at + `.name: Invalid value: "x": must be the name of another`,
		"{name: web, volume: ../a}": at + ".volume: Invalid",
		"{name: web}":               at + ".volume: Invalid",
	} {
		refused("image: x\nvolumes: [{name: a, container: "+volume+"}]", want, Neighbours())
	}
	refused("image: x\nvolumes: [{name: a, emptyDir: {}, container: {name: web, volume: data}}]", oneKind,
		Neighbours())
}
