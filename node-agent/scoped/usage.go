// SPDX-License-Identifier: Apache-2.0

package scoped

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// MaxLevels is the number of directories in each other that Usage enters, and so the number of
// descriptors that it has open. No path as long as the kernel takes has twice as many.
const MaxLevels = 1024

// ErrTooDeep is returned by Usage for a tree with more than MaxLevels levels.
var ErrTooDeep = fmt.Errorf("found directories in more than %d levels", MaxLevels)

// Usage returns the bytes that a directory, with all that is in it, has allocated on its
// filesystem. It follows no link and enters no other filesystem. Each of a file's n links counts
// for an nth of it, so that a file counts once, and nothing has to be remembered of trees with
// millions of files. A file that is open and has no name is not found.
func Usage(ctx context.Context, path string) (int64, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	top := os.NewFile(uintptr(fd), path)
	defer top.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	m := measurement{ctx: ctx, device: st.Dev, bytes: st.Blocks * blockSize}
	if err := m.add(top, 1); err != nil {
		return 0, fmt.Errorf("measure %s: %w", path, err)
	}
	return m.bytes, nil
}

// blockSize is the unit of st_blocks (inode(7)).
const blockSize = 512

// measurement is a call of Usage.
type measurement struct {
	ctx    context.Context
	device uint64
	bytes  int64
}

// add adds the content of a directory.
func (m *measurement) add(dir *os.File, level int) error {
	for {
		if err := m.ctx.Err(); err != nil {
			return err
		}
		names, err := dir.Readdirnames(1024)
		for _, name := range names {
			if err := m.addEntry(int(dir.Fd()), name, level); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, fs.ErrNotExist) { // the directory was removed
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (m *measurement) addEntry(dir int, name string, level int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT); err != nil {
		return gone(err)
	}
	if st.Dev != m.device {
		return nil
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		m.bytes += st.Blocks * blockSize / max(int64(st.Nlink), 1)
		return nil
	}
	if level == MaxLevels {
		return ErrTooDeep
	}
	fd, err := Open(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW,
		unix.RESOLVE_BENEATH|unix.RESOLVE_NO_XDEV|unix.RESOLVE_NO_SYMLINKS)
	switch {
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), // another file is there by now
		errors.Is(err, unix.EXDEV):
		return nil
	case err != nil:
		return gone(err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	m.bytes += st.Blocks * blockSize
	return m.add(f, level+1)
}
