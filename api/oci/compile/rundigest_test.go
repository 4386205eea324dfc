// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"reflect"
	"strings"
	"testing"

	"github.com/berth-run/berth/api/oci/change"
	"github.com/berth-run/berth/api/v1alpha1"
)

// TestRunDigest: the fields of a Container that change no process are those that the document does
// not depend on.
func TestRunDigest(t *testing.T) {
	how := map[string]bool{
		"nodeName": true, "nodeSelector": true, "tolerations": true, "restartPolicy": true, "imagePullPolicy": true,
		"terminationGracePeriodSeconds": true, "progressDeadlineSeconds": true, "restartBackOff": true, "logging": true,
	}
	cases := fieldCases()
	typ := reflect.TypeFor[v1alpha1.ContainerSpec]()
	for i := range typ.NumField() {
		name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		c, ok := cases["ContainerSpec."+name]
		if !ok || c.refused != "" {
			continue
		}
		without, with := base(), base()
		c.set(&with.Spec)
		if same := RunDigest(without.Spec) == RunDigest(with.Spec); same != how[name] {
			t.Errorf("%s: the digests are the same: %v", name, same)
		}
		if same := FixedDigest(without.Spec) == FixedDigest(with.Spec); same != (how[name] || name == "resources") {
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
		if len(faults1)+len(faults2) > 0 || string(a.Config.Raw) != string(b.Config.Raw) || !reflect.DeepEqual(a.Process, b.Process) {
			t.Errorf("%s changes the document (%v %v)", name, faults1, faults2)
		}
	}
}
