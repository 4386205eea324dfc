// SPDX-License-Identifier: Apache-2.0

package v1alpha1_test

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// TestControllerChangesLittleOfAClaim: the right to patch PersistentVolumeClaims, which RBAC gives the
// controller as a whole, does not let it bind, take over or release the claims of others.
func TestControllerChangesLittleOfAClaim(t *testing.T) {
	a := newApplier(t)
	for _, directory := range []string{"namespace", "rbac", "policy"} {
		a.install(t, directory)
	}
	resource := schema.GroupVersionResource{Version: "v1", Resource: "persistentvolumeclaims"}
	claim := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "PersistentVolumeClaim",
		"metadata": map[string]any{
			"name": "policy", "annotations": map[string]any{"theirs": "1"},
		},
		"spec": map[string]any{
			"accessModes":      []any{"ReadWriteOnce"},
			"storageClassName": "",
			"resources":        map[string]any{"requests": map[string]any{"storage": "1Gi"}},
		},
	}}
	_, err := a.client.Resource(resource).Namespace("default").Create(t.Context(), claim,
		metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	controller := as(t, rest.ImpersonationConfig{
		UserName: "system:serviceaccount:berth-system:berth-controller",
	}).Resource(resource).Namespace("default")
	patch := func(text string) error {
		_, err := controller.Patch(t.Context(), "policy", types.MergePatchType, []byte(text), dryPatch)
		return err
	}
	for text, message := range map[string]string{
		`{"spec":{"volumeName":"pv-1"}}`:                               "and nothing else",
		`{"metadata":{"labels":{"a":"b"}}}`:                            "and nothing else",
		`{"metadata":{"finalizers":["kubernetes.io/x"]}}`:              "and no other",
		`{"metadata":{"annotations":{"theirs":null}}}`:                 "and no other",
		`{"metadata":{"annotations":{"theirs":"2"}}}`:                  "and no other",
		`{"metadata":{"annotations":{"pv.kubernetes.io/x":"yes"}}}`:    "and no other",
		`{"metadata":{"annotations":null,"finalizers":["example/x"]}}`: "and no other",
	} {
		wantForbidden(t, text, message, func() error { return patch(text) })
	}
	for _, text := range []string{
		`{"metadata":{"finalizers":["kubernetes.io/pvc-protection","berth.run/claim-in-use"]}}`,
		`{"metadata":{"annotations":{"berth.run/used-by":"app/1","volume.kubernetes.io/selected-node":"n"}}}`,
	} {
		if err := patch(text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := controller.Delete(t.Context(), "policy", metav1.DeleteOptions{}); err == nil {
		t.Error("the controller may delete claims")
	}
}
