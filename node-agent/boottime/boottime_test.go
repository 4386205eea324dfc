// SPDX-License-Identifier: Apache-2.0

package boottime

import (
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
