// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/oci/seccompref"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/source"
)

func TestSeccompProfileIsPutIntoTheDocument(t *testing.T) {
	begin(t)
	c := admin(t)
	split := func(name, filter string) (*v1alpha1.OCIBundle, *v1alpha1.SeccompProfile, string) {
		b := newBundle(name, "node-profiles")
		whole := fmt.Sprintf(`{"linux":{"seccomp":%s},"ociVersion":"1.3.0"}`, filter)
		b.Spec.Config.Raw = []byte(whole)
		profile, err := seccompref.Split(&b.Spec)
		if err != nil {
			t.Fatal(err)
		}
		p := &v1alpha1.SeccompProfile{
			ObjectMeta: metav1.ObjectMeta{Name: seccompref.Name(b.Spec.SeccompProfile)},
			Spec:       v1alpha1.SeccompProfileSpec{Profile: profile},
		}
		return b, p, whole
	}
	create := func(o client.Object) {
		t.Helper()
		if err := c.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Delete(context.Background(), o) })
	}
	nodeNamespace(t, c, "node-profiles")
	first, firstProfile, firstWhole := split("first", `{"defaultAction":"SCMP_ACT_ALLOW"}`)
	create(firstProfile)
	create(first)

	k, h := start(t, "node-profiles")
	hear := func(b *v1alpha1.OCIBundle) *v1alpha1.OCIBundle {
		t.Helper()
		for deadline := time.After(3 * time.Minute); ; {
			select {
			case key := <-h.changed:
				if key == keyOf(b) {
					return k.Get(key)
				}
			case <-deadline:
				t.Fatalf("nothing was heard of %s", b.Name)
			}
		}
	}
	is := func(b *v1alpha1.OCIBundle, whole string) {
		t.Helper()
		if got := b.Annotations[source.AnnotationUnresolved]; string(b.Spec.Config.Raw) != whole ||
			b.Spec.SeccompProfile != "" || got != "" {
			t.Errorf("found %s, %q, %q; wanted %s", b.Spec.Config.Raw, b.Spec.SeccompProfile, got, whole)
		}
	}
	<-h.synced
	is(hear(first), firstWhole)

	// Without the profile there is no document, and the source says when there is.
	second, secondProfile, secondWhole := split("second", `{"defaultAction":"SCMP_ACT_LOG"}`)
	create(second)
	if b := hear(second); !strings.Contains(b.Annotations[source.AnnotationUnresolved], "not found") {
		t.Errorf("found %q", b.Annotations)
	}
	create(secondProfile)
	is(hear(second), secondWhole)

	// A profile whose content has another digest than its name is refused, whoever wrote it.
	third, thirdProfile, thirdWhole := split("third", `{"defaultAction":"SCMP_ACT_ERRNO"}`)
	good := thirdProfile.Spec
	thirdProfile.Spec.Profile = "{}"
	create(thirdProfile)
	create(third)
	if b := hear(third); !strings.Contains(b.Annotations[source.AnnotationUnresolved],
		"digest sha256:44136fa3") {
		t.Errorf("found %q", b.Annotations)
	}
	if err := c.Delete(t.Context(), thirdProfile); err != nil {
		t.Fatal(err)
	}
	create(&v1alpha1.SeccompProfile{
		ObjectMeta: metav1.ObjectMeta{Name: thirdProfile.Name},
		Spec:       good,
	})
	until(t, "the whole document", func() bool {
		b := k.Get(keyOf(third))
		return b.Annotations[source.AnnotationUnresolved] == "" && string(b.Spec.Config.Raw) == thirdWhole
	})

	// One copy of a profile, however many refer to it; and the cache is not changed by it.
	b, _, whole := split("again", `{"defaultAction":"SCMP_ACT_ALLOW"}`)
	create(b)
	is(hear(b), whole)
	if n := len(k.profiles.known); n != 3 {
		t.Errorf("found %d profiles", n)
	}
	for _, b := range k.List() {
		if b.Spec.SeccompProfile == "" {
			t.Errorf("%s has lost its reference", b.Name)
		}
	}
}
