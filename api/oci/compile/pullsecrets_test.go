// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
)

// TestPullSecrets: the agent gets the names, and each fault has its path.
func TestPullSecrets(t *testing.T) {
	secrets := func(names ...string) (out []corev1.LocalObjectReference) {
		for _, name := range names {
			out = append(out, corev1.LocalObjectReference{Name: name})
		}
		return out
	}
	c := base()
	c.Spec.ImagePullSecrets = secrets("a", "b")
	b, faults := Bundle(c)
	if len(faults) > 0 || !slices.Equal(b.Image.PullSecrets, []string{"a", "b"}) ||
		MinAgentRevision(b) != 3 {
		t.Errorf("found %+v, %v", b, faults)
	}
	for name, tc := range map[string]struct {
		change  func(*v1alpha1.ContainerSpec)
		path    string
		message string
	}{
		"no name": {
			func(s *v1alpha1.ContainerSpec) { s.ImagePullSecrets = secrets("a", "") },
			"spec.imagePullSecrets[1].name", "name an object",
		},
		"a bad name": {
			func(s *v1alpha1.ContainerSpec) { s.ImagePullSecrets = secrets("A") },
			"spec.imagePullSecrets[0].name", "lower case",
		},
		"too many": {
			func(s *v1alpha1.ContainerSpec) {
				s.ImagePullSecrets = secrets(slices.Repeat([]string{"a"}, 65)...)
			}, "spec.imagePullSecrets", "64",
		},
		"an archive": {
			func(s *v1alpha1.ContainerSpec) {
				s.Image, s.Archive = "", &v1alpha1.Archive{Path: "/x.tar"}
				s.ImagePullSecrets = secrets("a")
			}, "spec.imagePullSecrets", "remove imagePullSecrets",
		},
		"an archive in the older spelling": {
			func(s *v1alpha1.ContainerSpec) {
				s.Image, s.ImagePullSecrets = "oci-archive:/x.tar", secrets("a")
			}, "spec.imagePullSecrets", "remove imagePullSecrets",
		},
	} {
		c := base()
		tc.change(&c.Spec)
		_, faults := Bundle(c)
		if len(faults) != 1 || faults[0].Field != tc.path ||
			!strings.Contains(faults[0].Error(), tc.message) {
			t.Errorf("%s: found %v; want a fault of %s with %q", name, faults.ToAggregate(), tc.path,
				tc.message)
		}
	}
}
