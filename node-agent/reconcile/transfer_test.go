// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/lifecycle"
	"github.com/berth-run/berth/node-agent/source"
)

// heldImages are images whose pull ends when the test says so.
type heldImages struct{ end chan error }

func (h heldImages) Ensure(ctx context.Context, r lifecycle.PullRequest) (*lifecycle.Image, error) {
	select {
	case err := <-h.end:
		return &lifecycle.Image{ID: r.Reference}, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestProgressOfAPull: the status says how far it is, at growing intervals.
func TestProgressOfAPull(t *testing.T) {
	b := newBench(t, func(o *v1alpha1.OCIBundle) {
		o.Spec.Image = &v1alpha1.BundleImage{Reference: "x:1"}
	})
	b.until("the failure without images", func() bool {
		return meta.IsStatusConditionFalse(b.source.last().Conditions, v1alpha1.ConditionImageReady)
	})
	b.stop()
	held := heldImages{make(chan error)}
	var mu sync.Mutex
	percent := "1%"
	say := func(s string) {
		mu.Lock()
		defer mu.Unlock()
		percent = s
	}
	b.images = held
	b.pulled = func(string) string {
		mu.Lock()
		defer mu.Unlock()
		return percent
	}
	b.run()
	message := func() string {
		c := meta.FindStatusCondition(b.source.last().Conditions, v1alpha1.ConditionImageReady)
		if c == nil || c.Reason != v1alpha1.ReasonPulling {
			return ""
		}
		return c.Message
	}
	b.until("the pull", func() bool {
		b.clock.Step(10 * time.Second) // the back-off, and a second of the pull
		return message() == "pulling x:1: 1%"
	})
	for _, text := range []string{"2%", "3%"} {
		say(text)
		b.until("the timer", b.waiting)
		b.clock.Step(slowest)
		b.until("the progress", func() bool { return message() == "pulling x:1: "+text })
	}
	held.end <- errors.New("the test ends it")
	b.until("its end", func() bool {
		c := meta.FindStatusCondition(b.source.last().Conditions, v1alpha1.ConditionImageReady)
		return c != nil && c.Reason == v1alpha1.ReasonImagePullFailed
	})
}

// TestStopDuringAPull: a container that is stopped does not wait for its image.
func TestStopDuringAPull(t *testing.T) {
	b := newBench(t, func(o *v1alpha1.OCIBundle) {
		o.Spec.Image = &v1alpha1.BundleImage{Reference: "x:1"}
	})
	b.until("the failure without images", func() bool {
		return meta.IsStatusConditionFalse(b.source.last().Conditions, v1alpha1.ConditionImageReady)
	})
	b.stop()
	b.images = heldImages{make(chan error)}
	b.run()
	reason := func() string {
		if w := b.source.last().State.Waiting; w != nil {
			return w.Reason
		}
		return ""
	}
	b.until("the pull", func() bool {
		b.clock.Step(10 * time.Second)
		return reason() == v1alpha1.ReasonPulling
	})
	b.source.mu.Lock()
	next := b.source.bundle.DeepCopy()
	next.Annotations = map[string]string{source.AnnotationStopped: "true"}
	b.source.bundle = next
	b.source.mu.Unlock()
	b.syncer.Changed(keyNamed("x"))
	b.until("that it is stopped", func() bool { return reason() == v1alpha1.ReasonStopped })
}
