// SPDX-License-Identifier: Apache-2.0

package durable

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLocked means that another open file holds the lock.
var ErrLocked = errors.New("locked")

// TryLock takes an exclusive flock(2) of the file at path, which it creates if it is missing. It
// fails with ErrLocked if another holds a lock. The lock goes with the returned file, and with the
// process however that ends. Lock files stay: to remove one while another process waits for it
// would let two processes hold the lock.
func TryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Lock takes the lock as TryLock does, and waits until it is free or ctx ends.
func Lock(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := lock(f)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, ErrLocked) {
			f.Close()
			return nil, err
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, ctx.Err())
		case <-time.After(wait):
		}
	}
}

// TryLockFile takes the lock of a file or directory that is open already, as TryLock does.
func TryLockFile(f *os.File) error { return lock(f) }

// TryLockFileShared takes a shared lock of a file that is open already. It fails with ErrLocked if
// another holds an exclusive one.
func TryLockFileShared(f *os.File) error { return flock(f, unix.LOCK_SH) }

func lock(f *os.File) error { return flock(f, unix.LOCK_EX) }

func flock(f *os.File, how int) error {
	err := error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	}
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return fmt.Errorf("lock %s: %w", f.Name(), ErrLocked)
	case err != nil:
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return nil
}

// Locked reports whether another open file holds an exclusive lock of the file at path. It takes no
// lock that would keep another from locking for longer than the call.
func Locked(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}
