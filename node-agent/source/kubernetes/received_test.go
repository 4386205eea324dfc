// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-run/berth/api/manifest"
	"github.com/berth-run/berth/api/oci/compile"
	"github.com/berth-run/berth/api/oci/seccompref"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/heaptest"
	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/source/folder"
)

// TestUnknownFieldsAreNamed: an agent that is older than the CRDs knows which fields of a spec it
// does not know.
func TestUnknownFieldsAreNamed(t *testing.T) {
	begin(t)
	c := admin(t)
	crd := &unstructured.Unstructured{}
	crd.SetGroupVersionKind(schema.GroupVersionKind{
		Group: "apiextensions.k8s.io", Version: "v1",
		Kind: "CustomResourceDefinition",
	})
	crd.SetName("ocibundles.berth.run")
	newer := `[
		{"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/future", "value": {"type": "string"}},
		{"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/process/properties/umask", "value": {"type": "integer"}},
		{"op": "add", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/future", "value": {"type": "string"}}]`
	err := c.Patch(t.Context(), crd, client.RawPatch(types.JSONPatchType, []byte(newer)))
	if err != nil {
		t.Fatal(err)
	}
	older := `[
		{"op": "remove", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/future"},
		{"op": "remove", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/process/properties/umask"},
		{"op": "remove", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/future"}]`
	t.Cleanup(func() {
		if err := c.Patch(context.Background(), crd, client.RawPatch(types.JSONPatchType,
			[]byte(older))); err != nil {
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
		if err := c.Patch(t.Context(), plain.DeepCopy(), client.RawPatch(types.MergePatchType,
			fields)); err != nil {
			t.Fatal(err)
		}
		return unknown("plain") == "spec.future, spec.process.umask"
	})
	if b := k.Get(keyOf(plain)); b.Spec.NodeName != "node-9" || len(b.ManagedFields) > 0 ||
		string(b.Spec.Config.Raw) != `{"ociVersion":"1.3.0"}` {
		t.Errorf("found %+v", b)
	}

	// By the list.
	k, h = start(t, "node-9")
	<-h.synced
	if found := unknown("plain"); found != "spec.future, spec.process.umask" {
		t.Errorf("found %q in the list", found)
	}
	if err := c.Patch(t.Context(), plain, client.RawPatch(types.MergePatchType,
		[]byte(`{"spec": {"future": null, "process": {"umask": null}}}`))); err != nil {
		t.Fatal(err)
	}
	until(t, "a bundle without them", func() bool { return unknown("plain") == "" })
	_ = c.Delete(context.Background(), &v1alpha1.OCIBundle{ObjectMeta: plain.ObjectMeta})
}

// TestAnnotationsOfTheAgentsOwn: whoever may annotate an OCIBundle neither stops nor restarts its
// container by that.
func TestAnnotationsOfTheAgentsOwn(t *testing.T) {
	begin(t)
	var r received
	data := `{"metadata":{"name":"x","annotations":{"a":"b","` + source.AnnotationRun + `":"1","` +
		source.AnnotationFixed + `":"1","` + source.AnnotationStopped + `":"true","` +
		source.AnnotationRestart + `":"2"}}}`
	if err := json.Unmarshal([]byte(data), &r); err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{"a": "b"}; !maps.Equal(r.Annotations, want) {
		t.Errorf("found %v; want %v", r.Annotations, want)
	}
}

// TestMemoryOfAContainer: an agent holds of an OCIBundle a fraction of its config, nearly all of
// which others have, too (docs/benchmarks.md), and returns the config byte for byte.
func TestMemoryOfAContainer(t *testing.T) {
	begin(t)
	const count, limit = 500, 3 << 10
	texts, configs := make([]string, count), make([]string, count)
	for i := range count {
		texts[i], configs[i] = sentBundle(t, fmt.Sprintf("c%d", i))
	}
	receive := func(text string) *held {
		r := &received{}
		if err := json.Unmarshal([]byte(text), r); err != nil {
			t.Fatal(err)
		}
		h, err := hold(r)
		if err != nil {
			t.Fatal(err)
		}
		return h.(*held)
	}
	first := receive(texts[0]) // packages of JSON know the types from now on
	before := heaptest.Live()
	all := make([]*held, count)
	for i, text := range texts {
		all[i] = receive(text)
	}
	each := (heaptest.Live() - before) / count
	t.Logf("%d bytes a container, with a config of %d", each, len(configs[0]))
	if each > limit {
		t.Errorf("found %d bytes a container; allowed: %d", each, limit)
	}
	for i, h := range all {
		if got := string(h.config.In(&h.OCIBundle).Spec.Config.Raw); got != configs[i] {
			t.Fatalf("found %s; want %s", got, configs[i])
		}
	}
	runtime.KeepAlive(texts)
	runtime.KeepAlive(first)
}

// sentBundle returns the OCIBundle of a Container, and its config, as the API server sends them:
// the fields of objects in the order of their names.
func sentBundle(t *testing.T, name string) (object, config string) {
	t.Helper()
	c := manifest.Parse([]byte(`{apiVersion: berth.run/v1alpha1, kind: Container, metadata: {name: ` +
		name + `, namespace: default}, spec: {image: busybox}}`))[0].Container
	folder.SetDefaults(c)
	spec, faults := compile.Bundle(c)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	if _, err := seccompref.Split(spec); err != nil {
		t.Fatal(err)
	}
	sorted := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var fields map[string]any
		if err := json.Unmarshal(data, &fields); err != nil {
			t.Fatal(err)
		}
		if data, err = json.Marshal(fields); err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	b := newBundle(name, "node-m")
	b.UID, b.ResourceVersion, b.Generation, b.CreationTimestamp = uuid.NewUUID(), "123456", 1,
		metav1.Now()
	b.ManagedFields = []metav1.ManagedFieldsEntry{{
		Manager:  "berth-controller",
		FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:config":{}}}`),
	}}
	ref := b.Spec.ContainerRef
	b.Spec = *spec
	b.Spec.ContainerRef, b.Spec.NodeName = ref, "node-m"
	b.Status = v1alpha1.OCIBundleStatus{
		ObservedGeneration: 1, Phase: v1alpha1.ContainerRunning,
		Conditions: []metav1.Condition{{
			Type: v1alpha1.ConditionRunning, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonStarted,
			Message: "the process runs with pid 12345",
		}},
	}
	config = sorted(b.Spec.Config)
	b.Spec.Config.Raw = []byte(config)
	return sorted(b), config
}
