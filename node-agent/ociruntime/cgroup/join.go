// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/cgrouplayout"
)

// Below returns the paths of cgroups below those of a container. Each of sub is
// [CONTROLLER,...:]PATH; without controllers it holds for all, and is the only one. Controllers of
// cgroup v1 that share a hierarchy have one place there: it is enough to name one.
func Below(paths map[string]string, sub []string) (map[string]string, error) {
	if len(sub) == 0 {
		return paths, nil
	}
	out := make(map[string]string, len(paths))
	for name, dir := range paths {
		out[name] = dir
	}
	named := map[string]bool{}
	for _, s := range sub {
		list, path, ok := strings.Cut(s, ":")
		if !ok {
			list, path = "", s
			if len(sub) > 1 {
				return nil, fmt.Errorf("found %s beside others; one without a CONTROLLER: holds for all", s)
			}
		}
		path = strings.TrimLeft(path, "/")
		if path == "" {
			path = "."
		}
		if !filepath.IsLocal(path) {
			return nil, fmt.Errorf(
				"found %s, which is not below the container's cgroup: bad sub cgroup path", s)
		}
		if !ok {
			for name, dir := range paths {
				out[name] = filepath.Join(dir, path)
			}
			break
		}
		for _, controller := range strings.Split(list, ",") {
			dir, known := paths[controller]
			switch {
			case controller == "" || !known:
				return nil, fmt.Errorf(
					"found %s; the container has no cgroup of a controller %q: unknown controller %s", s,
					controller, controller)
			case named[controller]:
				return nil, fmt.Errorf("found the controller %s more than once", controller)
			}
			named[controller] = true
			for name := range paths {
				if paths[name] == dir && (name == controller || !named[name]) {
					out[name] = filepath.Join(dir, path)
				}
			}
		}
	}
	return out, nil
}

// OpenOf opens the cgroup v2 directory that a process is in, which has to be the container's, top,
// or one below. The caller closes it.
func OpenOf(pid int, top string) (*os.File, error) {
	memberships, err := cgrouplayout.MembershipsOf(pid)
	if err != nil {
		return nil, fmt.Errorf("the cgroup of the container's first process: %w", err)
	}
	for _, m := range memberships {
		if m.Controllers != nil {
			continue
		}
		dir := filepath.Join(cgrouplayout.Root, m.Path)
		if dir != top && !strings.HasPrefix(dir, top+"/") {
			return nil, fmt.Errorf(
				"the container's first process is in the cgroup %s, which is not below %s", dir, top)
		}
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: dir, Err: err}
		}
		return os.NewFile(uintptr(fd), dir), nil
	}
	return nil, errors.New("the container's first process is in no cgroup of version 2")
}
