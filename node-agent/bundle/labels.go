// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// xattrSELinux is the attribute with the label of a file (xattr(7)).
const xattrSELinux = "security.selinux"

// xattrUnfinished is an attribute of a volume whose files are being labelled. Root of the node
// alone can set it (xattr(7)).
const xattrUnfinished = "trusted.berth.unlabelled"

// contextOption returns the option of mount(2) by which all files of a new filesystem have a label.
// A level has commas, which end an option that is not quoted.
func contextOption(label string) string { return `,context="` + label + `"` }

// Relabel gives a volume and all files in it a label of SELinux, unless the volume's own directory
// has it: a start that comes again changes nothing. After an earlier one that was interrupted, and
// may have given another label to some files, it looks through the volume all the same. A hugetlbfs
// has no labels of its own, and keeps that of its policy.
//
// Containers may change the volume at the same time. As in GiveToGroup, each file is opened beneath
// its directory, without following a link or entering another filesystem, and changed by its
// descriptor.
func Relabel(ctx context.Context, path, label string) error {
	return relabel(ctx, path, label, false)
}

// relabel does the work of Relabel. With always it labels the files also if the directory has the
// label.
func relabel(ctx context.Context, path, label string, always bool) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	if st.Type == unix.HUGETLBFS_MAGIC {
		return nil
	}
	have, err := labelOf(fd)
	if err != nil {
		return err
	}
	if _, err := unix.Getxattr(procPath(fd), xattrUnfinished, nil); err != nil && have == label &&
		!always {
		return nil
	}
	err = unix.Setxattr(procPath(fd), xattrUnfinished, nil, 0)
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return os.NewSyscallError("setxattr "+xattrUnfinished, err)
	}
	set := func(fd int, _ *unix.Stat_t) error { return setLabel(fd, label) }
	if err := eachBelow(ctx, fd, set, 0); err != nil {
		return err
	}
	if err := setLabel(fd, label); err != nil {
		return err
	}
	err = unix.Removexattr(procPath(fd), xattrUnfinished)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENODATA) { // another start has ended
		return nil
	}
	return os.NewSyscallError("removexattr "+xattrUnfinished, err)
}

// LabelNames gives the files that MountNames has written a label of SELinux.
func (d Dir) LabelNames(ctx context.Context, label string) error {
	err := relabel(ctx, d.File("etc"), label, true)
	if errors.Is(err, fs.ErrNotExist) { // the user has mounted something over all of them
		return nil
	}
	return err
}

// MountFiles mounts the tmpfs of volumes of files, all of whose files have a label of SELinux. One
// with another label is unmounted, with its files. The container must not run.
func (d Dir) MountFiles(label string) error {
	path := d.filesDir()
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("mount files of volumes: %w", err)
	}
	mounted, err := isMountPoint(path)
	if err != nil {
		return fmt.Errorf("mount files of volumes: %w", err)
	}
	if mounted {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: path, Err: err}
		}
		have, err := labelOf(fd)
		unix.Close(fd)
		if err != nil || have == label {
			return err
		}
		if err := unmount(path); err != nil {
			return err
		}
	}
	if err := mountMemory(path, 0, "mode=0700"+contextOption(label)); err != nil {
		return fmt.Errorf("mount files of volumes: %w", err)
	}
	return nil
}

// labelOf returns the label of an opened file; "" if it has none.
func labelOf(fd int) (string, error) {
	value := make([]byte, 4096)
	n, err := unix.Getxattr(procPath(fd), xattrSELinux, value)
	if errors.Is(err, unix.ENODATA) {
		return "", nil
	}
	if err != nil {
		return "", labelError("getxattr", err)
	}
	return strings.TrimRight(string(value[:n]), "\x00"), nil
}

// setLabel gives an opened file a label.
func setLabel(fd int, label string) error {
	// fsetxattr(2) refuses O_PATH.
	err := unix.Setxattr(procPath(fd), xattrSELinux, []byte(label), 0)
	return labelError("setxattr", err)
}

// labelError returns the error of a system call that reads or writes a label, with a remedy where
// the filesystem has none.
func labelError(call string, err error) error {
	failed := os.NewSyscallError(call+" "+xattrSELinux, err)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("found a filesystem that takes no labels of SELinux; allowed: one that does, "+
			"such as ext4 or XFS, mounted without the option context: %w", failed)
	}
	return failed
}

// procPath returns a path of a file that was opened with O_PATH, also of a link.
func procPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }
