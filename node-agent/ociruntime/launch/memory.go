// SPDX-License-Identifier: Apache-2.0

package launch

import (
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// memory is the child's own: its stack, and its program with all that this points to. Of the
// parent's it has little else, since what it costs to make a process is the copy of its parent's
// page tables and, until execve, a page fault for each page that either of them writes to: of a Go
// heap that is more than all the mounts of a container.
type memory struct {
	mapped []byte
	left   []byte
}

// stackSize is the size of the child's stack. The linker limits the need of child and its callees
// to 800 bytes (go:nosplit).
const stackSize = 4 << 10

// newMemory allocates room for size bytes, as sizeOf counts them.
func newMemory(size int) (*memory, error) {
	mapped, err := unix.Mmap(-1, 0, stackSize+size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|
		unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("mmap: %w", err)
	}
	return &memory{mapped: mapped, left: mapped[stackSize:]}, nil
}

func (m *memory) free() { _ = unix.Munmap(m.mapped) }

// stack returns the lowest address of the child's stack.
func (m *memory) stack() uint64 {
	return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(m.mapped))))
}

// at returns n bytes at an address.
func (m *memory) at(address uintptr, n int) []byte {
	return m.mapped[address-uintptr(unsafe.Pointer(unsafe.SliceData(m.mapped))):][:n:n]
}

// sizeOf returns the size of n values in memory.
func sizeOf[T any](n int) int {
	var v T
	const align = 8
	return (n*int(unsafe.Sizeof(v)) + align - 1) &^ (align - 1)
}

// carve returns n zero values from the rest of the mapping. T points to no memory of Go's: the
// garbage collector does not look here.
func carve[T any](m *memory, n int) []T {
	size := sizeOf[T](n)
	p := m.left[:size:size]
	m.left = m.left[size:]
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(p))), n)
}

// mapping is a range of addresses.
type mapping struct{ from, size uintptr }

// dontForkRange returns the address range that no child needs: the program's variables, the Go
// heap, the stacks of threads and other mappings (proc_pid_maps(5)). A child runs only code, on
// memory of its own. It is computed once, since later mappings lie in the same range. It is empty
// if a child needs more or if there is no /proc: then the child gets a copy of everything.
var dontForkRange = sync.OnceValue(func() mapping {
	if registered || instrumented() {
		return mapping{}
	}
	data, _ := os.ReadFile("/proc/self/maps")
	return writableRange(string(data))
})

// writableRange returns the range from the first writable mapping in a text of /proc/PID/maps up to
// the initial stack and the kernel's own mappings.
func writableRange(maps string) (m mapping) {
	for line := range strings.Lines(maps) {
		// from-to perms offset device inode [name, which may have spaces]
		fields := strings.Fields(line)
		if len(fields) < 5 {
			return mapping{}
		}
		low, _, _ := strings.Cut(fields[0], "-")
		from, err := strconv.ParseUint(low, 16, 64)
		switch {
		case err != nil:
			return mapping{}
		case m.from == 0:
			if strings.HasPrefix(fields[1], "rw") {
				m.from = uintptr(from)
			}
		case len(fields) > 5 && (strings.HasPrefix(fields[5], "[v") || fields[5] == "[stack]"):
			m.size = uintptr(from) - m.from
			return m
		}
	}
	return mapping{}
}

// instrumented reports whether the program's code counts in its variables how often it has run (go
// build -cover).
func instrumented() bool {
	info, ok := debug.ReadBuildInfo()
	return !ok || slices.Contains(info.Settings, debug.BuildSetting{Key: "-cover", Value: "true"})
}

func (m mapping) advise(advice uintptr) {
	// Only how fast a fork is depends on it. Where nothing is mapped is passed over.
	_, _, _ = unix.RawSyscall(unix.SYS_MADVISE, m.from, m.size, advice)
}

// withoutParentMemory calls f, which creates a child, and keeps dontForkRange from that child
// (madvise(2), MADV_DONTFORK), except for the mappings in needed.
func withoutParentMemory(needed []mapping, f func()) {
	if m := dontForkRange(); m.size > 0 {
		m.advise(unix.MADV_DONTFORK)
		defer m.advise(unix.MADV_DOFORK)
		for _, m := range needed {
			m.advise(unix.MADV_DOFORK)
		}
	}
	f()
}

// mapping returns the address range of the memory.
func (m *memory) mapping() mapping {
	return mapping{uintptr(unsafe.Pointer(unsafe.SliceData(m.mapped))), uintptr(len(m.mapped))}
}
