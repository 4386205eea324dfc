// SPDX-License-Identifier: Apache-2.0

package container

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testclock "k8s.io/utils/clock/testing"

	"github.com/berth-run/berth/api/v1alpha1"
)

// TestFirstStatusWaitsWhileTheAgentIsBusy holds that a Container in a burst is written once, when
// its agent has come to it, and that one is shown as dispatched all the same if its agent says
// nothing, or nothing of it for long.
func TestFirstStatusWaitsWhileTheAgentIsBusy(t *testing.T) {
	asked := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		after    time.Duration
		answered []time.Duration // when the agent of the node reported on another
		want     time.Duration
	}{
		"just dispatched":        {after: 0, want: 10 * time.Second},
		"silent agent":           {after: 10 * time.Second, want: 0},
		"silent agent, long ago": {after: time.Hour, want: 0},
		"busy agent": {
			after:    12 * time.Second,
			answered: []time.Duration{11 * time.Second}, want: 9 * time.Second,
		},
		"agent answered before it": {
			after:    4 * time.Second,
			answered: []time.Duration{-9 * time.Second}, want: 6 * time.Second,
		},
		"agent has become silent": {
			after:    25 * time.Second,
			answered: []time.Duration{11 * time.Second, 15 * time.Second}, want: 0,
		},
		"busy agent, the minute is over": {
			after:    58 * time.Second,
			answered: []time.Duration{57 * time.Second}, want: 2 * time.Second,
		},
		"busy agent, after that": {
			after:    61 * time.Second,
			answered: []time.Duration{60 * time.Second}, want: 0,
		},
		"our clock behind the API server": {after: -time.Minute, want: 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			r := &Reconciler{Clock: testclock.NewFakePassiveClock(asked.Add(c.after))}
			for _, at := range c.answered {
				r.answers.note("node-a", asked.Add(at))
			}
			r.answers.note("node-b", asked.Add(c.after))
			b := &v1alpha1.OCIBundle{ObjectMeta: metav1.ObjectMeta{
				CreationTimestamp: metav1.NewTime(asked),
				Generation:        1,
			}}
			b.Spec.NodeName = "node-a"
			s := &scope{before: &v1alpha1.Container{}, bundle: b}
			s.found.inSync = true
			if got := r.awaitsAnswer(s); got != c.want {
				t.Errorf("waits %s; want %s", got, c.want)
			}
		})
	}
}
