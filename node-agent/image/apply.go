// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/scoped"
)

// format is the form in which a layer names removals for overlayfs. Where the store is used without
// root, overlayfs is mounted with userxattr and reads user.overlay.* instead
// (Documentation/filesystems/overlayfs.rst, "User xattr").
type format struct {
	opaqueXattr string
}

func trustedFormat() format { return format{opaqueXattr: "trusted.overlay.opaque"} }

const (
	whiteoutPrefix = ".wh."         // image-spec layer.md, "Whiteouts"
	opaqueName     = ".wh..wh..opq" // image-spec layer.md, "Opaque Whiteout"
	aufsPrefix     = ".wh..wh."     // aufs's own bookkeeping in layers of old
	maxLinks       = 40             // symbolic links followed in one name, as the kernel's MAXSYMLINKS
	maxPath        = 4096           // bytes in a name, as the kernel's PATH_MAX
	xattrRecord    = "SCHILY.xattr."
	bsdXattrRecord = "LIBARCHIVE.xattr."
	// overlayfs's bookkeeping where a plain user mounts it: means nothing on another node
	userOverlay = "user.overlay."
)

// applied describes a layer that was unpacked.
type applied struct {
	// dependent: the result is right on these lower layers only.
	dependent bool
	entries   int
	bytes     int64
	// skipped are the names of extended attributes that were not set.
	skipped []string
}

// applier unpacks one layer into a directory that nobody else writes to.
type applier struct {
	applied
	root   int   // the layer's diff directory
	trash  int   // where replaced directories are moved to
	layers []int // diff and below it the lower layers, highest first, all O_PATH
	format format
	limits Limits

	times      []dirTime // directory times, set last because filling a directory changes them
	opaqueRoot bool
	// time for directories that no layer describes: that of the entry that needs them
	now unix.Timespec
	buf []byte

	parentKey string // the last parent that was resolved, as named by the tar
	parentFd  int    // -1: none
}

type dirTime struct {
	path  string // canonical
	times [2]unix.Timespec
}

// apply unpacks an uncompressed layer into the directory diff, which must be empty. lowers are the
// diff directories of the layers below, lowest first.
func apply(ctx context.Context, r io.Reader, diff, trash string, lowers []string, format format,
	limits Limits,
) (applied, error) {
	a := &applier{format: format, limits: limits, parentFd: -1, trash: -1, buf: make([]byte, 64<<10)}
	defer a.close()
	for _, dir := range append([]string{diff}, reversed(lowers)...) {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return a.applied, fmt.Errorf("open %s: %w", dir, err)
		}
		a.layers = append(a.layers, fd)
	}
	a.root = a.layers[0]
	var err error
	if a.trash, err = unix.Open(trash, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return a.applied, fmt.Errorf("open %s: %w", trash, err)
	}
	t := tar.NewReader(r)
	for {
		if err := ctx.Err(); err != nil {
			return a.applied, err
		}
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			var size *SizeError
			if errors.As(err, &size) || ctx.Err() != nil {
				return a.applied, err
			}
			return a.applied, &InvalidImageError{What: "layer", Reason: "not a tar stream", Err: err}
		}
		a.entries++
		if a.entries > limits.Entries {
			return a.applied, &SizeError{
				What: "entries of the layer", Found: int64(a.entries),
				Allowed: int64(limits.Entries),
			}
		}
		if err := a.entry(h, t); err != nil {
			var known *EntryError
			var size *SizeError
			if errors.As(err, &known) || errors.As(err, &size) {
				return a.applied, err
			}
			return a.applied, &EntryError{Entry: h.Name, Reason: "cannot be made", Err: err}
		}
	}
	return a.applied, a.finish()
}

func reversed(s []string) []string {
	s = slices.Clone(s)
	slices.Reverse(s)
	return s
}

func (a *applier) close() {
	a.forgetParent()
	for _, fd := range a.layers {
		_ = unix.Close(fd)
	}
	if a.trash >= 0 {
		_ = unix.Close(a.trash)
	}
}

// split turns a name of the tar into its components. Absolute names are relative to the root of the
// image.
func split(name string) ([]string, string) {
	if len(name) >= maxPath {
		return nil, fmt.Sprintf("name: found %d bytes; allowed: fewer than %d", len(name), maxPath)
	}
	var parts []string
	for c := range strings.SplitSeq(name, "/") {
		switch {
		case c == "" || c == ".":
		case c == "..":
			return nil, `name: found ".."; allowed: names inside the image`
		case len(c) > unix.NAME_MAX:
			return nil, fmt.Sprintf("name: found a component of %d bytes; allowed: at most %d", len(c),
				unix.NAME_MAX)
		case strings.ContainsRune(c, 0):
			return nil, "name: found a NUL byte"
		default:
			parts = append(parts, c)
		}
	}
	return parts, ""
}

// refuse returns the error of an entry that no image may have.
func refuse(h *tar.Header, format string, args ...any) error {
	return &EntryError{Entry: h.Name, Reason: fmt.Sprintf(format, args...)}
}

// entry applies one entry.
func (a *applier) entry(h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader { // a comment, as git archive writes
		return nil
	}
	parts, reason := split(h.Name)
	if reason != "" {
		return refuse(h, "%s", reason)
	}
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= 1<<32-1 || int64(h.Gid) >= 1<<32-1 {
		return refuse(h, "owner: found %d:%d; allowed: 0 to 4294967294", h.Uid, h.Gid)
	}
	a.now = unix.Timespec{Sec: h.ModTime.Unix(), Nsec: int64(h.ModTime.Nanosecond())}
	for i, c := range parts {
		last := i == len(parts)-1
		if strings.HasPrefix(c, aufsPrefix) && (!last || c != opaqueName) {
			return nil // aufs's bookkeeping
		}
		if strings.HasPrefix(c, whiteoutPrefix) && !last {
			return refuse(h, "found a whiteout's name for a directory; allowed: whiteouts are empty files")
		}
	}
	if len(parts) == 0 {
		if h.Typeflag != tar.TypeDir {
			return refuse(h, "found %s for the root of the image; allowed: a directory", tarType(h.Typeflag))
		}
		return a.describeDir(a.root, nil, h)
	}
	dir, base := parts[:len(parts)-1], parts[len(parts)-1]
	if strings.HasPrefix(base, whiteoutPrefix) {
		return a.whiteoutEntry(h, dir, base)
	}
	if err := a.check(h); err != nil {
		return err
	}
	parent, err := a.parent(dir)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		a.forgetParentLater()
		return a.makeDir(parent, parts, h)
	}
	return a.replace(parent, base, h, r)
}

// check refuses an entry for its type, and for what that type says beside the name.
func (a *applier) check(h *tar.Header) error {
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		a.bytes += h.Size
		if h.Size < 0 || a.bytes > a.limits.Layer || a.bytes < 0 {
			return &SizeError{What: "files of the layer", Found: a.bytes, Allowed: a.limits.Layer}
		}
	case tar.TypeDir, tar.TypeFifo:
	case tar.TypeSymlink, tar.TypeLink:
		if h.Linkname == "" || len(h.Linkname) >= maxPath || strings.ContainsRune(h.Linkname, 0) {
			return refuse(h, "link target: found %d bytes; allowed: 1 to %d, and no NUL", len(h.Linkname),
				maxPath-1)
		}
	case tar.TypeChar, tar.TypeBlock:
		if h.Devmajor < 0 || h.Devminor < 0 || h.Devmajor >= 1<<12 || h.Devminor >= 1<<20 {
			return refuse(h, "device: found %d:%d; allowed: numbers up to 4095:1048575", h.Devmajor,
				h.Devminor)
		}
		if h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0 {
			return refuse(h,
				"found the character device 0:0, which overlayfs takes for a whiteout; allowed: whiteouts named .wh.NAME")
		}
	default:
		return refuse(h, "found %s; allowed: files, directories, links, devices and fifos",
			tarType(h.Typeflag))
	}
	return nil
}

// replace puts anything but a directory in the place of what has its name.
func (a *applier) replace(parent int, base string, h *tar.Header, r io.Reader) error {
	var target hardlink
	if h.Typeflag == tar.TypeLink {
		// Found before anything is replaced: the target may be what this entry replaces.
		var err error
		if target, err = a.findLink(h); err != nil {
			return err
		}
		defer target.close()
		if target.is(parent, base) {
			return nil
		}
	}
	if err := a.clear(parent, base); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeLink {
		if err := unix.Linkat(target.parent, target.name, parent, base, 0); err != nil {
			return fmt.Errorf("link to %s: %w", shorten(h.Linkname), err)
		}
		return nil // the file has its owner and mode already
	}
	return a.create(parent, base, h, r)
}

// create creates a file, symbolic link, fifo or device.
func (a *applier) create(parent int, base string, h *tar.Header, r io.Reader) error {
	switch h.Typeflag {
	case tar.TypeSymlink:
		a.forgetParentLater()
		if err := unix.Symlinkat(h.Linkname, parent, base); err != nil {
			return fmt.Errorf("symlink: %w", err)
		}
		return a.describe(parent, base, -1, h, false)
	case tar.TypeFifo:
		if err := unix.Mknodat(parent, base, unix.S_IFIFO|0o600, 0); err != nil {
			return fmt.Errorf("mkfifo: %w", err)
		}
		return a.describe(parent, base, -1, h, true)
	case tar.TypeChar, tar.TypeBlock:
		kind := uint32(unix.S_IFCHR)
		if h.Typeflag == tar.TypeBlock {
			kind = unix.S_IFBLK
		}
		dev := unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
		if err := unix.Mknodat(parent, base, kind|0o600, int(dev)); err != nil {
			return fmt.Errorf("mknod %d:%d: %w", h.Devmajor, h.Devminor, err)
		}
		return a.describe(parent, base, -1, h, true)
	}
	fd, err := unix.Openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|
		unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	defer unix.Close(fd)
	if err := a.write(fd, r, h); err != nil {
		return err
	}
	return a.describe(parent, base, fd, h, true)
}

// write fills a new file. Blocks of zeros in a sparse entry become holes.
func (a *applier) write(fd int, r io.Reader, h *tar.Header) error {
	holes := sparse(h)
	var at int64
	for at < h.Size {
		n, err := io.ReadFull(r, a.buf[:min(int64(len(a.buf)), h.Size-at)])
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if !holes || !zero(a.buf[:n]) {
			for off := 0; off < n; {
				w, err := unix.Pwrite(fd, a.buf[off:n], at+int64(off))
				if err == unix.EINTR {
					continue
				}
				if err != nil {
					return fmt.Errorf("write: %w", err)
				}
				off += w
			}
		}
		at += int64(n)
	}
	if holes {
		if err := unix.Ftruncate(fd, h.Size); err != nil {
			return fmt.Errorf("truncate: %w", err)
		}
	}
	return nil
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// clear removes the file at the path of an entry that is not a directory: of two entries of one
// name the later is valid.
func (a *applier) clear(parent int, base string) error {
	var st unix.Stat_t
	err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	a.forgetParentLater()
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		// Moved as one; it is removed with the temporary directory.
		if err := unix.Renameat(parent, base, a.trash, strconv.Itoa(a.entries)); err != nil {
			return fmt.Errorf("replace directory: %w", err)
		}
		return nil
	}
	if err := unix.Unlinkat(parent, base, 0); err != nil {
		return fmt.Errorf("replace: %w", err)
	}
	return nil
}

// makeDir creates the directory named by parts, or sets its attributes.
func (a *applier) makeDir(parent int, parts []string, h *tar.Header) error {
	base := parts[len(parts)-1]
	var st unix.Stat_t
	err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW)
	replaced := err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR
	switch {
	case err != nil && err != unix.ENOENT:
		return fmt.Errorf("stat: %w", err)
	case replaced:
		if err := unix.Unlinkat(parent, base, 0); err != nil {
			return fmt.Errorf("replace: %w", err)
		}
		fallthrough
	case err == unix.ENOENT:
		if err := unix.Mkdirat(parent, base, 0o700); err != nil {
			return fmt.Errorf("mkdir: %w", err)
		}
	}
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|
		unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	if replaced {
		// What stood here hid the directory of the layers below, and so must this.
		if err := a.setOpaque(fd); err != nil {
			return err
		}
	}
	return a.describeDir(fd, parts, h)
}

// finish sets times and modes of directories, which must come last.
func (a *applier) finish() error {
	a.forgetParent()
	if a.opaqueRoot {
		if err := a.hideRoot(); err != nil {
			return err
		}
	}
	for _, t := range a.times {
		if err := a.setDirTime(t); err != nil {
			return fmt.Errorf("times of %q: %w", shorten(t.path), err)
		}
	}
	return nil
}

func (a *applier) setDirTime(t dirTime) error {
	// By now the name may be a link or gone: what is there then has its own times already.
	fd, err := scoped.Open(a.root, path.Join(".", t.path), unix.O_PATH|unix.O_DIRECTORY|
		unix.O_NOFOLLOW, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.UtimesNanoAt(fd, ".", t.times[:], unix.AT_SYMLINK_NOFOLLOW)
}

func tarType(flag byte) string {
	switch flag {
	case tar.TypeReg:
		return "a file"
	case tar.TypeDir:
		return "a directory"
	case tar.TypeLink:
		return "a hard link"
	case tar.TypeSymlink:
		return "a symbolic link"
	case tar.TypeChar, tar.TypeBlock:
		return "a device"
	case tar.TypeFifo:
		return "a fifo"
	}
	return fmt.Sprintf("an entry of type %q", flag)
}

func fileType(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "a regular file"
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFLNK:
		return "a symbolic link"
	case unix.S_IFCHR, unix.S_IFBLK:
		return "a device"
	case unix.S_IFIFO:
		return "a fifo"
	case unix.S_IFSOCK:
		return "a socket"
	}
	return "something unknown"
}
