// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bufio"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// archive is a tar file, read by name.
type archive struct {
	file    *os.File
	id      *fileIdentity
	entries map[string]section
}

// section is the position of an archive's member, or the name of the member that it links to.
type section struct {
	offset, size int64
	link         string
}

// maxArchiveEntries bounds the memory that an archive's table takes.
const maxArchiveEntries = 1 << 16

// openArchive opens a tar that may be compressed as a whole; then it is unpacked into a nameless
// file in tmp.
func openArchive(ctx context.Context, p, tmp string, limits Limits,
	progress func(done, total int64),
) (*archive, error) {
	f, st, err := openRegular(unix.AT_FDCWD, p)
	if err != nil {
		return nil, err
	}
	a := &archive{file: f, id: identityOf(st), entries: map[string]section{}}
	note := func(done int64) { progress(done, st.Size) }
	if err := a.index(ctx, p, tmp, limits, note); err != nil {
		_ = a.Close()
		return nil, err
	}
	return a, nil
}

func (a *archive) index(ctx context.Context, p, tmp string, limits Limits,
	note func(done int64),
) error {
	head := make([]byte, 6)
	n, err := a.file.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return fmt.Errorf("%s: %w", p, err)
	}
	if compressed(head[:n]) {
		plain, err := nameless(tmp)
		if err != nil {
			return err
		}
		err = func() error {
			r, err := decompress(bufio.NewReaderSize(&meter{r: ctxReader{ctx, a.file}, note: note}, 64<<10))
			if err != nil {
				return err
			}
			defer r.Close()
			written, err := io.Copy(plain, io.LimitReader(r, limits.Blob+1))
			if err == nil && written > limits.Blob {
				err = &SizeError{What: "uncompressed archive", Found: written, Allowed: limits.Blob}
			}
			return err
		}()
		if err != nil {
			_ = plain.Close()
			return fmt.Errorf("%s: %w", p, err)
		}
		_ = a.file.Close()
		a.file = plain
	}
	bad := func(reason string, err error) error {
		return &InvalidImageError{What: p, Reason: reason, Err: err}
	}
	if _, err := a.file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	r := tar.NewReader(a.file)
	for count := 0; ; count++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return bad("not a tar archive", err)
		}
		if count == maxArchiveEntries {
			return bad(fmt.Sprintf("found more than %d members", maxArchiveEntries), nil)
		}
		name := path.Clean("/" + h.Name)[1:]
		switch h.Typeflag {
		case tar.TypeReg:
			// The reader stands at the member's first byte: archive/tar reads whole blocks and no
			// further.
			at, err := a.file.Seek(0, io.SeekCurrent)
			if err != nil {
				return fmt.Errorf("%s: %w", p, err)
			}
			if sparse(h) {
				return bad(fmt.Sprintf("member %q is sparse; allowed: whole files", shorten(h.Name)), nil)
			}
			a.entries[name] = section{offset: at, size: h.Size}
		case tar.TypeSymlink: // docker save of old: a layer that stands for an earlier one
			a.entries[name] = section{link: path.Clean("/" + path.Join(path.Dir(name), h.Linkname))[1:]}
		case tar.TypeLink:
			a.entries[name] = section{link: path.Clean("/" + h.Linkname)[1:]}
		}
	}
}

func (a *archive) open(name string) (io.ReadCloser, int64, error) {
	name = path.Clean("/" + name)[1:]
	for range 8 {
		s, ok := a.entries[name]
		if !ok {
			break
		}
		if s.link == "" {
			return io.NopCloser(io.NewSectionReader(a.file, s.offset, s.size)), s.size, nil
		}
		name = s.link
	}
	return nil, 0, fmt.Errorf("member %q: %w", shorten(name), fs.ErrNotExist)
}

func (a *archive) identity() *fileIdentity { return a.id }

func (a *archive) Close() error { return a.file.Close() }
