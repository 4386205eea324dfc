// SPDX-License-Identifier: Apache-2.0

package volume

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

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/berth-run/berth/internal/durable"
)

// ID names a volume by the namespace and the name of its claim.
type ID = types.NamespacedName

// Store holds the volumes of a state directory.
type Store struct{ stateDir string }

// Open returns the store of a state directory. It creates nothing.
func Open(stateDir string) *Store { return &Store{stateDir: stateDir} }

// Names of the store that begin with a dot are no namespaces.
const (
	lockName  = ".lock"
	trashName = ".trash"
	newName   = ".new"
)

// CheckID returns an error unless a volume can have the ID. Another string might be a path to
// something else, such as all volumes of a namespace.
func CheckID(id ID) error {
	if len(validation.IsDNS1123Label(id.Namespace))+len(validation.IsDNS1123Subdomain(id.Name)) > 0 {
		return fmt.Errorf("found the volume %q of namespace %q; allowed: names of objects", id.Name,
			id.Namespace)
	}
	return nil
}

func (s *Store) dir() string { return filepath.Join(s.stateDir, "volumes") }

// Path returns the directory of a volume, whether it is there or not.
func (s *Store) Path(id ID) string { return filepath.Join(s.dir(), id.Namespace, id.Name) }

// maxLock is the time to wait for a process that has the lock. Nobody holds it for long.
const maxLock = 10 * time.Second

// lock keeps other processes and goroutines from changing volumes and their users until unlock is
// called.
func (s *Store) lock(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(s.dir(), 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of volumes: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, maxLock)
	defer cancel()
	f, err := durable.Lock(ctx, filepath.Join(s.dir(), lockName))
	if err != nil {
		return nil, fmt.Errorf("volumes: %w", err)
	}
	return func() { f.Close() }, nil
}

// Volume is a volume that is there.
type Volume struct {
	ID
	Path string
	// Created is zero if the filesystem does not know it.
	Created time.Time
}

// List returns the volumes, sorted by namespace and name.
func (s *Store) List() ([]Volume, error) {
	namespaces, err := s.namespaces()
	if err != nil {
		return nil, err
	}
	var out []Volume
	for _, namespace := range namespaces {
		names, err := entries(filepath.Join(s.dir(), namespace))
		if err != nil {
			return nil, fmt.Errorf("list volumes: %w", err)
		}
		for _, name := range names {
			id := ID{Namespace: namespace, Name: name}
			if CheckID(id) != nil { // lost+found, where a disk is mounted for the namespace
				continue
			}
			out = append(out, Volume{ID: id, Path: s.Path(id), Created: created(s.Path(id))})
		}
	}
	return out, nil
}

// namespaces returns the namespaces that have, or had, volumes.
func (s *Store) namespaces() ([]string, error) {
	found, err := entries(s.dir())
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	return slices.DeleteFunc(found, func(name string) bool {
		return len(validation.IsDNS1123Label(name)) > 0 // lost+found, where a disk is mounted
	}), nil
}

// entries returns the sorted names in a directory that do not begin with a dot; none if it is not
// there.
func entries(dir string) ([]string, error) {
	found, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []string
	for _, e := range found {
		if !strings.HasPrefix(e.Name(), ".") {
			out = append(out, e.Name())
		}
	}
	return out, err
}

func created(path string) time.Time {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BTIME, &st)
	if err != nil || st.Mask&unix.STATX_BTIME == 0 {
		return time.Time{}
	}
	return time.Unix(st.Btime.Sec, int64(st.Btime.Nsec))
}

// Claim is a volume that a user wants to use.
type Claim struct {
	Name string
	// Exclusive refuses a second user.
	Exclusive bool
}

// InUseError says that another container uses a volume that may have one user only.
type InUseError struct {
	ID   ID
	User User
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("the volume %s is used by the container %s", e.ID, e.User.Container)
}

// Use writes down that a container uses the volumes of claims of its namespace, and those alone,
// creates those that are not there yet, and returns the directory of each claim. It may be called
// again. The user of no claims is forgotten, and so is one for which it returns an *InUseError: two
// that swap their exclusive volumes would else wait for each other.
func (s *Store) Use(ctx context.Context, u User, claims []Claim) (map[string]string, error) {
	if len(claims) == 0 {
		return nil, s.Forget(u.ID)
	}
	for _, c := range claims {
		if err := CheckID(ID{Namespace: u.Namespace, Name: c.Name}); err != nil {
			return nil, err
		}
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	err = s.exclude(u, claims)
	if inUse := (*InUseError)(nil); errors.As(err, &inUse) {
		return nil, errors.Join(err, s.Forget(u.ID))
	}
	if err != nil {
		return nil, err
	}
	if err := s.note(u, claims); err != nil {
		return nil, err
	}
	paths := map[string]string{}
	for _, c := range claims {
		id := ID{Namespace: u.Namespace, Name: c.Name}
		if err := s.create(id); err != nil {
			return nil, fmt.Errorf("create the volume %s: %w", id, err)
		}
		paths[c.Name] = s.Path(id)
	}
	return paths, nil
}

// exclude returns an *InUseError if a claim is exclusive and another container uses its volume.
func (s *Store) exclude(u User, claims []Claim) error {
	if !slices.ContainsFunc(claims, func(c Claim) bool { return c.Exclusive }) {
		return nil
	}
	users, err := s.Users()
	if err != nil {
		return err
	}
	for _, c := range claims {
		id := ID{Namespace: u.Namespace, Name: c.Name}
		for _, other := range users {
			if c.Exclusive && other.ID != u.ID && other.Uses(id) {
				return &InUseError{ID: id, User: other}
			}
		}
	}
	return nil
}

// create creates a volume unless it is there. Everybody may write into it, as into an emptyDir or a
// volume of Kubernetes' local-path provisioner, whichever user a container has; its parents are
// closed to all but root.
func (s *Store) create(id ID) error {
	path := s.Path(id)
	// A link, which an administrator has made, is followed.
	switch info, err := os.Stat(path); {
	case err == nil && !info.IsDir():
		return fmt.Errorf("found a file at %s; allowed: a directory", path)
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("found a link to nothing at %s; allowed: a directory", path)
	}
	parent := filepath.Dir(path)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return err
	}
	// It gets its name once its mode is right, so a volume that is there is never changed.
	fresh := filepath.Join(parent, newName)
	if err := os.Mkdir(fresh, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.Chmod(fresh, 0o777); err != nil {
		return err
	}
	if err := os.Rename(fresh, path); err != nil {
		return err
	}
	// What a program flushes is not lost with the name of its directory.
	for _, dir := range []string{parent, s.dir(), s.stateDir} {
		if err := durable.SyncDir(dir); err != nil {
			return err
		}
	}
	return nil
}
