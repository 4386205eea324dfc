// SPDX-License-Identifier: Apache-2.0

package heap

import (
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/berth-run/berth/internal/leaktest"
)

var kept []byte

func read(name string) int {
	s := []metrics.Sample{{Name: name}}
	metrics.Read(s)
	return int(s[0].Value.Uint64())
}

// TestBurst allocates as a burst of starts does. The heap is collected less often than at rest
// until the burst has ended, and then its memory is given back.
func TestBurst(t *testing.T) {
	leaktest.Check(t)
	before := debug.SetGCPercent(restPercent)
	defer debug.SetGCPercent(before)
	go newPace(time.Second).run(t.Context())
	deadline := time.Now().Add(time.Minute)
	allocate := func(mib int, until func() bool) {
		t.Helper()
		for total := 0; total < mib || until != nil && !until(); total++ {
			kept = make([]byte, 1<<20)
			if time.Now().After(deadline) {
				t.Fatalf("GOGC is %d", read("/gc/gogc:percent"))
			}
		}
	}
	raised := func() bool { return read("/gc/gogc:percent") > restPercent }
	for range 2 {
		allocate(0, raised)
		cycles := read("/gc/cycles/total:gc-cycles")
		allocate(160, nil)
		if n := read("/gc/cycles/total:gc-cycles") - cycles; n > 40 { // at rest it is 80
			t.Errorf("found %d collections of 160 MiB of garbage; want one for each %d MiB", n, room>>20)
		}
		kept = make([]byte, 12<<20)
		kept = nil
		held := func() int {
			return read("/memory/classes/heap/objects:bytes") + read("/memory/classes/heap/free:bytes")
		}
		for raised() || held() > room/2 {
			if time.Now().After(deadline) {
				t.Fatalf("GOGC is %d and the heap holds %d bytes, a minute after the burst",
					read("/gc/gogc:percent"), held())
			}
			time.Sleep(time.Millisecond)
		}
	}
}
