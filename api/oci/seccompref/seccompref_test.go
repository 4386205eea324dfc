// SPDX-License-Identifier: Apache-2.0

package seccompref

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/oci/compile"
	"github.com/berth-run/berth/api/oci/validate"
	"github.com/berth-run/berth/api/v1alpha1"
)

func compiled(t *testing.T, security *v1alpha1.SecurityContext) *v1alpha1.OCIBundleSpec {
	t.Helper()
	spec, faults := compile.Bundle(&v1alpha1.Container{
		ObjectMeta: metav1.ObjectMeta{Name: "x"},
		Spec: v1alpha1.ContainerSpec{
			Image: "x", Command: []string{"<&>"},
			SecurityContext: security,
		},
	})
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	return spec
}

// document returns the part of a config that a runtime reads.
func document(t *testing.T, spec *v1alpha1.OCIBundleSpec) string {
	t.Helper()
	s := &specs.Spec{}
	if err := json.Unmarshal(spec.Config.Raw, s); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestJoinUndoesSplit(t *testing.T) {
	for name, security := range map[string]*v1alpha1.SecurityContext{
		"default": nil,
		"SYS_ADMIN": {SecurityContext: corev1.SecurityContext{
			Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"SYS_ADMIN"}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			whole := compiled(t, security)
			split := *whole
			profile, err := Split(&split)
			if err != nil || profile == "" || split.SeccompProfile != Digest(profile) ||
				len(profile) < len(whole.Config.Raw)/2 {
				t.Fatalf("found a profile of %d bytes with digest %q (%v)", len(profile),
					split.SeccompProfile, err)
			}
			if n := len(split.Config.Raw); n > len(whole.Config.Raw)/2 {
				t.Errorf("%d bytes of %d are left", n, len(whole.Config.Raw))
			}
			joined, err := Join(&split, profile)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := document(t, joined), document(t, whole); got != want {
				t.Errorf("found %s\nwanted %s", got, want)
			}
			joined.Config = whole.Config
			if !reflect.DeepEqual(joined, whole) {
				t.Errorf("found %+v; wanted %+v", joined, whole)
			}
			if _, err := Join(&split, profile+" "); err == nil || !strings.Contains(err.Error(),
				split.SeccompProfile) {
				t.Errorf("another profile was taken (%v)", err)
			}
		})
	}
}

func TestSplitLeavesADocumentWithoutProfile(t *testing.T) {
	spec := compiled(t,
		&v1alpha1.SecurityContext{SecurityContext: corev1.SecurityContext{
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined},
		}})
	want := string(spec.Config.Raw)
	if profile, err := Split(spec); err != nil || profile != "" || spec.SeccompProfile != "" ||
		string(spec.Config.Raw) != want {
		t.Errorf("found %q, %q (%v)", profile, spec.SeccompProfile, err)
	}
}

// TestDocumentWithoutItsProfileIsRefused: an agent that does not know spec.seccompProfile must not run a container
// without a filter.
func TestDocumentWithoutItsProfileIsRefused(t *testing.T) {
	spec := compiled(t, nil)
	if _, err := Split(spec); err != nil {
		t.Fatal(err)
	}
	s := &specs.Spec{}
	if err := json.Unmarshal(spec.Config.Raw, s); err != nil {
		t.Fatal(err)
	}
	err := validate.Spec(s, validate.Options{}).Err()
	if err == nil || !strings.Contains(err.Error(), "linux.seccomp.defaultAction") {
		t.Errorf("found %v", err)
	}
}

func TestNames(t *testing.T) {
	digest := Digest("{}")
	if digest != "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a" ||
		OfName(Name(digest)) != digest || strings.Contains(Name(digest), ":") {
		t.Errorf("found %q, %q", digest, Name(digest))
	}
}
