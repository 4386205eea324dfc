// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// hierarchy is one mounted cgroup hierarchy.
type hierarchy struct {
	dir string // where it is mounted
	// root is the cgroup that is seen at dir: "/" unless only a part is mounted.
	root string
	// controllers are those of a v1 hierarchy (or its name, as "name=systemd"); none for v2.
	controllers []string
}

func (h hierarchy) v2() bool                    { return h.controllers == nil }
func (h hierarchy) controller(name string) bool { return slices.Contains(h.controllers, name) }

// hierarchies reads which cgroup hierarchies are mounted, once, at start (proc_pid_mountinfo(5)).
func hierarchies() ([]hierarchy, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseHierarchies(f)
}

func parseHierarchies(r io.Reader) ([]hierarchy, error) {
	var hs []hierarchy
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		// 36 35 98:0 ROOT MOUNTPOINT OPTIONS OPTIONAL… - TYPE SOURCE SUPEROPTIONS
		before, after, ok := strings.Cut(sc.Text(), " - ")
		head, tail := strings.Fields(before), strings.Fields(after)
		if !ok || len(head) < 6 || len(tail) < 3 {
			continue
		}
		h := hierarchy{dir: unescape(head[4]), root: unescape(head[3])}
		switch tail[0] {
		case "cgroup2":
		case "cgroup":
			h.controllers = strings.Split(tail[2], ",")
		default:
			continue
		}
		hs = append(hs, h)
	}
	return hs, sc.Err()
}

// unescape undoes the octal escapes of mountinfo (proc_pid_mountinfo(5) refers to getmntent(3) for
// them).
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// memoryCgroup is the directory with the memory counters of a process: the v1 memory hierarchy
// where there is one, else v2. It is empty when there is none.
func memoryCgroup(hs []hierarchy, pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return ""
	}
	return memoryCgroupOf(hs, string(b))
}

func memoryCgroupOf(hs []hierarchy, cgroups string) string {
	unified := ""
	for line := range strings.Lines(cgroups) {
		// cgroups(7): hierarchy-ID:controller-list:cgroup-path
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		v2 := parts[0] == "0" && parts[1] == ""
		if !v2 && !slices.Contains(strings.Split(parts[1], ","), "memory") {
			continue
		}
		for _, h := range hs {
			if v2 && h.v2() || !v2 && h.controller("memory") {
				rel, err := filepath.Rel(h.root, parts[2])
				if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
					continue
				}
				dir := filepath.Join(h.dir, rel)
				if !v2 {
					return dir
				}
				unified = dir
			}
		}
	}
	return unified
}

// oomKills is how many processes of the cgroup the kernel has killed for lack of memory: "oom_kill"
// of memory.events (v2) or memory.oom_control (v1, Linux 4.13). It is 0 when that cannot be read.
func oomKills(dir string) uint64 {
	if dir == "" {
		return 0
	}
	for _, name := range []string{"memory.events", "memory.oom_control"} {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		b, err := io.ReadAll(io.LimitReader(f, 4096))
		f.Close()
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
				kills, _ := strconv.ParseUint(strings.TrimSpace(n), 10, 64)
				return kills
			}
		}
	}
	return 0
}

// processesBelow returns the processes in a cgroup and below it. There are none if dir is empty, or
// not there.
func processesBelow(dir string) (pids []string) {
	if dir == "" {
		return nil
	}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() { // else it was removed since
			b, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			pids = append(pids, strings.Fields(string(b))...)
		}
		return nil
	})
	return pids
}

// removeCgroups removes the cgroup of a container in every hierarchy if its handler has left it,
// since the handler's record was removed. dir is where it is in one of them. A cgroup with
// processes stays (rmdir(2)).
func removeCgroups(hs []hierarchy, dir string) {
	if unix.Rmdir(dir) != nil {
		return // the handler has removed it, as it does
	}
	for _, h := range hs {
		path, ok := strings.CutPrefix(dir, h.dir+"/")
		if !ok {
			continue
		}
		for _, other := range hs {
			_ = unix.Rmdir(filepath.Join(other.dir, path))
		}
	}
}

// joinCgroup puts this process into the cgroup path of every hierarchy, counted from its root, and
// makes it where needed. A hierarchy that does not let us is left as it is and named in the error;
// the others are joined all the same.
func joinCgroup(hs []hierarchy, path string) error {
	var errs []error
	for _, h := range hs {
		if err := h.join(path); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", h.dir, err))
		}
	}
	return errors.Join(errs...)
}

func (h hierarchy) join(path string) error {
	dir := h.dir
	for part := range strings.SplitSeq(strings.Trim(filepath.Clean("/"+path), "/"), "/") {
		parent := dir
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if h.controller("cpuset") {
			// A new v1 cpuset is empty and takes no process before it has been given cpus and
			// memory nodes (cpuset(7)).
			for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
				if err := inherit(parent, dir, name); err != nil {
					return err
				}
			}
		}
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
}

// inherit copies a setting from the parent where it is empty.
func inherit(parent, dir, name string) error {
	have, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil || strings.TrimSpace(string(have)) != "" {
		return err
	}
	want, err := os.ReadFile(filepath.Join(parent, name))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name), want, 0)
}
