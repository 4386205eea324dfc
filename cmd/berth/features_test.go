// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// TestFeatures: any caller gets the document, without privileges and before there is a container.
func TestFeatures(t *testing.T) {
	out := berth(t, "features")
	out.is(t, 0, "", "")
	decoder := json.NewDecoder(strings.NewReader(out.stdout))
	decoder.DisallowUnknownFields()
	var f features.Features
	if err := decoder.Decode(&f); err != nil {
		t.Fatal(err)
	}
	if f.OCIVersionMin != "1.0.0" || f.OCIVersionMax != specs.Version ||
		f.Annotations["run.berth.version"] == "" || len(f.Linux.Namespaces) == 0 {
		t.Errorf("found %+v", f)
	}
	berth(t, "features", "x").is(t, 1, "", "")
}
