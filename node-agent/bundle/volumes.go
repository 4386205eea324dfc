// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/scoped"
)

// Volume returns the path of the emptyDir volume of that name.
func (d Dir) Volume(name string) string { return filepath.Join(d.path, "volumes", name) }

// PrepareVolumes makes the emptyDir volumes that are not there yet: a directory of mode 0777, or a
// tmpfs for medium Memory, or a hugetlbfs for huge pages. Those of the directory that are no longer
// among volumes are removed, and the one called emptied is made anew. It reports whether it has
// made one. If it fails, what it made is removed, and nothing else.
func (d Dir) PrepareVolumes(volumes []v1alpha1.Volume, emptied string) (anything bool, err error) {
	var made []string
	defer func() {
		if err == nil {
			return
		}
		for _, name := range made {
			err = errors.Join(err, d.removeVolume(name))
		}
	}()
	for i, v := range volumes {
		if !inside(v.Name) {
			return false, fmt.Errorf("volumes[%d].name: found %q; allowed: a name without /", i, v.Name)
		}
	}
	removed, _, err := d.unlike(wanted(volumes, emptied))
	if err != nil {
		return false, err
	}
	for _, name := range removed {
		if err := d.removeVolume(name); err != nil {
			return false, err
		}
	}
	for i, v := range volumes {
		if v.EmptyDir == nil {
			continue
		}
		if err := checkHugePages(v.EmptyDir.Medium); err != nil {
			return false, fmt.Errorf("volumes[%d].emptyDir.medium: %w", i, err)
		}
		fresh, err := d.emptyDir(v.Name, v.EmptyDir)
		if fresh {
			made = append(made, v.Name)
		}
		if err != nil {
			return false, fmt.Errorf("volumes[%d].emptyDir: %w", i, err)
		}
	}
	return len(made) > 0, nil
}

// wanted returns the emptyDir volumes to keep, by their names.
func wanted(volumes []v1alpha1.Volume, emptied string) map[string]*corev1.EmptyDirVolumeSource {
	keep := map[string]*corev1.EmptyDirVolumeSource{}
	for _, v := range volumes {
		if v.EmptyDir != nil && v.Name != emptied {
			keep[v.Name] = v.EmptyDir
		}
	}
	return keep
}

// Doomed returns the emptyDir volumes of the directory that PrepareVolumes would remove, or cover
// by a mount.
func (d Dir) Doomed(volumes []v1alpha1.Volume, emptied string) ([]string, error) {
	removed, covered, err := d.unlike(wanted(volumes, emptied))
	return append(removed, covered...), err
}

// emptiedFile is the file that says for which run a volume was emptied last.
const emptiedFile = "emptied"

// NoteEmptied writes down that a volume has been emptied for the run of that number.
func (d Dir) NoteEmptied(run int32) error {
	return d.ReplaceForBoot(emptiedFile, []byte(strconv.Itoa(int(run))))
}

// WasEmptied reports whether a volume has been emptied for the run of that number. Others may have
// written to it since.
func (d Dir) WasEmptied(run int32) bool {
	text, err := os.ReadFile(d.File(emptiedFile))
	return err == nil && string(text) == strconv.Itoa(int(run))
}

// CheckHostPaths checks the hostPath volumes by their type, and makes those that are to be made.
func CheckHostPaths(volumes []v1alpha1.Volume) error {
	for i, v := range volumes {
		if v.HostPath == nil {
			continue
		}
		if err := CheckHostPath(fmt.Sprintf("volumes[%d].hostPath", i), v.HostPath); err != nil {
			return err
		}
	}
	return nil
}

// RemoveVolumes removes all emptyDir volumes of the directory. It is no error when there is none.
func (d Dir) RemoveVolumes() error {
	removed, _, err := d.unlike(nil)
	for _, name := range removed {
		if err := d.removeVolume(name); err != nil {
			return err
		}
	}
	return err
}

// emptyDir creates the volume unless it exists, and reports whether it created it.
func (d Dir) emptyDir(name string, source *corev1.EmptyDirVolumeSource) (made bool, err error) {
	path := d.Volume(name)
	pages, err := hugePages(source.Medium)
	if err != nil {
		return false, err
	}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		if err := d.newVolume(name); err != nil {
			return false, err
		}
		made = true
	} else if err != nil {
		return false, err
	}
	if source.Medium != corev1.StorageMediumMemory && pages == 0 {
		return made, nil
	}
	if !made {
		// The mount of a directory that outlived a boot is gone.
		mounted, err := isMountPoint(path)
		if err != nil || mounted {
			return false, err
		}
	}
	kind, options := "tmpfs", "mode=0777"
	if pages > 0 {
		kind, options = "hugetlbfs", options+",pagesize="+strconv.FormatInt(pages, 10)
	}
	if source.SizeLimit != nil && source.SizeLimit.Value() > 0 {
		options += ",size=" + strconv.FormatInt(source.SizeLimit.Value(), 10)
	}
	if err := unix.Mount("berth", path, kind, unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return true, fmt.Errorf("mount %s (%s): %w", kind, options, err)
	}
	return true, nil
}

// newVolume creates the directory of a volume. It gets its name once its mode is right, whatever
// the umask is: a volume that is there is never changed. A name that begins with a dot is no
// volume's.
func (d Dir) newVolume(name string) error {
	path := d.Volume(name)
	fresh := d.Volume(".new")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return err
	}
	if err := os.Chmod(fresh, 0o777); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}

// unlike returns the emptyDir volumes of the directory that are not in keep, or are there on
// another medium, and those that lack a mount.
func (d Dir) unlike(keep map[string]*corev1.EmptyDirVolumeSource) (other, bare []string,
	err error,
) {
	entries, err := os.ReadDir(d.File("volumes"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("list volumes: %w", err)
	}
	for _, e := range entries {
		source, wanted := keep[e.Name()]
		if !wanted {
			other = append(other, e.Name())
			continue
		}
		same, mounted, err := onMedium(d.Volume(e.Name()), source.Medium)
		if err != nil {
			return nil, nil, fmt.Errorf("look at volume %s: %w", e.Name(), err)
		}
		if !same {
			other = append(other, e.Name())
		} else if !mounted && source.Medium != corev1.StorageMediumDefault {
			bare = append(bare, e.Name())
		}
	}
	return other, bare, nil
}

// onMedium reports whether the directory of a volume is on a medium or, without a mount, may get
// it: the mount of one that outlived a boot is gone. It also reports whether there is a mount.
func onMedium(path string, medium corev1.StorageMedium) (same, mounted bool, err error) {
	mounted, err = isMountPoint(path)
	if err != nil || !mounted {
		return err == nil, false, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return false, true, err
	}
	pages, err := hugePages(medium)
	if st.Type == unix.HUGETLBFS_MAGIC {
		return pages == st.Bsize, true, err
	}
	return medium == corev1.StorageMediumMemory, true, nil
}

func (d Dir) removeVolume(name string) error {
	if err := unmount(d.Volume(name)); err != nil {
		return err
	}
	if err := scoped.RemoveAll(d.Volume(name)); err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	return nil
}

// CheckHostPath checks or creates the path of a hostPath volume by its type, as the kubelet does
// (corev1.HostPathType). A symlink is followed: the path is the user's, on the node. Errors begin
// with field.
func CheckHostPath(field string, source *corev1.HostPathVolumeSource) error {
	kind := corev1.HostPathUnset
	if source.Type != nil {
		kind = *source.Type
	}
	info, err := os.Stat(source.Path)
	if errors.Is(err, fs.ErrNotExist) {
		switch kind {
		case corev1.HostPathDirectoryOrCreate:
			// 0755 and owned by the agent's user, as corev1.HostPathDirectoryOrCreate says.
			if err := os.MkdirAll(source.Path, 0o755); err != nil {
				return fmt.Errorf("%s.path: make directory: %w", field, err)
			}
			return nil
		case corev1.HostPathFileOrCreate:
			f, err := os.OpenFile(source.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if err != nil {
				return fmt.Errorf("%s.path: make file: %w", field, err)
			}
			return f.Close()
		}
		return fmt.Errorf("%s.path: found nothing at %s on this node; allowed: %s", field, source.Path,
			hostPathKind(kind))
	}
	if err != nil {
		return fmt.Errorf("%s.path: %w", field, err)
	}
	mode := info.Mode()
	ok := true
	switch kind {
	case corev1.HostPathUnset:
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		ok = mode.IsDir()
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		ok = mode.IsRegular()
	case corev1.HostPathSocket:
		ok = mode&fs.ModeSocket != 0
	case corev1.HostPathCharDev:
		ok = mode&fs.ModeCharDevice != 0
	case corev1.HostPathBlockDev:
		ok = mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0
	default:
		return fmt.Errorf(
			"%s.type: found %q; allowed: DirectoryOrCreate, Directory, FileOrCreate, File, Socket, CharDevice, BlockDevice or nothing", field, kind)
	}
	if !ok {
		return fmt.Errorf("%s.path: found %s (%s); allowed: %s", field, source.Path, kindOf(mode),
			hostPathKind(kind))
	}
	return nil
}

func hostPathKind(kind corev1.HostPathType) string {
	switch kind {
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		return "a directory (type " + string(kind) + ")"
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		return "a regular file (type " + string(kind) + ")"
	case corev1.HostPathSocket:
		return "a unix socket (type Socket)"
	case corev1.HostPathCharDev:
		return "a character device (type CharDevice)"
	case corev1.HostPathBlockDev:
		return "a block device (type BlockDevice)"
	}
	return "a file or directory that is there"
}

func kindOf(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "a directory"
	case mode.IsRegular():
		return "a regular file"
	case mode&fs.ModeSocket != 0:
		return "a unix socket"
	case mode&fs.ModeCharDevice != 0:
		return "a character device"
	case mode&fs.ModeDevice != 0:
		return "a block device"
	case mode&fs.ModeNamedPipe != 0:
		return "a fifo"
	}
	return "neither file nor directory"
}
