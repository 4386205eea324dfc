// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// layout is an OCI image layout, in a directory or an archive
// (https://github.com/opencontainers/image-spec/blob/main/image-layout.md).
type layout struct {
	files
	ref    reference
	limits Limits
	want   v1.Platform
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
			l.ref.digest == "" && l.ref.tag != "" && (tag == l.ref.tag || full != "" &&
				sameTag(full, l.ref.tag)):
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
		return document{}, &ReferenceError{
			Ref: l.ref.raw,
			Reason: fmt.Sprintf("found %d images; allowed: one of the tags %s after a colon", len(found),
				strings.Join(tags, ", ")),
		}
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
		return nil, &InvalidImageError{
			What:   "blob digest",
			Reason: fmt.Sprintf("found %q; allowed: ALGORITHM:HEX", shorten(d.Digest.String())), Err: err,
		}
	}
	r, _, err := l.open("blobs/" + d.Digest.Algorithm().String() + "/" + d.Digest.Encoded())
	if err != nil {
		return nil, missing(l.ref.raw, "blob "+d.Digest.String(), err)
	}
	return r, nil
}
