// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/v1alpha1"
)

// Devices returns the nodes that devices of this node are to have in a container, in their order,
// with the owner and the permission bits that they have here. A link is followed: the path is the
// user's, on the node.
func Devices(devices []v1alpha1.Device) ([]specs.LinuxDevice, error) {
	var nodes []specs.LinuxDevice
	for i, d := range devices {
		field := fmt.Sprintf("spec.devices[%d].path", i)
		var st unix.Stat_t
		err := unix.Stat(d.Path, &st)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: found nothing at %s on this node; allowed: a device", field, d.Path)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, &fs.PathError{Op: "stat", Path: d.Path, Err: err})
		}
		node := specs.LinuxDevice{
			Path: d.ContainerPath, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
			FileMode: new(os.FileMode(st.Mode & 0o777)), UID: new(st.Uid), GID: new(st.Gid),
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFCHR:
			node.Type = "c"
		case unix.S_IFBLK:
			node.Type = "b"
		default:
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
