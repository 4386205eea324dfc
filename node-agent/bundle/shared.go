// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// CheckShared checks the sources of mounts that are to be shared with the node. From a mount that
// is not shared itself, nothing would reach the node.
func CheckShared(mounts []specs.Mount) error {
	for _, m := range mounts {
		if !slices.Contains(m.Options, "rshared") {
			continue
		}
		at, shared, err := sharedMount(m.Source)
		if err != nil {
			return fmt.Errorf("spec.volumeMounts[%s]: %w", m.Destination, err)
		}
		if !shared {
			return fmt.Errorf("spec.volumeMounts[%s].mountPropagation: found Bidirectional, and %s on the "+
				"mount %s, which is not shared; allowed: once it is (mount --make-shared %s)",
				m.Destination, m.Source, at, at)
		}
	}
	return nil
}

// sharedMount returns the mount that a path is on, and whether it is shared (mount_namespaces(7)).
func sharedMount(path string) (at string, shared bool, err error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID, &st); err != nil {
		return "", false, fmt.Errorf("statx %s: %w", path, err)
	}
	mounts, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		found := uint64(i.ID) == st.Mnt_id
		return !found, found
	})
	if err != nil {
		return "", false, err
	}
	if len(mounts) == 0 {
		return "", false, fmt.Errorf("found no mount of %s in /proc/self/mountinfo", path)
	}
	return mounts[0].Mountpoint, slices.ContainsFunc(strings.Fields(mounts[0].Optional),
		func(s string) bool { return strings.HasPrefix(s, "shared:") }), nil
}
