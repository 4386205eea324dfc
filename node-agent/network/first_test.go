// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-run/berth/internal/leaktest"
)

// TestFirst: until one container has been connected, each is connected alone.
func TestFirst(t *testing.T) {
	leaktest.Check(t)
	var f first
	var wg sync.WaitGroup
	var began, now atomic.Int32
	over := atomic.Bool{}
	for range 8 {
		wg.Go(func() {
			done := f.begin()
			if now.Add(1) > 1 && !over.Load() {
				t.Error("two containers were connected at once, and none had been before")
			}
			time.Sleep(5 * time.Millisecond)
			err := errors.New("failed")
			if began.Add(1) > 2 { // the first two fail
				over.Store(true)
				err = nil
			}
			now.Add(-1)
			done(err)
		})
	}
	wg.Wait()
	// From then on nobody waits for another.
	done := f.begin()
	f.begin()(nil)
	done(nil)
}
