// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// epoch is the time of everything in an image that has none of its own: fixed, so that images are
// reproducible.
var epoch = time.Unix(1700000000, 0).UTC()

// entry is one file of a layer: its header, and where its content comes from.
type entry struct {
	header tar.Header
	data   []byte
	source string // file of the host; "" for data
	inode  *inode // the same for all hard links of one file; nil without others
}

// tree is the content of a layer: clean relative path -> entry. The root is ".".
type tree map[string]*entry

func (t tree) dir(name string, mode int64) {
	t.put(name, &entry{header: tar.Header{Typeflag: tar.TypeDir, Mode: mode}})
}

func (t tree) file(name string, mode int64, content []byte) {
	t.put(name, &entry{header: tar.Header{
		Typeflag: tar.TypeReg, Mode: mode,
		Size: int64(len(content)),
	}, data: content})
}

func (t tree) symlink(name, target string) {
	t.put(name, &entry{header: tar.Header{Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: target}})
}

// clean returns a name of the image as a key of tree.
func clean(name string) string { return path.Join(".", path.Clean("/"+name)) }

// put adds an entry and the directories above it that are not there yet.
func (t tree) put(name string, e *entry) {
	name = clean(name)
	for d := path.Dir(name); d != "."; d = path.Dir(d) {
		if _, ok := t[d]; !ok {
			t[d] = &entry{header: tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}}
		}
	}
	t[name] = e
}

// splitPair splits SRC:DST.
func splitPair(arg string) (src, dst string, err error) {
	src, dst, ok := strings.Cut(arg, ":")
	if !ok || src == "" || !path.IsAbs(dst) {
		return "", "", errors.New("allowed: SRC:DST with an absolute DST")
	}
	return src, dst, nil
}

// add adds SRC of the host at DST, from the form "SRC:DST", as root's and with permissions 0755 or
// 0644: neither the user who builds an image nor a umask is to show in it. What would be lost by
// that is refused. A directory is added with all below it.
func (t tree) add(arg string) error {
	src, dst, err := splitPair(arg)
	if err != nil {
		return err
	}
	return filepath.WalkDir(src, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, p)
		if err != nil {
			return err
		}
		name := path.Join(dst, filepath.ToSlash(rel))
		info, err := d.Info()
		if err != nil {
			return err
		}
		const instead = "allowed: files without setuid, setgid, sticky bit and capabilities, directories and symbolic links; --copy keeps all of it"
		if special := info.Mode() & (fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky); special != 0 &&
			!d.IsDir() {
			return fmt.Errorf("%s: found mode %s; %s", p, info.Mode(), instead)
		}
		if _, err := unix.Lgetxattr(p, "security.capability", nil); err == nil {
			return fmt.Errorf("%s: found file capabilities; %s", p, instead)
		}
		switch {
		case d.IsDir():
			t.dir(name, 0o755)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			t.symlink(name, target)
		case info.Mode().IsRegular():
			mode := int64(0o644)
			if info.Mode()&0o111 != 0 {
				mode = 0o755
			}
			t.put(name, &entry{
				header: tar.Header{Typeflag: tar.TypeReg, Mode: mode, Size: info.Size()},
				source: p,
			})
		default:
			return fmt.Errorf("%s: found %s; %s", p, info.Mode().Type(), instead)
		}
		return nil
	})
}

// inode identifies a file of the host.
type inode struct{ dev, ino uint64 }

// copy copies src of the host to dst with owners, modes with setuid, setgid and sticky, times, hard
// links, symbolic links, devices, fifos and extended attributes. Files that an image cannot hold
// are refused. As tar --one-file-system does, it takes a directory that another filesystem is
// mounted on without what is in it, and calls warn.
func (t tree) copy(src, dst string, warn func(string)) error {
	var top unix.Stat_t
	if err := unix.Stat(src, &top); err != nil {
		return &fs.PathError{Op: "stat", Path: src, Err: err}
	}
	if top.Mode&unix.S_IFMT == unix.S_IFDIR {
		src += "/." // one that is named by a symbolic link is followed
	}
	files := map[inode]*inode{} // another copy of them is other files
	return filepath.WalkDir(src, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, p)
		if err != nil {
			return err
		}
		name := clean(path.Join(dst, filepath.ToSlash(rel)))
		if strings.HasPrefix(path.Base(name), ".wh.") {
			return fmt.Errorf(
				"%s: found a name that begins with .wh., which is a whiteout's in an image; allowed: other names", p)
		}
		e, st, err := headerOf(p)
		if err != nil {
			return err
		}
		if st.Nlink > 1 && e.header.Typeflag != tar.TypeDir {
			id := inode{st.Dev, st.Ino}
			if files[id] == nil {
				files[id] = &id
			}
			e.inode = files[id]
		}
		t.put(name, e)
		if e.header.Typeflag == tar.TypeDir && st.Dev != top.Dev {
			warn(fmt.Sprintf("%s: another filesystem is mounted there; what is in it is left out", p))
			return fs.SkipDir
		}
		return nil
	})
}

// headerOf returns the entry of a file of the host, as it is.
func headerOf(p string) (*entry, *unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		return nil, nil, &fs.PathError{Op: "lstat", Path: p, Err: err}
	}
	e := &entry{header: tar.Header{
		Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid), ModTime: time.Unix(st.Mtim.Sec,
			st.Mtim.Nsec).UTC(),
	}}
	h := &e.header
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag = tar.TypeDir
	case unix.S_IFREG:
		h.Typeflag, h.Size, e.source = tar.TypeReg, st.Size, p
	case unix.S_IFLNK:
		target, err := os.Readlink(p)
		if err != nil {
			return nil, nil, err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
		if h.Typeflag == tar.TypeChar && st.Rdev == 0 {
			return nil, nil,
				fmt.Errorf("%s: found the character device 0:0, a whiteout of overlayfs; allowed: the merged directory of an overlay", p)
		}
	default:
		return nil, nil,
			fmt.Errorf("%s: found a socket; allowed: what a program does not create itself (remove it)", p)
	}
	var err error
	if h.PAXRecords, err = xattrs(p); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", p, err)
	}
	return e, &st, nil
}

// xattrs returns the extended attributes of a file as records of a tar. Labels of the host's
// security policy stay here.
func xattrs(p string) (map[string]string, error) {
	names := make([]byte, 64<<10) // XATTR_LIST_MAX, and XATTR_SIZE_MAX for the values
	n, err := unix.Llistxattr(p, names)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list extended attributes: %w", err)
	}
	var out map[string]string
	value := make([]byte, 64<<10)
	for name := range strings.SplitSeq(string(names[:n]), "\x00") {
		if name == "" || strings.HasPrefix(name, "security.") && name != "security.capability" {
			continue
		}
		if strings.HasPrefix(name, "trusted.overlay.") {
			return nil, fmt.Errorf(
				"found the attribute %s of an overlay's layer; allowed: the merged directory of an overlay",
				name)
		}
		n, err := unix.Lgetxattr(p, name, value)
		if err != nil {
			return nil, fmt.Errorf("extended attribute %s: %w", name, err)
		}
		if out == nil {
			out = map[string]string{}
		}
		out["SCHILY.xattr."+name] = string(value[:n])
	}
	return out, nil
}

// tar writes the layer as an uncompressed tar stream.
func (t tree) tar(w io.Writer) error {
	names := make([]string, 0, len(t))
	for n := range t {
		names = append(names, n)
	}
	// In the order in which a walk finds them: a directory before what is in it.
	slices.SortFunc(names, func(a, b string) int {
		return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
	})
	tw := tar.NewWriter(w)
	first := map[*inode]string{}
	for _, n := range names {
		e := t[n]
		if target, ok := first[e.inode]; ok {
			e = e.linkTo(target)
		} else if e.inode != nil {
			first[e.inode] = n
		}
		if err := e.write(tw, n); err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
	}
	return tw.Close()
}

// linkTo returns a hard link to another name of the file.
func (e *entry) linkTo(target string) *entry {
	h := e.header
	return &entry{header: tar.Header{
		Typeflag: tar.TypeLink, Linkname: target, Mode: h.Mode,
		Uid: h.Uid, Gid: h.Gid, ModTime: h.ModTime,
	}}
}

// write writes one entry.
func (e *entry) write(tw *tar.Writer, name string) error {
	h := e.header
	h.Name, h.Format = name, tar.FormatPAX
	if h.ModTime.IsZero() {
		h.ModTime = epoch
	}
	if h.Typeflag == tar.TypeDir {
		h.Name += "/"
	}
	if err := tw.WriteHeader(&h); err != nil {
		return err
	}
	var content io.Reader = bytes.NewReader(e.data)
	if e.source != "" {
		f, err := os.Open(e.source)
		if err != nil {
			return err
		}
		defer f.Close()
		content = f
	}
	n, err := io.Copy(tw, content)
	if errors.Is(err, tar.ErrWriteTooLong) || err == nil && n != h.Size {
		return fmt.Errorf(
			"found another size than %d bytes while it was read; allowed: files that nobody writes to",
			h.Size)
	}
	return err
}
