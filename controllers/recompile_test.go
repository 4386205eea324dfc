// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"bytes"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/controllers/container"
)

// offered returns the condition RecompileAvailable with a message that names the field, or none for
// "".
func offered(field string) want {
	if field == "" {
		return want{kind: v1alpha1.ConditionRecompileAvailable}
	}
	return want{v1alpha1.ConditionRecompileAvailable, "True", v1alpha1.ReasonNewerDefaults, field}
}

// TestRecompile: newer defaults of the compiler are shown, and used only for a new value of the
// annotation.
func TestRecompile(t *testing.T) {
	newFakeAgent(t, "node-a")
	c := sample(namespace(t), "service")
	create(t, c)
	eventuallyHas(t, c, isReady, offered(""))
	before := cachedBundle(t, c)
	if before.Annotations[container.AnnotationCompileRevision] != "1" {
		t.Errorf("the annotations are %v", before.Annotations)
	}
	hasMark := func(want bool) func(*v1alpha1.OCIBundle) error {
		return func(b *v1alpha1.OCIBundle) error {
			if bytes.Contains(b.Spec.Config.Raw, []byte(mark)) != want {
				return fmt.Errorf("compiled by the next version: %v; want %v", !want, want)
			}
			return nil
		}
	}

	upgrade(t)
	edit(t, c, func(c *v1alpha1.Container) { c.Labels = map[string]string{"look": "again"} })
	eventuallyHas(t, c, isReady, offered("config.annotations.compiled-by"))
	if after := eventuallyBundle(t, c, hasMark(false)); after.Generation != before.Generation {
		t.Errorf("the OCIBundle was changed: generation %d", after.Generation)
	}

	// An edit of the resources changes no more than a running container can be given.
	edit(t, c, func(c *v1alpha1.Container) {
		c.Spec.Resources.Limits = corev1.ResourceList{v1alpha1.ResourcePIDs: resource.MustParse("77")}
	})
	after := eventuallyBundle(t, c, func(b *v1alpha1.OCIBundle) error {
		if b.Spec.CompiledGeneration != 2 || !bytes.Contains(b.Spec.Config.Raw,
			[]byte(`"pids":{"limit":77}`)) {
			return fmt.Errorf("found generation %d and %s", b.Spec.CompiledGeneration, b.Spec.Config.Raw)
		}
		return hasMark(false)(b)
	})
	if after.Spec.SeccompProfile != before.Spec.SeccompProfile ||
		after.Annotations[container.AnnotationCompileRevision] != "1" {
		t.Errorf("the spec is %+v with %v", after.Spec, after.Annotations)
	}
	eventuallyHas(t, c, isReady, offered("config.annotations.compiled-by"))

	edit(t, c, func(c *v1alpha1.Container) {
		c.Annotations = map[string]string{v1alpha1.AnnotationRecompile: "1"}
	})
	after = eventuallyBundle(t, c, hasMark(true))
	if after.Spec.CompiledGeneration != 2 ||
		after.Annotations[container.AnnotationCompileRevision] != "2" ||
		after.Annotations[container.AnnotationRecompiled] != "1" {
		t.Errorf("generation %d, annotations %v", after.Spec.CompiledGeneration, after.Annotations)
	}
	eventuallyHas(t, c, isReady, offered(""))

	// To take the annotation away, and to set it to the same again, changes nothing: not even for a
	// version with other defaults.
	nextVersion.Store(false)
	for _, value := range []string{"", "1"} {
		edit(t, c, func(c *v1alpha1.Container) {
			c.Annotations = map[string]string{v1alpha1.AnnotationRecompile: value}
		})
		eventuallyHas(t, c, isReady, offered("config.annotations.compiled-by"))
		if now := eventuallyBundle(t, c, hasMark(true)); now.Generation != after.Generation {
			t.Errorf("with %q the OCIBundle was changed: generation %d", value, now.Generation)
		}
	}
	edit(t, c, func(c *v1alpha1.Container) {
		c.Annotations = map[string]string{v1alpha1.AnnotationRecompile: "2"}
	})
	eventuallyBundle(t, c, hasMark(false))
	eventuallyHas(t, c, isReady, offered(""))
}
