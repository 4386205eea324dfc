// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "crypto/sha512" // digests may be sha384 and sha512; go-digest looks their hashes up at run time
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of docker's own image format that are read besides those of OCI.
const (
	dockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	dockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig       = "application/vnd.docker.container.image.v1+json"
	dockerLayer        = "application/vnd.docker.image.rootfs.diff.tar"
	dockerLayerForeign = "application/vnd.docker.image.rootfs.foreign.diff.tar"
	ociLayerForeign    = "application/vnd.oci.image.layer.nondistributable.v1.tar"
)

// source reads one image. Its methods need not verify what they return.
type source interface {
	// top returns the index or the manifest that the reference points to, with its digest as the
	// source says it.
	top(ctx context.Context) (document, error)
	// document returns a manifest or nested index of an index.
	document(ctx context.Context, d v1.Descriptor) (document, error)
	// blob opens a blob. Reading it may fail late.
	blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error)
	// identity reports whether a local file has changed since; nil for a registry.
	identity() *fileIdentity
	io.Closer
}

// document is an unparsed index or manifest.
type document struct {
	data   []byte
	digest digest.Digest // promised by the reference or the index above
}

func (d document) invalid(reason string, err error) error {
	return &InvalidImageError{What: "manifest " + d.digest.String(), Reason: reason, Err: err}
}

// resolved is an image read down to its configuration.
type resolved struct {
	top      digest.Digest // index, or the manifest when there is none
	manifest digest.Digest
	config   v1.Descriptor
	image    v1.Image
	layers   []v1.Descriptor
	// anonymous says that layers have no blob digests of their own (docker-archive): the diffID
	// alone is checked.
	anonymous bool
}

// nodePlatform returns the platform that images must have.
func nodePlatform() v1.Platform {
	return v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
}

func platformString(p v1.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// variants are the CPU variants that a node of an architecture runs, best first. Others are tried
// after them.
var variants = map[string][]string{
	"amd64": {"", "v1", "v2"},
	"arm64": {"v8", ""},
	"arm":   {"v7", "v6", "v5", ""},
}

// pick chooses the manifest for the node's platform from an index.
func pick(ref string, want v1.Platform, manifests []v1.Descriptor) (v1.Descriptor, error) {
	var found []string
	best, bestRank := -1, 0
	for i, m := range manifests {
		switch m.MediaType {
		case v1.MediaTypeImageManifest, v1.MediaTypeImageIndex, dockerManifest, dockerManifestList, "":
		default:
			continue // an artifact of another kind, which an index may hold
		}
		if m.Platform == nil {
			if len(manifests) == 1 { // its configuration has the platform
				return m, nil
			}
			continue
		}
		if m.Platform.OS == "unknown" { // attestations of docker buildx
			continue
		}
		if s := platformString(*m.Platform); !slices.Contains(found, s) {
			found = append(found, s)
		}
		if m.Platform.OS != want.OS || m.Platform.Architecture != want.Architecture {
			continue
		}
		rank := slices.Index(variants[want.Architecture], m.Platform.Variant)
		if rank < 0 {
			rank = 100
		}
		if best < 0 || rank < bestRank {
			best, bestRank = i, rank
		}
	}
	if best < 0 {
		return v1.Descriptor{}, &PlatformError{Ref: ref, Found: found, Want: platformString(want)}
	}
	return manifests[best], nil
}

// verify checks a document that was read into memory.
func verify(what string, want digest.Digest, data []byte) error {
	if err := want.Validate(); err != nil {
		return &InvalidImageError{
			What: what,
			Reason: fmt.Sprintf("digest: found %q; allowed: ALGORITHM:HEX of sha256, sha384 or sha512",
				shorten(want.String())), Err: err,
		}
	}
	if found := want.Algorithm().FromBytes(data); found != want {
		return &DigestMismatchError{What: what, Expected: want, Found: found}
	}
	return nil
}

// readAll reads at most limit bytes.
func readAll(what string, r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if int64(len(data)) > limit {
		return nil, &SizeError{What: what, Found: int64(len(data)), Allowed: limit}
	}
	return data, nil
}

// resolve reads a source down to the configuration of the image for this node, and verifies all of
// it.
func resolve(ctx context.Context, ref string, want v1.Platform, src source,
	limits Limits,
) (*resolved, error) {
	doc, err := src.top(ctx)
	if err != nil {
		return nil, err
	}
	out := &resolved{top: doc.digest}
	for depth := 0; ; depth++ {
		m, err := parseManifest(doc)
		if err != nil {
			return nil, err
		}
		if !m.isIndex() {
			out.manifest, out.layers, out.config = doc.digest, m.Layers, *m.Config
			break
		}
		if depth == 2 {
			return nil, doc.invalid("found indexes nested in one another; allowed: at most two deep", nil)
		}
		d, err := pick(ref, want, m.Manifests)
		if err != nil {
			return nil, err
		}
		if doc, err = readManifest(ctx, src, d); err != nil {
			return nil, err
		}
	}
	if err := out.readConfig(ctx, ref, want, src, limits); err != nil {
		return nil, err
	}
	_, out.anonymous = src.(*dockerArchive)
	return out, nil
}

// readManifest reads the document of an index's descriptor, and compares its size with the
// descriptor's. Its digest is checked when it is parsed.
func readManifest(ctx context.Context, src source, d v1.Descriptor) (document, error) {
	doc, err := src.document(ctx, d)
	if err != nil {
		return document{}, err
	}
	if int64(len(doc.data)) != d.Size && d.Size > 0 {
		if err := verify("manifest", d.Digest, doc.data); err != nil {
			return document{}, err // says more than the size
		}
		return document{}, &SizeError{
			What: "manifest", Found: int64(len(doc.data)), Allowed: d.Size,
			Exact: true,
		}
	}
	doc.digest = d.Digest
	return doc, nil
}

// manifestOrIndex has the fields of a manifest and of an index. A valid one has those of one.
type manifestOrIndex struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     string          `json:"mediaType"`
	Config        *v1.Descriptor  `json:"config"`
	Layers        []v1.Descriptor `json:"layers"`
	Manifests     []v1.Descriptor `json:"manifests"`
	FSLayers      json.RawMessage `json:"fsLayers"`
}

// isIndex reports whether a valid document is an index: a manifest has a config.
func (m *manifestOrIndex) isIndex() bool { return m.Config == nil }

// parseManifest verifies a document and parses it, as a manifest with a config or as an index.
func parseManifest(doc document) (*manifestOrIndex, error) {
	if err := verify("manifest", doc.digest, doc.data); err != nil {
		return nil, err
	}
	var m manifestOrIndex
	if err := json.Unmarshal(doc.data, &m); err != nil {
		return nil, doc.invalid("not a JSON manifest", err)
	}
	if m.SchemaVersion != 2 || m.FSLayers != nil {
		return nil, doc.invalid(fmt.Sprintf("schemaVersion: found %d; allowed: 2", m.SchemaVersion), nil)
	}
	isIndex := m.Manifests != nil
	// One document that reads as an index and as a manifest means different images to different
	// readers (CVE-2021-41190).
	if isIndex && (m.Config != nil || m.Layers != nil) {
		return nil, doc.invalid(
			"holds manifests beside config or layers; allowed: an index or a manifest", nil)
	}
	switch m.MediaType {
	case "":
	case v1.MediaTypeImageIndex, dockerManifestList:
		isIndex = true
		if m.Config != nil {
			return nil, doc.invalid("mediaType is an index's, but it holds a config", nil)
		}
	case v1.MediaTypeImageManifest, dockerManifest:
		if isIndex {
			return nil, doc.invalid("mediaType is a manifest's, but it holds manifests", nil)
		}
	default:
		return nil, doc.invalid(fmt.Sprintf(
			"mediaType: found %q; allowed: an OCI or docker index or manifest", shorten(m.MediaType)), nil)
	}
	if !isIndex && m.Config == nil {
		return nil, doc.invalid("config: found nothing; allowed: a descriptor", nil)
	}
	return &m, nil
}

// readConfig reads and checks the image's configuration.
func (out *resolved) readConfig(ctx context.Context, ref string, want v1.Platform, src source,
	limits Limits,
) error {
	bad := func(reason string, err error) error {
		return &InvalidImageError{What: "config " + out.config.Digest.String(), Reason: reason, Err: err}
	}
	if err := out.config.Digest.Validate(); err != nil {
		return &InvalidImageError{
			What:   "config.digest",
			Reason: fmt.Sprintf("found %q; allowed: ALGORITHM:HEX", shorten(out.config.Digest.String())),
			Err:    err,
		}
	}
	switch out.config.MediaType {
	case v1.MediaTypeImageConfig, dockerConfig, "":
	default:
		return bad(fmt.Sprintf("mediaType: found %q, an artifact that is no container image; allowed: %s",
			shorten(out.config.MediaType), v1.MediaTypeImageConfig), nil)
	}
	if out.config.Size > limits.Config {
		return &SizeError{What: "config", Found: out.config.Size, Allowed: limits.Config}
	}
	r, err := src.blob(ctx, out.config)
	if err != nil {
		return err
	}
	data, err := readAll("config", r, limits.Config)
	_ = r.Close()
	if err != nil {
		return err
	}
	if err := verify("config", out.config.Digest, data); err != nil {
		return err
	}
	if err := json.Unmarshal(data, &out.image); err != nil {
		return bad("not a JSON image configuration", err)
	}
	// The configuration has the last word: an index may lie.
	if out.image.OS != want.OS || out.image.Architecture != want.Architecture {
		return &PlatformError{
			Ref: ref, Found: []string{platformString(out.image.Platform)},
			Want: platformString(want),
		}
	}
	return out.checkLayers(limits)
}

// checkLayers checks the layers of the manifest, and their diffIDs in the configuration.
func (out *resolved) checkLayers(limits Limits) error {
	ids := out.image.RootFS.DiffIDs
	bad := func(reason string, err error) error {
		return &InvalidImageError{
			What: "config " + out.config.Digest.String(), Reason: "rootfs.diff_ids" + reason, Err: err,
		}
	}
	if len(ids) != len(out.layers) {
		return bad(fmt.Sprintf(": found %d for %d layers; allowed: one a layer", len(ids),
			len(out.layers)), nil)
	}
	if len(ids) == 0 {
		return bad(": found no layer; allowed: at least one", nil)
	}
	if len(ids) > limits.Layers {
		return bad(fmt.Sprintf(": found %d layers; allowed: at most %d", len(ids), limits.Layers), nil)
	}
	for i, id := range ids {
		if err := id.Validate(); err != nil {
			return bad(fmt.Sprintf("[%d]: found %q; allowed: ALGORITHM:HEX", i, shorten(id.String())), err)
		}
		l := out.layers[i]
		if err := l.Digest.Validate(); err != nil {
			return &InvalidImageError{
				What:   fmt.Sprintf("layers[%d].digest", i),
				Reason: fmt.Sprintf("found %q; allowed: ALGORITHM:HEX", shorten(l.Digest.String())), Err: err,
			}
		}
		if !layerType(l.MediaType) {
			return &InvalidImageError{
				What: fmt.Sprintf("layers[%d].mediaType", i),
				Reason: fmt.Sprintf("found %q; allowed: a tar layer of OCI or docker, plain, gzip or zstd",
					shorten(l.MediaType)),
			}
		}
		if l.Size > limits.Blob {
			return &SizeError{What: fmt.Sprintf("layer %d blob", i), Found: l.Size, Allowed: limits.Blob}
		}
		if l.Size < 0 {
			return &InvalidImageError{
				What:   fmt.Sprintf("layers[%d].size", i),
				Reason: fmt.Sprintf("found %d; allowed: 0 or more", l.Size),
			}
		}
	}
	return nil
}

// layerType reports whether layers of a media type can be unpacked. A layer's compression is
// recognised by its first bytes, as docker and containerd do: builders got the suffix wrong.
func layerType(mediaType string) bool {
	for _, base := range []string{
		v1.MediaTypeImageLayer, dockerLayer, ociLayerForeign,
		dockerLayerForeign,
	} {
		rest, ok := strings.CutPrefix(mediaType, base)
		if ok && slices.Contains([]string{"", "+gzip", ".gzip", "+zstd", ".zstd"}, rest) {
			return true
		}
	}
	return false
}

// chainIDs returns the chain ids of the image specification, one a layer.
func chainIDs(diffIDs []digest.Digest) []digest.Digest {
	out := make([]digest.Digest, len(diffIDs))
	for i, id := range diffIDs {
		if i == 0 {
			out[i] = id
			continue
		}
		sum := sha256.Sum256(bytes.Join([][]byte{[]byte(out[i-1]), []byte(id)}, []byte(" ")))
		out[i] = digest.NewDigestFromBytes(digest.SHA256, sum[:])
	}
	return out
}
