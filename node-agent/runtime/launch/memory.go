// SPDX-License-Identifier: Apache-2.0

package launch

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// memory is the child's own: its stack, and its program with all that this points to. Of the parent's it has little else, since what it
// costs to make a process is the copy of its parent's page tables and, until execve, a page fault for each page that either of them
// writes to: of a Go heap that is more than all the mounts of a container.
type memory struct {
	mapped []byte
	left   []byte
}

// stackSize is more than child and what it calls need, which the linker holds to 800 bytes (go:nosplit).
const stackSize = 4 << 10

// newMemory has room for size bytes, as sizeOf counts them.
func newMemory(size int) (*memory, error) {
	_ = unneeded() // which this is not
	mapped, err := unix.Mmap(-1, 0, stackSize+size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("mmap: %w", err)
	}
	return &memory{mapped: mapped, left: mapped[stackSize:]}, nil
}

func (m *memory) free() { _ = unix.Munmap(m.mapped) }

// stack is the lowest address of the child's stack.
func (m *memory) stack() uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(m.mapped)))) }

// at is the memory at an address.
func (m *memory) at(address uintptr, n int) []byte {
	return m.mapped[address-uintptr(unsafe.Pointer(unsafe.SliceData(m.mapped))):][:n:n]
}

// sizeOf is what n values take in memory.
func sizeOf[T any](n int) int {
	var v T
	const align = 8
	return (n*int(unsafe.Sizeof(v)) + align - 1) &^ (align - 1)
}

// carve takes n values from what is left, all zero. T points to no memory of Go's: the garbage collector does not look here.
func carve[T any](m *memory, n int) []T {
	size := sizeOf[T](n)
	p := m.left[:size:size]
	m.left = m.left[size:]
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(p))), n)
}

// mapping is a range of addresses.
type mapping struct{ from, size uintptr }

// unneeded are the mappings of this process that no child has any use for: anonymous memory, which is the Go heap and what the runtime
// knows of it. They are looked for once (proc_pid_maps(5)): what is mapped later is copied, and the heap grows into address space
// that is reserved from the beginning. Without /proc all is copied.
var unneeded = sync.OnceValue(func() []mapping {
	if registered {
		return nil
	}
	data, _ := os.ReadFile("/proc/self/maps")
	found := anonymous(string(data))
	return slices.DeleteFunc(found, func(m mapping) bool { return m.size < worthwhile || m.contains(unsafe.Pointer(&anywhere)) })
})

// anonymous are the mappings of private anonymous memory in a text of /proc/PID/maps. Where the kernel can, the Go runtime names its own
// (PR_SET_VMA(2const)): "[anon: Go: heap]".
func anonymous(maps string) (found []mapping) {
	for line := range strings.Lines(maps) {
		// from-to perms offset device inode [name, which may have spaces]
		fields := strings.Fields(line)
		if len(fields) < 5 || fields[4] != "0" || !strings.HasSuffix(fields[1], "p") || len(fields) > 5 && !strings.HasPrefix(fields[5], "[anon:") {
			continue
		}
		low, high, _ := strings.Cut(fields[0], "-")
		from, err1 := strconv.ParseUint(low, 16, 64)
		to, err2 := strconv.ParseUint(high, 16, 64)
		if err1 == nil && err2 == nil {
			found = append(found, mapping{uintptr(from), uintptr(to - from)})
		}
	}
	return found
}

// worthwhile is how large a mapping has to be for two calls to cost less than the copy.
const worthwhile = 128 << 10

// anywhere is among the program's variables, which are anonymous memory too, and needed.
var anywhere byte

func (m mapping) contains(p unsafe.Pointer) bool { return uintptr(p)-m.from < m.size }

func (m mapping) advise(advice uintptr) {
	// Only how fast a fork is depends on it. What is not mapped any more is passed over.
	_, _, _ = unix.RawSyscall(unix.SYS_MADVISE, m.from, m.size, advice)
}

// withoutUnneeded calls f, which makes a child, and keeps from this child what it has no use for (madvise(2), MADV_DONTFORK). What is
// needed may lie where something unneeded was before.
func withoutUnneeded(needed []mapping, f func()) {
	for _, m := range unneeded() {
		m.advise(unix.MADV_DONTFORK)
		defer m.advise(unix.MADV_DOFORK)
	}
	for _, m := range needed {
		m.advise(unix.MADV_DOFORK)
	}
	f()
}

// mapping is where the memory lies.
func (m *memory) mapping() mapping {
	return mapping{uintptr(unsafe.Pointer(unsafe.SliceData(m.mapped))), uintptr(len(m.mapped))}
}
