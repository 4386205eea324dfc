// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// busySupervisor counts who asks it at the same time.
type busySupervisor struct {
	*fakeSupervisor
	now, most atomic.Int32
}

func (b *busySupervisor) Get(ctx context.Context, id string) (protocol.Status, error) {
	n := b.now.Add(1)
	defer b.now.Add(-1)
	for most := b.most.Load(); n > most && !b.most.CompareAndSwap(most, n); most = b.most.Load() {
	}
	time.Sleep(2 * time.Millisecond)
	return b.fakeSupervisor.Get(ctx, id)
}

// TestLooksAreBounded: an agent that takes over many containers does not hold the documents of all,
// and a connection for each, at once.
func TestLooksAreBounded(t *testing.T) {
	b := newBench(t)
	busy := &busySupervisor{fakeSupervisor: b.super}
	s, err := New(Config{
		Source: b.source, Images: noImages{}, Supervisor: busy, Bundles: b.bundles,
		LogDir: b.dir, Clock: b.clock, BootClock: b.clock.sinceBoot,
	})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 * parallelLooks {
		wg.Go(func() {
			if _, err := s.gather(t.Context(), &worker{key: keyNamed("x")}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if most := busy.most.Load(); most == 0 || most > parallelLooks {
		t.Errorf("the supervisor was asked by %d at once; allowed: 1 to %d", most, parallelLooks)
	}
}

// askedSupervisor counts how often it is asked for a status.
type askedSupervisor struct {
	*fakeSupervisor
	gets int
}

func (a *askedSupervisor) Get(ctx context.Context, id string) (protocol.Status, error) {
	a.gets++
	return a.fakeSupervisor.Get(ctx, id)
}

// TestStartAsksOnce starts a container: the supervisor is asked once whether it has the container
// already, and its answers to the creation and the start are all that the status needs.
func TestStartAsksOnce(t *testing.T) {
	b := newBench(t)
	b.until("it runs", func() bool { return b.source.last().Phase == v1alpha1.ContainerRunning })
	b.stop()
	b.source.bundle = b.source.bundle.DeepCopy()
	b.source.bundle.UID = "another"
	asked := &askedSupervisor{fakeSupervisor: b.super}
	s, err := New(Config{
		Source: b.source, Images: noImages{}, Supervisor: asked, Bundles: b.bundles, LogDir: b.dir,
		CgroupParent: "/berth",
		Handlers: func() []string {
			return []string{v1alpha1.HandlerNative}
		}, Clock: b.clock, BootClock: b.clock.sinceBoot,
	})
	if err != nil {
		t.Fatal(err)
	}
	if again := s.reconcile(t.Context(), &worker{key: keyNamed("x")}); again != 0 {
		t.Errorf("found %v until the next look; want none", again)
	}
	if last := b.source.last(); last.Phase != v1alpha1.ContainerRunning || b.super.starts != 2 ||
		asked.gets != 1 {
		t.Errorf("found phase %s, %d starts and %d questions; want Running, 2 and 1", last.Phase,
			b.super.starts, asked.gets)
	}
}
