// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"encoding/json"
	"maps"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/source"
)

// TestUnknownFieldsAreNamed: an agent that is older than the CRDs knows which fields of a spec it does not know.
func TestUnknownFieldsAreNamed(t *testing.T) {
	c := admin(t)
	crd := &unstructured.Unstructured{}
	crd.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	crd.SetName("ocibundles.berth.run")
	newer := `[
		{"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/future", "value": {"type": "string"}},
		{"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/process/properties/umask", "value": {"type": "integer"}},
		{"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/future", "value": {"type": "string"}}]`
	if err := c.Patch(t.Context(), crd, client.RawPatch(types.JSONPatchType, []byte(newer))); err != nil {
		t.Fatal(err)
	}
	older := `[
		{"op": "remove", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/future"},
		{"op": "remove", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/process/properties/umask"},
		{"op": "remove", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/future"}]`
	t.Cleanup(func() {
		if err := c.Patch(context.Background(), crd, client.RawPatch(types.JSONPatchType, []byte(older))); err != nil {
			t.Error(err)
		}
	})

	plain := newBundle("plain", "node-9")
	plain.Annotations = map[string]string{source.AnnotationUnknownFields: "said by somebody"}
	createBundle(t, c, plain)
	k, h := start(t, "node-9")
	<-h.synced
	unknown := func(name string) string {
		b := k.Get(source.Key{Namespace: "default", Name: name})
		if b == nil {
			return "no bundle"
		}
		return b.Annotations[source.AnnotationUnknownFields]
	}
	if found := unknown("plain"); found != "" {
		t.Errorf("found %q for a bundle without anything new", found)
	}
	// By the watch. The API server takes the new fields some time after the CRD was changed.
	until(t, "the fields", func() bool {
		fields := []byte(`{"spec": {"future": "x", "process": {"umask": 18}}, "status": {"future": "x"}}`)
		if err := c.Patch(t.Context(), plain.DeepCopy(), client.RawPatch(types.MergePatchType, fields)); err != nil {
			t.Fatal(err)
		}
		return unknown("plain") == "spec.future, spec.process.umask"
	})
	if b := k.Get(keyOf(plain)); b.Spec.NodeName != "node-9" || len(b.ManagedFields) > 0 || string(b.Spec.Config.Raw) != `{"ociVersion":"1.3.0"}` {
		t.Errorf("found %+v", b)
	}

	// By the list.
	k, h = start(t, "node-9")
	<-h.synced
	if found := unknown("plain"); found != "spec.future, spec.process.umask" {
		t.Errorf("found %q in the list", found)
	}
	if err := c.Patch(t.Context(), plain, client.RawPatch(types.MergePatchType, []byte(`{"spec": {"future": null, "process": {"umask": null}}}`))); err != nil {
		t.Fatal(err)
	}
	until(t, "a bundle without them", func() bool { return unknown("plain") == "" })
	_ = c.Delete(context.Background(), &v1alpha1.OCIBundle{ObjectMeta: plain.ObjectMeta})
}

// TestAnnotationsOfTheAgentsOwn: whoever may annotate an OCIBundle neither stops nor restarts its container by that.
func TestAnnotationsOfTheAgentsOwn(t *testing.T) {
	var r received
	data := `{"metadata":{"name":"x","annotations":{"a":"b","` + source.AnnotationRun + `":"1","` + source.AnnotationFixed + `":"1","` + source.AnnotationStopped + `":"true","` + source.AnnotationRestart + `":"2"}}}`
	if err := json.Unmarshal([]byte(data), &r); err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{"a": "b"}; !maps.Equal(r.Annotations, want) {
		t.Errorf("found %v; want %v", r.Annotations, want)
	}
}
