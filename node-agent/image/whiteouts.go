// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

func (a *applier) isOpaque(dir int) bool {
	var b [2]byte
	n, err := unix.Lgetxattr("/proc/self/fd/"+strconv.Itoa(dir)+"/.", a.format.opaqueXattr, b[:])
	return err == nil && n == 1 && b[0] == 'y'
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
			sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|
				unix.O_CLOEXEC, 0)
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

// whiteoutEntry applies an entry whose name is that of a whiteout.
func (a *applier) whiteoutEntry(h *tar.Header, dir []string, base string) error {
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeLink: // aufs's own are hard links
	default:
		return refuse(h, "found %s with a whiteout's name; allowed: whiteouts are empty files",
			tarType(h.Typeflag))
	}
	if base == opaqueName {
		return a.opaque(dir)
	}
	victim := strings.TrimPrefix(base, whiteoutPrefix)
	if victim == "" || victim == "." || victim == ".." {
		return refuse(h, "found a whiteout of %q; allowed: a file's name", victim)
	}
	return a.whiteout(dir, victim)
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
		fd, err := unix.Openat(f.parent, victim, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|
			unix.O_CLOEXEC, 0)
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
