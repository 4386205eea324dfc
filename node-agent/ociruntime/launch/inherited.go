// SPDX-License-Identifier: Apache-2.0

package launch

import (
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sigactionSize is more than struct sigaction of the kernel takes on any architecture; its first
// field is the handler.
const sigactionSize = 64

// sigsetSize is sizeof(sigset_t) of the kernel.
const sigsetSize = 8

const sigSetmask = 2 // SIG_SETMASK

// ignoredSignals returns the signals that this process ignores.
func ignoredSignals() []uintptr {
	const ignore = 1 // SIG_IGN
	var out []uintptr
	action := new([sigactionSize / 8]uint64)
	for sig := uintptr(1); sig <= 64; sig++ {
		_, _, errno := syscall.RawSyscall6(unix.SYS_RT_SIGACTION, sig, 0, uintptr(unsafe.Pointer(action)),
			sigsetSize, 0, 0)
		if errno == 0 && action[0] == ignore {
			out = append(out, sig)
		}
	}
	return out
}

// gap is a range of descriptors, both ends included.
type gap struct{ from, to uintptr }

// closeOthers has the child close all descriptors but those below reserved and those to keep. All
// that this process has open is marked close-on-exec, but a created container may wait for days
// before its execve: until then it would hold other containers' pipes open, whose readers wait for
// their end, and the locks of other calls (flock(2) goes with the open file description), and would
// show the host's files to whoever can look into /proc/PID/fd (CVE-2016-9962).
func closeOthers(reserved int, keep []int) []gap {
	var gaps []gap
	slices.Sort(keep)
	from := reserved
	for _, fd := range keep {
		if fd > from {
			gaps = append(gaps, gap{uintptr(from), uintptr(fd - 1)})
		}
		if fd >= from {
			from = fd + 1
		}
	}
	return append(gaps, gap{uintptr(from), uintptr(^uint32(0))})
}
