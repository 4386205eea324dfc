// SPDX-License-Identifier: Apache-2.0

package boottime

import (
	"math"
	"testing"
	"time"
)

func TestNow(t *testing.T) {
	a := Now()
	b := Now()
	if d, ok := b.Sub(a); !ok || d < 0 || a.Since <= 0 || a.Boot == "" {
		t.Errorf("found %+v and then %+v", a, b)
	}
}

func TestSubOfTwoBoots(t *testing.T) {
	a := Instant{"one", time.Minute}
	if _, ok := a.Sub(Instant{"other", time.Second}); ok {
		t.Error("the time between two boots is measured")
	}
	if d, ok := a.Add(time.Hour).Sub(a); !ok || d != time.Hour {
		t.Errorf("found %s, %t; want 1 h", d, ok)
	}
}

// TestLongest holds that nothing wraps around: a grace period beyond what a duration holds is long,
// and not over.
func TestLongest(t *testing.T) {
	now := Instant{"one", time.Hour}
	for _, n := range []int64{9_223_372_036, 9_223_372_037, 1e12, math.MaxInt64} {
		end := now.Add(Seconds(n))
		if d, ok := end.Sub(now); !ok || d < 290*365*24*time.Hour {
			t.Errorf("%d seconds: found %s, %t", n, d, ok)
		}
	}
	if d := Seconds(math.MinInt64); d != 0 {
		t.Errorf("a negative number of seconds: found %s; want 0", d)
	}
	if d := Seconds(30); d != 30*time.Second {
		t.Errorf("30 seconds: found %s", d)
	}
}
