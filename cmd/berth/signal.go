// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The first and the last signal of a program's own: the C library keeps 32 and 33 to itself (signal(7), Real-time signals).
const (
	signalRTMin = 34
	signalRTMax = 64
)

// signalAliases are the names of signal(7) that package unix does not know.
var signalAliases = map[string]unix.Signal{
	"SIGCLD": unix.SIGCLD, "SIGIOT": unix.SIGIOT, "SIGPOLL": unix.SIGPOLL, "SIGRTMIN": signalRTMin, "SIGRTMAX": signalRTMax,
}

// parseSignal reads KILL, SIGKILL, 9, RTMIN+1 or RTMAX-2, in any case.
func parseSignal(name string) (unix.Signal, error) {
	unknown := fmt.Errorf("unknown signal %q", name)
	if n, err := strconv.Atoi(name); err == nil {
		if n < 0 || n > signalRTMax {
			return 0, unknown
		}
		return unix.Signal(n), nil
	}
	upper := "SIG" + strings.TrimPrefix(strings.ToUpper(name), "SIG")
	if sig := unix.SignalNum(upper); sig != 0 {
		return sig, nil
	}
	if sig, ok := signalAliases[upper]; ok {
		return sig, nil
	}
	for base, from := range map[string]int{"SIGRTMIN+": signalRTMin, "SIGRTMAX-": signalRTMax} {
		digits, ok := strings.CutPrefix(upper, base)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 8)
		if err != nil || n > signalRTMax-signalRTMin {
			return 0, unknown
		}
		if from == signalRTMax {
			return unix.Signal(from - int(n)), nil
		}
		return unix.Signal(from + int(n)), nil
	}
	return 0, unknown
}
