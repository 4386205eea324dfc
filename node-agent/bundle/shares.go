// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/v1alpha1"
)

// Share is an emptyDir of another container that a container uses in its present run.
type Share struct {
	// Owner is the id of the other container, and Container the key of its Container.
	Owner     string `json:"owner"`
	Container string `json:"container"`
	// Volume is its name there, and directory identifies the shared directory.
	Volume string `json:"volume"`
	directory
}

// directory identifies a directory. One that replaces it may get the same inode, but has another
// time of creation. Born is 0 on a filesystem that does not store it.
type directory struct {
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
	Born   int64  `json:"born"` // in nanoseconds since 1970
}

// statDirectory returns the identity of a directory. It follows no link.
func statDirectory(path string) (directory, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW,
		unix.STATX_INO|unix.STATX_BTIME, &st)
	if err != nil {
		return directory{}, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	d := directory{Device: unix.Mkdev(st.Dev_major, st.Dev_minor), Inode: st.Ino}
	if st.Mask&unix.STATX_BTIME != 0 {
		d.Born = st.Btime.Sec*int64(time.Second) + int64(st.Btime.Nsec)
	}
	return d, nil
}

// sharing is the content of sharesFile.
type sharing struct {
	Version int `json:"version"`
	// Name of the container that has the shares, for people.
	Name string  `json:"name"`
	List []Share `json:"list"`
}

// sharesFile has the shares of a container. It decides: files in sharersDir of the owners are only
// an index of it. After a boot it means nothing, since nothing is mounted.
const sharesFile = "shares.json"

// sharesVersion is the version of the format of sharesFile.
const sharesVersion = 1

// errNewerShares is for a file of a version of Berth that is not known: it may hold any volume.
var errNewerShares = errors.New("the file is of a newer version of Berth")

// sharersDir returns the directory with an empty file for each container that has a volume. The
// name of the file is the id of the container.
func (d Dir) sharersDir(volume string) string {
	return filepath.Join(d.File("sharers"), volume)
}

func (d Dir) id() string { return filepath.Base(d.path) }

// FindVolume returns the share that a container gets of an emptyDir of this one; found is false if
// the volume is missing or is on another medium than its source says.
func (d Dir) FindVolume(v *v1alpha1.Volume) (share Share, found bool, err error) {
	is, err := statDirectory(d.Volume(v.Name))
	if errors.Is(err, fs.ErrNotExist) {
		return Share{}, false, nil
	}
	if err != nil {
		return Share{}, false, err
	}
	same, mounted, err := onMedium(d.Volume(v.Name), v.EmptyDir.Medium)
	if err != nil || !same || !mounted && v.EmptyDir.Medium != "" {
		return Share{}, false, err
	}
	return Share{Owner: d.id(), Volume: v.Name, directory: is}, true, nil
}

// HasShared reports whether the directory of a share still exists. An error says that it is not
// known.
func (d Dir) HasShared(s Share) (bool, error) {
	is, err := statDirectory(d.Volume(s.Volume))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return is == s.directory, err
}

// Share replaces the stored shares of the container. dir returns the directory of another
// container.
func (d Dir) Share(name string, list []Share, dir func(id string) Dir) error {
	if _, err := d.Unshare(dir); err != nil || len(list) == 0 {
		return err
	}
	text, err := json.Marshal(sharing{Version: sharesVersion, Name: name, List: list})
	if err != nil {
		return fmt.Errorf("write shares of volumes: %w", err)
	}
	if err := d.ReplaceForBoot(sharesFile, text); err != nil {
		return err
	}
	for _, s := range list {
		at := dir(s.Owner).sharersDir(s.Volume)
		if err := os.MkdirAll(at, 0o700); err != nil {
			return fmt.Errorf("share a volume: %w", err)
		}
		if err := os.WriteFile(filepath.Join(at, d.id()), nil, 0o600); err != nil {
			return fmt.Errorf("share a volume: %w", err)
		}
	}
	return nil
}

// Shares returns the shares of the container.
func (d Dir) Shares() ([]Share, error) {
	s, err := d.readShares()
	return s.List, err
}

func (d Dir) readShares() (out sharing, err error) {
	text, err := os.ReadFile(d.File(sharesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return sharing{}, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if out.Version > sharesVersion {
		err = errNewerShares
	}
	if err != nil {
		return sharing{}, fmt.Errorf("read shares of volumes: %w", err)
	}
	return out, nil
}

// SharesLeft reports whether Unshare has something to do.
func (d Dir) SharesLeft() bool {
	_, err := os.Lstat(d.File(sharesFile))
	return err == nil
}

// Unshare removes the stored shares of a container, which has mounted none of them any more, and
// returns them. It is no error if there are none.
func (d Dir) Unshare(dir func(id string) Dir) ([]Share, error) {
	s, err := d.readShares()
	unread := (*fs.PathError)(nil)
	if errors.Is(err, errNewerShares) || errors.As(err, &unread) {
		return nil, err
	}
	// A loss of power has cut off a file with any other fault. Nothing is mounted since, so it is
	// removed.
	for _, one := range s.List {
		err := os.Remove(filepath.Join(dir(one.Owner).sharersDir(one.Volume), d.id()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("end the share of a volume: %w", err)
		}
	}
	if err := os.Remove(d.File(sharesFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("end the shares of volumes: %w", err)
	}
	return s.List, nil
}

// Sharers returns the names of the containers that have a volume of this one.
func (d Dir) Sharers(volume string, dir func(id string) Dir) ([]string, error) {
	entries, err := os.ReadDir(d.sharersDir(volume))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the sharers of a volume: %w", err)
	}
	var out []string
	for _, e := range entries {
		s, err := dir(e.Name()).readShares()
		switch {
		case err != nil: // it may have it
			out = append(out, e.Name())
		case slices.ContainsFunc(s.List, func(one Share) bool {
			return one.Owner == d.id() && one.Volume == volume
		}):
			out = append(out, s.Name)
		}
	}
	return out, nil
}
