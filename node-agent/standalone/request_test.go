// SPDX-License-Identifier: Apache-2.0

package standalone

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/claim"
	"github.com/berth-run/berth/node-agent/source/folder"
)

// TestWaitForASlowAgent: Wait waits for a request until the agent has taken it, however long that
// takes. A request that was taken and has no effect is done: a later one replaced it.
func TestWaitForASlowAgent(t *testing.T) {
	leaktest.Check(t)
	for _, verb := range []folder.Verb{folder.Stop, folder.Start, folder.Restart} {
		t.Run(string(verb), func(t *testing.T) {
			state := t.TempDir()
			agent, err := claim.StateDir(t.Context(), state)
			if err != nil {
				t.Fatal(err)
			}
			defer agent.Close()
			if err := os.Mkdir(filepath.Join(state, "status"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(state, "status/default_x.json"), []byte(
				`{"metadata":{"name":"x","namespace":"default","uid":"1","generation":1},"status":{"pid":7}}`),
				0o600); err != nil {
				t.Fatal(err)
			}
			all, err := folder.Read(state)
			if err != nil || len(all) != 1 {
				t.Fatalf("found %v, %v", all, err)
			}
			r, err := Ask(state, verb, &all[0])
			if err != nil {
				t.Fatal(err)
			}
			r.taken = r.taken.Add(-time.Minute)
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			if err := r.Wait(ctx, nil); err == nil || ctx.Err() == nil {
				t.Errorf("before the agent has come to it: found %v; want that it is waited for", err)
			}
			requests, err := filepath.Glob(filepath.Join(state, "requests/*.json"))
			if err != nil || len(requests) != 1 {
				t.Fatalf("found requests %v, %v; want one", requests, err)
			}
			if err := os.Remove(requests[0]); err != nil {
				t.Fatal(err)
			}
			r.taken = r.taken.Add(-time.Minute)
			if err := r.Wait(t.Context(), nil); err != nil {
				t.Errorf("after the agent has come to it: found %v", err)
			}
		})
	}
}
