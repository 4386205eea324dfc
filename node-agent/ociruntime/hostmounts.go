// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mountRoot mounts the root filesystem of a container without a mount namespace on itself, in the
// host's. Such a container inherits the runtime's namespace (config-linux.md, Namespaces): its
// mounts are the host's, and lie on this one, with which they go.
func (c *creation) mountRoot(context.Context) (err error) {
	own := func(n specs.LinuxNamespace) bool { return n.Type == specs.MountNamespace }
	if slices.ContainsFunc(c.spec.Linux.Namespaces, own) {
		return nil
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, c.rec.Rootfs, unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE|
		unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("root.path: open_tree %s: %w", c.rec.Rootfs, err)
	}
	defer unix.Close(tree)
	// The record knows the mount before it is there: whoever finds it can remove it.
	if c.rec.RootMount, err = mountID(tree); err != nil {
		return fmt.Errorf("root.path: %w", err)
	}
	if err := c.r.save(c.rec); err != nil {
		return err
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, c.rec.Rootfs, unix.MOVE_MOUNT_F_EMPTY_PATH|
		unix.MOVE_MOUNT_T_SYMLINKS); err != nil {
		return fmt.Errorf("root.path: move_mount %s: %w", c.rec.Rootfs, err)
	}
	c.onFailure(c.rec.unmountRoot)
	// Below a shared mount it has become shared itself: the container's mounts would be made in its
	// peers as well.
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE,
		&unix.MountAttr{Propagation: unix.MS_PRIVATE}); err != nil {
		return fmt.Errorf("root.path: mount_setattr %s: %w", c.rec.Rootfs, err)
	}
	return nil
}

// unmountRoot removes the mount of mountRoot, and every mount on it. It is no error if it is gone.
func (rec *record) unmountRoot() error {
	if rec.RootMount == 0 {
		return nil
	}
	fd, err := unix.Open(rec.Rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("root.path: open %s: %w", rec.Rootfs, err)
	}
	defer unix.Close(fd)
	if id, err := mountID(fd); err != nil || id != rec.RootMount {
		return err
	}
	if err := unix.Unmount(fmt.Sprintf("/proc/self/fd/%d", fd), unix.MNT_DETACH); err != nil {
		return fmt.Errorf("root.path: unmount %s: %w", rec.Rootfs, err)
	}
	return nil
}

// mountID returns the number of the mount that a descriptor is on.
func mountID(fd int) (uint64, error) {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
		return 0, fmt.Errorf("statx: %w", err)
	}
	return st.Mnt_id, nil
}

// kernelMounts returns the places outside of a root filesystem where this process's mount namespace
// has all of a procfs or sysfs (proc_pid_mountinfo(5)).
func kernelMounts(rootfs string) (found []string, err error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("--no-pivot: %w", err)
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(string(data)) {
		mount, filesystem, ok := strings.Cut(line, " - ")
		fields, kind := strings.Fields(mount), strings.Fields(filesystem)
		if !ok || len(fields) < 5 || len(kind) == 0 || fields[3] != "/" || kind[0] != "proc" &&
			kind[0] != "sysfs" {
			continue
		}
		if at := unescape.Replace(fields[4]); at != rootfs && !strings.HasPrefix(at, rootfs+"/") {
			found = append(found, at)
		}
	}
	return found, nil
}
