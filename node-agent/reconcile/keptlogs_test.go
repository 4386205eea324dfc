// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/lifecycle"
)

// TestLogsOfRemovedContainers: they are kept by count and age, and found by name.
func TestLogsOfRemovedContainers(t *testing.T) {
	b := newBench(t)
	b.stop()
	// The first agent may have started a container, and nobody moves the clock on for its grace
	// period; the second is to start none yet.
	first := b.source.bundle
	b.source.bundle = nil
	b.super.mu.Lock()
	clear(b.super.all)
	b.super.mu.Unlock()
	ids, err := b.bundles.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if err := os.RemoveAll(b.bundles.Dir(id).Path()); err != nil {
			t.Fatal(err)
		}
	}
	b.keep = lifecycle.Retention{Count: 2, Age: time.Hour}
	b.run()
	logs := filepath.Join(b.dir, "logs")
	kept := func() []string {
		dirs, err := lifecycle.RemovedLogs(logs, keyNamed("x"))
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, d := range dirs {
			if _, err := os.Stat(filepath.Join(d, "0.log")); err != nil {
				t.Error(err)
			}
			out = append(out, filepath.Base(d))
		}
		return out
	}
	uid := func(n int) types.UID {
		return types.UID(fmt.Sprintf("%08d-0000-4000-8000-000000000000", n))
	}
	dir := func(n int) string { return lifecycle.LogDirName(keyNamed("x"), uid(n)) }
	change := func(f func(*v1alpha1.OCIBundle)) {
		b.source.mu.Lock()
		next := b.source.bundle.DeepCopy()
		f(next)
		next.Generation++
		b.source.bundle = next
		b.source.mu.Unlock()
		b.syncer.Changed(keyNamed("x"))
	}
	for n := 1; n <= 3; n++ {
		b.source.mu.Lock()
		b.source.bundle = first
		b.source.mu.Unlock()
		change(func(o *v1alpha1.OCIBundle) { o.UID, o.DeletionTimestamp = uid(n), nil })
		b.until("its start", func() bool {
			return b.source.last().PID != 0 && b.source.last().LogPath == filepath.Join(logs, dir(n),
				"0.log")
		})
		change(func(o *v1alpha1.OCIBundle) { o.DeletionTimestamp = deleted().DeletionTimestamp })
		b.until("its removal", func() bool {
			b.clock.Step(10 * time.Second) // the grace period
			b.source.mu.Lock()
			defer b.source.mu.Unlock()
			return slices.Contains(b.source.released, uid(n))
		})
	}
	b.until("the count", func() bool { return slices.Equal(kept(), []string{dir(3), dir(2)}) })
	if other, _ := lifecycle.RemovedLogs(logs, keyNamed("y")); len(other) != 0 {
		t.Errorf("found %v of another name", other)
	}
	b.clock.Step(time.Hour)
	if err := b.syncer.logs.Prune(); err != nil || len(kept()) != 0 {
		t.Errorf("found %v after an hour, %v", kept(), err)
	}
}
