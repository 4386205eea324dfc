// SPDX-License-Identifier: Apache-2.0

package claim

import (
	"os"
	"strings"
	"testing"

	"github.com/berth-run/berth/node-agent/bundle"
)

// TestStateDirOfAnotherSource: an agent does not take the containers of another node, or of
// manifests, for its own that nobody wants.
func TestStateDirOfAnotherSource(t *testing.T) {
	of := func(node, manifests string) Settings {
		return Settings{Node: node, Manifests: manifests, RunDir: "/r"}
	}
	for name, tc := range map[string]struct {
		before, now Settings
		want        string // in the error; empty for none
	}{
		"the same node":           {of("a", ""), of("a", ""), ""},
		"another node":            {of("a", ""), of("b", ""), "found 1 containers of node a in "},
		"an earlier version":      {of("", ""), of("b", ""), ""},
		"the same manifests":      {of("a", "/m"), of("a", "/m"), ""},
		"manifests, another host": {of("a", "/m"), of("b", "/m"), ""},
		// package folder holds on to what is missing
		"other manifests": {of("a", "/m"), of("a", "/n"), ""},
		"manifests, now a cluster": {
			of("a", "/m"), of("a", ""),
			"found 1 containers of the manifests in /m in ",
		},
		"a cluster, now manifests": {of("a", ""), of("a", "/m"), "found 1 containers of a cluster in "},
	} {
		t.Run(name, func(t *testing.T) {
			state := t.TempDir()
			bundles, err := bundle.Open(state + "/bundles")
			if err != nil {
				t.Fatal(err)
			}
			if err := tc.now.CheckSource(state, bundles); err != nil {
				t.Errorf("a state directory that nobody has used: %v", err)
			}
			if err := tc.before.Write(state); err != nil {
				t.Fatal(err)
			}
			if err := tc.now.CheckSource(state, bundles); err != nil {
				t.Errorf("a state directory without containers: %v", err)
			}
			if err := bundles.Dir("x").Make(); err != nil {
				t.Fatal(err)
			}
			err = tc.now.CheckSource(state, bundles)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want+
				state) {
				t.Errorf("found %v; want %q", err, tc.want)
			}
			if err := os.Remove(settingsFile(state)); err != nil { // as the error says
				t.Fatal(err)
			}
			if err := tc.now.CheckSource(state, bundles); err != nil {
				t.Errorf("found %v although it was confirmed", err)
			}
		})
	}
}
