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
	// Nothing is removed through a mount.
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(path))
	if err != nil {
		return fmt.Errorf("look for mounts in the volume: %w", err)
	}
	if len(mounts) > 0 {
		return fmt.Errorf("found a mount at %s; allowed: none at or below the volume: unmount it first",
			mounts[0].Mountpoint)
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

// EmptyTrash removes the data of volumes that were removed. It may run in several processes at the
// same time.
func (s *Store) EmptyTrash() error {
	namespaces, err := entries(s.dir())
	if err != nil {
		return fmt.Errorf("list volumes: %w", err)
	}
	var errs []error
	for _, namespace := range namespaces {
		trash := filepath.Join(s.dir(), namespace, trashName)
		discarded, err := entries(trash)
		errs = append(errs, err)
		for _, name := range discarded {
			if err := os.RemoveAll(filepath.Join(trash, name)); err != nil {
				errs = append(errs, fmt.Errorf("remove the data of a volume: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}
