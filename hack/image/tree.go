// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// epoch is the time of everything in an image: fixed, so that images are reproducible.
var epoch = time.Unix(1700000000, 0).UTC()

// entry is one file of a layer.
type entry struct {
	mode fs.FileMode // type and permissions, with ModeSticky and the like
	data []byte
	link string // target of a symbolic link
}

// tree is the content of a layer: clean relative path -> entry.
type tree map[string]entry

func (t tree) dir(name string, perm fs.FileMode) { t.put(name, entry{mode: fs.ModeDir | perm}) }
func (t tree) file(name, content string)         { t.put(name, entry{mode: 0o644, data: []byte(content)}) }
func (t tree) symlink(name, target string) {
	t.put(name, entry{mode: fs.ModeSymlink | 0o777, link: target})
}

// put adds an entry and the folders above it that are not there yet.
func (t tree) put(name string, e entry) {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return
	}
	for d := path.Dir(name); d != "."; d = path.Dir(d) {
		if _, ok := t[d]; !ok {
			t[d] = entry{mode: fs.ModeDir | 0o755}
		}
	}
	t[name] = e
}

// addHost adds SRC of the host at DST, from the form "SRC:DST". A folder is added with all below it.
// Permissions come down to 0755 or 0644: a umask must not show in the image.
func (t tree) addHost(arg string) error {
	src, dst, ok := strings.Cut(arg, ":")
	if !ok || src == "" || !path.IsAbs(dst) {
		return fmt.Errorf("allowed: SRC:DST with an absolute DST")
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
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			perm := fs.FileMode(0o644)
			if info.Mode()&0o111 != 0 {
				perm = 0o755
			}
			t.put(name, entry{mode: perm, data: data})
		default:
			return fmt.Errorf("%s is %s; allowed: files, folders and symbolic links", p, info.Mode().Type())
		}
		return nil
	})
}

// tar returns the layer as an uncompressed tar stream.
func (t tree) tar() ([]byte, error) {
	names := make([]string, 0, len(t))
	for n := range t {
		names = append(names, n)
	}
	slices.Sort(names)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, n := range names {
		e := t[n]
		h := &tar.Header{Name: n, Mode: int64(e.mode.Perm()), ModTime: epoch, Format: tar.FormatPAX}
		if e.mode&fs.ModeSticky != 0 {
			h.Mode |= 0o1000
		}
		switch e.mode.Type() {
		case fs.ModeDir:
			h.Typeflag, h.Name = tar.TypeDir, n+"/"
		case fs.ModeSymlink:
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		default:
			h.Typeflag, h.Size = tar.TypeReg, int64(len(e.data))
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("%s: %w", n, err)
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, fmt.Errorf("%s: %w", n, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
