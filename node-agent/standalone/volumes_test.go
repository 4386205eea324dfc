// SPDX-License-Identifier: Apache-2.0

package standalone

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/claim"
	"github.com/berth-run/berth/node-agent/volume"
)

// TestUnneededNeedsWhatTheAgentKnows: no volume is unneeded without an agent, nor while the agent
// refuses a manifest, cannot write what it knows, or has not read the manifests yet.
func TestUnneededNeedsWhatTheAgentKnows(t *testing.T) {
	leaktest.Check(t)
	state := t.TempDir()
	id := volume.ID{Namespace: "default", Name: "data"}
	if err := os.MkdirAll(volume.Open(state).Path(id), 0o700); err != nil {
		t.Fatal(err)
	}
	manifests := filepath.Join(state, "manifests.json")
	refuses := func(what string) {
		t.Helper()
		if all, err := Unneeded(state); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("found %v, %v; want %q", all, err, what)
		}
		if removed, err := PruneVolume(t.Context(), state, id); err == nil || removed {
			t.Errorf("found %v, %v; want that nothing is removed", removed, err)
		}
	}
	refuses("found no running agent")
	lock, err := claim.StateDir(t.Context(), state)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	refuses("has not written")
	if err := os.WriteFile(manifests, []byte(`[{"file":"a.yaml","message":"x"}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	refuses("found a manifest that is refused or missing")
	if err := os.WriteFile(manifests, []byte("[]"), 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := Unneeded(state); err != nil || len(all) != 1 {
		t.Errorf("found %v, %v; want the volume", all, err)
	}
	old := time.Now().Add(-2 * staleAfter)
	if err := os.Chtimes(manifests, old, old); err != nil {
		t.Fatal(err)
	}
	refuses("has not written")
}
