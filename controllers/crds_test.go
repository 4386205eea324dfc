// SPDX-License-Identifier: Apache-2.0

package controllers_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/berth-run/berth/config/crd"
	"github.com/berth-run/berth/controllers"
)

// oldCRDs reads CRDs as they are after a change.
type oldCRDs struct {
	client.Reader
	change func(*unstructured.Unstructured) error
}

func (o oldCRDs) Get(_ context.Context, key client.ObjectKey, into client.Object,
	_ ...client.GetOption,
) error {
	u := into.(*unstructured.Unstructured)
	text, err := crd.Bases.ReadFile("bases/berth.run_" + strings.TrimSuffix(key.Name, ".berth.run") +
		".yaml")
	if err != nil {
		return err
	}
	if err := yaml.Unmarshal(text, &u.Object); err != nil {
		return err
	}
	return o.change(u)
}

// TestCheckCRDs: with its own permissions, the controller sees whether the cluster's CRDs are older
// than it is.
func TestCheckCRDs(t *testing.T) {
	if err := controllers.CheckCRDs(t.Context(), live); err != nil {
		t.Fatal(err)
	}
	// A field that nobody here uses is taken out, and put back.
	c := &unstructured.Unstructured{}
	c.SetGroupVersionKind(schema.GroupVersionKind{
		Group: "apiextensions.k8s.io", Version: "v1",
		Kind: "CustomResourceDefinition",
	})
	c.SetName("nodeagents.berth.run")
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(c), c); err != nil {
		t.Fatal(err)
	}
	const info = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/nodeInfo/properties/"
	patch := func(op string) {
		t.Helper()
		err := admin.Patch(t.Context(), c.DeepCopy(), client.RawPatch(types.JSONPatchType, []byte(op)))
		if err != nil {
			t.Fatal(err)
		}
	}
	patch(`[{"op":"remove","path":"` + info + `bootID"},{"op":"remove","path":"` + info + `lsms"}]`)
	err := controllers.CheckCRDs(t.Context(), live)
	patch(`[{"op":"add","path":"` + info + `bootID","value":{"type":"string"}},{"op":"add","path":"` +
		info + `lsms","value":{"type":"array","items":{"type":"string"},"x-kubernetes-list-type":"set"}}]`)
	var outdated *controllers.OutdatedCRDsError
	if !errors.As(err, &outdated) {
		t.Fatalf("found %v", err)
	}
	for _, part := range []string{
		"CRD nodeagents.berth.run: found no field status.nodeInfo.bootID, status.nodeInfo.lsms",
		"kubectl apply --server-side -k config/crd",
	} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the message lacks %q: %v", part, err)
		}
	}
	if strings.Contains(err.Error(), "ocibundles") {
		t.Errorf("a CRD that lacks nothing is named: %v", err)
	}
}

func TestCheckCRDsNamesWhatIsMissing(t *testing.T) {
	for want, change := range map[string]func(*unstructured.Unstructured) error{
		"": func(*unstructured.Unstructured) error { return nil },
		"containers.berth.run: not found": func(u *unstructured.Unstructured) error {
			if u.GetName() == "containers.berth.run" {
				return apierrors.NewNotFound(schema.GroupResource{}, u.GetName())
			}
			return nil
		},
		"found no field spec.volumes[].hostPath": without("ocibundles.berth.run", "spec",
			"properties", "volumes", "items", "properties", "hostPath"),
		"found no field apiVersion, kind, metadata and 2 more": without("ocibundles.berth.run"),
		"no luck": func(*unstructured.Unstructured) error { return errors.New("no luck") },
	} {
		err := controllers.CheckCRDs(t.Context(), oldCRDs{change: change})
		if want == "" && err != nil || want != "" &&
			(err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("found %v; want %q", err, want)
		}
	}
}

// without takes a field out of the schema of a CRD, or all of its fields.
func without(name string, path ...string) func(*unstructured.Unstructured) error {
	return func(u *unstructured.Unstructured) error {
		if u.GetName() != name {
			return nil
		}
		versions, _, err := unstructured.NestedSlice(u.Object, "spec", "versions")
		if err != nil {
			return err
		}
		root, _, err := unstructured.NestedMap(versions[0].(map[string]any), "schema", "openAPIV3Schema")
		if err != nil {
			return err
		}
		if len(path) == 0 {
			delete(root, "properties")
		} else {
			unstructured.RemoveNestedField(root, append([]string{"properties"}, path...)...)
		}
		versions[0].(map[string]any)["schema"] = map[string]any{"openAPIV3Schema": root}
		return unstructured.SetNestedSlice(u.Object, versions, "spec", "versions")
	}
}
