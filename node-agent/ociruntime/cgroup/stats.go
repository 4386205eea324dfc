// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// Stats reads the usage of the cgroup's processes; it is zero without a cgroup.
func (g *Group) Stats() (*cgroups.Stats, error) {
	if len(g.paths) == 0 {
		return cgroups.NewStats(), nil
	}
	m, err := g.manager()
	if err != nil {
		return nil, err
	}
	return m.GetStats()
}

// OOMWatch reports when the cgroup runs out of memory.
type OOMWatch struct {
	// FD can be polled for reading, then Happened reports.
	FD    int
	group *Group
	// control is the file of cgroup v1 that the notice is of.
	control *os.File
	kills   uint64
}

// WatchOOM begins to watch. On cgroup v1 it is an eventfd of memory.oom_control, on v2 an inotify
// descriptor of memory.events (Documentation/admin-guide/cgroup-v1/memory.rst, 10; cgroup-v2.rst).
// It returns nil where there is no memory controller.
func (g *Group) WatchOOM() (*OOMWatch, error) {
	w := &OOMWatch{FD: -1, group: g}
	var err error
	if g.unified() {
		w.kills = g.OOMKills()
		if w.FD, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK); err != nil {
			return nil, fmt.Errorf("inotify_init1: %w", err)
		}
		if _, err = unix.InotifyAddWatch(w.FD, filepath.Join(g.paths[""], "memory.events"),
			unix.IN_MODIFY); err != nil {
			w.Close()
			if errors.Is(err, unix.ENOENT) {
				return nil, nil
			}
			return nil, fmt.Errorf("watch memory.events: %w", err)
		}
		return w, nil
	}
	dir, ok := g.paths["memory"]
	if !ok {
		return nil, nil
	}
	if w.control, err = os.Open(filepath.Join(dir, "memory.oom_control")); err != nil {
		return nil, err
	}
	if w.FD, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		w.Close()
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	if err := writeFile(dir, "cgroup.event_control", fmt.Sprintf("%d %d", w.FD,
		w.control.Fd())); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// Happened reports whether it has run out of memory since it was asked last.
func (w *OOMWatch) Happened() bool {
	var buf [4096]byte
	n, err := unix.Read(w.FD, buf[:])
	if err != nil || n <= 0 {
		return false
	}
	if w.control != nil {
		// The kernel announces the end of the cgroup in the same way.
		if _, err := os.Lstat(filepath.Join(w.group.paths["memory"], "memory.oom_control")); err != nil {
			return false
		}
		return binary.NativeEndian.Uint64(buf[:8]) > 0
	}
	before := w.kills
	w.kills = w.group.OOMKills()
	return w.kills > before
}

// Close ends the watch.
func (w *OOMWatch) Close() {
	if w.FD >= 0 {
		unix.Close(w.FD)
	}
	if w.control != nil {
		w.control.Close()
	}
}
