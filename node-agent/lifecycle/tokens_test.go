// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/source"
)

// noTokens has no token, for a reason.
type noTokens struct{ why error }

func (n noTokens) Token(string, string, *corev1.ServiceAccountTokenProjection) (string, error) {
	return "", n.why
}

// TestRunningContainerWithoutAToken: a running container keeps its files if there is no token. That
// is reported, but not by an agent that has just started and has not asked for one yet.
func TestRunningContainerWithoutAToken(t *testing.T) {
	leaktest.Check(t)
	c := &Container{Bundle: &v1alpha1.OCIBundle{}}
	c.Bundle.Spec.ServiceAccountName = "robot"
	c.Bundle.Spec.Volumes = []v1alpha1.Volume{{
		Name: "tokens", Projected: &v1alpha1.ProjectedVolumeSource{Sources: []v1alpha1.VolumeProjection{{
			ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"},
		}}},
	}}
	for _, tc := range []struct {
		why  error
		want string
	}{
		{fmt.Errorf("token of robot: %w", source.ErrNotAsked), ""},
		{
			errors.New("it is forbidden"), "the files of its volumes stay as they are:" +
				" spec.volumes[0].projected.sources[0].serviceAccountToken: it is forbidden",
		},
	} {
		stage := filesStage{environmentStage{tokens: noTokens{tc.why}}}
		stale, err := stage.Stale(c)
		if stale || (err == nil) != (tc.want == "") ||
			err != nil && !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("%v: found %t, %v; want %q", tc.why, stale, err, tc.want)
		}
		// A start waits for it in either case.
		var pending *Pending
		if err := stage.Ensure(t.Context(), c); !errors.As(err, &pending) ||
			!strings.HasSuffix(pending.Message, tc.why.Error()) {
			t.Errorf("%v: a start found %v; want that it waits", tc.why, err)
		}
	}
}
