// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// This file is how a layer looks through to those below it: names are resolved as they will be in
// the overlay of all layers so far, and what the layer changes without describing it is taken over
// from below.

// found is the file of a name in the merged view of the layers.
type found struct {
	st     unix.Stat_t
	parent int    // directory of the layer that the name was found in
	layer  int    // index in applier.layers: 0 is the layer being applied
	target string // of a symbolic link
}

func (f *found) close() { _ = unix.Close(f.parent) }

func (f *found) kind() uint32 { return f.st.Mode & unix.S_IFMT }

func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// view is one directory of the merged view: the directories of all layers that are merged there,
// highest first. Its descriptors are its own.
type view []viewDir

type viewDir struct{ fd, layer int }

func (v view) close() {
	for _, d := range v {
		_ = unix.Close(d.fd)
	}
}

// rootView is the root of the image.
func (a *applier) rootView() (view, error) {
	var v view
	for i, fd := range a.layers {
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			v.close()
			return nil, err
		}
		v = append(v, viewDir{own, i})
	}
	return v, nil
}

// find finds one name. It returns nil when nothing is there, or when it was removed. The result's
// parent is the view's.
func (v view) find(name string) (*found, error) {
	for _, d := range v {
		f := &found{parent: d.fd, layer: d.layer}
		err := unix.Fstatat(d.fd, name, &f.st, unix.AT_SYMLINK_NOFOLLOW)
		switch {
		case errors.Is(err, unix.ENOENT):
			continue
		case err != nil:
			return nil, err
		case isWhiteout(&f.st):
			return nil, nil
		case f.kind() == unix.S_IFLNK:
			if f.target, err = readlinkat(d.fd, name); err != nil {
				return nil, err
			}
		}
		return f, nil
	}
	return nil, nil
}

// enter returns a directory of the view, empty when none is there.
func (a *applier) enter(v view, name string) (view, error) {
	var next view
	for _, d := range v {
		fd, err := unix.Openat(d.fd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		switch err {
		case nil:
		case unix.ENOENT:
			continue
		case unix.ENOTDIR, unix.ELOOP: // a whiteout or a file hides what is below
			return next, nil
		default:
			next.close()
			return nil, err
		}
		next = append(next, viewDir{fd, d.layer})
		if a.isOpaque(fd) {
			break
		}
	}
	return next, nil
}

// walk enters one directory after the other.
func (a *applier) walk(parts []string) (view, error) {
	v, err := a.rootView()
	for _, c := range parts {
		if err != nil || len(v) == 0 {
			break
		}
		var next view
		next, err = a.enter(v, c)
		v.close()
		v = next
	}
	return v, err
}

// lookup finds the last of canonical components, all others of which are directories. The caller
// closes the result.
func (a *applier) lookup(parts []string) (*found, error) {
	last := len(parts) - 1
	v, err := a.walk(parts[:last])
	if err != nil {
		return nil, err
	}
	defer v.close()
	f, err := v.find(parts[last])
	if err != nil || f == nil {
		return nil, err
	}
	if f.parent, err = unix.FcntlInt(uintptr(f.parent), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return nil, err
	}
	return f, nil
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

// maxSteps bounds the work of resolving one name, which links can multiply.
const maxSteps = 8192

// canonical resolves the symbolic links in the name of a directory, inside the image, as the
// finished image has them. Of the result some trailing components may not be there yet.
func (a *applier) canonical(parts []string) ([]string, error) {
	var out []string
	todo := parts
	links, steps := 0, 0
	here, err := a.rootView() // the directory out, unless stale
	if err != nil {
		return nil, err
	}
	defer func() { here.close() }()
	stale := false
	for len(todo) > 0 {
		c := todo[0]
		todo = todo[1:]
		switch c {
		case "", ".":
			continue
		case "..": // of a link's target
			if len(out) > 0 {
				out, stale = out[:len(out)-1], true
			}
			continue
		}
		if stale {
			here.close()
			if here, err = a.walk(out); err != nil {
				return nil, err
			}
			stale = false
			steps += len(out)
		}
		if steps++; steps > maxSteps {
			return nil, unix.ELOOP
		}
		f, err := here.find(c)
		if err != nil {
			return nil, err
		}
		if f == nil || f.layer != 0 {
			a.dependent = true
		}
		switch {
		case f == nil || f.kind() == unix.S_IFDIR:
			next, err := a.enter(here, c)
			if err != nil {
				return nil, err
			}
			here.close()
			here = next
			out = append(out[:len(out):len(out)], c)
		case f.kind() == unix.S_IFLNK:
			if links++; links > maxLinks {
				return nil, unix.ELOOP
			}
			if strings.HasPrefix(f.target, "/") {
				out, stale = nil, true
			}
			todo = append(strings.Split(f.target, "/"), todo...)
		default:
			return nil, fmt.Errorf("its parent %q is %s; allowed: a directory", shorten(strings.Join(append(out, c), "/")), fileType(f.st.Mode))
		}
		if len(out) >= maxPath/2 {
			return nil, unix.ENAMETOOLONG
		}
	}
	if len(strings.Join(out, "/")) >= maxPath {
		return nil, unix.ENAMETOOLONG
	}
	return out, nil
}

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

// forgetParentLater keeps the descriptor, which is in use, and has the next entry resolve its
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

// makeParent makes a directory that an entry needs and the layer does not describe: like that of
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

// setOpaque hides what the layers below have in a directory, and drops the whiteouts in it, which
// now mean nothing: overlayfs shows a whiteout that hides nothing as a file that cannot be opened.
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

// whiteout removes what the layers below have under a name. It never removes anything of its own
// layer (image-spec layer.md: "Whiteout files MUST only apply to resources in lower/parent
// layers"), in whatever order the entries come.
func (a *applier) whiteout(dir []string, victim string) error {
	a.dependent = true
	canon, err := a.canonical(dir)
	if err != nil {
		return err
	}
	full := slices.Concat(canon, []string{victim})
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

// hideRoot makes the root opaque: overlayfs merges the roots of its layers whatever their
// attributes say, so each name of the layers below gets a whiteout of its own.
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
