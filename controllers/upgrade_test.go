// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"bytes"
	"fmt"
	"reflect"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/oci/compile"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/controllers/container"
	"github.com/berth-run/berth/controllers/scheduling"
)

// nextVersion makes the controller of these tests compile as another version of it would.
var nextVersion atomic.Bool

const mark = `"annotations":{"compiled-by":"the next version"}`

func compileAsVersion(c *v1alpha1.Container, o ...compile.Option) (*v1alpha1.OCIBundleSpec,
	field.ErrorList,
) {
	if nextVersion.Load() {
		return compileNext(c, o...)
	}
	return compile.Bundle(c, o...)
}

func revisionOfVersion() int {
	if nextVersion.Load() {
		return compile.Revision + 1
	}
	return compile.Revision
}

// compileNext compiles to other bytes than compile.Bundle.
func compileNext(c *v1alpha1.Container, o ...compile.Option) (*v1alpha1.OCIBundleSpec,
	field.ErrorList,
) {
	spec, faults := compile.Bundle(c, o...)
	if spec != nil {
		spec.Config.Raw = append([]byte("{"+mark+","), spec.Config.Raw[1:]...)
	}
	return spec, faults
}

func upgrade(t *testing.T) {
	nextVersion.Store(true)
	t.Cleanup(func() { nextVersion.Store(false) })
}

// TestUpgradeLeavesBundlesAlone: another version of the compiler changes no OCIBundle until the
// Container is edited.
func TestUpgradeLeavesBundlesAlone(t *testing.T) {
	newFakeAgent(t, "node-a", func(a *fakeAgent) {
		a.answer = func(b *v1alpha1.OCIBundle) v1alpha1.OCIBundleStatus {
			if b.Spec.RestartPolicy == corev1.RestartPolicyNever {
				return succeeded()
			}
			return runs(b)
		}
	})
	ns := namespace(t)
	service := sample(ns, "service")
	job := sample(ns, "job", func(c *v1alpha1.Container) {
		c.Spec.RestartPolicy = corev1.RestartPolicyNever
	})
	for _, c := range []*v1alpha1.Container{service, job} {
		create(t, c)
		eventuallyHas(t, c, isReady)
	}

	upgrade(t)
	for _, c := range []*v1alpha1.Container{service, job} {
		t.Run(c.Name, func(t *testing.T) {
			// The controller looks, and says that newer defaults are available.
			edit(t, c, func(c *v1alpha1.Container) { c.Annotations = map[string]string{"look": "now"} })
			eventuallyHas(t, c, offered("annotations"))
			before := cachedBundle(t, c)
			if before.Spec.CompiledGeneration != 1 {
				t.Errorf("compiledGeneration is %d", before.Spec.CompiledGeneration)
			}
			r := &container.Reconciler{
				Client: noWrites{cached, t}, Live: live, Ledger: scheduling.NewLedger(),
				Compile: compileNext, Revision: revisionOfVersion, Recorder: events.NewFakeRecorder(10),
				Clock: clock.RealClock{},
			}
			_, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(c)})
			if err != nil {
				t.Fatal(err)
			}

			// What is put right beside the spec leaves the spec alone.
			edit(t, before, func(b *v1alpha1.OCIBundle) { b.Labels = nil })
			after := eventuallyBundle(t, c, func(b *v1alpha1.OCIBundle) error {
				if b.Labels[v1alpha1.LabelContainer] == "" {
					return fmt.Errorf("the label is missing")
				}
				return nil
			})
			if after.Generation != before.Generation || bytes.Contains(after.Spec.Config.Raw, []byte(mark)) {
				t.Errorf("the spec was changed for a label: generation %d, %.100s", after.Generation,
					after.Spec.Config.Raw)
			}

			// One of a version that did not record the generation is adopted.
			edit(t, before, func(b *v1alpha1.OCIBundle) {
				b.Spec.CompiledGeneration, b.Annotations = 0, nil
			})
			after = eventuallyBundle(t, c, func(b *v1alpha1.OCIBundle) error {
				if b.Spec.CompiledGeneration != 1 || b.Annotations[container.AnnotationSpecDigest] == "" {
					return fmt.Errorf("compiledGeneration is %d, the annotations are %v",
						b.Spec.CompiledGeneration, b.Annotations)
				}
				return nil
			})
			if bytes.Contains(after.Spec.Config.Raw, []byte(mark)) {
				t.Errorf("it was compiled anew: %.100s", after.Spec.Config.Raw)
			}
			eventuallyHas(t, c, isReady, isSpecValid, notStalled)
		})
	}

	// An edit of how it is run changes nothing of what runs.
	for _, c := range []*v1alpha1.Container{service, job} {
		before := cachedBundle(t, c)
		backOff, logging := &v1alpha1.RestartBackOff{MaxSeconds: ptr.To[int32](7)},
			&v1alpha1.Logging{MaxFiles: ptr.To[int32](7)}
		edit(t, c, func(c *v1alpha1.Container) {
			c.Spec.TerminationGracePeriodSeconds, c.Spec.ProgressDeadlineSeconds = ptr.To[int64](7),
				ptr.To[int32](60)
			c.Spec.RestartBackOff, c.Spec.Logging = backOff, logging
			c.Spec.ImagePullPolicy = corev1.PullAlways
		})
		after := eventuallyBundle(t, c, func(b *v1alpha1.OCIBundle) error {
			if b.Spec.CompiledGeneration != 2 {
				return fmt.Errorf("compiledGeneration is %d", b.Spec.CompiledGeneration)
			}
			return nil
		})
		if after.Spec.TerminationGracePeriodSeconds != 7 || !reflect.DeepEqual(after.Spec.RestartBackOff,
			backOff) || !reflect.DeepEqual(after.Spec.Logging, logging) ||
			after.Spec.Image.PullPolicy != corev1.PullAlways ||
			!bytes.Equal(after.Spec.Config.Raw, before.Spec.Config.Raw) ||
			after.Spec.SeccompProfile != before.Spec.SeccompProfile {
			t.Errorf("%s: the spec is %+v", c.Name, after.Spec)
		}
		eventuallyHas(t, c, isReady)
	}

	edit(t, service, func(c *v1alpha1.Container) { c.Spec.Command = []string{"changed"} })
	eventuallyHas(t, service, isReady)
	after := eventuallyBundle(t, service, func(*v1alpha1.OCIBundle) error { return nil })
	if after.Spec.CompiledGeneration != 3 || after.Spec.Process.Command[0] != "changed" ||
		!bytes.Contains(after.Spec.Config.Raw, []byte(mark)) {
		t.Errorf("an edit was not compiled by the new version: %+v", after.Spec)
	}
}

// TestEditBeforeAnUpgradeIsNotLost: an OCIBundle of a version that did not record the generation is
// compiled anew, if the Container was edited since.
func TestEditBeforeAnUpgradeIsNotLost(t *testing.T) {
	a := newFakeAgent(t, "node-a")
	c := sample(namespace(t), "hello")
	create(t, c)
	eventuallyHas(t, c, isReady)
	old, err := readBundle(t, c)
	if err != nil {
		t.Fatal(err)
	}
	a.halt() // nobody says anything of the generation that follows
	edit(t, c, func(c *v1alpha1.Container) { c.Spec.Command = []string{"changed"} })
	eventuallyBundle(t, c, func(b *v1alpha1.OCIBundle) error {
		if b.Spec.CompiledGeneration != 2 {
			return fmt.Errorf("compiledGeneration is %d", b.Spec.CompiledGeneration)
		}
		return nil
	})
	edit(t, old, func(b *v1alpha1.OCIBundle) {
		b.Spec.CompiledGeneration, b.Annotations, b.Spec.Process.Command = 0, nil,
			[]string{"sleep", "inf"}
	})
	eventuallyBundle(t, c, func(b *v1alpha1.OCIBundle) error {
		if b.Spec.CompiledGeneration != 2 || b.Spec.Process.Command[0] != "changed" {
			return fmt.Errorf("compiledGeneration is %d, command %v", b.Spec.CompiledGeneration,
				b.Spec.Process.Command)
		}
		return nil
	})
	a.start()
}

// cachedBundle waits until the cache has the Container and its OCIBundle as they are.
func cachedBundle(t *testing.T, c *v1alpha1.Container) *v1alpha1.OCIBundle {
	t.Helper()
	return eventuallyBundle(t, c, func(b *v1alpha1.OCIBundle) error {
		now, err := read(t, c)
		if err != nil {
			return err
		}
		for _, o := range []client.Object{now, b} {
			seen := o.DeepCopyObject().(client.Object)
			if err := cached.Get(t.Context(), client.ObjectKeyFromObject(o), seen); err != nil {
				return err
			}
			if seen.GetResourceVersion() != o.GetResourceVersion() {
				return fmt.Errorf("the cache has version %s of %T, not %s", seen.GetResourceVersion(), o,
					o.GetResourceVersion())
			}
		}
		return nil
	})
}

// eventuallyBundle waits until the Container's OCIBundle is as check wants it.
func eventuallyBundle(t *testing.T, c *v1alpha1.Container,
	check func(*v1alpha1.OCIBundle) error,
) *v1alpha1.OCIBundle {
	t.Helper()
	var b *v1alpha1.OCIBundle
	eventually(t, func() (err error) {
		if b, err = readBundle(t, c); err != nil {
			return err
		}
		return check(b)
	})
	return b
}

// succeeded returns the word on a container that has ended with exit code 0.
func succeeded() v1alpha1.OCIBundleStatus {
	st := runs(nil)
	st.Phase, st.PID = v1alpha1.ContainerSucceeded, 0
	st.State = corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{Reason: v1alpha1.ReasonCompleted},
	}
	for i := range st.Conditions {
		if st.Conditions[i].Type == v1alpha1.ConditionRunning {
			st.Conditions[i].Status, st.Conditions[i].Reason = "False", v1alpha1.ReasonCompleted
		}
	}
	return st
}
