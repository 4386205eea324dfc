// SPDX-License-Identifier: Apache-2.0

package launch

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/plan"
)

// excludeOwnCPU removes the current processor from the affinity mask of a new thread or process, if
// it has another. If no other processor is idle at that moment the kernel queues the new task on
// its parent's, where it would begin only when the parent rests, long after another processor has
// become idle.
func excludeOwnCPU(id int) {
	var cpu uint32
	own := make([]byte, plan.MaxCPUs/8)
	_, _, errno := unix.RawSyscall(unix.SYS_GETCPU, uintptr(unsafe.Pointer(&cpu)), 0, 0)
	if errno != 0 || cpu >= plan.MaxCPUs || affinity(unix.SYS_SCHED_GETAFFINITY, 0, own) != nil {
		return
	}
	own[cpu/8] &^= 1 << (cpu % 8)
	_ = affinity(unix.SYS_SCHED_SETAFFINITY, id, own) // not possible where there is no other
}

// affinity calls sched_setaffinity(2) or sched_getaffinity(2) for a thread, 0 for the calling one,
// with the longest mask.
func affinity(call uintptr, thread int, mask []byte) error {
	_, _, errno := unix.RawSyscall(call, uintptr(thread), uintptr(len(mask)),
		uintptr(unsafe.Pointer(unsafe.SliceData(mask))))
	if errno != 0 {
		return errno
	}
	return nil
}
