// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/scoped"
)

// fileIdentity reports whether a file is still the one that was read.
type fileIdentity struct {
	Dev       uint64 `json:"dev"`
	Inode     uint64 `json:"inode"`
	Size      int64  `json:"size"`
	MTimeNano int64  `json:"mtimeNano"`
	CTimeNano int64  `json:"ctimeNano"`
}

func identityOf(st *unix.Stat_t) *fileIdentity {
	return &fileIdentity{Dev: st.Dev, Inode: st.Ino, Size: st.Size, MTimeNano: st.Mtim.Nano(), CTimeNano: st.Ctim.Nano()}
}

// currentIdentity returns the identity of what a local reference points to now.
func currentIdentity(r reference) (*fileIdentity, error) {
	p := r.path
	var st unix.Stat_t
	if err := unix.Stat(p, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: p, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		p += "/index.json"
		if err := unix.Stat(p, &st); err != nil {
			return nil, &fs.PathError{Op: "stat", Path: p, Err: err}
		}
	}
	return identityOf(&st), nil
}

// openRegular opens a regular file without waiting for the other end of a fifo, and without acting
// on a device.
func openRegular(dir int, name string) (*os.File, *unix.Stat_t, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = f.Close()
		return nil, nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		_ = f.Close()
		return nil, nil, fmt.Errorf("%s: found %s; allowed: a regular file", name, fileType(st.Mode))
	}
	return f, &st, nil
}

// files reads an OCI layout or a docker archive from a directory or an archive.
type files interface {
	open(name string) (io.ReadCloser, int64, error) // fs.ErrNotExist when missing
	identity() *fileIdentity
	io.Closer
}

// directory is an OCI layout as a directory. Names are resolved inside of it.
type directory struct {
	dir *os.File
	id  *fileIdentity
}

func openDirectory(p string) (*directory, error) {
	fd, err := unix.Open(p, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: p, Err: err}
	}
	f := &directory{dir: os.NewFile(uintptr(fd), p)}
	var st unix.Stat_t
	if err := unix.Fstatat(fd, "index.json", &st, 0); err == nil {
		f.id = identityOf(&st)
	}
	return f, nil
}

func (f *directory) open(name string) (io.ReadCloser, int64, error) {
	fd, err := scoped.Open(int(f.dir.Fd()), name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return nil, 0, &fs.PathError{Op: "open", Path: path.Join(f.dir.Name(), name), Err: err}
	}
	file := os.NewFile(uintptr(fd), name)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		_ = file.Close()
		return nil, 0, fmt.Errorf("%s: found %s; allowed: a regular file", path.Join(f.dir.Name(), name), fileType(st.Mode))
	}
	return file, st.Size, nil
}

func (f *directory) identity() *fileIdentity { return f.id }
func (f *directory) Close() error            { return f.dir.Close() }

// archive is a tar file, read by name.
type archive struct {
	file    *os.File
	id      *fileIdentity
	entries map[string]section
}

// section is where an archive's member lies, or which other member it stands for.
type section struct {
	offset, size int64
	link         string
}

// maxArchiveEntries bounds the memory that an archive's table takes.
const maxArchiveEntries = 1 << 16

// openArchive opens a tar that may be compressed as a whole; then it is unpacked into a nameless
// file in tmp.
func openArchive(ctx context.Context, p, tmp string, limits Limits, progress func(done, total int64)) (*archive, error) {
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

func (a *archive) index(ctx context.Context, p, tmp string, limits Limits, note func(done int64)) error {
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
func (a *archive) Close() error            { return a.file.Close() }

// layout is an OCI image layout, in a directory or an archive
// (https://github.com/opencontainers/image-spec/blob/main/image-layout.md).
type layout struct {
	files
	ref    reference
	limits Limits
	want   v1.Platform
}

// openLocal opens what a local reference points to.
func openLocal(ctx context.Context, r reference, tmp string, limits Limits, want v1.Platform, progress func(done, total int64)) (source, error) {
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
	case errors.As(err, new(*SizeError)), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("image %s: %w", r.raw, err)
	}
	for _, node := range []unix.Errno{unix.ENOSPC, unix.EDQUOT, unix.EIO, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EROFS} {
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

// missing makes a missing part a NotFoundError.
func missing(raw, what string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &NotFoundError{Ref: raw, What: what, Err: err}
	}
	return fmt.Errorf("image %s: %s: %w", raw, what, err)
}

func (l *layout) top(ctx context.Context) (document, error) {
	r, _, err := l.open("index.json")
	if err != nil {
		return document{}, missing(l.ref.raw, "index.json", err)
	}
	data, err := readAll("index.json", r, l.limits.Manifest)
	_ = r.Close()
	if err != nil {
		return document{}, err
	}
	var index v1.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return document{}, &NotImageError{Ref: l.ref.raw, Path: l.ref.path, Err: err}
	}
	var found []v1.Descriptor
	var tags []string
	for _, m := range index.Manifests {
		tag := m.Annotations[v1.AnnotationRefName]
		full := m.Annotations["io.containerd.image.name"]
		switch {
		case l.ref.digest != "" && m.Digest == l.ref.digest,
			l.ref.digest == "" && l.ref.tag == "",
			l.ref.digest == "" && l.ref.tag != "" && (tag == l.ref.tag || full != "" && sameTag(full, l.ref.tag)):
			found = append(found, m)
		}
		if tag != "" {
			tags = append(tags, shorten(tag))
		}
	}
	var d v1.Descriptor
	switch {
	case len(found) == 0:
		what := "an image"
		switch {
		case l.ref.digest != "":
			what = "manifest " + l.ref.digest.String()
		case l.ref.tag != "":
			what = fmt.Sprintf("tag %q (found %s)", l.ref.tag, strings.Join(tags, ", "))
		}
		return document{}, &NotFoundError{Ref: l.ref.raw, What: what}
	case len(found) == 1:
		d = found[0]
	case l.ref.tag == "" && len(tags) > 1:
		return document{}, &ReferenceError{Ref: l.ref.raw, Reason: fmt.Sprintf("found %d images; allowed: one of the tags %s after a colon", len(found), strings.Join(tags, ", "))}
	default:
		if d, err = pick(l.ref.raw, l.want, found); err != nil {
			return document{}, err
		}
	}
	return l.document(ctx, d)
}

func (l *layout) document(ctx context.Context, d v1.Descriptor) (document, error) {
	r, err := l.blob(ctx, d)
	if err != nil {
		return document{}, err
	}
	defer r.Close()
	data, err := readAll("manifest", r, l.limits.Manifest)
	return document{data: data, digest: d.Digest}, err
}

func (l *layout) blob(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, &InvalidImageError{What: "blob digest", Reason: fmt.Sprintf("found %q; allowed: ALGORITHM:HEX", shorten(d.Digest.String())), Err: err}
	}
	r, _, err := l.open("blobs/" + d.Digest.Algorithm().String() + "/" + d.Digest.Encoded())
	if err != nil {
		return nil, missing(l.ref.raw, "blob "+d.Digest.String(), err)
	}
	return r, nil
}

// dockerArchive is an archive of `docker save` or `podman save`. It has no manifest with digests,
// so one is made of the configuration and its diffIDs: the image's digest on this node.
type dockerArchive struct {
	files
	ref     reference
	limits  Limits
	config  []byte
	members map[digest.Digest]string // by diffID
}

func (a *dockerArchive) top(context.Context) (document, error) {
	bad := func(what, reason string, err error) (document, error) {
		return document{}, &InvalidImageError{What: what, Reason: reason, Err: err}
	}
	read := func(name string, limit int64) ([]byte, error) {
		r, _, err := a.open(name)
		if err != nil {
			return nil, missing(a.ref.raw, shorten(name), err)
		}
		defer r.Close()
		return readAll(shorten(name), r, limit)
	}
	data, err := read("manifest.json", a.limits.Manifest)
	if err != nil {
		return document{}, err
	}
	var items []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(data, &items); err != nil {
		return document{}, &NotImageError{Ref: a.ref.raw, Path: a.ref.path, Err: err}
	}
	var tags []string
	at := -1
	for i, it := range items {
		for _, t := range it.RepoTags {
			tags = append(tags, shorten(t))
		}
		if a.ref.tag != "" && slices.ContainsFunc(it.RepoTags, func(t string) bool { return sameTag(t, a.ref.tag) }) {
			at = i
		}
	}
	switch {
	case len(items) == 0:
		return document{}, &NotFoundError{Ref: a.ref.raw, What: "an image"}
	case a.ref.tag == "" && len(items) > 1:
		return document{}, &ReferenceError{Ref: a.ref.raw, Reason: fmt.Sprintf("found %d images; allowed: one of %s after a colon", len(items), strings.Join(tags, ", "))}
	case a.ref.tag == "":
		at = 0
	case at < 0:
		return document{}, &NotFoundError{Ref: a.ref.raw, What: fmt.Sprintf("tag %q (found %s)", a.ref.tag, strings.Join(tags, ", "))}
	}
	it := items[at]
	if a.config, err = read(it.Config, a.limits.Config); err != nil {
		return document{}, err
	}
	// The config is named by its digest, by docker as HEX.json and by newer dockers as
	// blobs/sha256/HEX.
	named := digest.NewDigestFromEncoded(digest.SHA256, strings.TrimSuffix(path.Base(it.Config), ".json"))
	if named.Validate() == nil {
		if err := verify("config", named, a.config); err != nil {
			return document{}, err
		}
	}
	var config v1.Image
	if err := json.Unmarshal(a.config, &config); err != nil {
		return bad("config", "not a JSON image configuration", err)
	}
	ids := config.RootFS.DiffIDs
	if len(ids) != len(it.Layers) {
		return bad("manifest.json", fmt.Sprintf("Layers: found %d for %d diff_ids of the config; allowed: one each", len(it.Layers), len(ids)), nil)
	}
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
		Config:    v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: digest.FromBytes(a.config), Size: int64(len(a.config))},
	}
	a.members = map[digest.Digest]string{}
	for i, name := range it.Layers {
		r, size, err := a.open(name)
		if err != nil {
			return document{}, missing(a.ref.raw, shorten(name), err)
		}
		_ = r.Close()
		a.members[ids[i]] = name
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: v1.MediaTypeImageLayer, Digest: ids[i], Size: size})
	}
	out, err := json.Marshal(m)
	if err != nil {
		return bad("manifest.json", "cannot be written as a manifest", err)
	}
	return document{data: out, digest: digest.FromBytes(out)}, nil
}

// sameTag compares docker references as people write them: "busybox" is
// "docker.io/library/busybox:latest".
func sameTag(a, b string) bool {
	norm := func(s string) string {
		if r, err := parseReference(s); err == nil {
			return r.canonical
		}
		return s
	}
	return a == b || norm(a) == norm(b)
}

func (a *dockerArchive) document(context.Context, v1.Descriptor) (document, error) {
	return document{}, &InvalidImageError{What: "manifest.json", Reason: "a docker archive holds no index"}
}

func (a *dockerArchive) blob(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	if d.MediaType == v1.MediaTypeImageConfig {
		return io.NopCloser(bytes.NewReader(a.config)), nil
	}
	r, _, err := a.open(a.members[d.Digest])
	if err != nil {
		return nil, missing(a.ref.raw, "layer "+d.Digest.String(), err)
	}
	return r, nil
}
