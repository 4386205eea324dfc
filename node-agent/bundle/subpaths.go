// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/oci/environment"
	"github.com/berth-run/berth/api/oci/files"
	"github.com/berth-run/berth/api/oci/merge"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/scoped"
)

// subPathsDir has a mount for each path in a volume that a volumeMount names, under its number.
func (d Dir) subPathsDir() string { return d.File("subpaths") }

// MountSubPaths mounts paths in volumes where the document expects them, and unmounts the paths of
// an earlier run first. It creates a directory that does not exist, except in a volume of files or
// of an image. If it fails, it leaves such directories and nothing else.
//
// A volume is hostile: containers write to it, also at this moment. A path is opened beneath the
// volume, and the opened file is mounted, so no link leads outside. New mounts of the node appear
// below these mounts, but these do not appear on the node: to unmount them removes nothing else.
func (d Dir) MountSubPaths(
	list []v1alpha1.BundleSubPath, variables environment.Variables,
) (err error) {
	if err := d.UnmountSubPaths(); err != nil || len(list) == 0 {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.UnmountSubPaths())
		}
	}()
	if err := os.Mkdir(d.subPathsDir(), 0o700); err != nil {
		return fmt.Errorf("mount paths of volumes: %w", err)
	}
	for _, s := range list {
		at, in := fmt.Sprintf("volumeMounts[%d].subPath", s.Mount), s.Path
		if s.Expand {
			at += "Expr"
			if in, err = files.ExpandSubPath(s.Path, variables.Map()); err != nil {
				return fmt.Errorf("%s: found %q: %w", at, s.Path, err)
			}
		}
		if err := d.mountSubPath(&s, in); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
	}
	return nil
}

// mountSubPath mounts a path in a volume: in is the path of s with its variables replaced. Errors
// show the path of s, since a variable may have the value of a Secret.
func (d Dir) mountSubPath(s *v1alpha1.BundleSubPath, in string) error {
	source, target := s.Source, filepath.Join(d.subPathsDir(), strconv.Itoa(int(s.Mount)))
	readOnly := strings.HasPrefix(source, files.Directory("")) || merge.OfImageVolume(source, nil)
	if !filepath.IsAbs(source) {
		source = d.File(source)
	}
	volume, err := unix.Open(source, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: source, Err: err}
	}
	defer unix.Close(volume)
	fd, err := beneath(volume, in, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) && !readOnly {
		fd, err = makeBeneath(volume, in)
	}
	if err != nil {
		return subPathError(s.Path, readOnly, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: s.Path, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.Mkdir(target, 0o700)
	} else {
		err = os.WriteFile(target, nil, 0o600)
	}
	if err != nil {
		return err
	}
	return mountOpened(fd, target)
}

// subPathError returns the error of opening a path in a volume.
func subPathError(in string, readOnly bool, err error) error {
	switch {
	case errors.Is(err, unix.EXDEV):
		return fmt.Errorf(
			"found %q, which a symbolic link leads out of the volume; allowed: a path in the volume", in)
	case errors.Is(err, unix.ENOENT) && readOnly:
		return fmt.Errorf("found no %q in the volume; allowed: the path of one of its files", in)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ELOOP):
		return fmt.Errorf("found %q, on which a symbolic link leads nowhere; allowed: a path in the volume",
			in)
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("found %q, on which a file is in place of a directory; allowed: a path in the volume",
			in)
	}
	return &fs.PathError{Op: "open in the volume", Path: in, Err: err}
}

// beneath opens a path in a directory, which no symbolic link on it leaves.
func beneath(dir int, in string, flags uint64) (int, error) {
	return scoped.Open(dir, in, flags, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_MAGICLINKS)
}

// makeBeneath creates the missing directories on a path in a volume, with the mode of the volume's
// own directory, as the kubelet does. It returns a descriptor of the last one.
func makeBeneath(volume int, in string) (int, error) {
	var st unix.Stat_t
	if err := unix.Fstat(volume, &st); err != nil {
		return -1, err
	}
	names := strings.Split(in, "/")
	for i := range names {
		if err := makeOne(volume, path.Join(names[:i]...), names[i], st.Mode&0o7777); err != nil {
			return -1, err
		}
	}
	return beneath(volume, in, unix.O_PATH|unix.O_DIRECTORY)
}

// makeOne creates a directory with the given name in the directory at a path in the volume, unless
// the name exists.
func makeOne(volume int, in, name string, mode uint32) error {
	parent, err := beneath(volume, path.Join(".", in), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if err := unix.Mkdirat(parent, name, mode&0o777); errors.Is(err, unix.EEXIST) {
		return nil
	} else if err != nil {
		return err
	}
	made, err := scoped.Open(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW,
		unix.RESOLVE_BENEATH)
	if err != nil {
		return err
	}
	defer unix.Close(made)
	return unix.Fchmod(made, mode) // whatever the umask is
}

// mountOpened mounts an opened file or directory, with the mounts below it. They become slaves of
// the node's mounts before they appear: with a shared mount the kernel would also unmount its peer
// on the node.
func mountOpened(fd int, target string) error {
	tree, err := unix.OpenTree(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE|unix.OPEN_TREE_CLONE|
		unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	defer unix.Close(tree)
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE,
		&unix.MountAttr{Propagation: unix.MS_SLAVE})
	if err != nil {
		return os.NewSyscallError("mount_setattr", err)
	}
	err = unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		return os.NewSyscallError("move_mount", err)
	}
	return nil
}

// UnmountSubPaths undoes MountSubPaths. It is no error when there is nothing.
func (d Dir) UnmountSubPaths() error {
	entries, err := os.ReadDir(d.subPathsDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list paths of volumes: %w", err)
	}
	for _, e := range entries {
		p := filepath.Join(d.subPathsDir(), e.Name())
		if err := unmount(p); err != nil {
			return err
		}
		if err := os.Remove(p); err != nil { // nothing in it: it fails where a mount is left
			return fmt.Errorf("remove mount point: %w", err)
		}
	}
	if err := os.Remove(d.subPathsDir()); err != nil {
		return fmt.Errorf("remove paths of volumes: %w", err)
	}
	return nil
}
