// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// openLocal opens the image of a local reference.
func openLocal(ctx context.Context, r reference, tmp string, limits Limits, want v1.Platform,
	progress func(done, total int64),
) (source, error) {
	asLayout := r.transport == ociTransport
	if r.transport == archiveTransport {
		var st unix.Stat_t
		asLayout = unix.Stat(r.path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
	}
	if asLayout {
		f, err := openDirectory(r.path)
		if err != nil {
			return nil, notImage(r, err)
		}
		if f.id == nil {
			_ = f.Close()
			return nil, notImage(r, errors.New("it has no index.json"))
		}
		return &layout{files: f, ref: r, limits: limits, want: want}, nil
	}
	a, err := openArchive(ctx, r.path, tmp, limits, progress)
	if err != nil {
		return nil, notImage(r, err)
	}
	_, oci := a.entries["index.json"]
	_, docker := a.entries["manifest.json"]
	switch {
	// docker save writes both since version 25: the layout is preferred, for its digests.
	case oci && r.transport != dockerArchiveTransport:
		return &layout{files: a, ref: r, limits: limits, want: want}, nil
	case docker && r.transport != ociArchiveTransport:
		return &dockerArchive{files: a, ref: r, limits: limits}, nil
	}
	_ = a.Close()
	return nil, notImage(r, errors.New("it has neither index.json nor manifest.json"))
}

// notImage returns the error of a path that could not be opened as an image. A shortage on the node
// itself is reported as it is.
func notImage(r reference, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR) && !isFile(r.path):
		return &NotFoundError{Ref: r.raw, What: r.path}
	case errors.As(err, new(*SizeError)), errors.Is(err, context.Canceled),
		errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("image %s: %w", r.raw, err)
	}
	for _, node := range []unix.Errno{
		unix.ENOSPC, unix.EDQUOT, unix.EIO, unix.EMFILE, unix.ENFILE,
		unix.ENOMEM, unix.EROFS,
	} {
		if errors.Is(err, node) {
			return fmt.Errorf("image %s: %w", r.raw, err)
		}
	}
	return &NotImageError{Ref: r.raw, Path: r.path, Err: err}
}

func isFile(p string) bool {
	var st unix.Stat_t
	return unix.Stat(p, &st) == nil
}

// missing converts the error for a missing part to a NotFoundError.
func missing(raw, what string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &NotFoundError{Ref: raw, What: what, Err: err}
	}
	return fmt.Errorf("image %s: %s: %w", raw, what, err)
}
