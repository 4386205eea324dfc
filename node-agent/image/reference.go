// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
)

// PullPolicy says when a reference is resolved again; the names and meanings are Kubernetes's
// (https://kubernetes.io/docs/concepts/containers/images/#image-pull-policy).
type PullPolicy string

const (
	// Default is Always for a registry reference with the tag latest or with no tag, else
	// IfNotPresent.
	Default PullPolicy = ""
	// Always asks the registry, or reads the local file, each time; layers that are there are not
	// fetched again.
	Always PullPolicy = "Always"
	// IfNotPresent uses what the store has. A local file or directory that has changed since it was
	// read is read again; one that is gone is not missed.
	IfNotPresent PullPolicy = "IfNotPresent"
	// Never uses what the store has and reads nothing else, not even a local file.
	Never PullPolicy = "Never"
)

// scheme is the kind of place that a reference points to.
type scheme string

const (
	registryTransport      scheme = "docker"
	ociTransport           scheme = "oci"
	ociArchiveTransport    scheme = "oci-archive"
	dockerArchiveTransport scheme = "docker-archive"
	// archiveTransport is Container.spec.archive: what the path holds says which of the three above
	// it is.
	archiveTransport scheme = "archive"
)

// reference is a parsed image reference.
type reference struct {
	raw       string // as given
	canonical string // equal for references that mean the same
	transport scheme
	remote    name.Reference // registryTransport only
	path      string         // local transports only
	tag       string         // local transports: tag or docker reference, "" for the only image
	digest    digest.Digest  // oci only: manifest digest
}

func (r reference) local() bool { return r.transport != registryTransport }

// isPinned reports whether the reference ends in the digest of a manifest.
func (r reference) isPinned() bool {
	_, digest := r.remote.(name.Digest)
	return digest || r.digest != ""
}

// ID returns the reference with the digest of the manifest, in place of one that it has.
func (i *Image) ID() string {
	base := i.Ref
	// An @ elsewhere is part of a path.
	if r, err := parseReference(base); err == nil && r.isPinned() {
		base = base[:strings.LastIndexByte(base, '@')]
	}
	return base + "@" + i.Digest.String()
}

// policy resolves Default.
func (r reference) policy(p PullPolicy) (PullPolicy, error) {
	switch p {
	case Always, IfNotPresent, Never:
		return p, nil
	case Default:
		if t, ok := r.remote.(name.Tag); ok && t.TagStr() == name.DefaultTag {
			return Always, nil
		}
		return IfNotPresent, nil
	}
	return "", fmt.Errorf("image pull policy: found %q; allowed: Always, IfNotPresent, Never or empty",
		string(p))
}

// parseReference understands the references of the package comment.
func parseReference(raw string) (reference, error) {
	r := reference{raw: raw}
	bad := func(format string, args ...any) (reference, error) {
		return reference{}, &ReferenceError{Ref: shorten(raw), Reason: fmt.Sprintf(format, args...)}
	}
	if len(raw) > 4096 {
		return bad("found %d bytes; allowed: at most 4096", len(raw))
	}
	if strings.ContainsFunc(raw, func(c rune) bool { return c < 0x20 || c == 0x7f }) {
		return bad("found a control character; allowed: printable characters")
	}
	prefix, rest, _ := strings.Cut(raw, ":")
	switch t := scheme(prefix); t {
	case ociTransport, ociArchiveTransport, dockerArchiveTransport, archiveTransport:
		r.transport = t
	default:
		remote, err := name.ParseReference(strings.TrimPrefix(raw, "docker://"))
		if err != nil {
			return bad("%v; allowed: [REGISTRY/]NAME[:TAG][@DIGEST], archive:PATH[:NAME], oci:DIR[:TAG|@DIGEST], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME:TAG]", err)
		}
		r.transport, r.remote, r.canonical = registryTransport, remote, "docker://"+remote.Name()
		return r, nil
	}
	if p, d, ok := strings.Cut(rest, "@"); ok && r.transport == ociTransport &&
		!strings.Contains(p, ":") {
		parsed, err := digest.Parse(d)
		if err != nil {
			return bad("digest: found %q; allowed: sha256:HEX", d)
		}
		r.path, r.digest = p, parsed
	} else {
		// As in podman, the path ends at the first colon, so it cannot hold one.
		r.path, r.tag, _ = strings.Cut(rest, ":")
	}
	if !filepath.IsAbs(r.path) {
		return bad("path: found %q; allowed: an absolute path", r.path)
	}
	r.path = filepath.Clean(r.path)
	r.canonical = string(r.transport) + ":" + r.path
	switch {
	case r.digest != "":
		r.canonical += "@" + r.digest.String()
	case r.tag != "":
		r.canonical += ":" + r.tag
	}
	return r, nil
}
