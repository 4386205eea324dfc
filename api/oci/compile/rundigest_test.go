// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/berth-run/berth/api/oci/change"
	"github.com/berth-run/berth/api/v1alpha1"
)

// TestRunDigest: the fields of a Container that change no process are those that the document does
// not depend on.
func TestRunDigest(t *testing.T) {
	how := map[string]bool{
		"nodeName": true, "nodeSelector": true, "tolerations": true, "restartPolicy": true,
		"imagePullPolicy":               true,
		"terminationGracePeriodSeconds": true, "progressDeadlineSeconds": true, "restartBackOff": true,
		"logging": true,
	}
	cases, seen := fieldCases(), 0
	typ := reflect.TypeFor[v1alpha1.ContainerSpec]()
	for i := range typ.NumField() {
		name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		c, ok := cases[name]
		if !ok || c.refused != "" {
			continue
		}
		seen++
		without, with := base(), base()
		c.set(&with.Spec)
		if same := RunDigest(without.Spec) == RunDigest(with.Spec); same != how[name] {
			t.Errorf("%s: the digests are the same: %v", name, same)
		}
		same := FixedDigest(without.Spec) == FixedDigest(with.Spec)
		if same != (how[name] || name == "resources") {
			t.Errorf("%s: the fixed digests are the same: %v", name, same)
		}
		if name == "resources" {
			a, _ := Bundle(without)
			b, _ := Bundle(with)
			if set := change.Classify(a, b); set.Kind != change.Live {
				t.Errorf("%s: a change is %v; want Live", name, set)
			}
		}
		if !how[name] || c.placement {
			continue
		}
		a, faults1 := Bundle(without)
		b, faults2 := Bundle(with)
		if len(faults1)+len(faults2) > 0 || string(a.Config.Raw) != string(b.Config.Raw) ||
			!reflect.DeepEqual(a.Process, b.Process) {
			t.Errorf("%s changes the document (%v %v)", name, faults1, faults2)
		}
	}
	if seen < len(how) {
		t.Errorf("looked at %d fields; want at least %d", seen, len(how))
	}
}

// TestVariableOfResourcesIsFixed: no variable of a running process can change, so an edit of the
// resources that one of them shows takes a new container.
func TestVariableOfResourcesIsFixed(t *testing.T) {
	limited := func(memory string) v1alpha1.ContainerSpec {
		c := base()
		c.Spec.Env = []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{
			ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.memory"},
		}}}
		c.Spec.Resources.Limits = corev1.ResourceList{"memory": resource.MustParse(memory)}
		return c.Spec
	}
	if FixedDigest(limited("1Gi")) == FixedDigest(limited("2Gi")) {
		t.Error("a variable with another limit can be given to a running container")
	}
	if FixedDigest(limited("1Gi")) != FixedDigest(limited("1024Mi")) {
		t.Error("the digests of the same limit differ")
	}
}
