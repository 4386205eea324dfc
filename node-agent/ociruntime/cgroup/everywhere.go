// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/cgrouplayout"
)

// Join moves this process into the cgroup path of every hierarchy, counted from its top, and
// creates the directories that are missing. A hierarchy that refuses it is left as it is and named
// in the error; the others are joined all the same.
func Join(l cgrouplayout.Layout, path string) error {
	var errs []error
	join := func(top string, cpuset bool) {
		dir := filepath.Join(top, filepath.Clean("/"+path))
		err := makeDirs(dir, cpuset)
		if err == nil {
			err = writeFile(dir, "cgroup.procs", "0") // the writer; cgroups(7)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", top, err))
		}
	}
	for _, h := range l.V1 {
		join(filepath.Join(cgrouplayout.Root, h.Dir), h.Has("cpuset"))
	}
	if v2 := l.V2(); v2 != "" {
		join(v2, false)
	}
	return errors.Join(errs...)
}

// RemoveEmpty removes the cgroup of a directory from every hierarchy, if its manager has left it
// there. A cgroup with processes stays (rmdir(2)).
func RemoveEmpty(l cgrouplayout.Layout, dir string) {
	if unix.Rmdir(dir) != nil {
		return // the manager has removed it
	}
	for _, top := range l.Dirs() {
		path, ok := strings.CutPrefix(dir, top+"/")
		if !ok {
			continue
		}
		for _, other := range l.Dirs() {
			_ = unix.Rmdir(filepath.Join(other, path))
		}
	}
}
