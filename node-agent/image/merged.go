// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
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

// view is one directory of the merged view: the directories of all layers that are merged there,
// highest first. Its descriptors are its own.
type view []viewDir

type viewDir struct{ fd, layer int }

func (v view) close() {
	for _, d := range v {
		_ = unix.Close(d.fd)
	}
}

// rootView returns the root of the image.
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

// maxSteps is the greatest number of steps to resolve one name, which links can multiply.
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
			return nil, fmt.Errorf("its parent %q is %s; allowed: a directory",
				shorten(strings.Join(append(out, c), "/")), fileType(f.st.Mode))
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
