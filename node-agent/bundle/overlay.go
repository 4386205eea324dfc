// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLayers is the most lower layers that overlayfs takes (OVL_MAX_STACK in fs/overlayfs/params.h).
const maxLayers = 500

// MountRootfs mounts an overlay of layers, given lowest first, with a new and empty writable layer
// at rootfs. Whatever was mounted there before is undone first. On an error nothing of it is left.
// Its files have the ids of users; with nil, those on disk. They have the SELinux label; with "",
// those of the layers.
func (d Dir) MountRootfs(layers []string, users *Users, label string) (err error) {
	if len(layers) == 0 || len(layers) > maxLayers {
		return fmt.Errorf("image layers: found %d; allowed: 1 to %d, as overlayfs takes", len(layers),
			maxLayers)
	}
	if err := d.UnmountRootfs(); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.UnmountRootfs())
		}
	}()
	for _, dir := range []struct {
		name string
		mode os.FileMode
	}{{"upper", 0o755}, {"work", 0o700}, {"rootfs", 0o700}} {
		if err := os.Mkdir(d.File(dir.name), dir.mode); err != nil {
			return fmt.Errorf("make rootfs: %w", err)
		}
		// The mode of upper is the mode of the container's /, whatever the umask is.
		if err := os.Chmod(d.File(dir.name), dir.mode); err != nil {
			return fmt.Errorf("make rootfs: %w", err)
		}
	}

	if users != nil {
		// The writable layer is new, and has these ids on disk: overlayfs creates files in it as the
		// node's root, whose id the container does not have.
		if err := os.Chown(d.File("upper"), int(users.First), int(users.First)); err != nil {
			return fmt.Errorf("make rootfs: %w", err)
		}
		if layers, err = d.mapLayers(layers, users); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, d.unmountLayers()) }()
	}
	o := overlay{at: d.Rootfs(), upper: d.File("upper"), work: d.File("work"), label: label}
	if err := o.mount(layers); err != nil {
		return fmt.Errorf("mount rootfs: %w", err)
	}
	return nil
}

// overlay is a mount of overlayfs to be.
type overlay struct {
	at string
	// upper and work are the directories of the writable layer; "" for a mount that is read-only.
	upper, work string
	// label is the SELinux label of all files; "" for those of the layers.
	label string
}

// mount mounts the overlay of layers, given lowest first.
func (o overlay) mount(layers []string) (err error) {
	// A layer is named by its descriptor, which also is short: a string of fsconfig(2) ends at 256
	// bytes and all options of mount(2) together at a page.
	fds := make([]int, 0, len(layers)+2)
	defer func() {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
	}()
	open := func(path string) (string, error) {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", fmt.Errorf("open layer %s: %w", path, err)
		}
		fds = append(fds, fd)
		return fmt.Sprintf("/proc/self/fd/%d", fd), nil
	}
	lower := make([]string, len(layers)) // uppermost first, as overlayfs wants it
	for i, layer := range layers {
		if lower[len(layers)-1-i], err = open(layer); err != nil {
			return err
		}
	}
	if o.upper != "" {
		if o.upper, err = open(o.upper); err != nil {
			return err
		}
		if o.work, err = open(o.work); err != nil {
			return err
		}
	}
	err = o.mountNew(lower)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// Linux before 6.7 has no lowerdir+.
		old := o.mountOld(lower)
		if old == nil {
			return nil
		}
		err = errors.Join(err, old)
	}
	return err
}

// mountNew mounts the overlay with the mount API of Linux 5.2 and the option lowerdir+ of 6.7.
func (o overlay) mountNew(lower []string) error {
	fsfd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("fsopen overlay: %w", err)
	}
	defer unix.Close(fsfd)
	explain := func(what string, err error) error {
		return fmt.Errorf("overlay: %s: %w%s", what, err, kernelLog(fsfd))
	}
	set := func(key, value string) error {
		if err := unix.FsconfigSetString(fsfd, key, value); err != nil {
			return explain(key, err)
		}
		return nil
	}
	for _, l := range lower {
		if err := set("lowerdir+", l); err != nil {
			return err
		}
	}
	if err := set("source", "berth"); err != nil {
		return err
	}
	if o.label != "" {
		if err := set("context", o.label); err != nil {
			return err
		}
	}
	attributes := unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID
	if o.upper != "" {
		attributes = 0
		if err := set("upperdir", o.upper); err != nil {
			return err
		}
		if err := set("workdir", o.work); err != nil {
			return err
		}
		// The upper layer never outlives its mount, so that syncing it is waste
		// (Documentation/filesystems/overlayfs.rst, "Volatile mount").
		if err := unix.FsconfigSetFlag(fsfd, "volatile"); err != nil {
			return explain("volatile", err)
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return explain("create", err)
	}
	mfd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, attributes)
	if err != nil {
		return explain("fsmount", err)
	}
	defer unix.Close(mfd)
	if err := unix.MoveMount(mfd, "", unix.AT_FDCWD, o.at,
		unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return explain("move_mount", err)
	}
	return nil
}

// mountOld mounts the overlay with mount(2); its options take a page, which is some 180 layers.
func (o overlay) mountOld(lower []string) error {
	options, flags := "lowerdir="+strings.Join(lower, ":"),
		uintptr(unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID)
	if o.upper != "" {
		options, flags = options+",upperdir="+o.upper+",workdir="+o.work+",volatile", 0
	}
	if o.label != "" {
		options += contextOption(o.label)
	}
	if len(options) >= os.Getpagesize() {
		return fmt.Errorf(
			"found %d layers; allowed: as many as fit %d bytes of options, or Linux 6.7 or newer",
			len(lower), os.Getpagesize())
	}
	if err := unix.Mount("berth", o.at, "overlay", flags, options); err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	return nil
}

// kernelLog returns the kernel's messages about a filesystem context, which say more than the errno
// (fsopen(2), "message retrieval").
func kernelLog(fsfd int) string {
	var lines []string
	buf := make([]byte, 512)
	for len(lines) < 8 {
		n, err := unix.Read(fsfd, buf)
		if err != nil || n <= 0 {
			break
		}
		lines = append(lines, strings.TrimSpace(string(buf[:n])))
	}
	if len(lines) == 0 {
		return ""
	}
	return " (" + strings.Join(lines, "; ") + ")"
}
