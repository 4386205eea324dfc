// SPDX-License-Identifier: Apache-2.0

package scheduling

import (
	"fmt"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

func key(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "n", Name: name}
}

func TestLedgerSpreadsABurstBeforeAnyWatchShowsIt(t *testing.T) {
	l := NewLedger()
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			// Everyone has nodes of their own, as every reconcile reads its own.
			l.Place(key(fmt.Sprint(i)), Request{Resources: list("10m", "")}, []Node{node("a"), node("b")})
		})
	}
	wg.Wait()
	if a, b := l.Usage("a"), l.Usage("b"); a.Containers != 50 || b.Containers != 50 ||
		a.MilliCPU != 500 {
		t.Errorf("a has %+v, b has %+v", a, b)
	}
}

func TestLedgerNeverPlacesMoreThanThereIsRoomFor(t *testing.T) {
	l := NewLedger()
	placed := 0
	for i := range 10 {
		_, unfit := l.Place(key(fmt.Sprint(i)), Request{Resources: list("1", "")}, []Node{node("a")})
		if unfit == nil {
			placed++
		}
	}
	if placed != 4 {
		t.Errorf("%d of 1 cpu each were placed on 4 cpus", placed)
	}
}

func TestLedgerEntries(t *testing.T) {
	l := NewLedger()
	zero := func(when string) {
		t.Helper()
		if u := l.Usage("a"); u != (Usage{}) {
			t.Errorf("%s: %+v is left", when, u)
		}
	}
	l.Place(key("x"), Request{Resources: list("1", "1Gi")}, []Node{node("a")})
	if node, assumed := l.Assumed(key("x")); !assumed || node != "a" {
		t.Error("what Place entered is not assumed")
	}
	l.Place(key("x"), Request{Resources: list("1", "1Gi")}, []Node{node("a")})
	if u := l.Usage("a"); u.Containers != 1 {
		t.Errorf("placing again counts twice: %+v", u)
	}
	l.Observe(key("x"), "a", list("1", "1Gi"), false)
	if _, assumed := l.Assumed(key("x")); assumed {
		t.Error("what the watch has shown is still assumed")
	}
	l.Withdraw(key("x"))
	if u := l.Usage("a"); u.Containers != 1 || u.MilliCPU != 1000 {
		t.Errorf("Withdraw struck out what the watch has shown: %+v", u)
	}
	l.Observe(key("x"), "a", list("2", ""), false)
	if u := l.Usage("a"); u.MilliCPU != 2000 || u.Memory != 0 {
		t.Errorf("a change is not taken over: %+v", u)
	}
	l.Observe(key("x"), "a", list("2", ""), true)
	zero("ended")
	l.Remove(key("x"))
	l.Remove(key("x"))
	zero("removed")
	l.Enter(key("y"), "a", list("1", ""))
	l.Withdraw(key("y"))
	zero("withdrawn")
}

func TestLedgerDoesNotCountAContainerAgainstItself(t *testing.T) {
	l := NewLedger()
	l.Observe(key("x"), "a", list("3", ""), false)
	name, unfit := l.Place(key("x"), Request{Resources: list("3", "")}, []Node{node("a")})
	if name != "a" {
		t.Errorf("the container's own share keeps it off its node: %+v", unfit)
	}
}

// TestHugeRequestsDoNotWrapAround: containers that name their node, and ask for more than any has,
// leave no room there for others.
func TestHugeRequestsDoNotWrapAround(t *testing.T) {
	for _, huge := range []string{"4Ei", "1e19", "9223372036854767616"} {
		l := NewLedger()
		for i := range 10 {
			l.Enter(key(fmt.Sprint(i)), "a", list(huge, huge))
			name, unfit := l.Place(key("small"), Request{Resources: list("1m", "1Mi")}, []Node{node("a")})
			if unfit == nil {
				t.Errorf("%d times %s: one more was placed on %s", i+1, huge, name)
			}
		}
		if name, unfit := Choose(Request{Resources: list("", huge)}, []Node{node("a")}); unfit == nil {
			t.Errorf("%s bytes were placed on %s", huge, name)
		}
	}
}
