// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/heaptest"
	"github.com/berth-run/berth/node-agent/source"
)

// manySource is a source of bundles that never change.
type manySource struct {
	memorySource
	all map[source.Key]*v1alpha1.OCIBundle
}

func (m *manySource) Get(key source.Key) *v1alpha1.OCIBundle { return m.all[key] }
func (m *manySource) List() []*v1alpha1.OCIBundle {
	return slices.Collect(maps.Values(m.all))
}

func (m *manySource) ReportStatus(context.Context, *v1alpha1.OCIBundle,
	*v1alpha1.OCIBundleStatus,
) error {
	return nil
}

// TestMemoryOfARunningContainer: a container at rest costs the Syncer its record and its last
// status, and neither a document nor a goroutine (docs/benchmarks.md). Stacks of goroutines that
// have ended do not count: how many the Go runtime keeps depends on how many ran at once.
func TestMemoryOfARunningContainer(t *testing.T) {
	const count, limit = 500, 4 << 10
	first := newBench(t)
	first.runs(1)
	first.stop()
	many := &manySource{all: map[source.Key]*v1alpha1.OCIBundle{}}
	for i := range count {
		b := first.source.bundle.DeepCopy()
		b.Name, b.UID = fmt.Sprintf("c%d", i), types.UID(fmt.Sprintf("%08d", i))
		many.all[keyNamed(b.Name)] = b
	}
	before, goroutines := heaptest.Live(), runtime.NumGoroutine()
	s, err := New(Config{
		Source: many, Images: noImages{}, Supervisor: first.super, Bundles: first.bundles,
		LogDir: first.dir,
		Handlers: func() []string {
			return []string{v1alpha1.HandlerNative}
		}, Clock: first.clock, BootClock: first.clock.sinceBoot,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	first.until("all run and their workers are at rest", func() bool {
		first.super.mu.Lock()
		starts := first.super.starts
		first.super.mu.Unlock()
		if starts < 1+count {
			return false
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, w := range s.workers {
			if w.active {
				return false
			}
		}
		return true
	})
	each := (heaptest.Live() - before) / count
	t.Logf("%d bytes a container", each)
	if each > limit {
		t.Errorf("found %d bytes a container; allowed: %d", each, limit)
	}
	if now := runtime.NumGoroutine(); now > goroutines+count/10 {
		t.Errorf("found %d goroutines, and %d before; want none for a container at rest", now, goroutines)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
