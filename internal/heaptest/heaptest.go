// SPDX-License-Identifier: Apache-2.0

// Package heaptest measures the heap of a test.
package heaptest

import (
	"math"
	"runtime"
	"time"
)

// Live returns the size in bytes of what the heap holds and something refers to.
func Live() uint64 {
	// Some values go a collection or two later, in goroutines of the Go runtime that may have to
	// wait for a processor, such as those of package unique.
	least := uint64(math.MaxUint64)
	for range 5 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		least = min(least, m.HeapAlloc)
		time.Sleep(time.Millisecond)
	}
	return least
}
