// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// dockerArchive is an archive of `docker save` or `podman save`. It has no manifest with digests,
// so one is made of the configuration and its diffIDs: the image's digest on this node.
type dockerArchive struct {
	files
	ref     reference
	limits  Limits
	config  []byte
	members map[digest.Digest]string // by diffID
}

// savedImage is one image in manifest.json.
type savedImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (a *dockerArchive) top(context.Context) (document, error) {
	data, err := a.read("manifest.json", a.limits.Manifest)
	if err != nil {
		return document{}, err
	}
	var items []savedImage
	if err := json.Unmarshal(data, &items); err != nil {
		return document{}, &NotImageError{Ref: a.ref.raw, Path: a.ref.path, Err: err}
	}
	it, err := a.choose(items)
	if err != nil {
		return document{}, err
	}
	ids, err := a.readConfig(it)
	if err != nil {
		return document{}, err
	}
	return a.manifest(it, ids)
}

// read reads a member.
func (a *dockerArchive) read(name string, limit int64) ([]byte, error) {
	r, _, err := a.open(name)
	if err != nil {
		return nil, missing(a.ref.raw, shorten(name), err)
	}
	defer r.Close()
	return readAll(shorten(name), r, limit)
}

// choose returns the image that the reference names.
func (a *dockerArchive) choose(items []savedImage) (savedImage, error) {
	var tags []string
	at := -1
	for i, it := range items {
		for _, t := range it.RepoTags {
			tags = append(tags, shorten(t))
		}
		if a.ref.tag != "" && slices.ContainsFunc(it.RepoTags, func(t string) bool {
			return sameTag(t, a.ref.tag)
		}) {
			at = i
		}
	}
	switch {
	case len(items) == 0:
		return savedImage{}, &NotFoundError{Ref: a.ref.raw, What: "an image"}
	case a.ref.tag == "" && len(items) > 1:
		return savedImage{}, &ReferenceError{
			Ref: a.ref.raw,
			Reason: fmt.Sprintf("found %d images; allowed: one of %s after a colon", len(items),
				strings.Join(tags, ", ")),
		}
	case a.ref.tag == "":
		at = 0
	case at < 0:
		return savedImage{}, &NotFoundError{Ref: a.ref.raw, What: fmt.Sprintf("tag %q (found %s)",
			a.ref.tag, strings.Join(tags, ", "))}
	}
	return items[at], nil
}

// readConfig reads the configuration of an image and returns the diffIDs of its layers.
func (a *dockerArchive) readConfig(it savedImage) (ids []digest.Digest, err error) {
	if a.config, err = a.read(it.Config, a.limits.Config); err != nil {
		return nil, err
	}
	// The config is named by its digest, by docker as HEX.json and by newer dockers as
	// blobs/sha256/HEX.
	named := digest.NewDigestFromEncoded(digest.SHA256, strings.TrimSuffix(path.Base(it.Config),
		".json"))
	if named.Validate() == nil {
		if err := verify("config", named, a.config); err != nil {
			return nil, err
		}
	}
	var config v1.Image
	if err := json.Unmarshal(a.config, &config); err != nil {
		return nil, &InvalidImageError{What: "config", Reason: "not a JSON image configuration", Err: err}
	}
	ids = config.RootFS.DiffIDs
	if len(ids) != len(it.Layers) {
		return nil, &InvalidImageError{
			What: "manifest.json",
			Reason: fmt.Sprintf("Layers: found %d for %d diff_ids of the config; allowed: one each",
				len(it.Layers), len(ids)),
		}
	}
	return ids, nil
}

// manifest makes the manifest of an image, and notes the members that have its layers.
func (a *dockerArchive) manifest(it savedImage, ids []digest.Digest) (document, error) {
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
		Config: v1.Descriptor{
			MediaType: v1.MediaTypeImageConfig, Digest: digest.FromBytes(a.config),
			Size: int64(len(a.config)),
		},
	}
	a.members = map[digest.Digest]string{}
	for i, name := range it.Layers {
		r, size, err := a.open(name)
		if err != nil {
			return document{}, missing(a.ref.raw, shorten(name), err)
		}
		_ = r.Close()
		a.members[ids[i]] = name
		m.Layers = append(m.Layers, v1.Descriptor{
			MediaType: v1.MediaTypeImageLayer, Digest: ids[i],
			Size: size,
		})
	}
	out, err := json.Marshal(m)
	if err != nil {
		return document{}, &InvalidImageError{
			What:   "manifest.json",
			Reason: "cannot be written as a manifest", Err: err,
		}
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
	return document{}, &InvalidImageError{
		What:   "manifest.json",
		Reason: "a docker archive holds no index",
	}
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
