// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/v1alpha1"
)

// Devices returns the nodes of the devices that a container is to have, with the owner and the
// permission bits that they have on this node: those of Devices of the spec by path in their order,
// or with AllDevices all. A link is followed: the path is the user's, on the node.
func Devices(spec *v1alpha1.OCIBundleSpec) ([]specs.LinuxDevice, error) {
	if spec.AllDevices && slices.ContainsFunc(spec.Devices, func(d v1alpha1.Device) bool {
		return d.CDI == ""
	}) {
		return nil, errors.New(
			"spec.devices: found devices by path beside allDevices; allowed: one of the two")
	}
	if spec.AllDevices {
		return allDevices("/dev")
	}
	var nodes []specs.LinuxDevice
	for i, d := range spec.Devices {
		if d.CDI != "" {
			continue
		}
		field := fmt.Sprintf("spec.devices[%d].path", i)
		var st unix.Stat_t
		err := unix.Stat(d.Path, &st)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: found nothing at %s on this node; allowed: a device", field, d.Path)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, &fs.PathError{Op: "stat", Path: d.Path, Err: err})
		}
		node, ok := deviceNode(d.ContainerPath, &st)
		if !ok {
			info, err := os.Stat(d.Path)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", field, err)
			}
			return nil, fmt.Errorf("%s: found %s (%s); allowed: a character or block device", field, d.Path,
				kindOf(info.Mode()))
		}
		nodes = append(nodes, node)
	}
	return nodes, nil
}

// deviceNode returns the node of a device, or false if the file is not a device.
func deviceNode(path string, st *unix.Stat_t) (specs.LinuxDevice, bool) {
	node := specs.LinuxDevice{
		Path: path, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
		FileMode: new(os.FileMode(st.Mode & 0o777)), UID: new(st.Uid), GID: new(st.Gid),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		node.Type = "c"
	case unix.S_IFBLK:
		node.Type = "b"
	default:
		return node, false
	}
	return node, true
}

// everyContainers are the devices that a runtime creates in every container (config-linux.md,
// "Default Devices").
var everyContainers = []string{
	"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/console",
	"/dev/ptmx",
}

// allDevices returns the devices below a directory, without those that a runtime creates in every
// container and those of other filesystems. One that goes in the meantime is left out.
func allDevices(dir string) (nodes []specs.LinuxDevice, err error) {
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		inside := "/dev" + strings.TrimPrefix(path, dir)
		if slices.Contains(everyContainers, inside) || e.IsDir() && inside != "/dev" &&
			otherFilesystem(path, dir) {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return &fs.PathError{Op: "lstat", Path: path, Err: err}
		}
		if node, ok := deviceNode(inside, &st); ok {
			nodes = append(nodes, node)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("devices of the node: %w", err)
	}
	return nodes, nil
}

// otherFilesystem reports whether a directory is not on the filesystem of another.
func otherFilesystem(path, dir string) bool {
	var a, b unix.Stat_t
	return unix.Lstat(path, &a) == nil && unix.Lstat(dir, &b) == nil && a.Dev != b.Dev
}
