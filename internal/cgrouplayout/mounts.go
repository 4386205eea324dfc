// SPDX-License-Identifier: Apache-2.0

package cgrouplayout

import (
	"bufio"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Mounts is a Layout with the cgroup that each mount shows at its top, by which the cgroup of a
// process becomes a directory.
type Mounts struct {
	Layout
	// tops are by the directory of the mount: "/" unless only a part of the hierarchy is mounted.
	tops map[string]string
}

// ReadMounts reads the layout of this host and how it is mounted. It takes longer than Read, the
// more mounts there are.
func ReadMounts() (m Mounts, err error) {
	if m.Layout, err = Read("/"); err != nil {
		return m, err
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return m, err
	}
	defer f.Close()
	m.tops, err = parseTops(f)
	return m, err
}

// parseTops parses proc_pid_mountinfo(5).
func parseTops(r io.Reader) (map[string]string, error) {
	tops := map[string]string{}
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		// 36 35 98:0 ROOT MOUNTPOINT OPTIONS OPTIONAL… - TYPE SOURCE SUPEROPTIONS
		before, after, ok := strings.Cut(sc.Text(), " - ")
		head, tail := strings.Fields(before), strings.Fields(after)
		if ok && len(head) >= 6 && len(tail) >= 1 && (tail[0] == "cgroup" || tail[0] == "cgroup2") {
			tops[unescape(head[4])] = unescape(head[3])
		}
	}
	return tops, sc.Err()
}

// unescape undoes the octal escapes of mountinfo (proc_pid_mountinfo(5) refers to getmntent(3) for
// them).
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// MemoryDir returns the directory with the memory counters of a process: of the v1 hierarchy of the
// controller memory if there is one, else of version 2. It returns "" if there is none.
func (m Mounts) MemoryDir(pid int) string {
	memberships, err := MembershipsOf(pid)
	if err != nil {
		return ""
	}
	return m.memoryDir(memberships)
}

func (m Mounts) memoryDir(memberships []Membership) string {
	unified := ""
	for _, own := range memberships {
		if own.Controllers == nil {
			unified = m.below(m.V2(), own.Path)
			continue
		}
		if !slices.Contains(own.Controllers, "memory") {
			continue
		}
		for _, h := range m.V1 {
			if !h.Has("memory") {
				continue
			}
			if dir := m.below(filepath.Join(Root, h.Dir), own.Path); dir != "" {
				return dir
			}
		}
	}
	return unified
}

// below returns the directory of a cgroup in the hierarchy that is mounted at mount, "" if it is
// not in the part that is mounted.
func (m Mounts) below(mount, path string) string {
	top, ok := m.tops[mount]
	if !ok {
		return ""
	}
	rel, err := filepath.Rel(top, path)
	if err != nil || !filepath.IsLocal(rel) {
		return ""
	}
	return filepath.Join(mount, rel)
}
