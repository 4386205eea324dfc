// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-run/berth/internal/durable"
)

// lease keeps an image: a shared flock(2) of its record, which only a process that removes the
// image locks exclusively. It ends with the process and takes no room on the disk. The image was
// last used when the file was last changed.
type lease struct {
	f      *os.File
	once   sync.Once
	closed func() // optional
}

// holdFile takes the lease of a record; nil if there is no record. It waits for a process that
// looks whether it may remove the image.
func holdFile(ctx context.Context, path string) (*lease, error) {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		f, err := lockFile(path, durable.TryLockFileShared)
		if err == nil {
			return &lease{f: f}, nil
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if !errors.Is(err, durable.ErrLocked) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}

// lockFile opens and locks a file. A file that was replaced or removed before it was locked counts
// as locked, so that the caller looks again.
func lockFile(path string, lock func(*os.File) error) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	err = lock(f)
	if err == nil && !isSameFile(f, path) {
		err = fmt.Errorf("%s was replaced: %w", path, durable.ErrLocked)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// isSameFile reports whether an open file is the one that a path names.
func isSameFile(f *os.File, path string) bool {
	open, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Lstat(path)
	return err == nil && os.SameFile(open, named)
}

// touch notes that the image is in use. The kernel writes it to the disk some time: nothing waits
// for it, and a loss of power may take it back.
func (l *lease) touch() {
	now := time.Now()
	_ = os.Chtimes(l.f.Name(), now, now) // a full or broken disk keeps no image from being used
}

func (l *lease) close() {
	l.once.Do(func() {
		l.f.Close()
		if l.closed != nil {
			l.closed()
		}
	})
}

// hold takes the lease of an image, as holdFile does. Close ends it.
func (s *Store) hold(ctx context.Context, manifest digest.Digest) (*lease, error) {
	l, err := holdFile(ctx, s.imagePath(manifest))
	if l != nil {
		s.leases.Store(l, nil)
		l.closed = func() { s.leases.Delete(l) }
	}
	return l, err
}

// Release lets others remove the image. Before, it notes that the image was in use until now.
func (i *Image) Release() {
	if i != nil && i.lease != nil {
		i.lease.touch()
		i.lease.close()
	}
}

// announcementPrefix begins the names of files in tmp/SESSION/ that list the layers of a pull.
const announcementPrefix = "pull-"

// announce keeps the layers of an image that is being pulled from removal until keep is called, or
// the process ends.
func (s *Store) announce(ctx context.Context, ids []digest.Digest) (keep func(), err error) {
	var dirs []string
	for i, chain := range chainIDs(ids) {
		dirs = append(dirs, layerDir("layers", ids[i]), layerDir("chains", chain))
	}
	data, err := json.Marshal(dirs)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(s.session, announcementPrefix)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	keep = func() { os.Remove(f.Name()) }
	// No layer is removed while the file is incomplete.
	lock, err := s.lockLayers(ctx)
	if err == nil {
		_, err = f.Write(data)
		lock.Close()
	}
	if err != nil {
		keep()
		return nil, err
	}
	return keep, nil
}

// lockLayers excludes others from removing layers and names, from announcing which layers a pull
// needs, and from leading a name to another image.
func (s *Store) lockLayers(ctx context.Context) (*os.File, error) {
	return durable.Lock(ctx, filepath.Join(s.dir, "layers.lock"))
}

// announced returns the directories of layers, relative to the store, that pulls under way need.
// The caller holds the lock of the layers.
func (s *Store) announced() (map[string]bool, error) {
	tmp := filepath.Join(s.dir, "tmp")
	sessions, err := os.ReadDir(tmp)
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, session := range sessions {
		files, err := os.ReadDir(filepath.Join(tmp, session.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has just ended
		}
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			if !strings.HasPrefix(file.Name(), announcementPrefix) {
				continue
			}
			data, err := os.ReadFile(filepath.Join(tmp, session.Name(), file.Name()))
			if errors.Is(err, fs.ErrNotExist) {
				continue // the pull has just ended: the record of its image is there
			}
			if err != nil {
				return nil, err
			}
			if len(data) == 0 {
				continue // it waits for the lock, and has looked for no layer yet
			}
			var dirs []string
			if err := json.Unmarshal(data, &dirs); err != nil {
				continue // of a process that was killed while it wrote
			}
			for _, dir := range dirs {
				out[dir] = true
			}
		}
	}
	return out, nil
}
