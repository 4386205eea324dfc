// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"os"
	"testing"
	"time"

	imagev1 "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/lifecycle"
)

// pulledImages passes each pull that begins to the test, by reference, and of each that is given
// up.
type pulledImages struct {
	begun, ended chan string
	image        *lifecycle.Image // nil: the pull goes on until it is given up
}

func (p pulledImages) Ensure(ctx context.Context, r lifecycle.PullRequest) (*lifecycle.Image, error) {
	select {
	case p.begun <- r.Reference:
	case <-ctx.Done():
	}
	if p.image != nil {
		return p.image, nil
	}
	<-ctx.Done()
	p.ended <- r.Reference
	return nil, ctx.Err()
}

// newPullBench returns a bench whose container waits for the image x:1.
func newPullBench(t *testing.T) (*bench, pulledImages) {
	t.Helper()
	b := newBench(t, func(o *v1alpha1.OCIBundle) {
		o.Spec.Image = &v1alpha1.BundleImage{Reference: "x:1"}
	})
	b.until("the failure without images", func() bool {
		return meta.IsStatusConditionFalse(b.source.last().Conditions, v1alpha1.ConditionImageReady)
	})
	b.stop()
	b.clock.Step(10 * time.Second) // the back-off
	images := pulledImages{begun: make(chan string, 100), ended: make(chan string, 100)}
	b.images = images
	b.run()
	expect(t, images.begun, "x:1")
	return b, images
}

// expect waits for one value.
func expect(t *testing.T, c <-chan string, want string) {
	t.Helper()
	select {
	case got := <-c:
		if got != want {
			t.Fatalf("found %q; want %q", got, want)
		}
	case <-time.After(time.Minute):
		t.Fatalf("%q never came", want)
	}
}

// TestDeletionDuringAPull: the pull is given up, and all of the container goes, although no time
// passes.
func TestDeletionDuringAPull(t *testing.T) {
	b, images := newPullBench(t)
	b.delete()
	expect(t, images.ended, "x:1")
	b.until("it is released", func() bool {
		b.source.mu.Lock()
		defer b.source.mu.Unlock()
		return len(b.source.released) == 1
	})
	if left, err := b.bundles.List(); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// TestAnotherImageDuringAPull: the pull of the image that is wanted no more is given up for that of
// the other.
func TestAnotherImageDuringAPull(t *testing.T) {
	b, images := newPullBench(t)
	b.set(func(o *v1alpha1.OCIBundle) {
		o.Generation++
		o.Spec.Image = &v1alpha1.BundleImage{Reference: "x:2"}
	})
	b.syncer.Changed(keyNamed("x"))
	expect(t, images.begun, "x:2")
	expect(t, images.ended, "x:1")
	r, err := readRecord(b.bundles.Dir(unsureID), b.clock.Now(), b.clock.sinceBoot())
	if err != nil || r == nil || r.Generation != 2 || r.Restarts != 0 || r.State != stateStarting {
		t.Errorf("found the record %+v, %v", r, err)
	}
}

// TestAnotherCommandDuringAPull: the pull goes on for the spec that is wanted now.
func TestAnotherCommandDuringAPull(t *testing.T) {
	b, images := newPullBench(t)
	b.set(func(o *v1alpha1.OCIBundle) {
		o.Generation++
		o.Spec.Process.Command = []string{"/y"}
	})
	b.syncer.Changed(keyNamed("x"))
	b.until("the record of that", func() bool {
		r, err := readRecord(b.bundles.Dir(unsureID), b.clock.Now(), b.clock.sinceBoot())
		return err == nil && r != nil && r.Generation == 2 &&
			r.Hash == hashOf(b.source.Get(keyNamed("x")))
	})
	select {
	case <-images.ended:
		t.Error("the pull was given up")
	case <-images.begun:
		t.Error("the image is pulled again")
	default:
	}
}

// TestEditsDuringAPullAreOneRestart: the exit of the last run is kept until the next one runs.
func TestEditsDuringAPullAreOneRestart(t *testing.T) {
	b := newBench(t)
	b.stop()
	images := pulledImages{begun: make(chan string, 100), ended: make(chan string, 100)}
	b.images = images
	b.run()
	b.runs(1)
	edit := func(change func(*v1alpha1.OCIBundle)) {
		b.set(func(o *v1alpha1.OCIBundle) {
			o.Generation++
			change(o)
		})
		b.syncer.Changed(keyNamed("x"))
	}
	edit(func(o *v1alpha1.OCIBundle) { o.Spec.Image = &v1alpha1.BundleImage{Reference: "x:1"} })
	b.until("the stop signal", func() bool { return len(b.kills()) == 1 })
	b.exit(3)
	expect(t, images.begun, "x:1")
	edit(func(o *v1alpha1.OCIBundle) { o.Spec.Image = &v1alpha1.BundleImage{Reference: "x:2"} })
	expect(t, images.begun, "x:2")
	r, err := readRecord(b.bundles.Dir(unsureID), b.clock.Now(), b.clock.sinceBoot())
	if err != nil || r == nil || r.Restarts != 1 || r.Before == nil || r.Before.Exit == nil ||
		r.Before.Exit.ExitCode != 3 {
		t.Errorf("found the record %+v, %v", r, err)
	}
}

// TestAgentEndsDuringAPull: the next agent pulls again, and counts no restart and no failure.
func TestAgentEndsDuringAPull(t *testing.T) {
	b, images := newPullBench(t)
	b.stop()
	expect(t, images.ended, "x:1")
	b.run()
	expect(t, images.begun, "x:1")
	r, err := readRecord(b.bundles.Dir(unsureID), b.clock.Now(), b.clock.sinceBoot())
	if err != nil || r == nil || r.Restarts != 0 {
		t.Errorf("found the record %+v, %v", r, err)
	}
}

// TestImageWithABadStopSignal: an image whose config a container cannot be created with is the
// container's fault.
func TestImageWithABadStopSignal(t *testing.T) {
	b, _ := newPullBench(t)
	b.stop()
	b.images = pulledImages{begun: make(chan string, 100), image: &lifecycle.Image{
		ID:     "x@sha256:1",
		Config: imagev1.ImageConfig{StopSignal: "SIGNONSENSE"},
	}}
	b.run()
	b.until("the failure", func() bool {
		b.clock.Step(time.Minute)
		w := b.source.last().State.Waiting
		return w != nil && w.Reason == v1alpha1.ReasonCreateFailed
	})
	image := meta.FindStatusCondition(b.source.last().Conditions, v1alpha1.ConditionImageReady)
	if image == nil || image.Status != metav1.ConditionTrue ||
		image.Reason != v1alpha1.ReasonImagePulled {
		t.Errorf("ImageReady is %+v; want it True", image)
	}
}

// TestGatherWritesNothing: gathering a change leaves record and desired.json as they are; acting on
// it writes them.
func TestGatherWritesNothing(t *testing.T) {
	b := newBench(t)
	b.runs(1)
	b.until("the worker is at rest", func() bool {
		b.syncer.mu.Lock()
		defer b.syncer.mu.Unlock()
		return !b.syncer.workers[keyNamed("x")].active
	})
	b.set(func(o *v1alpha1.OCIBundle) {
		o.Generation++
		o.Spec.TerminationGracePeriodSeconds = 7
		metav1.SetMetaDataAnnotation(&o.ObjectMeta, "berth.run/unrelated", "x")
	})
	files := func() (out []string) {
		for _, name := range []string{recordFile, desiredFile} {
			data, err := os.ReadFile(b.bundles.Dir(unsureID).File(name))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, string(data))
		}
		return out
	}
	w := b.syncer.workers[keyNamed("x")]
	before, record := files(), *w.records[0]
	in, err := b.syncer.gather(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	if after := files(); after[0] != before[0] || after[1] != before[1] ||
		w.records[0].Generation != record.Generation {
		t.Error("gather has changed the record")
	}
	d := b.syncer.policies.Decide(in)
	if d.Verb != NoteDesired {
		t.Fatalf("decided %+v", d)
	}
	if err := b.syncer.act(t.Context(), w, &in, d); err != nil {
		t.Fatal(err)
	}
	if after := files(); after[0] == before[0] || after[1] == before[1] ||
		w.records[0].GraceSeconds != 7 {
		t.Error("act has not written down what is desired")
	}
	if in, err = b.syncer.gather(t.Context(), w); err != nil || in.Next != nil {
		t.Errorf("it is to be written down again: %+v, %v", in.Next, err)
	}
}
