// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// This file is how a layer looks through to those below it: names are resolved as they will be in the overlay of all layers so
// far, and what the layer changes without describing it is taken over from below.

// found is what a name is in the merged view of the layers.
type found struct {
	st     unix.Stat_t
	parent int    // directory of the layer that the name was found in; owned by the caller
	layer  int    // index in applier.layers: 0 is the layer being applied
	target string // of a symbolic link
}

func (f *found) close() { _ = unix.Close(f.parent) }

func (f *found) kind() uint32 { return f.st.Mode & unix.S_IFMT }

func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// lookup finds the last of canonical components, all others of which are directories in the merged view. It returns nil when
// nothing is there, or when it was removed.
func (a *applier) lookup(parts []string) (*found, error) {
	type dir struct{ fd, layer int }
	dirs := make([]dir, 0, len(a.layers))
	for i, fd := range a.layers {
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, dir{own, i})
	}
	closeAll := func(ds []dir) {
		for _, d := range ds {
			_ = unix.Close(d.fd)
		}
	}
	for i, c := range parts {
		var next []dir
		for k, d := range dirs {
			var st unix.Stat_t
			err := unix.Fstatat(d.fd, c, &st, unix.AT_SYMLINK_NOFOLLOW)
			if err == unix.ENOENT {
				continue
			}
			if err != nil {
				closeAll(next)
				closeAll(dirs)
				return nil, err
			}
			if isWhiteout(&st) {
				break
			}
			if i == len(parts)-1 {
				f := &found{st: st, parent: d.fd, layer: d.layer}
				closeAll(dirs[:k])
				closeAll(dirs[k+1:])
				if f.kind() == unix.S_IFLNK {
					if f.target, err = readlinkat(d.fd, c); err != nil {
						f.close()
						return nil, err
					}
				}
				return f, nil
			}
			if st.Mode&unix.S_IFMT != unix.S_IFDIR {
				break // hides the directories below
			}
			fd, err := unix.Openat(d.fd, c, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				closeAll(next)
				closeAll(dirs)
				return nil, err
			}
			next = append(next, dir{fd, d.layer})
			if a.isOpaque(fd) {
				break
			}
		}
		closeAll(dirs)
		dirs = next
	}
	closeAll(dirs)
	return nil, nil
}

func readlinkat(dir int, name string) (string, error) {
	buf := make([]byte, maxPath)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

func (a *applier) isOpaque(dir int) bool {
	var b [2]byte
	n, err := unix.Lgetxattr("/proc/self/fd/"+strconv.Itoa(dir)+"/.", a.format.opaqueXattr, b[:])
	return err == nil && n == 1 && b[0] == 'y'
}

// canonical resolves the symbolic links in the name of a directory, inside the image, as the finished image has them. Of the
// result some trailing components may not be there yet.
func (a *applier) canonical(parts []string) ([]string, error) {
	var out []string
	todo := parts
	links, size := 0, 0
	for len(todo) > 0 {
		c := todo[0]
		todo = todo[1:]
		switch c {
		case "", ".":
			continue
		case "..": // of a link's target
			if len(out) > 0 {
				out = out[:len(out)-1]
			}
			continue
		}
		out = append(out[:len(out):len(out)], c)
		f, err := a.lookup(out)
		if err != nil {
			return nil, err
		}
		if f == nil || f.layer != 0 {
			a.dependent = true
		}
		if f == nil {
			continue
		}
		f.close()
		switch f.kind() {
		case unix.S_IFDIR:
		case unix.S_IFLNK:
			if links++; links > maxLinks {
				return nil, unix.ELOOP
			}
			out = out[:len(out)-1]
			if strings.HasPrefix(f.target, "/") {
				out = nil
			}
			todo = append(strings.Split(f.target, "/"), todo...)
		default:
			return nil, fmt.Errorf("its parent %q is %s; allowed: a directory", shorten(strings.Join(out, "/")), fileType(f.st.Mode))
		}
	}
	for _, c := range out {
		size += len(c) + 1
	}
	if size >= maxPath {
		return nil, unix.ENAMETOOLONG
	}
	return out, nil
}

// parent returns the directory of this layer that an entry belongs into. The descriptor is the applier's.
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

// forgetParentLater keeps the descriptor, which is in use, and has the next entry resolve its parent again.
func (a *applier) forgetParentLater() { a.parentKey = "" }

// makeParents opens a canonical directory of this layer, and makes what of it this layer did not describe.
func (a *applier) makeParents(canon []string) (int, error) {
	fd, err := unix.FcntlInt(uintptr(a.root), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	for i, c := range canon {
		next, err := unix.Openat(fd, c, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == unix.ENOENT || err == unix.ENOTDIR {
			if err = a.makeParent(fd, canon[:i+1]); err == nil {
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

// makeParent makes a directory that an entry needs and the layer does not describe: like that of the layers below, or root's
// and 0755 as docker and containerd make them.
func (a *applier) makeParent(parent int, canon []string) error {
	a.dependent = true
	base := canon[len(canon)-1]
	below, err := a.lookup(canon)
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
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
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
	defer below.close()
	a.times = append(a.times, dirTime{path: name, times: [2]unix.Timespec{below.st.Atim, below.st.Mtim}})
	from, err := unix.Openat(below.parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
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

// setOpaque hides what the layers below have in a directory, and drops the whiteouts in it, which now mean nothing: overlayfs shows a
// whiteout that hides nothing as a file that cannot be opened.
func (a *applier) setOpaque(fd int) error {
	if err := unix.Fsetxattr(fd, a.format.opaqueXattr, []byte("y"), 0); err != nil {
		return fmt.Errorf("set %s: %w", a.format.opaqueXattr, err)
	}
	return dropWhiteouts(fd)
}

// dropWhiteouts removes the whiteouts in a directory and below it. Depth is bounded by maxPath.
func dropWhiteouts(fd int) error {
	names, err := list(fd)
	if err != nil {
		return err
	}
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		switch {
		case isWhiteout(&st):
			if err := unix.Unlinkat(fd, name, 0); err != nil {
				return err
			}
		case st.Mode&unix.S_IFMT == unix.S_IFDIR:
			sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			err = dropWhiteouts(sub)
			_ = unix.Close(sub)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// list returns the names in a directory, whose descriptor may be O_PATH.
func list(dir int) ([]string, error) {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "directory")
	defer f.Close()
	return f.Readdirnames(-1)
}

// whiteout removes what the layers below have under a name. It never removes anything of its own layer (image-spec layer.md:
// "Whiteout files MUST only apply to resources in lower/parent layers"), in whatever order the entries come.
func (a *applier) whiteout(dir []string, victim string) error {
	a.dependent = true
	canon, err := a.canonical(dir)
	if err != nil {
		return err
	}
	full := append(canon[:len(canon):len(canon)], victim)
	f, err := a.lookup(full)
	if err != nil || f == nil {
		return err // nothing there to hide
	}
	defer f.close()
	if f.layer == 0 {
		if f.kind() != unix.S_IFDIR {
			return nil // hides what is below already
		}
		fd, err := unix.Openat(f.parent, victim, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return a.setOpaque(fd)
	}
	a.forgetParent()
	parent, err := a.makeParents(canon)
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	if err := unix.Mknodat(parent, victim, unix.S_IFCHR, 0); err != nil {
		return fmt.Errorf("make whiteout: %w", err)
	}
	return nil
}

// opaque hides all that the layers below have in a directory.
func (a *applier) opaque(dir []string) error {
	a.dependent = true
	canon, err := a.canonical(dir)
	if err != nil {
		return err
	}
	if len(canon) == 0 {
		a.opaqueRoot = true
		return nil
	}
	a.forgetParent()
	fd, err := a.makeParents(canon)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	own, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(own)
	return a.setOpaque(own)
}

// hideRoot makes the root opaque: overlayfs merges the roots of its layers whatever their attributes say, so each name of
// the layers below gets a whiteout of its own.
func (a *applier) hideRoot() error {
	for _, lower := range a.layers[1:] {
		names, err := list(lower)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := a.whiteout(nil, name); err != nil {
				return err
			}
		}
	}
	return nil
}
