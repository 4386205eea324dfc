// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestReadCPUTime(t *testing.T) {
	var before unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &before); err != nil {
		t.Fatal(err)
	}
	for spent := time.Now(); time.Since(spent) < 50*time.Millisecond; {
	}
	got, err := ReadCPUTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	var after unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &after); err != nil {
		t.Fatal(err)
	}
	total := func(r unix.Rusage) time.Duration {
		return time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	if low, high := total(before)-2*Tick, total(after)+2*Tick; got < low || got > high {
		t.Errorf("found %s; want %s to %s", got, low, high)
	}
}

func TestReadMemory(t *testing.T) {
	const grown = 32 << 20
	before, err := ReadMemory(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	pages, err := unix.Mmap(-1, 0, grown, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|
		unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	after, err := ReadMemory(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Munmap(pages); err != nil {
		t.Fatal(err)
	}
	last, err := ReadMemory(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	const most = grown / 1024 / 2
	if after.PSS-before.PSS < most || after.Own-before.Own < most ||
		after.Program-before.Program > most ||
		after.RSS-before.RSS < most || last.Peak-last.RSS < most {
		t.Errorf("%d MiB more: found %+v, %+v, and %+v without them", grown>>20, before, after, last)
	}
}
