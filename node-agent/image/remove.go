// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/node-agent/scoped"
)

// InUseError says that containers have an image which is to be removed.
type InUseError struct {
	Name string
	// By is empty if the image was pulled, or a container started with it, at this moment.
	By []string
}

func (e *InUseError) Error() string {
	by := strings.Join(e.By, ", ")
	if by == "" {
		by = "a container that starts, or a pull that goes on"
	}
	return fmt.Sprintf("found the image %s in use by %s; allowed: an image that no container has", e.Name,
		by)
}

// space is the room that files take on a disk.
type space struct{ bytes, files int64 }

func (a space) plus(b space) space { return space{a.bytes + b.bytes, a.files + b.files} }

// Name returns a name of the image for people.
func (i *Stored) Name() string {
	if len(i.Names) > 0 {
		return i.Names[0]
	}
	return i.Digest.String()
}

// Remove removes an image that List has returned, with all its names, and returns the number of
// bytes that become free. It refuses an image in use with an *InUseError, also one of which a
// container became a user since List. Layers that another image has, or a pull under way needs,
// stay. A process that is killed leaves the image as it was, or without some of its names, or
// without a record; Collect removes what is left.
func (s *Store) Remove(ctx context.Context, img *Stored) (int64, error) {
	// The pull of a process that was killed needs no layer any more.
	if err := s.endDeadSessions(ctx); err != nil {
		return 0, err
	}
	freed, err := s.remove(ctx, img)
	return freed.bytes, err
}

func (s *Store) remove(ctx context.Context, img *Stored) (space, error) {
	inUse := &InUseError{Name: img.Name(), By: img.UsedBy}
	if len(img.UsedBy) > 0 {
		return space{}, inUse
	}
	f, err := lockFile(img.path, durable.TryLockFile)
	if errors.Is(err, durable.ErrLocked) {
		return space{}, inUse
	}
	if errors.Is(err, fs.ErrNotExist) {
		return space{}, nil // another process was faster
	}
	if err != nil {
		return space{}, err
	}
	defer f.Close()
	// Whoever starts a container with the image changes the time of its last use, when it takes the
	// lease and when it ends it. By then the container is known to be a user.
	info, err := f.Stat()
	if err != nil {
		return space{}, err
	}
	if !info.ModTime().Equal(img.LastUsed) {
		return space{}, inUse
	}
	trash, err := s.unrecord(ctx, img, f)
	if err != nil {
		return space{}, err
	}
	f.Close() // who waits for the image pulls it again
	return s.removeTrash(trash)
}

// unrecord removes the names and the record of an image, and returns the layers that no other one
// has, renamed. f is the locked record.
func (s *Store) unrecord(ctx context.Context, img *Stored, f *os.File) (trash []string, err error) {
	lock, err := s.lockLayers(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	announced, err := s.announced()
	if err != nil {
		return nil, err
	}
	// A pull replaces the record of an image whose layers are not all there.
	if !isSameFile(f, img.path) ||
		slices.ContainsFunc(img.layers, func(dir string) bool { return announced[dir] }) {
		return nil, &InUseError{Name: img.Name()}
	}
	// The names first: one that leads to no image says less than an image without a name.
	for _, path := range img.refs {
		if err := s.removeRef(path, img.Digest); err != nil {
			return nil, err
		}
	}
	if err := s.removeRecord(img.path); err != nil {
		return nil, err
	}
	// A record that a loss of power brings back would vouch for layers of the next pull.
	if err := s.journal.Flush(ctx); err != nil {
		return nil, err
	}
	return s.discard(announced, func(dir string, _ os.FileInfo) bool {
		return slices.Contains(img.layers, dir)
	})
}

// removeRecord removes a record, also from the journal.
func (s *Store) removeRecord(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.journal.Removed(path)
}

// removeRef removes the record of a reference, unless a pull has led it to another image since the
// images were listed. The caller holds the lock of the layers.
func (s *Store) removeRef(path string, manifest digest.Digest) error {
	var rec refRecord
	err := readJSON(path, &rec)
	if err != nil && !errors.Is(err, errNoRecord) {
		return err
	}
	if err == nil && rec.Manifest != manifest {
		return nil
	}
	return s.removeRecord(path)
}

// RemoveName removes one of several names of an image.
func (s *Store) RemoveName(ctx context.Context, img *Stored, text string) error {
	r, err := parseReference(text)
	if err != nil {
		return err
	}
	lock, err := s.lockLayers(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	return s.removeRef(s.refPath(r), img.Digest)
}

// trashMark stands in the names of layers that are to be removed. No digest has it.
const trashMark = ".removed-"

// discard gives the layers that no image has and no pull needs another name, if unneeded says so,
// and returns the paths of all that are so named. The caller holds the lock of the layers.
func (s *Store) discard(announced map[string]bool,
	unneeded func(dir string, info os.FileInfo) bool,
) (trash []string, err error) {
	recorded, err := s.recorded()
	if err != nil {
		return nil, err
	}
	changed := map[string]bool{}
	for _, kind := range []string{"layers", "chains"} {
		paths, err := s.list(kind)
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			if strings.Contains(filepath.Base(path), trashMark) {
				trash = append(trash, path)
				continue
			}
			dir, err := filepath.Rel(s.dir, path)
			if err != nil {
				return nil, err
			}
			if recorded[dir] || announced[dir] {
				continue
			}
			info, err := os.Lstat(path)
			if err != nil {
				return nil, err
			}
			if !unneeded(dir, info) {
				continue
			}
			// In the same directory, which takes no room on a full disk.
			name := path + trashMark + uuid.NewString()[:8]
			if err := os.Rename(path, name); err != nil {
				return nil, err
			}
			changed[filepath.Dir(path)] = true
			trash = append(trash, name)
		}
	}
	// A loss of power must not bring back a layer that is gone in part.
	for dir := range changed {
		if err := durable.SyncDir(dir); err != nil {
			return nil, err
		}
	}
	return trash, nil
}

// recorded returns the directories of layers, relative to the store, that records of images name.
func (s *Store) recorded() (map[string]bool, error) {
	paths, err := s.list("images")
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, path := range paths {
		img, err := s.readStored(path)
		if err != nil {
			return nil, err // it may name layers that must stay
		}
		if img == nil {
			continue
		}
		for _, dir := range img.layers {
			out[dir] = true
		}
	}
	return out, nil
}

// removeTrash removes directories, and returns what they took on the disk.
func (s *Store) removeTrash(paths []string) (freed space, err error) {
	var errs []error
	for _, path := range paths {
		size := s.taken(path)
		if err := scoped.RemoveAll(path); err != nil {
			errs = append(errs, fmt.Errorf("remove a layer: %w", err))
			continue
		}
		freed = freed.plus(size)
	}
	return freed, errors.Join(errs...)
}

// taken returns what a layer takes on the disk. It is an estimate: files that cannot be seen do not
// count. Nobody changes a layer, so that no link can be put in the place of a directory.
func (s *Store) taken(path string) (sum space) {
	_ = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // an estimate
		}
		var st unix.Stat_t
		if unix.Lstat(p, &st) == nil {
			sum.bytes += st.Blocks * 512
			if st.Nlink <= 1 || d.IsDir() {
				sum.files++
			}
		}
		return nil
	})
	return sum
}

// leftoverAge is the time for which the layers of a pull that failed wait for the next one.
const leftoverAge = time.Hour

// endDeadSessions calls removeDeadSessions under the lock of the store.
func (s *Store) endDeadSessions(ctx context.Context) error {
	guard, err := durable.Lock(ctx, filepath.Join(s.dir, "lock"))
	if err != nil {
		return err
	}
	defer guard.Close()
	return s.removeDeadSessions()
}

// removeLeftovers removes what killed processes and failed pulls have left, and, if all is set,
// also what the next pull of the same image could use.
func (s *Store) removeLeftovers(ctx context.Context, all bool) (freed space, err error) {
	if err := s.endDeadSessions(ctx); err != nil {
		return freed, err
	}
	lock, err := s.lockLayers(ctx)
	if err != nil {
		return freed, err
	}
	if freed, err = s.removePartial(all); err != nil {
		lock.Close()
		return freed, err
	}
	trash, err := func() ([]string, error) {
		defer lock.Close()
		announced, err := s.announced()
		if err != nil {
			return nil, err
		}
		return s.discard(announced, func(_ string, info os.FileInfo) bool {
			return all || isOld(info, leftoverAge)
		})
	}()
	if err != nil {
		return freed, err
	}
	size, err := s.removeTrash(trash)
	return freed.plus(size), err
}

// partialDir has the blobs of pulls that broke, which the next pull goes on with.
const partialDir = "partial"

// removePartial removes the blobs that no pull is fetching.
func (s *Store) removePartial(all bool) (freed space, err error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, partialDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return freed, err
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(s.dir, partialDir, e.Name())
		f, err := lockFile(path, durable.TryLockFile)
		if errors.Is(err, durable.ErrLocked) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if info, err := f.Stat(); err == nil && (all || isOld(info, leftoverAge)) {
			size := s.taken(path)
			if err := os.Remove(path); err == nil {
				freed = freed.plus(size)
			} else {
				errs = append(errs, err)
			}
		}
		f.Close()
	}
	return freed, errors.Join(errs...)
}

// isOld reports whether a file was last changed, or renamed, longer than age ago. A
// layer's directory was last changed when the layer was unpacked.
func isOld(info os.FileInfo, age time.Duration) bool { return time.Since(info.ModTime()) > age }
