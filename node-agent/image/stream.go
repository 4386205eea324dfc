// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
	bzipMagic = []byte("BZh")
	xzMagic   = []byte{0xfd, '7', 'z', 'X', 'Z', 0}
)

// maxZstdWindow bounds the memory of a zstd decoder: 128 MiB is what `zstd -d` takes without --long
// and what --ultra -22 needs.
const maxZstdWindow = 128 << 20

// compressed tells by its first bytes whether a stream is compressed. No tar begins so: its first
// bytes are a name.
func compressed(head []byte) bool {
	for _, m := range [][]byte{gzipMagic, zstdMagic, bzipMagic, xzMagic} {
		if bytes.HasPrefix(head, m) {
			return true
		}
	}
	return false
}

// decompress returns the plain stream of a plain, gzip or zstd one.
func decompress(r *bufio.Reader) (io.ReadCloser, error) {
	head, err := r.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, gzipMagic):
		return gzip.NewReader(r)
	case bytes.HasPrefix(head, zstdMagic):
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case compressed(head):
		return nil, errors.New("found bzip2 or xz; allowed: plain tar, gzip or zstd")
	}
	return io.NopCloser(r), nil
}

// ctxReader ends a long read when nobody waits for it any more.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// meter passes the bytes read from a stream so far to note, once a mebibyte.
type meter struct {
	r           io.Reader
	note        func(done int64)
	done, noted int64
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.done += int64(n)
	if m.done-m.noted >= 1<<20 {
		m.noted = m.done
		m.note(m.done)
	}
	return n, err
}

// boundedReader fails, rather than ends, beyond its limit.
type boundedReader struct {
	what  string
	r     io.Reader
	done  int64
	limit int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.done > b.limit {
		return 0, &SizeError{What: b.what, Found: b.done, Allowed: b.limit}
	}
	if most := b.limit - b.done + 1; int64(len(p)) > most {
		p = p[:most]
	}
	n, err := b.r.Read(p)
	b.done += int64(n)
	if b.done > b.limit {
		return n, &SizeError{What: b.what, Found: b.done, Allowed: b.limit}
	}
	return n, err
}

// nameless returns an empty file in dir that nobody else can open and that goes away with its
// descriptor.
func nameless(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "blob-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// sparse reports whether archive/tar makes up the holes of an entry.
func sparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// layerInput is one layer to be unpacked.
type layerInput struct {
	number int           // position in the image, from 0
	blob   digest.Digest // of the compressed stream; "" when it was verified already or has none
	diffID digest.Digest
	r      io.Reader
}

// unpackLayer verifies a layer while it is applied to the directory diff. On error diff holds
// rubbish.
func unpackLayer(ctx context.Context, in layerInput, diff, trash string, lowers []string,
	format format, limits Limits,
) (applied, error) {
	what := fmt.Sprintf("layer %d", in.number)
	wrap := func(err error) error { return fmt.Errorf("%s (%s): %w", what, in.diffID, err) }
	var raw io.Reader = &boundedReader{
		what: what + " blob", r: ctxReader{ctx, in.r},
		limit: limits.Blob,
	}
	var blobHash digest.Digester
	if in.blob != "" {
		blobHash = in.blob.Algorithm().Digester()
		raw = io.TeeReader(raw, blobHash.Hash())
	}
	buffered := bufio.NewReaderSize(raw, 64<<10)
	// An error of the content is reported last: when the digest is wrong too, that is the cause.
	a, err := func() (applied, error) {
		plain, err := decompress(buffered)
		if err != nil {
			return applied{}, &InvalidImageError{What: what, Reason: "cannot be decompressed", Err: err}
		}
		defer plain.Close()
		diffHash := in.diffID.Algorithm().Digester()
		stream := io.TeeReader(&boundedReader{what: what, r: plain, limit: limits.Layer}, diffHash.Hash())
		a, err := apply(ctx, stream, diff, trash, lowers, format, limits)
		if err != nil {
			return a, err
		}
		// The DiffID covers what follows the tar's end, too.
		if _, err := io.Copy(io.Discard, stream); err != nil {
			return a, &InvalidImageError{What: what, Reason: "cannot be read to its end", Err: err}
		}
		if found := diffHash.Digest(); found != in.diffID {
			return a, &DigestMismatchError{What: what + " diffID", Expected: in.diffID, Found: found}
		}
		return a, nil
	}()
	var size *SizeError
	if ctx.Err() != nil || errors.As(err, &size) {
		return a, wrap(err)
	}
	if blobHash != nil {
		if _, derr := io.Copy(io.Discard, buffered); derr != nil {
			return a, wrap(errors.Join(err, derr))
		}
		if found := blobHash.Digest(); found != in.blob {
			return a, wrap(&DigestMismatchError{What: what + " blob", Expected: in.blob, Found: found})
		}
	}
	if err != nil {
		return a, wrap(err)
	}
	return a, nil
}
