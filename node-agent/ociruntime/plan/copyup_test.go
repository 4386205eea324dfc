// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"encoding/binary"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestCopyStaysInside: even if files change after the look, a copy opens no file outside of the two
// directories, and follows no symbolic link in them.
func TestCopyStaysInside(t *testing.T) {
	p := BuildCopy(&specs.Spec{Linux: &specs.Linux{}}, Field{Path: "mounts", Index: 1}, Options{},
		[]CopyEntry{
			{Path: ".", Mode: unix.S_IFDIR | 0o755},
			{Path: "a", Mode: unix.S_IFDIR | 0o700},
			{Path: "a/file", Mode: unix.S_IFREG | 0o600, Size: 1},
			{Path: "a/link", Mode: unix.S_IFLNK, Target: "/etc"},
			{Path: "a/node", Mode: unix.S_IFCHR | 0o600, Device: unix.Mkdev(1, 3)},
		})
	const want = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS
	opened := 0
	for i, s := range p.Steps {
		switch s.Call {
		case unix.SYS_OPENAT2:
			opened++
			how, _ := s.Args[2].Bytes()
			if got := binary.NativeEndian.Uint64(how[16:]); got != want {
				t.Errorf("step %d, %s", i, s)
			}
			if in, ok := s.Args[0].Input(); !ok || in != InputCopySource && in != InputCopyTarget {
				t.Errorf("step %d, %s", i, s)
			}
		case unix.SYS_MKDIRAT, unix.SYS_MKNODAT, unix.SYS_SYMLINKAT, unix.SYS_FCHOWNAT:
			dir, name := s.Args[0], s.Args[1]
			if s.Call == unix.SYS_SYMLINKAT {
				dir, name = s.Args[1], s.Args[2]
			}
			if text, _ := name.Text(); len(text) != len("node") && text != "a" {
				t.Errorf("step %d, %s: want one name", i, s)
			}
			if _, ok := dir.Reg(); !ok {
				t.Errorf("step %d, %s", i, s)
			}
		}
	}
	if opened != 8 {
		t.Errorf("found %d opened", opened)
	}
}
