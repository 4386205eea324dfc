// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Users are the ids that files get for a container with a user namespace.
type Users struct {
	// Namespace maps the ids on disk to these ids. First is the id of root.
	Namespace *os.File
	First     uint32
}

// Close closes the namespace. Nil has none.
func (u *Users) Close() {
	if u != nil {
		_ = u.Namespace.Close()
	}
}

// layersDir has the layers of an image with mapped ids while the overlay is mounted: overlayfs
// takes only layers that are attached, before Linux 6.15.
func (d Dir) layersDir() string { return d.File("layers") }

// mapLayers mounts layers with other ids, and returns their new paths. The mounts are below one
// mount, with which they go.
func (d Dir) mapLayers(layers []string, users *Users) (mapped []string, err error) {
	top := d.layersDir()
	if err := os.Mkdir(top, 0o700); err != nil {
		return nil, fmt.Errorf("map layers: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.unmountLayers())
		}
	}()
	err = unix.Mount("berth", top, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700")
	if err != nil {
		return nil, fmt.Errorf("map layers: mount tmpfs: %w", err)
	}
	if err := unix.Mount("", top, "", unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("map layers: mount: %w", err)
	}
	for i, layer := range layers {
		at := filepath.Join(top, strconv.Itoa(i))
		if err := os.Mkdir(at, 0o700); err != nil {
			return nil, fmt.Errorf("map layers: %w", err)
		}
		if err := bindMapped(layer, at, users, false); err != nil {
			return nil, fmt.Errorf("map layers: %w", err)
		}
		mapped = append(mapped, at)
	}
	return mapped, nil
}

// unmountLayers removes what mapLayers has left.
func (d Dir) unmountLayers() error {
	if err := unmount(d.layersDir()); err != nil {
		return err
	}
	if err := unix.Rmdir(d.layersDir()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove mount points of layers: %w", err)
	}
	return nil
}

// BindRootfs mounts a directory of the node at rootfs, with other ids. Whatever
// was mounted there before is undone first.
func (d Dir) BindRootfs(path string, users *Users) error {
	if err := d.UnmountRootfs(); err != nil {
		return err
	}
	if err := os.Mkdir(d.Rootfs(), 0o700); err != nil {
		return fmt.Errorf("make rootfs: %w", err)
	}
	if err := bindMapped(path, d.Rootfs(), users, true); err != nil {
		return errors.Join(fmt.Errorf("config: root.path: %w", err), d.UnmountRootfs())
	}
	return nil
}

// bindMapped mounts a directory at another path, with other ids.
func bindMapped(from, to string, users *Users, recursive bool) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, from,
		unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|flags&unix.AT_RECURSIVE)
	if err != nil {
		return &fs.PathError{Op: "open_tree", Path: from, Err: err}
	}
	defer unix.Close(tree)
	err = unix.MountSetattr(tree, "", flags, &unix.MountAttr{
		Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(users.Namespace.Fd()),
		Propagation: unix.MS_PRIVATE,
	})
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("found %s on a filesystem that this kernel cannot mount with other ids;"+
			" allowed for hostUsers: false: ext4, xfs, btrfs, or tmpfs from Linux 6.3 on", from)
	}
	if err != nil {
		return fmt.Errorf("mount %s with other ids: %w", from, os.NewSyscallError("mount_setattr", err))
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, to, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &fs.PathError{Op: "move_mount", Path: to, Err: err}
	}
	return nil
}
