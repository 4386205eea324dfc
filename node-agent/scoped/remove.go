// SPDX-License-Identifier: Apache-2.0

package scoped

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// RemoveAll removes a file, or a directory with all that is in it, as os.RemoveAll does, where
// containers made the tree. It follows no link and enters no mount. However deep the tree is, few
// descriptors are open at a time: os.RemoveAll opens one for each level, and might take all that
// the process may have.
func RemoveAll(path string) error {
	parent, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err == nil {
		defer unix.Close(parent)
		err = (&removal{top: -1}).remove(parent, filepath.Base(path), 0)
	}
	if err != nil {
		return &fs.PathError{Op: "remove", Path: path, Err: err} // the path below may be very long
	}
	return nil
}

// maxDepth is the number of levels that are open at a time.
const maxDepth = 64

// removal is a call of RemoveAll.
type removal struct{ top int }

// remove removes the file or the tree of a name in a directory.
func (r *removal) remove(dir int, name string, depth int) error {
	err := gone(unix.Unlinkat(dir, name, 0))
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	// A directory that is too deep is removed later, as one of the topmost.
	if depth == maxDepth && gone(unix.Renameat(dir, name, r.top, uuid.NewString())) == nil {
		return nil
	}
	fd, oerr := Open(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW,
		unix.RESOLVE_BENEATH|unix.RESOLVE_NO_XDEV|unix.RESOLVE_NO_SYMLINKS)
	switch {
	case errors.Is(oerr, unix.ENOTDIR), errors.Is(oerr, unix.ELOOP): // a file that may not be removed
		return err
	case oerr != nil:
		return gone(oerr)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if depth == 0 {
		r.top = fd
	}
	if err := r.empty(f, depth+1); err != nil {
		return err
	}
	return gone(unix.Unlinkat(dir, name, unix.AT_REMOVEDIR))
}

// empty removes the content of a directory until nothing is left that can be removed.
func (r *removal) empty(f *os.File, depth int) error {
	for {
		removed, failure := 0, error(nil)
		for {
			names, err := f.Readdirnames(1024)
			for _, name := range names {
				if err := r.remove(int(f.Fd()), name, depth); err == nil {
					removed++
				} else if failure == nil {
					failure = err
				}
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
		}
		if removed == 0 {
			return failure
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil { // the kernel may have skipped some
			return err
		}
	}
}

// gone returns nil for the error that a file does not exist: another process may have removed it.
func gone(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
