// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// parent returns the directory of this layer that an entry belongs into. The descriptor is the
// applier's.
func (a *applier) parent(parts []string) (int, error) {
	if len(parts) == 0 {
		return a.root, nil
	}
	key := strings.Join(parts, "/")
	if a.parentFd >= 0 && a.parentKey == key {
		return a.parentFd, nil
	}
	a.forgetParent()
	// Nearly always the directory is there, without links: one call.
	fd, err := unix.Openat2(a.root, key, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		canon, cerr := a.canonical(parts)
		if cerr != nil {
			return -1, cerr
		}
		if fd, err = a.makeParents(canon); err != nil {
			return -1, err
		}
	}
	a.parentKey, a.parentFd = key, fd
	return fd, nil
}

func (a *applier) forgetParent() {
	if a.parentFd >= 0 {
		_ = unix.Close(a.parentFd)
	}
	a.parentKey, a.parentFd = "", -1
}

// forgetParentLater keeps the descriptor, which is in use, and makes the next entry resolve its
// parent again.
func (a *applier) forgetParentLater() { a.parentKey = "" }

// makeParents opens a canonical directory of this layer, and creates the parts of it that this
// layer did not describe.
func (a *applier) makeParents(canon []string) (int, error) {
	fd, err := unix.FcntlInt(uintptr(a.root), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	var here view // the directory fd, once something is missing
	missing := false
	defer func() { here.close() }()
	for i, c := range canon {
		next, err := unix.Openat(fd, c, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			if !missing {
				missing = true
				here, err = a.walk(canon[:i])
			} else {
				err = nil
			}
			var below view
			if err == nil {
				below, err = a.enter(here, c)
			}
			if err == nil {
				err = a.makeParent(fd, canon[:i+1], here)
			}
			here.close()
			here = below
			if err == nil {
				next, err = unix.Openat(fd, c, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			}
		}
		_ = unix.Close(fd)
		if err != nil {
			return -1, fmt.Errorf("parent %q: %w", shorten(strings.Join(canon[:i+1], "/")), err)
		}
		fd = next
	}
	return fd, nil
}

// makeParent creates a directory that an entry needs and the layer does not describe: like that of
// the layers below, or root's and 0755 as docker and containerd make them. here is the merged view
// of its parent.
func (a *applier) makeParent(parent int, canon []string, here view) error {
	a.dependent = true
	base := canon[len(canon)-1]
	below, err := here.find(base)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	hidden := false
	if unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
		if !isWhiteout(&st) {
			return fmt.Errorf("found %s; allowed: a directory", fileType(st.Mode))
		}
		if err := unix.Unlinkat(parent, base, 0); err != nil {
			return err
		}
		hidden = true
	}
	if err := unix.Mkdirat(parent, base, 0o700); err != nil {
		return err
	}
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|
		unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if hidden {
		if err := a.setOpaque(fd); err != nil {
			return err
		}
	}
	name := strings.Join(canon, "/")
	if below == nil {
		if err := unix.Fchown(fd, 0, 0); err != nil {
			return err
		}
		a.times = append(a.times, dirTime{path: name, times: [2]unix.Timespec{a.now, a.now}})
		return unix.Fchmod(fd, 0o755)
	}
	a.times = append(a.times, dirTime{path: name, times: [2]unix.Timespec{
		below.st.Atim,
		below.st.Mtim,
	}})
	from, err := unix.Openat(below.parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|
		unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	return copyMeta(from, fd, &below.st)
}

// copyMeta gives a directory or file the owner, attributes and mode of another.
func copyMeta(from, to int, st *unix.Stat_t) error {
	if err := unix.Fchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	list := make([]byte, 64<<10) // XATTR_LIST_MAX, and XATTR_SIZE_MAX for the values
	n, err := unix.Flistxattr(from, list)
	if err != nil && err != unix.ENOTSUP {
		return err
	}
	value := make([]byte, 64<<10)
	for name := range strings.SplitSeq(string(list[:max(n, 0)]), "\x00") {
		if name == "" || overlayXattr(name) || name == "security.selinux" {
			continue
		}
		n, err := unix.Fgetxattr(from, name, value)
		if err != nil {
			return err
		}
		if err := unix.Fsetxattr(to, name, value[:n], 0); err != nil {
			return err
		}
	}
	return unix.Fchmod(to, st.Mode&0o7777)
}
