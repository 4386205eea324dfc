// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/devnode"
	"github.com/berth-run/berth/node-agent/scoped"
)

// externalMount is a mount that criu does not dump but finds again: its name in the images, its
// path in the container, and its source.
type externalMount struct{ name, destination, source string }

// externalMounts returns the external mounts of a document: bind mounts, by their destination, and
// cgroup mounts where they are bind mounts (see cgroupMount in package plan). groups are the
// directories of the container's cgroup, as HostPaths returns them.
func (r *Runtime) externalMounts(spec *specs.Spec, groups map[string]string) (out []externalMount,
	err error,
) {
	add := func(destination, source string) {
		name := filepath.Clean("/" + destination)
		out = append(out, externalMount{name, name, source})
	}
	host, err := r.Host()
	if err != nil {
		return nil, err
	}
	namespaced, users := false, false
	for _, n := range spec.Linux.Namespaces {
		namespaced = namespaced || n.Type == specs.CgroupNamespace
		users = users || n.Type == specs.UserNamespace
	}
	for _, m := range spec.Mounts {
		bind := m.Type == "bind"
		for _, o := range m.Options {
			bind = bind || o == "bind" || o == "rbind"
		}
		v2, hasV2 := groups[""]
		switch {
		case bind:
			add(m.Destination, m.Source)
		case namespaced:
		case hasV2 && (m.Type == "cgroup2" || m.Type == "cgroup" && host.Cgroup.Unified):
			add(m.Destination, v2)
		case m.Type == "cgroup" && !host.Cgroup.Unified:
			for dir, source := range groups {
				if dir == "" {
					dir = host.Cgroup.Hybrid
				}
				add(filepath.Join(m.Destination, dir), source)
			}
		}
	}
	if users {
		for _, d := range append(devnode.Default(), spec.Linux.Devices...) {
			add(d.Path, d.Path)
		}
	}
	return out, nil
}

// followed returns the path of a mount in a container whose root is open: the destination may lead
// through symbolic links, such as /var/run of many images, and criu identifies a mount by its
// place. A mount on a symbolic link itself lies there.
func followed(root int, destination string) string {
	parent, base := path.Split(destination)
	for _, try := range []struct {
		path, base string
		flags      uint64
	}{{destination, "", unix.O_PATH}, {parent, base, unix.O_PATH}} {
		fd, err := scoped.Open(root, "./"+try.path, try.flags, unix.RESOLVE_IN_ROOT|
			unix.RESOLVE_NO_MAGICLINKS)
		if err != nil {
			continue
		}
		at, errAt := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		top, errTop := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", root))
		unix.Close(fd)
		if errAt != nil || errTop != nil {
			continue
		}
		if below, ok := strings.CutPrefix(at, strings.TrimSuffix(top, "/")); ok {
			return filepath.Join("/", below, try.base)
		}
	}
	return destination
}
