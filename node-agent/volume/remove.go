// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/uuid"
	"github.com/moby/sys/mountinfo"

	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/node-agent/scoped"
)

// ErrNotExist says that there is no volume of the name.
var ErrNotExist = errors.New("there is no such volume")

// Remove removes a volume with all its data, unless check fails, which is called with the users of
// all volumes. Until Remove returns no container becomes a user. A volume that was made again since
// is not the one that was removed: Remove may be repeated until it returns ErrNotExist or nil, and
// not after that.
func (s *Store) Remove(ctx context.Context, id ID, check func([]User) error) error {
	if err := s.discard(ctx, id, check); err != nil {
		return err
	}
	return s.EmptyTrash()
}

// discard moves a volume into the trash.
func (s *Store) discard(ctx context.Context, id ID, check func([]User) error) error {
	if err := CheckID(id); err != nil {
		return err
	}
	path := s.Path(id)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return ErrNotExist
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	users, err := s.Users()
	if err != nil {
		return err
	}
	if err := check(users); err != nil {
		return err
	}
	if err := unmounted(path); err != nil {
		return err
	}
	trash := filepath.Join(filepath.Dir(path), trashName) // which is on the same filesystem
	if err := os.MkdirAll(trash, 0o700); err != nil {
		return err
	}
	err = os.Rename(path, filepath.Join(trash, uuid.NewString()))
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNotExist // another process was faster
	}
	if err != nil {
		return err
	}
	// Or it might be there again, in part, after a loss of power.
	return errors.Join(durable.SyncDir(trash), durable.SyncDir(filepath.Dir(path)))
}

// unmounted returns an error if there is a mount at or below a path: nothing is removed through a
// mount.
func unmounted(path string) error {
	// The kernel lists mounts by paths without links; --state-dir may have some.
	parent, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("look for mounts in the volume: %w", err)
	}
	real := filepath.Join(parent, filepath.Base(path))
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(real))
	if err != nil {
		return fmt.Errorf("look for mounts in the volume: %w", err)
	}
	if len(mounts) > 0 {
		return fmt.Errorf("found a mount at %s; allowed: none at or below the volume: unmount it first",
			mounts[0].Mountpoint)
	}
	return nil
}

// EmptyTrash removes the data of volumes that were removed. It may run in several processes at the
// same time.
func (s *Store) EmptyTrash() error {
	namespaces, err := s.namespaces()
	if err != nil {
		return err
	}
	var errs []error
	for _, namespace := range namespaces {
		trash := filepath.Join(s.dir(), namespace, trashName)
		discarded, err := entries(trash)
		errs = append(errs, err)
		for _, name := range discarded {
			path := filepath.Join(trash, name)
			err := unmounted(path) // since it was looked for last
			if err == nil {
				err = scoped.RemoveAll(path)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("remove the data of a volume: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}
