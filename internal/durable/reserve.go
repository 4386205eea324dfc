// SPDX-License-Identifier: Apache-2.0

package durable

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// reserveSize is the room of each file of a Reserve. A status with a condition of the longest
	// kind (32 KiB) fits.
	reserveSize = 48 << 10
	// reserveFiles is the number of reserve files: a new file keeps the room that it took.
	reserveFiles = 4
)

// Reserve is room for a few files on a filesystem, kept for when that is full: so a status can
// still say that it is. A file that is replaced gives its room back, out of which the next reserve
// is made.
type Reserve struct {
	dir string
	mu  sync.Mutex // held while the reserve is used and made again
}

// NewReserve keeps room in the directory, which must be writable by the agent alone. On a
// filesystem that is full already, the first Replace that succeeds makes the room.
func NewReserve(dir string) *Reserve {
	r := &Reserve{dir: dir}
	r.fill()
	return r
}

func (r *Reserve) path(i int) string { return filepath.Join(r.dir, ".reserve-"+strconv.Itoa(i)) }

// fill creates the missing reserve files.
func (r *Reserve) fill() {
	for i := range reserveFiles {
		if keep(r.path(i)) != nil {
			return // the next Replace tries again
		}
	}
}

// keep creates one file of the reserve. Its room is real, not a hole (fallocate(2)).
func keep(path string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err == unix.EEXIST {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// What a use has left over is less than it was by the new file; a smaller reserve is better
	// than none.
	for size := int64(reserveSize); size > 0; size -= 4 << 10 {
		if err = unix.Fallocate(fd, 0, 0, size); err == nil {
			return nil
		}
	}
	_ = unix.Unlink(path)
	return err
}

// Replace replaces the file at path as the function Replace does, out of the reserve if the
// filesystem is full. path must be on the filesystem of the reserve.
func (r *Reserve) Replace(path string, data []byte, o Options) error {
	err := Replace(path, data, o)
	r.mu.Lock()
	defer r.mu.Unlock()
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		for i := 0; i < reserveFiles && err != nil; i++ {
			if use(r.path(i), path, data, o) == nil {
				err = nil
			}
		}
	}
	if err == nil {
		r.fill()
	}
	return err
}

// use turns a file of the reserve into the file at path.
func use(reserve, path string, data []byte, o Options) error {
	fd, err := unix.Open(reserve, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), reserve)
	_, err = f.Write(data)
	if err == nil {
		err = f.Truncate(int64(len(data)))
	}
	if err == nil && o.Sync {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(reserve, path); err != nil || !o.Sync {
		return err
	}
	return SyncDir(filepath.Dir(path))
}
