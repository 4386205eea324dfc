// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/oci/files"
)

// The layout of a volume is the kubelet's (pkg/volume/util/atomic_writer.go), which programs watch:
//
//	..2026_01_02_15_04_05.000000006/a/b   the files
//	..data -> ..2026_01_02_15_04_05.000000006
//	a -> ..data/a
//
// All files change at once: a rename replaces the link ..data. A container may write into its
// volumes if it has the capability to mount them anew, so nothing here is trusted to be what was
// written, and os.Root keeps each path inside of the volume.
const (
	dataLink = "..data"
	nextLink = "..data_next"
)

// filesDir is the tmpfs of all volumes of files. Only root can enter it; a container has the
// directory of each volume as a mount of its own.
func (d Dir) filesDir() string { return d.File(files.Directory("")) }

// WriteFiles writes volumes of files, by their names, and removes others. It writes nothing in a
// volume that has its files already.
func (d Dir) WriteFiles(volumes map[string]files.Tree) error {
	if len(volumes) == 0 {
		return d.RemoveFiles()
	}
	if err := os.MkdirAll(d.filesDir(), 0o700); err != nil {
		return fmt.Errorf("write files of volumes: %w", err)
	}
	if err := mountMemory(d.filesDir(), 0, "mode=0700"); err != nil {
		return fmt.Errorf("write files of volumes: %w", err)
	}
	root, err := os.OpenRoot(d.filesDir())
	if err != nil {
		return fmt.Errorf("write files of volumes: %w", err)
	}
	defer func() { _ = root.Close() }()
	err = removeExcept(root, func(name string) bool { _, wanted := volumes[name]; return wanted })
	if err != nil {
		return fmt.Errorf("remove files of other volumes: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(volumes)) {
		if !inside(name) {
			return fmt.Errorf("write files of volume %q: found a name with /; allowed: one without", name)
		}
		if err := writeVolume(root, name, volumes[name]); err != nil {
			return fmt.Errorf("write files of volume %s: %w", name, err)
		}
	}
	return nil
}

// FilesDiffer reports whether the volumes have other files than these.
func (d Dir) FilesDiffer(volumes map[string]files.Tree) (bool, error) {
	for name, tree := range volumes {
		root, err := os.OpenRoot(d.File(files.Directory(name)))
		if errors.Is(err, fs.ErrNotExist) {
			return true, nil
		}
		if err != nil {
			return false, fmt.Errorf("look at files of volume %s: %w", name, err)
		}
		same := settled(root, tree)
		_ = root.Close()
		if !same {
			return true, nil
		}
	}
	return false, nil
}

// RemoveFiles removes all volumes of files. It succeeds if the container has no such volume.
func (d Dir) RemoveFiles() error {
	if err := unmount(d.filesDir()); err != nil {
		return err
	}
	if err := unix.Rmdir(d.filesDir()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove files of volumes: %w", err)
	}
	return nil
}

// writeVolume brings a volume to the files of tree. Each step may be repeated.
func writeVolume(volumes *os.Root, name string, tree files.Tree) error {
	if err := volumes.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := volumes.Chmod(name, 0o755); err != nil { // whatever the umask is
		return err
	}
	root, err := volumes.OpenRoot(name)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	if settled(root, tree) {
		return nil
	}
	current, err := root.Readlink(dataLink)
	if err != nil || !hasFiles(root, current, tree) {
		// What a write that ended early has left would use up the memory that the next version needs.
		if err := removeExcept(root, func(name string) bool {
			return !strings.HasPrefix(name, "..") || name == dataLink || name == current
		}); err != nil {
			return err
		}
		if current, err = newVersion(root, tree); err != nil {
			return err
		}
		if err := root.RemoveAll(nextLink); err != nil {
			return err
		}
		if err := root.Symlink(current, nextLink); err != nil {
			return err
		}
		if err := rename(root, nextLink, dataLink); err != nil {
			return err
		}
	}
	links := linksOf(tree)
	for _, link := range slices.Sorted(maps.Keys(links)) {
		if target, err := root.Readlink(link); err == nil && target == links[link] {
			continue
		}
		if err := root.RemoveAll(nextLink); err != nil {
			return err
		}
		if err := root.Symlink(links[link], nextLink); err != nil {
			return err
		}
		if err := rename(root, nextLink, link); err != nil {
			return err
		}
	}
	return removeExcept(root, func(name string) bool {
		_, link := links[name]
		return link || name == current || name == dataLink
	})
}

// rename replaces a name that may be a directory by a link.
func rename(root *os.Root, from, to string) error {
	err := root.Rename(from, to)
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EEXIST) {
		if err := root.RemoveAll(to); err != nil {
			return err
		}
		err = root.Rename(from, to)
	}
	return err
}

// removeExcept removes all entries of a directory, with what is below them, but those to keep.
func removeExcept(root *os.Root, keep func(name string) bool) error {
	there, err := list(root, ".")
	if err != nil {
		return err
	}
	for _, name := range there {
		if keep(name) {
			continue
		}
		if err := root.RemoveAll(name); err != nil {
			return err
		}
	}
	return nil
}

// newVersion writes the files of tree into a new directory and returns its name. Nothing of it is
// left after an error.
func newVersion(root *os.Root, tree files.Tree) (name string, err error) {
	for {
		name = time.Now().UTC().Format("..2006_01_02_15_04_05.000000000")
		err := root.Mkdir(name, 0o700)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrExist) {
			return "", err
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, root.RemoveAll(name))
		}
	}()
	for _, p := range slices.Sorted(maps.Keys(tree)) {
		at := path.Join(name, p)
		if err := root.MkdirAll(path.Dir(at), 0o700); err != nil {
			return name, err
		}
		if err := writeNew(root, at, tree[p]); err != nil {
			return name, err
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(directoriesOf(tree))) {
		if err := root.Chmod(path.Join(name, dir), 0o755); err != nil {
			return name, err
		}
	}
	return name, nil
}

// writeNew writes a file that is not there. A container that may write into its volume can place a
// fifo at the path; to open that for writing would block until somebody reads it.
func writeNew(root *os.Root, at string, content files.File) error {
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL | unix.O_NOFOLLOW | unix.O_NONBLOCK
	f, err := root.OpenFile(at, flags, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content.Data)
	if err == nil && (content.Owner != 0 || content.Group != 0) {
		err = f.Chown(int(content.Owner), int(content.Group))
	}
	if err == nil {
		err = f.Chmod(fs.FileMode(content.Mode))
	}
	return errors.Join(err, f.Close())
}

// directoriesOf returns the paths of a version's directories; "." is the version's own.
func directoriesOf(tree files.Tree) map[string]bool {
	out := map[string]bool{".": true}
	for p := range tree {
		files.Above(p, func(dir string) bool {
			out[dir] = true
			return false
		})
	}
	return out
}

// linksOf returns the links of the volume's directory with their targets.
func linksOf(tree files.Tree) map[string]string {
	out := map[string]string{}
	for p := range tree {
		first, _, _ := strings.Cut(p, "/")
		out[first] = dataLink + "/" + first
	}
	return out
}

// settled reports whether a volume has the files of tree, and nothing else.
func settled(root *os.Root, tree files.Tree) bool {
	current, err := root.Readlink(dataLink)
	if err != nil || !inside(current) || !hasFiles(root, current, tree) {
		return false
	}
	there, err := list(root, ".")
	links := linksOf(tree)
	if err != nil || len(there) != len(links)+2 {
		return false
	}
	for link, target := range links {
		if found, err := root.Readlink(link); err != nil || found != target {
			return false
		}
	}
	return true
}

// hasFiles reports whether a version has the files of tree and no others.
func hasFiles(root *os.Root, version string, tree files.Tree) bool {
	if !inside(version) || !strings.HasPrefix(version, "..") {
		return false
	}
	directories, count := directoriesOf(tree), 0
	for dir := range directories {
		there, err := readDir(root, path.Join(version, dir))
		if err != nil {
			return false
		}
		for _, e := range there {
			p := path.Join(dir, e.Name())
			if e.IsDir() && directories[p] {
				continue
			}
			want, wanted := tree[p]
			if !wanted || !e.Type().IsRegular() || !hasFile(root, path.Join(version, p), want) {
				return false
			}
			count++
		}
	}
	return count == len(tree)
}

// hasFile reports whether a path is a regular file with this content and mode. Nothing that a
// container has put there makes it wait or read more than the file has.
func hasFile(root *os.Root, p string, want files.File) bool {
	f, err := root.OpenFile(p, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Mode() != fs.FileMode(want.Mode) ||
		info.Size() != int64(len(want.Data)) || !ownedBy(info, want) {
		return false
	}
	data, err := io.ReadAll(io.LimitReader(f, info.Size()+1))
	return err == nil && string(data) == want.Data
}

// ownedBy reports whether a file has the owner and the group that are wanted. The owner 0 is the
// user who writes the files.
func ownedBy(info fs.FileInfo, want files.File) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Gid == want.Group && st.Uid == cmp.Or(want.Owner, uint32(os.Geteuid()))
}

// list returns the names of the entries of a directory.
func list(root *os.Root, dir string) ([]string, error) {
	f, err := openDir(root, dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// readDir returns the entries of a directory.
func readDir(root *os.Root, dir string) ([]fs.DirEntry, error) {
	f, err := openDir(root, dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.ReadDir(-1)
}

// openDir opens a directory, and does not wait for a writer if there is a fifo instead.
func openDir(root *os.Root, dir string) (*os.File, error) {
	return root.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}
