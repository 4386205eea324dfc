// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/berth-run/berth/api/v1alpha1"
)

// anyRevision returns the fields of OCIBundle.spec that every agent knows, or may ignore.
func anyRevision() []string {
	return strings.Fields(`
		nodeName handler restartPolicy terminationGracePeriodSeconds requests config
		image image.reference image.pullPolicy
		process process.command process.args process.workingDir process.runAsUser process.runAsGroup process.runAsNonRoot
		volumes volumes[].name
		volumes[].hostPath volumes[].hostPath.path volumes[].hostPath.type
		volumes[].emptyDir volumes[].emptyDir.medium volumes[].emptyDir.sizeLimit volumes[].emptyDir.mode
		compiledGeneration minAgentRevision containerRef containerRef.name containerRef.uid`)
}

// TestEveryBundleFieldHasARevision fails for a field that is new until somebody says which agents
// know it.
func TestEveryBundleFieldHasARevision(t *testing.T) {
	old, table := anyRevision(), revisions()
	seen := map[string]bool{}
	for _, path := range fieldPaths("", reflect.TypeFor[v1alpha1.OCIBundleSpec]()) {
		seen[path] = true
		_, since := table[path]
		if known := slices.Contains(old, path); known == since {
			t.Errorf("spec.%s has no revision, or two: add it to revisions() with v1alpha1.AgentRevision, raised by 1 if that was released already "+
				"(or to anyRevision, if agents that drop it silently do no harm)", path)
		}
	}
	for _, path := range old {
		if !seen[path] {
			t.Errorf("spec.%s is no field any more", path)
		}
	}
	for path, revision := range table {
		if !seen[path] && !strings.HasPrefix(path, "config.") || revision < 1 ||
			revision > v1alpha1.AgentRevision {
			t.Errorf("revisions()[%q] is %d: it names no field, or a revision that there is not", path,
				revision)
		}
	}
}

// fieldPaths lists the JSON paths of all fields of a struct, as walk names them.
func fieldPaths(path string, typ reflect.Type) []string {
	switch typ {
	case reflect.TypeFor[resource.Quantity](), reflect.TypeFor[runtime.RawExtension](),
		reflect.TypeFor[corev1.ResourceList]():
		return nil
	}
	switch typ.Kind() {
	case reflect.Pointer:
		return fieldPaths(path, typ.Elem())
	case reflect.Slice:
		return fieldPaths(path+"[]", typ.Elem())
	case reflect.Struct:
		var out []string
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if name == "" && typ.Field(i).Anonymous {
				out = append(out, fieldPaths(path, typ.Field(i).Type)...)
				continue
			}
			at := strings.TrimPrefix(path+"."+name, ".")
			out = append(append(out, at), fieldPaths(at, typ.Field(i).Type)...)
		}
		return out
	}
	return nil
}

func TestMinAgentRevisionIsThatOfTheNewestFieldInUse(t *testing.T) {
	table := map[string]int32{
		"image": 1, "volumes[].emptyDir.medium": 2,
		"config.linux.memoryPolicy": 3,
	}
	for want, spec := range map[int32]*v1alpha1.OCIBundleSpec{
		0: {
			Volumes: []v1alpha1.Volume{{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			Config:  raw(`{"linux":{}}`),
		},
		1: {Image: &v1alpha1.BundleImage{}, Config: raw(`{}`)},
		2: {Image: &v1alpha1.BundleImage{}, Config: raw(`{}`), Volumes: []v1alpha1.Volume{
			{},
			{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: "Memory"}},
		}},
		3: {Config: raw(`{"linux":{"memoryPolicy":{}}}`)},
	} {
		if got := minRevision(spec, table); got != want {
			text, _ := json.Marshal(spec)
			t.Errorf("the revision is %d, want %d: %s", got, want, text)
		}
	}
}

func TestArchiveNeedsAnAgentThatKnowsIt(t *testing.T) {
	for reference, want := range map[string]int32{
		"archive:/a.tar": 1, "busybox": 0,
		"oci-archive:/a.tar": 0,
	} {
		if got := MinAgentRevision(&v1alpha1.OCIBundleSpec{
			Image: &v1alpha1.BundleImage{Reference: reference}, Config: raw(`{}`),
		}); got != want {
			t.Errorf("%s: the revision is %d, want %d", reference, got, want)
		}
	}
}

func TestEmptyDirNeedsAnAgentThatKnowsIt(t *testing.T) {
	for medium, want := range map[corev1.StorageMedium]int32{
		"": 3, corev1.StorageMediumMemory: 0, "HugePages-2Mi": 3,
	} {
		if got := MinAgentRevision(&v1alpha1.OCIBundleSpec{
			Volumes: []v1alpha1.Volume{{EmptyDir: &corev1.EmptyDirVolumeSource{
				Medium: medium, SizeLimit: resource.NewQuantity(1, resource.BinarySI),
			}}}, Config: raw(`{}`),
		}); got != want {
			t.Errorf("%q: the revision is %d, want %d", medium, got, want)
		}
	}
}

func TestSwapNeedsAnAgentThatKnowsIt(t *testing.T) {
	for memory, want := range map[string]int32{
		`{"limit":4096,"swap":4096}`: 0, `{"limit":4096,"swap":8192}`: 3, `{"limit":4096}`: 0,
	} {
		config := raw(`{"linux":{"resources":{"memory":` + memory + `}}}`)
		if got := MinAgentRevision(&v1alpha1.OCIBundleSpec{Config: config}); got != want {
			t.Errorf("%s: the revision is %d, want %d", memory, got, want)
		}
	}
}

// TestHostUsersIsPassedOn: an agent that gives user namespaces by default gets to know that a
// Container is to have the node's ids.
func TestHostUsersIsPassedOn(t *testing.T) {
	for spec, want := range map[string]bool{"": false, "\nhostUsers: true": true, "\nhostUsers: false": false} {
		b, faults := Bundle(parse(t, "image: busybox"+spec))
		if len(faults) > 0 || b.HostUsers != want || b.UserNamespace != (spec == "\nhostUsers: false") ||
			want && MinAgentRevision(b) != 3 {
			t.Errorf("%q: found hostUsers %v, userNamespace %v, %v", spec, b.HostUsers, b.UserNamespace, faults)
		}
	}
}

func raw(document string) runtime.RawExtension {
	return runtime.RawExtension{Raw: []byte(document)}
}
