// SPDX-License-Identifier: Apache-2.0

// Package unixsignal reads signals as people write them.
package unixsignal

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The first and the last signal of a program's own: the C library keeps 32 and 33 to itself
// (signal(7), Real-time signals).
const (
	rtMin = 34
	rtMax = 64
)

// aliases are the names of signal(7) that package unix does not know.
var aliases = map[string]unix.Signal{
	"SIGCLD": unix.SIGCLD, "SIGIOT": unix.SIGIOT, "SIGPOLL": unix.SIGPOLL, "SIGRTMIN": rtMin,
	"SIGRTMAX": rtMax,
}

// Parse reads KILL, SIGKILL, 9, RTMIN+1 or RTMAX-2, in any case.
func Parse(name string) (unix.Signal, error) {
	unknown := fmt.Errorf(
		"unknown signal %q; allowed: a name such as TERM or SIGTERM, RTMIN+N, RTMAX-N, or a number from 1 to %d",
		name, rtMax)
	if n, err := strconv.Atoi(name); err == nil {
		if n < 1 || n > rtMax {
			return 0, unknown
		}
		return unix.Signal(n), nil
	}
	upper := "SIG" + strings.TrimPrefix(strings.ToUpper(name), "SIG")
	if sig := unix.SignalNum(upper); sig != 0 {
		return sig, nil
	}
	if sig, ok := aliases[upper]; ok {
		return sig, nil
	}
	for base, from := range map[string]int{"SIGRTMIN+": rtMin, "SIGRTMAX-": rtMax} {
		digits, ok := strings.CutPrefix(upper, base)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 8)
		if err != nil || n > rtMax-rtMin {
			return 0, unknown
		}
		if from == rtMax {
			return unix.Signal(from - int(n)), nil
		}
		return unix.Signal(from + int(n)), nil
	}
	return 0, unknown
}
