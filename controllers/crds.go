// SPDX-License-Identifier: Apache-2.0

package controllers

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/berth-run/berth/config/crd"
)

// +kubebuilder:rbac:groups=apiextensions.k8s.io,resources=customresourcedefinitions,resourceNames=containers.berth.run;nodeagents.berth.run;ocibundles.berth.run;seccompprofiles.berth.run,verbs=get

// OutdatedCRDsError lists the fields that the CRDs of a cluster lack for this version of the
// controller.
type OutdatedCRDsError struct {
	// Missing has a line for each CRD.
	Missing []string
}

func (e *OutdatedCRDsError) Error() string {
	return "the CRDs of the cluster are older than this controller: " + strings.Join(e.Missing, "; ") +
		"; fix: kubectl apply --server-side -k config/crd, then start the controller again"
}

// CheckCRDs returns an *OutdatedCRDsError if the CRDs of the cluster lack a field of this version.
// The API server would drop the field from Containers, and refuse every OCIBundle that has it.
func CheckCRDs(ctx context.Context, reader client.Reader) error {
	files, err := fs.Glob(crd.Bases, "bases/*.yaml")
	if err != nil {
		return err
	}
	outdated := &OutdatedCRDsError{}
	for _, file := range files {
		want, err := readCRD(file)
		if err != nil {
			return err
		}
		have := &unstructured.Unstructured{}
		have.SetGroupVersionKind(schema.GroupVersionKind{
			Group: "apiextensions.k8s.io", Version: "v1",
			Kind: "CustomResourceDefinition",
		})
		switch err := reader.Get(ctx, client.ObjectKeyFromObject(want), have); {
		case apierrors.IsNotFound(err):
			outdated.Missing = append(outdated.Missing, "CRD "+want.GetName()+": not found")
			continue
		case err != nil:
			return fmt.Errorf("read CRD %s: %w", want.GetName(), err)
		}
		if lacks := missingFields(want, have); len(lacks) > 0 {
			const shown = 3
			more := ""
			if n := len(lacks) - shown; n > 0 {
				more = fmt.Sprintf(" and %d more", n)
			}
			outdated.Missing = append(outdated.Missing, fmt.Sprintf("CRD %s: found no field %s%s",
				want.GetName(), strings.Join(lacks[:min(shown, len(lacks))], ", "), more))
		}
	}
	if len(outdated.Missing) > 0 {
		return outdated
	}
	return nil
}

func readCRD(file string) (*unstructured.Unstructured, error) {
	text, err := crd.Bases.ReadFile(file)
	if err != nil {
		return nil, err
	}
	out := &unstructured.Unstructured{}
	if err := yaml.Unmarshal(text, &out.Object); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return out, nil
}

// missingFields returns the paths of the fields that the versions of want have and those of have
// lack, sorted.
func missingFields(want, have *unstructured.Unstructured) []string {
	schemas := func(u *unstructured.Unstructured) map[string]map[string]any {
		out := map[string]map[string]any{}
		versions, _, _ := unstructured.NestedSlice(u.Object, "spec", "versions")
		for _, v := range versions {
			version, _ := v.(map[string]any)
			name, _, _ := unstructured.NestedString(version, "name")
			out[name], _, _ = unstructured.NestedMap(version, "schema", "openAPIV3Schema")
		}
		return out
	}
	present := schemas(have)
	var out []string
	for version, wanted := range schemas(want) {
		compareSchemas("", wanted, present[version], func(path string) { out = append(out, path) })
	}
	slices.Sort(out)
	return out
}

// compareSchemas calls missing with the path of each field that one schema has and the other lacks.
// [] is any element of an array or value of a map. Fields below a missing one are not listed.
func compareSchemas(path string, want, have map[string]any, missing func(path string)) {
	if open, _ := have["x-kubernetes-preserve-unknown-fields"].(bool); open {
		return
	}
	for _, below := range []string{"items", "additionalProperties"} {
		if w, ok := want[below].(map[string]any); ok {
			h, _ := have[below].(map[string]any)
			compareSchemas(path+"[]", w, h, missing)
		}
	}
	wanted, _ := want["properties"].(map[string]any)
	present, _ := have["properties"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		at := strings.TrimPrefix(path+"."+name, ".")
		h, ok := present[name].(map[string]any)
		if !ok {
			missing(at)
			continue
		}
		w, _ := wanted[name].(map[string]any)
		compareSchemas(at, w, h, missing)
	}
}
