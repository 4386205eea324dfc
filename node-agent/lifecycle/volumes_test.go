// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-run/berth/api/oci/merge"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/leaktest"
)

// TestFSGroupThatCannotBeGiven: the error has the path of the field and the name of the volume.
func TestFSGroupThatCannotBeGiven(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	n.c.Bundle.Spec.Security = &v1alpha1.BundleSecurity{FSGroup: new(int64(77))}
	n.c.Bundle.Spec.Volumes = []v1alpha1.Volume{{Name: "claim"}}
	missing := filepath.Join(t.TempDir(), "missing")
	n.c.Directories = map[string]merge.Directory{"claim": {Path: missing, KeepsGroup: true}}
	if err := (volumesStage{&shares{}}).Ensure(t.Context(), n.c); err != nil {
		t.Errorf("a volume that fsGroup does not apply to: found %v", err)
	}
	n.c.Directories = map[string]merge.Directory{"claim": {Path: missing}}
	err := volumesStage{&shares{}}.Ensure(t.Context(), n.c)
	want := "spec.securityContext.fsGroup: volume claim: open " + missing
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("found %v; want %s", err, want)
	}
}
