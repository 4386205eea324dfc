// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/node-agent/scoped"
)

// Root is the directory that holds the bundles of a node, one directory each.
type Root struct {
	path    string
	reserve *durable.Reserve
	journal *durable.Journal
}

// Option changes how the bundles of a Root are kept.
type Option func(*Root)

// WithJournal makes Dir.Replace write through the journal: its files survive a power loss after the
// next flush. The directory of bundles lies below that of the journal.
func WithJournal(j *durable.Journal) Option { return func(r *Root) { r.journal = j } }

// Open creates the directory at path, which must be absolute, if it is missing, and gives it mode
// 0700.
func Open(path string, options ...Option) (*Root, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("directory of bundles: found %q; allowed: an absolute path", path)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of bundles: %w", err)
	}
	if err := os.Chmod(path, 0o700); err != nil {
		return nil, fmt.Errorf("close the directory of bundles: %w", err)
	}
	path = filepath.Clean(path)
	r := &Root{path: path, reserve: durable.NewReserve(path)}
	for _, o := range options {
		o(r)
	}
	return r, nil
}

// Journal returns the journal given to WithJournal; nil, which does nothing, without one.
func (r *Root) Journal() *durable.Journal { return r.journal }

// Dir returns the bundle of the container id, whether it is there or not.
func (r *Root) Dir(id string) Dir {
	return Dir{path: filepath.Join(r.path, id), reserve: r.reserve, journal: r.journal}
}

// List returns the ids of all bundles that are there.
func (r *Root) List() ([]string, error) {
	entries, err := os.ReadDir(r.path)
	if err != nil {
		return nil, fmt.Errorf("list bundles: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// Holds reports whether path is the directory of one of the bundles.
func (r *Root) Holds(path string) bool { return filepath.Dir(filepath.Clean(path)) == r.path }

// Dir is the directory of one bundle.
type Dir struct {
	path    string
	reserve *durable.Reserve
	journal *durable.Journal
}

// Path returns the path of the directory.
func (d Dir) Path() string { return d.path }

// File returns the path of a file of the given name in the directory.
func (d Dir) File(name string) string { return filepath.Join(d.path, name) }

// Rootfs returns the path where the overlay is mounted.
func (d Dir) Rootfs() string { return d.File("rootfs") }

// Replace replaces a file of the directory, whole or not at all. It survives a loss of power after
// the journal's next flush.
func (d Dir) Replace(name string, data []byte) error {
	return d.journal.Replace(d.File(name), data, durable.Options{})
}

// ReplaceReserved replaces a file, also on a full disk as long as the reserve of the bundles lasts.
func (d Dir) ReplaceReserved(name string, data []byte) error {
	return d.journal.Replace(d.File(name), data, durable.Options{Reserve: d.reserve})
}

// ReplaceForBoot replaces a file as ReplaceReserved does, if it means nothing after a boot of the
// machine. It is never flushed.
func (d Dir) ReplaceForBoot(name string, data []byte) error {
	return durable.Replace(d.File(name), data, durable.Options{Reserve: d.reserve})
}

// Make creates the directory with mode 0700.
func (d Dir) Make() error {
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return fmt.Errorf("make bundle: %w", err)
	}
	return nil
}

// WriteConfig writes config.json with mode 0600, whole or not at all. It is written at each start,
// and so never flushed.
func (d Dir) WriteConfig(spec *specs.Spec) error {
	document, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("write config.json: %w", err)
	}
	if err := durable.Replace(d.File("config.json"), document, durable.Options{}); err != nil {
		return err
	}
	return d.removePrivate()
}

// RemoveConfig removes config.json. It is no error when there is none.
func (d Dir) RemoveConfig() error {
	if err := d.removeConfigFile(); err != nil {
		return err
	}
	return d.removePrivate()
}

func (d Dir) removeConfigFile() error {
	if err := os.Remove(d.File("config.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove config.json: %w", err)
	}
	return nil
}

// ImagesLeft reports whether UnmountRootfs or UnmountImageVolumes has something to remove.
func (d Dir) ImagesLeft() bool {
	for _, name := range []string{"rootfs", "layers", "upper", "work", "images"} {
		if _, err := os.Lstat(d.File(name)); err == nil {
			return true
		}
	}
	return false
}

// UnmountRootfs undoes MountRootfs: it unmounts the overlay and throws the writable layer away. It
// is no error when there is none.
func (d Dir) UnmountRootfs() error {
	if err := unmount(d.Rootfs()); err != nil {
		return err
	}
	if err := d.unmountLayers(); err != nil {
		return err
	}
	for _, name := range []string{"upper", "work"} {
		if err := scoped.RemoveAll(d.File(name)); err != nil {
			return fmt.Errorf("remove writable layer: %w", err)
		}
	}
	if err := os.Remove(d.Rootfs()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove mount point: %w", err)
	}
	return nil
}

// Remove unmounts all that is mounted in the directory and removes it. It is no error when it is
// not there.
//
// Nothing is removed through a mount: a volume that does not unmount makes it fail instead.
func (d Dir) Remove() error {
	if err := d.UnmountRootfs(); err != nil {
		return err
	}
	if err := d.UnmountSubPaths(); err != nil {
		return err
	}
	if err := d.UnmountImageVolumes(); err != nil {
		return err
	}
	if err := d.RemoveVolumes(); err != nil {
		return err
	}
	if err := d.RemoveFiles(); err != nil {
		return err
	}
	if err := d.removePrivate(); err != nil {
		return err
	}
	if err := os.RemoveAll(d.path); err != nil {
		return fmt.Errorf("remove bundle: %w", err)
	}
	if err := d.journal.RemovedAll(d.path); err != nil {
		return fmt.Errorf("remove bundle: %w", err)
	}
	d.journal.FlushSoon()
	return nil
}

// unmount unmounts whatever is mounted at path, however often; a path that is no mount point, or is
// not there, is no error. A mount that is busy (a process of the host looks into it) is detached:
// it goes away with its last user.
func unmount(path string) error {
	for {
		mounted, err := isMountPoint(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && !mounted {
			return nil
		}
		// A filesystem whose server has ended cannot be looked at, but it can be unmounted.
		uerr := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
		if errors.Is(uerr, unix.EBUSY) {
			uerr = unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		if uerr != nil {
			return fmt.Errorf("unmount %s: %w", path, cmp.Or(err, uerr))
		}
	}
}

// isMountPoint asks statx(2), which needs no reading of mountinfo, however many mounts the node
// has.
func isMountPoint(path string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT,
		unix.STATX_TYPE, &st)
	if err != nil {
		return false, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// MaxNameLength is the greatest length of a file name (NAME_MAX of Linux filesystems).
const MaxNameLength = 255

// inside reports whether name is one plain component of a path.
func inside(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsRune(name, '/')
}
