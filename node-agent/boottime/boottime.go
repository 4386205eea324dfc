// SPDX-License-Identifier: Apache-2.0

// Package boottime measures durations that outlive a process, such as a grace period or a back-off.
// Setting the node's clock does not change them, and they go on while the machine sleeps. It knows
// nothing of the things that are timed.
package boottime

import (
	"math"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/procfs"
)

// Instant is a point in time of one boot of the machine. The zero value is unknown.
type Instant struct {
	// Boot is /proc/sys/kernel/random/boot_id (random(4)).
	Boot string `json:"boot"`
	// Since is CLOCK_BOOTTIME (clock_gettime(2)): the time since that boot.
	Since time.Duration `json:"since"`
}

// Clock returns the present. A Clock of a test does not read the machine's.
type Clock func() Instant

// Now returns the Clock of this machine.
func Now() Instant {
	var ts unix.Timespec
	// It fails for clocks only that the kernel does not have; this one is of Linux 2.6.39.
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	id, _ := procfs.BootID() // without a boot id, all boots count as one
	return Instant{Boot: id, Since: time.Duration(ts.Nano())}
}

// IsZero reports whether the instant is unknown.
func (i Instant) IsZero() bool { return i == Instant{} }

// Add returns the instant d later, or the last instant there is.
func (i Instant) Add(d time.Duration) Instant {
	if d > math.MaxInt64-i.Since {
		d = math.MaxInt64 - i.Since
	}
	return Instant{i.Boot, i.Since + d}
}

// Seconds returns n seconds as a duration, or the longest duration there is, some 292 years. A
// negative n is 0.
func Seconds(n int64) time.Duration {
	return time.Duration(min(max(n, 0), math.MaxInt64/int64(time.Second))) * time.Second
}

// Sub returns the time from j to i. ok is false for instants of two boots, between which nothing
// measures.
func (i Instant) Sub(j Instant) (d time.Duration, ok bool) {
	return i.Since - j.Since, i.Boot == j.Boot
}
