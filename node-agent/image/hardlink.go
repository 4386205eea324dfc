// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// hardlink is the target of a hard link, in this layer.
type hardlink struct {
	parent int
	name   string
	st     unix.Stat_t
}

func (l *hardlink) close() { _ = unix.Close(l.parent) }

// is reports whether a name is the target itself.
func (l *hardlink) is(parent int, name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Dev == l.st.Dev &&
		st.Ino == l.st.Ino
}

// findLink finds the target of a hard link. A target in a layer below is copied into this one, as
// overlayfs does itself on link(2).
func (a *applier) findLink(h *tar.Header) (hardlink, error) {
	refuse := func(format string, args ...any) (hardlink, error) {
		return hardlink{}, &EntryError{Entry: h.Name, Reason: fmt.Sprintf("hard link to %q: ",
			shorten(h.Linkname)) + fmt.Sprintf(format, args...)}
	}
	parts, reason := split(h.Linkname)
	if reason != "" {
		return refuse("%s", reason)
	}
	if len(parts) == 0 {
		return refuse("found the root of the image; allowed: a file")
	}
	canon, err := a.canonical(parts[:len(parts)-1])
	if err != nil {
		return refuse("%v", err)
	}
	base := parts[len(parts)-1]
	f, err := a.lookup(append(canon[:len(canon):len(canon)], base))
	if err != nil {
		return hardlink{}, err
	}
	if f == nil {
		return refuse("found nothing; allowed: a file that the image has by then")
	}
	if f.kind() == unix.S_IFDIR {
		f.close()
		return refuse("found a directory; allowed: a file")
	}
	if f.layer == 0 {
		return hardlink{parent: f.parent, name: base, st: f.st}, nil
	}
	defer f.close()
	a.dependent = true
	to, err := a.makeParents(canon)
	if err != nil {
		return hardlink{}, err
	}
	l := hardlink{parent: to, name: base}
	err = a.copyUp(f, to, base)
	if err == nil {
		err = unix.Fstatat(to, base, &l.st, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		l.close()
		return refuse("cannot be copied from the layer below: %v", err)
	}
	return l, nil
}

// copyUp copies a file or symbolic link of a lower layer to the same name in this one.
func (a *applier) copyUp(f *found, parent int, base string) error {
	times := [2]unix.Timespec{f.st.Atim, f.st.Mtim}
	switch f.kind() {
	case unix.S_IFLNK:
		if err := unix.Symlinkat(f.target, parent, base); err != nil {
			return err
		}
		err := unix.Fchownat(parent, base, int(f.st.Uid), int(f.st.Gid), unix.AT_SYMLINK_NOFOLLOW)
		if err != nil {
			return err
		}
	case unix.S_IFREG:
		if a.bytes += f.st.Size; a.bytes > a.limits.Layer {
			return &SizeError{What: "files of the layer", Found: a.bytes, Allowed: a.limits.Layer}
		}
		in, err := unix.Openat(f.parent, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|
			unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		from := os.NewFile(uintptr(in), base)
		defer from.Close()
		out, err := unix.Openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|
			unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		to := os.NewFile(uintptr(out), base)
		defer to.Close()
		if _, err := io.Copy(to, from); err != nil {
			return err
		}
		if err := copyMeta(in, out, &f.st); err != nil {
			return err
		}
	default:
		return errors.New("found " + fileType(f.st.Mode) + "; allowed: a file or a symbolic link")
	}
	return unix.UtimesNanoAt(parent, base, times[:], unix.AT_SYMLINK_NOFOLLOW)
}
