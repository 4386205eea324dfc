// SPDX-License-Identifier: Apache-2.0

// Package heap decides how much garbage the heap of a long-running process may hold: little while
// the process is at rest, more during a burst of work.
//
// It knows nothing of the work.
package heap

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// restPercent is GOGC of a process at rest. It allocates little, so it costs little to collect
	// early.
	restPercent = 25
	// room is the amount of garbage that may gather during a burst. A start of a container leaves
	// half a MiB of it in the agent and in the supervisor each. At rest their heaps are so small
	// that they would be collected at nearly every start.
	room = 16 << 20
	// least is the smallest heap that Go reckons with (runtime, heapMinimum): it is collected when
	// it reaches GOGC/100 of this size, at the earliest.
	least = 4 << 20
	// burst is the time between two collections that are part of a burst, and quiet is the time
	// after the last one when the burst has ended.
	burst, quiet = time.Second, 5 * time.Second
)

// Adapt adapts the heap of this process to its work until ctx ends, unless the environment sets
// GOGC.
func Adapt(ctx context.Context) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(restPercent)
		go newPace(quiet).run(ctx)
	}
}

// pace watches the collections of garbage.
type pace struct {
	quiet     time.Duration
	collected chan struct{} // gets a token after each collection
}

func newPace(quiet time.Duration) *pace {
	p := &pace{quiet: quiet, collected: make(chan struct{}, 1)}
	p.await()
	return p
}

// await puts a token into p.collected at the next collection.
func (p *pace) await() {
	// An object that nothing refers to goes with the next collection. Go would allocate it together
	// with others if it had no pointer in it.
	runtime.AddCleanup(&struct{ p *pace }{p}, func(p *pace) { p.collected <- struct{}{} }, p)
}

// run waits for bursts until ctx ends.
func (p *pace) run(ctx context.Context) {
	var last time.Time
	for {
		select {
		case <-p.collected:
			p.await()
		case <-ctx.Done():
			return
		}
		if now := time.Now(); now.Sub(last) > burst {
			last = now
			continue
		}
		p.work(ctx)
		// Freeing the memory is a collection, too.
		debug.FreeOSMemory()
		<-p.collected
		p.await()
		last = time.Time{}
	}
}

// work allows for more garbage until a burst has ended, or ctx.
func (p *pace) work(ctx context.Context) {
	defer debug.SetGCPercent(restPercent)
	end := time.NewTimer(p.quiet)
	defer end.Stop()
	for {
		// Anew after each collection, since what is live grows with the work.
		debug.SetGCPercent(workPercent())
		select {
		case <-p.collected:
			p.await()
			end.Reset(p.quiet)
		case <-end.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// workPercent returns the GOGC that leaves room for garbage beside the live heap.
func workPercent() int {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	return int(max(restPercent, 100*room/max(least, live[0].Value.Uint64())))
}
