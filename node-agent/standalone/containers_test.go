// SPDX-License-Identifier: Apache-2.0

package standalone

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/leaktest"
)

// TestMessageOfARemoval: the message says why the process has not ended yet.
func TestMessageOfARemoval(t *testing.T) {
	leaktest.Check(t)
	c := &v1alpha1.Container{}
	c.DeletionTimestamp = new(metav1.Now())
	if got := Message(c); got != "being removed" {
		t.Errorf("found %q", got)
	}
	told := "the process runs with pid 5; it has been told to stop: the container is deleted"
	meta.SetStatusCondition(&c.Status.Conditions, metav1.Condition{
		Type:   v1alpha1.ConditionRunning,
		Status: metav1.ConditionTrue, Message: told,
	})
	if got := Message(c); got != "being removed: "+told {
		t.Errorf("found %q", got)
	}
}

// TestUnknownName: the names that there are help as long as they fit on a screen.
func TestUnknownName(t *testing.T) {
	leaktest.Check(t)
	var all []v1alpha1.Container
	for _, tc := range []struct {
		count int
		want  string
	}{
		{0, "NAME: found no container default/b; there are no containers"},
		{2, "NAME: found no container default/b; there are: c0, c1"},
		{1000, "NAME: found no container default/b; berth-agent status lists the 1000 that there are"},
	} {
		for len(all) < tc.count {
			all = append(all, v1alpha1.Container{ObjectMeta: metav1.ObjectMeta{
				Namespace: "default",
				Name:      fmt.Sprintf("c%d", len(all)),
			}})
		}
		if _, err := Find(all, "default", "b"); err == nil || err.Error() != tc.want {
			t.Errorf("found %v; want %s", err, tc.want)
		}
	}
}
