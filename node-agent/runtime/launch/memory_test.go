// SPDX-License-Identifier: Apache-2.0

package launch

import (
	"slices"
	"testing"
)

// TestAnonymous: the Go heap is found whether or not the kernel lets the Go runtime name it; what a program cannot do without, what is a
// file's and what is shared is not taken for it.
func TestAnonymous(t *testing.T) {
	const maps = `00400000-00839000 r-xp 00000000 fe:00 1234                       /usr/bin/berth
00c88000-02cc1000 rw-p 00000000 00:00 0 
1fafb8800000-1fafb9000000 rw-p 00000000 00:00 0                          [anon: Go: heap]
1fafb9000000-1fafbc800000 ---p 00000000 00:00 0                          [anon: Go: heap reservation]
7faa65fe0000-7faa66300000 rw-p 00000000 00:00 0 
7faaacbeb000-7faaacbec000 rw-s 00000000 00:01 3081                       /dev/zero (deleted)
7faaacbec000-7faaacbed000 rw-s 00000000 00:01 0                          [anon_shmem:x]
7ffc9bfa3000-7ffc9bfc4000 rw-p 00000000 00:00 0                          [stack]
7ffc9bfd1000-7ffc9bfd3000 r-xp 00000000 00:00 0                          [vdso]
`
	want := []mapping{{0xc88000, 0x2039000}, {0x1fafb8800000, 0x800000}, {0x1fafb9000000, 0x3800000}, {0x7faa65fe0000, 0x320000}}
	if got := anonymous(maps); !slices.Equal(got, want) {
		t.Errorf("found %x; want %x", got, want)
	}
}
