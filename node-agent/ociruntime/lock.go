// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/containerid"
)

// loadLocked locks a container and reads its record.
func (r *Runtime) loadLocked(id string) (rec *record, unlock func(), err error) {
	if unlock, err = r.lock(id); err != nil {
		return nil, nil, err
	}
	if rec, err = r.load(id); err != nil {
		unlock()
		return nil, nil, err
	}
	return rec, unlock, nil
}

// lock keeps other processes from changing a container until unlock is called. The lock is on the
// directory of the container and is released with the descriptor.
func (r *Runtime) lock(id string) (unlock func(), err error) {
	if err := containerid.Check(id); err != nil {
		return nil, err
	}
	for {
		fd, err := unix.Open(r.dir(id), unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if errors.Is(err, unix.ENOENT) {
			return nil, ErrNotExist
		}
		if err != nil {
			return nil, fmt.Errorf("container %s: %w", id, err)
		}
		for {
			if err = unix.Flock(fd, unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
				break
			}
		}
		// The holder of the lock may have removed the container: then this is the lock of a
		// directory that is gone, and another container may have the id.
		var st unix.Stat_t
		if err == nil {
			err = unix.Fstat(fd, &st)
		}
		if err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("lock container %s: %w", id, err)
		}
		if st.Nlink > 0 {
			return func() { unix.Close(fd) }, nil
		}
		unix.Close(fd)
	}
}
