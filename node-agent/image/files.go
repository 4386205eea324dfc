// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/scoped"
)

// fileIdentity reports whether a file is still the one that was read.
type fileIdentity struct {
	Dev       uint64 `json:"dev"`
	Inode     uint64 `json:"inode"`
	Size      int64  `json:"size"`
	MTimeNano int64  `json:"mtimeNano"`
	CTimeNano int64  `json:"ctimeNano"`
}

func identityOf(st *unix.Stat_t) *fileIdentity {
	return &fileIdentity{
		Dev: st.Dev, Inode: st.Ino, Size: st.Size, MTimeNano: st.Mtim.Nano(),
		CTimeNano: st.Ctim.Nano(),
	}
}

// openRegular opens a regular file without waiting for the other end of a fifo, and without acting
// on a device.
func openRegular(dir int, name string) (*os.File, *unix.Stat_t, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = f.Close()
		return nil, nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		_ = f.Close()
		return nil, nil, fmt.Errorf("%s: found %s; allowed: a regular file", name, fileType(st.Mode))
	}
	return f, &st, nil
}

// files reads an OCI layout or a docker archive from a directory or an archive.
type files interface {
	open(name string) (io.ReadCloser, int64, error) // fs.ErrNotExist when missing
	identity() *fileIdentity
	io.Closer
}

// directory is an OCI layout as a directory. Names are resolved inside of it.
type directory struct {
	dir *os.File
	id  *fileIdentity
}

func openDirectory(p string) (*directory, error) {
	fd, err := unix.Open(p, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: p, Err: err}
	}
	f := &directory{dir: os.NewFile(uintptr(fd), p)}
	var st unix.Stat_t
	if err := unix.Fstatat(fd, "index.json", &st, 0); err == nil {
		f.id = identityOf(&st)
	}
	return f, nil
}

func (f *directory) open(name string) (io.ReadCloser, int64, error) {
	fd, err := scoped.Open(int(f.dir.Fd()), name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY,
		unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return nil, 0, &fs.PathError{Op: "open", Path: path.Join(f.dir.Name(), name), Err: err}
	}
	file := os.NewFile(uintptr(fd), name)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		_ = file.Close()
		return nil, 0, fmt.Errorf("%s: found %s; allowed: a regular file", path.Join(f.dir.Name(), name),
			fileType(st.Mode))
	}
	return file, st.Size, nil
}

func (f *directory) identity() *fileIdentity { return f.id }

func (f *directory) Close() error { return f.dir.Close() }

// currentIdentity returns the current identity of a local reference's file or directory.
func currentIdentity(r reference) (*fileIdentity, error) {
	p := r.path
	var st unix.Stat_t
	if err := unix.Stat(p, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: p, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		p += "/index.json"
		if err := unix.Stat(p, &st); err != nil {
			return nil, &fs.PathError{Op: "stat", Path: p, Err: err}
		}
	}
	return identityOf(&st), nil
}
