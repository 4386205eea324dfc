// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// ErrNotPresent is returned by Ensure under the policy Never for an image that the store does not
// have.
var ErrNotPresent = errors.New("image is not present on this node and its pull policy is Never")

// ErrNotYours is returned by EnsureWith under the policy Never for an image that was pulled with
// credentials of others.
var ErrNotYours = errors.New("image was pulled with other imagePullSecrets, and the pull policy Never allows no question to the registry")

// ReferenceError says that a reference cannot be understood.
type ReferenceError struct {
	Ref    string // as given
	Reason string // what was found and what is allowed
}

func (e *ReferenceError) Error() string {
	return fmt.Sprintf("image reference %q: %s", e.Ref, e.Reason)
}

// NotFoundError says that the image, or a part of it, is not where its reference points to.
type NotFoundError struct {
	Ref  string // as given
	What string // what is missing, such as "manifest latest" or "blob sha256:…"
	Err  error  // the cause, when there is one
}

func (e *NotFoundError) Error() string {
	s := fmt.Sprintf("image %s: %s not found", e.Ref, e.What)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *NotFoundError) Unwrap() error { return e.Err }

// AccessError says that a registry refused a pull. Many registries answer so for an image that does
// not exist, too.
type AccessError struct {
	Ref string
	// Refused are the sources of the credentials that the registry refused; empty for an anonymous
	// pull.
	Refused []string
	// Advice of an anonymous pull says where credentials were looked for, and how they get there.
	Advice string
	Err    error
}

func (e *AccessError) Error() string {
	who := "an anonymous pull"
	switch {
	case len(e.Refused) > 0:
		who = "the credentials " + strings.Join(e.Refused, " and ")
	case e.Advice != "":
		who += " (there are no credentials for it in " + e.Advice + ")"
	}
	return fmt.Sprintf("image %s: the registry refuses %s, or the image does not exist: %v", e.Ref, who,
		e.Err)
}

func (e *AccessError) Unwrap() error { return e.Err }

// PlatformError says that no image for this node's platform is behind the reference.
type PlatformError struct {
	Ref   string
	Found []string // platforms that the reference offers, such as "linux/arm64/v8"
	Want  string   // this node's, such as "linux/amd64"
}

func (e *PlatformError) Error() string {
	const most = 20
	found := "no platform"
	if n := len(e.Found); n > 0 {
		names := make([]string, min(n, most))
		for i := range names {
			names[i] = shorten(e.Found[i])
		}
		found = strings.Join(names, ", ")
		if n > most {
			found += fmt.Sprintf(" and %d others", n-most)
		}
	}
	return fmt.Sprintf("image %s: image is for %s; this node is %s", e.Ref, found, e.Want)
}

// DigestMismatchError says that content does not have its digest: it was corrupted or replaced.
type DigestMismatchError struct {
	What     string // "manifest", "config", "layer 2 blob", "layer 2 diffID", …
	Expected digest.Digest
	Found    digest.Digest
}

func (e *DigestMismatchError) Error() string {
	return fmt.Sprintf("%s: digest mismatch: expected %s, found %s", e.What, e.Expected, e.Found)
}

// SizeError says that content is larger than the store accepts, or of another size than its
// descriptor promises.
type SizeError struct {
	What    string
	Found   int64 // bytes; what was read up to then when the true size is unknown
	Allowed int64 // bytes; the limit, or the exact size when Exact
	Exact   bool
}

func (e *SizeError) Error() string {
	if e.Exact {
		return fmt.Sprintf("%s: size mismatch: expected %d bytes, found %d", e.What, e.Allowed, e.Found)
	}
	return fmt.Sprintf("%s: found %d bytes or more; allowed: at most %d", e.What, e.Found, e.Allowed)
}

// InvalidImageError says that a manifest, configuration or archive is malformed or of an
// unsupported kind.
type InvalidImageError struct {
	What   string
	Reason string
	Err    error
}

func (e *InvalidImageError) Error() string {
	s := e.What + ": " + e.Reason
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *InvalidImageError) Unwrap() error { return e.Err }

// NotImageError says that a path of the node holds no image. Its message is the same for every such
// file or directory, so that users who may name a path do not learn its content. Only callers see
// the cause.
type NotImageError struct {
	Ref  string // as given
	Path string
	Err  error
}

func (e *NotImageError) Error() string {
	return fmt.Sprintf(
		"image %s: %s is not an image; allowed: an archive as docker save, podman save and skopeo write it "+
			"(plain, gzip or zstd), or the directory of an OCI image layout, which has an index.json", e.Ref,
		e.Path)
}

func (e *NotImageError) Unwrap() error { return e.Err }

// EntryError says that a layer's entry cannot be honoured: it would escape, or the node cannot make
// it.
type EntryError struct {
	Entry  string // name in the layer's tar
	Reason string
	Err    error
}

func (e *EntryError) Error() string {
	s := fmt.Sprintf("entry %q: %s", shorten(e.Entry), e.Reason)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *EntryError) Unwrap() error { return e.Err }

// hiddenError is an error whose text hides secrets. It does not unwrap, so that nothing shows the
// text.
type hiddenError string

func (e hiddenError) Error() string { return string(e) }

// withoutSecrets returns an error whose text does not show the secrets.
func withoutSecrets(err error, secrets []string) error {
	text := err.Error()
	for _, secret := range secrets {
		text = strings.ReplaceAll(text, secret, "[hidden]")
	}
	if text == err.Error() {
		return err
	}
	return hiddenError(text)
}

// shorten keeps a hostile name from flooding a log.
func shorten(s string) string {
	const most = 256
	if len(s) <= most {
		return s
	}
	return fmt.Sprintf("%s… (%d bytes)", s[:most], len(s))
}
