// SPDX-License-Identifier: Apache-2.0

package launch

import (
	"testing"

	"github.com/berth-run/berth/internal/leaktest"
)

// TestVariable: all that a program can write to is found, whether or not the kernel lets the Go
// runtime name its heap; its code is not taken for it, nor is what the kernel maps itself.
func TestVariable(t *testing.T) {
	leaktest.Check(t)
	const code = "00400000-00839000 r-xp 00000000 fe:00 1234                       /usr/bin/berth\n" +
		"00839000-00c58000 r--p 00439000 fe:00 1234                       /usr/bin/berth\n"
	const data = `00c58000-00c88000 rw-p 00858000 fe:00 1234                       /usr/bin/berth
00c88000-02cc1000 rw-p 00000000 00:00 0 
1fafb8800000-1fafb9000000 rw-p 00000000 00:00 0                          [anon: Go: heap]
1fafb9000000-1fafbc800000 ---p 00000000 00:00 0                          [anon: Go: heap reservation]
7faa65fe0000-7faa66300000 rw-p 00000000 00:00 0 
7faaacbeb000-7faaacbec000 rw-s 00000000 00:01 3081                       /dev/zero (deleted)
`
	const kernel = `7ffc9bfa3000-7ffc9bfc4000 rw-p 00000000 00:00 0                          [stack]
7ffc9bfd1000-7ffc9bfd3000 r-xp 00000000 00:00 0                          [vdso]
`
	for _, test := range []struct {
		maps string
		want mapping
	}{
		{code + data + kernel, mapping{0xc58000, 0x7ffc9bfa3000 - 0xc58000}},
		{
			code + data +
				"7ffc9bf00000-7ffc9bf04000 r--p 00000000 00:00 0                          [vvar]\n" + kernel,
			mapping{0xc58000, 0x7ffc9bf00000 - 0xc58000},
		},
		{code + data, mapping{}},
		{code, mapping{}},
		{"", mapping{}},
		{"something else\n", mapping{}},
	} {
		if got := writableRange(test.maps); got != test.want {
			t.Errorf("%s\nfound %x; want %x", test.maps, got, test.want)
		}
	}
}
