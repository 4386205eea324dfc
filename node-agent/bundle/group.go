// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/scoped"
)

// maxDepth is the greatest depth of directories in a volume whose files are changed: each holds two
// descriptors.
const maxDepth = 1000

// GiveToGroup gives a volume and all files in it to a group, as the kubelet does for fsGroup: the
// group may read and write them, and enter directories, and what is created in a directory belongs
// to the group. With onMismatch nothing is done if the volume's own directory is so already.
//
// Containers may change the volume at the same time. Each file is opened beneath its directory,
// without following a link or entering another filesystem, and changed by its descriptor.
func GiveToGroup(ctx context.Context, path string, group uint32, onMismatch bool) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if onMismatch && st.Gid == group && st.Mode&groupDirectory == groupDirectory {
		return nil
	}
	// The volume's own directory is last: OnRootMismatch goes by it, also after a kill in between.
	give := func(fd int, st *unix.Stat_t) error { return giveFile(fd, st, group) }
	if err := eachBelow(ctx, fd, give, 0); err != nil {
		return err
	}
	return giveFile(fd, &st, group)
}

// The permissions that a group gets.
const (
	groupFile      = 0o660
	groupDirectory = unix.S_ISGID | 0o770
)

// eachBelow calls visit with all that is in a directory, opened with O_PATH; a directory comes
// after what is in it.
func eachBelow(ctx context.Context, dir int, visit func(fd int, st *unix.Stat_t) error, depth int,
) error {
	if depth == maxDepth {
		return fmt.Errorf("found directories %d deep; allowed: fewer", depth)
	}
	fd, err := scoped.Open(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_BENEATH)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	f := os.NewFile(uintptr(fd), "volume")
	defer f.Close()
	for {
		names, err := f.Readdirnames(1000)
		if errors.Is(err, io.EOF) || errors.Is(err, fs.ErrNotExist) { // the directory was removed
			return nil
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := visitEntry(ctx, dir, name, visit, depth); err != nil {
				return err
			}
		}
	}
}

// visitEntry calls visit with an entry of a directory. One that is gone in the meantime, or is a
// mount, is left out.
func visitEntry(ctx context.Context, dir int, name string,
	visit func(fd int, st *unix.Stat_t) error, depth int,
) error {
	fd, err := scoped.Open(dir, name, unix.O_PATH|unix.O_NOFOLLOW,
		unix.RESOLVE_BENEATH|unix.RESOLVE_NO_XDEV|unix.RESOLVE_NO_MAGICLINKS)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EXDEV) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := eachBelow(ctx, fd, visit, depth+1); err != nil {
			return err
		}
	}
	if err := visit(fd, &st); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// giveFile changes group and permissions of an opened file.
func giveFile(fd int, st *unix.Stat_t, group uint32) error {
	if st.Gid != group {
		err := unix.Fchownat(fd, "", -1, int(group), unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
		if err != nil {
			return os.NewSyscallError("fchownat", err)
		}
	}
	want := uint32(groupFile)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		return nil // it has no permissions
	case unix.S_IFDIR:
		want = groupDirectory
	}
	mode := st.Mode & 0o7777
	if mode&want == want && st.Gid == group {
		return nil
	}
	// A change of the owner takes set-user-ID away, and chmod(2) needs a name for O_PATH.
	if err := unix.Chmod(procPath(fd), mode|want); err != nil {
		return os.NewSyscallError("chmod", err)
	}
	return nil
}
