// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"testing"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/userns"
)

// TestRangeStaysWithItsContainer: a container that asks for a user namespace no more, and whose
// start ends before the stage network, still has the pinned one. No other container gets its ids
// until it is removed.
func TestRangeStaysWithItsContainer(t *testing.T) {
	leaktest.Check(t)
	ranges, err := userns.Open(t.TempDir(), userns.Size, 10*userns.Size-1)
	if err != nil {
		t.Fatal(err)
	}
	stage := usersStage{ranges}
	ensure := func(id string, mapped bool) uint32 {
		t.Helper()
		c := &Container{ID: id, Bundle: &v1alpha1.OCIBundle{
			Spec: v1alpha1.OCIBundleSpec{UserNamespace: mapped},
		}}
		if err := stage.Ensure(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		return c.Users
	}
	first := ensure("edited", true)
	if got := ensure("edited", false); got != 0 {
		t.Errorf("found the ids from %d without a user namespace; want the node's", got)
	}
	if other := ensure("other", true); other == first {
		t.Errorf("found the ids from %d with another container", other)
	}
	if again := ensure("edited", true); again != first {
		t.Errorf("found the ids from %d; want %d, which the pinned namespace has", again, first)
	}
	if err := stage.Release(t.Context(), &Container{ID: "edited"}); err != nil {
		t.Fatal(err)
	}
	if next := ensure("next", true); next != first {
		t.Errorf("found the ids from %d; want %d of the container that was removed", next, first)
	}
}
