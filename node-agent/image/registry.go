// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-run/berth/node-agent/image/dockerconfig"
)

// registry reads an image from a registry.
type registry struct {
	raw        string
	identifier string // the tag or digest to read
	client     *http.Client
	base       url.URL // of the repository, such as http://127.0.0.1:5000/v2/library/busybox
	limits     Limits
	credential *dockerconfig.Credential // nil for an anonymous pull
	// own is the caller's credential without which the image would not be shown; nil if the node's, or
	// none, is enough.
	own    *dockerconfig.Credential
	advice string // of the Keyring
	close  func()
}

// Keyring has the credentials for registries.
type Keyring interface {
	// Lookup returns the credentials for a repository such as index.docker.io/library/busybox, in the
	// order in which they are to be tried.
	Lookup(repository string) ([]dockerconfig.Credential, error)
	// Advice says where Lookup looks, and how credentials for a registry get there. It is part of the
	// error of a pull for which there are none.
	Advice(registry string) string
}

// openRegistry opens the repository with the first credential with which the registry shows the
// image, of the caller's own and then of the keyring, or anonymously if there are none.
func (s *Store) openRegistry(ctx context.Context, r reference, e *endpoint, identifier string,
	own []*dockerconfig.Config,
) (*registry, error) {
	found, err := lookup(r, e.repository(r), own)
	if err != nil {
		return nil, err
	}
	mine, advice := len(found), ""
	var errKeys error // of the keyring
	if s.keys != nil {
		nodes, err := s.keys.Lookup(e.repository(r))
		if err != nil && mine == 0 {
			return nil, fmt.Errorf("image %s: credentials: %w", r.raw, err)
		}
		errKeys = err
		found, advice = append(found, nodes...), s.keys.Advice(e.name())
	}
	if len(found) == 0 {
		reg, err := s.connect(ctx, r, e, identifier, nil)
		if err != nil {
			return nil, withAdvice(err, advice)
		}
		reg.advice = advice
		return reg, nil
	}
	var failed refusals
	for i := range found {
		reg, err := s.connect(ctx, r, e, identifier, &found[i])
		if err == nil && (len(found) > 1 || errKeys != nil) {
			// A HEAD request is not counted by registries that limit pulls.
			if err = reg.probe(ctx); err != nil {
				_ = reg.Close()
			}
		}
		if err == nil {
			if i < mine {
				reg.own = reg.credential
			}
			return reg, nil
		}
		if !failed.add(err) {
			return nil, err
		}
	}
	if errKeys != nil {
		return nil, fmt.Errorf("%w (the node's credentials: %w)", failed.error(), errKeys)
	}
	return nil, failed.error()
}

// name returns the name of the endpoint as users write it.
func (e *endpoint) name() string {
	if e.registry.RegistryStr() == name.DefaultRegistry {
		return "docker.io"
	}
	return e.registry.RegistryStr()
}

// registryName returns the name of a registry as users write it.
func registryName(repo name.Repository) string {
	if repo.RegistryStr() == name.DefaultRegistry {
		return "docker.io"
	}
	return repo.RegistryStr()
}

// refusals are the answers of a registry to several credentials.
type refusals []error

// add notes an error. It returns false if the error does not depend on the credentials. Registries
// say of an image that somebody must not see that it does not exist.
func (f *refusals) add(err error) bool {
	var (
		access  *AccessError
		missing *NotFoundError
	)
	if !errors.As(err, &access) && !errors.As(err, &missing) {
		return false
	}
	*f = append(*f, err)
	return true
}

// error returns one error that names all credentials that were refused. If none was, the image does
// not exist.
func (f *refusals) error() error {
	var one *AccessError
	for _, err := range *f {
		var access *AccessError
		if !errors.As(err, &access) {
			continue
		}
		if one == nil {
			one = access
		} else {
			one.Refused = append(one.Refused, access.Refused...)
		}
	}
	if one == nil {
		return (*f)[0]
	}
	return one
}

func withAdvice(err error, advice string) error {
	var access *AccessError
	if errors.As(err, &access) && len(access.Refused) == 0 {
		access.Advice = advice
	}
	return err
}

// connect opens the repository with a credential; nil for an anonymous pull.
func (s *Store) connect(ctx context.Context, r reference, e *endpoint, identifier string,
	credential *dockerconfig.Credential,
) (*registry, error) {
	reg := &registry{
		raw: r.raw, identifier: identifier, base: e.base(r), limits: s.limits, credential: credential,
	}
	rt, closeTransport := e.transport(s.transport)
	reg.close = closeTransport
	public := &publicHosts{
		next: rt, registry: reg.base.Hostname(), credentials: credential != nil,
	}
	if e.configured {
		public.scheme = e.URL.Scheme
	}
	public.host, public.header = e.URL.Host, e.Header
	if e.URL.Path != "/v2" {
		public.first = reg.base.JoinPath("manifests", identifier)
	}
	auth := authn.Anonymous
	if credential != nil {
		auth = authn.FromConfig(credential.AuthConfig)
	}
	authed, err := transport.NewWithContext(ctx, e.registry, auth,
		transport.NewRetry(&patient{public}), []string{r.remote.Context().Scope(transport.PullScope)})
	if err != nil {
		closeTransport()
		return nil, reg.error("registry "+e.registry.RegistryStr(), err)
	}
	reg.client = &http.Client{Transport: authed, CheckRedirect: checkRedirect}
	return reg, nil
}

// checkRedirect keeps a registry from leaving TLS. Where it may redirect to, publicHosts checks.
func checkRedirect(req *http.Request, via []*http.Request) error {
	first := via[0].URL
	if len(via) >= 10 {
		return errors.New("found more than 10 redirects")
	}
	if first.Scheme == "https" && req.URL.Scheme != "https" &&
		req.URL.Hostname() != first.Hostname() {
		return fmt.Errorf("redirect from https to %s://%s denied", req.URL.Scheme, req.URL.Host)
	}
	return nil
}

// error converts go-containerregistry's errors to this package's.
func (s *registry) error(what string, err error) error {
	var te *transport.Error
	status := 0
	if errors.As(err, &te) {
		status = te.StatusCode
	}
	if s.credential != nil {
		// A registry may repeat what it was sent.
		err = withoutSecrets(err, s.credential.Secrets())
	}
	switch status {
	case http.StatusNotFound:
		return &NotFoundError{Ref: s.raw, What: what, Err: err}
	case http.StatusUnauthorized, http.StatusForbidden:
		access := &AccessError{Ref: s.raw, Advice: s.advice, Err: err}
		if s.credential != nil {
			access.Refused = []string{s.credential.Source}
		}
		return access
	}
	return fmt.Errorf("image %s: %s: %w", s.raw, what, err)
}

func (s *registry) Close() error {
	s.client.CloseIdleConnections()
	s.close()
	return nil
}

func (s *registry) identity() *fileIdentity { return nil }

func (s *registry) do(ctx context.Context, method, kind, id string, header http.Header,
	codes ...int,
) (*http.Response, error) {
	what := strings.TrimSuffix(kind, "s") + " " + id
	req, err := http.NewRequestWithContext(ctx, method, s.base.JoinPath(kind, id).String(), nil)
	if err != nil {
		return nil, fmt.Errorf("image %s: %s: %w", s.raw, what, err)
	}
	req.Header = header
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, s.error(what, err)
	}
	if err := transport.CheckError(resp, codes...); err != nil {
		_ = resp.Body.Close()
		return nil, s.error(what, err)
	}
	return resp, nil
}

func manifestHeader() http.Header {
	return http.Header{"Accept": {strings.Join([]string{
		v1.MediaTypeImageIndex,
		v1.MediaTypeImageManifest, dockerManifestList, dockerManifest,
	}, ",")}}
}

// head asks for a manifest without fetching anything.
func (s *registry) head(ctx context.Context) (http.Header, error) {
	resp, err := s.do(ctx, http.MethodHead, "manifests", s.identifier, manifestHeader(),
		http.StatusOK)
	if err != nil {
		return nil, err
	}
	_ = resp.Body.Close()
	return resp.Header, nil
}

// probe returns an error if the registry does not show the image.
func (s *registry) probe(ctx context.Context) error {
	_, err := s.head(ctx)
	return err
}

// current returns the digest that the reference has now; "" when the registry does not say.
func (s *registry) current(ctx context.Context) digest.Digest {
	header, err := s.head(ctx)
	if err != nil {
		return ""
	}
	d, err := digest.Parse(header.Get("Docker-Content-Digest"))
	if err != nil {
		return ""
	}
	return d
}

func (s *registry) fetch(ctx context.Context, id string) (document, error) {
	resp, err := s.do(ctx, http.MethodGet, "manifests", id, manifestHeader(), http.StatusOK)
	if err != nil {
		return document{}, err
	}
	defer resp.Body.Close()
	data, err := readAll("manifest", resp.Body, s.limits.Manifest)
	if err != nil {
		return document{}, err
	}
	doc := document{data: data}
	// For a tag the registry's word is checked where it gives one; without it the content names
	// itself.
	for _, d := range []string{id, resp.Header.Get("Docker-Content-Digest")} {
		if parsed, err := digest.Parse(d); err == nil {
			doc.digest = parsed
			return doc, nil
		}
	}
	doc.digest = digest.FromBytes(data)
	return doc, nil
}

func (s *registry) top(ctx context.Context) (document, error) {
	return s.fetch(ctx, s.identifier)
}

func (s *registry) document(ctx context.Context, d v1.Descriptor) (document, error) {
	if err := d.Digest.Validate(); err != nil {
		return document{}, &InvalidImageError{What: "manifest digest", Reason: fmt.Sprintf("found %q",
			shorten(d.Digest.String())), Err: err}
	}
	return s.fetch(ctx, d.Digest.String())
}

func (s *registry) blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, &InvalidImageError{What: "blob digest", Reason: fmt.Sprintf("found %q",
			shorten(d.Digest.String())), Err: err}
	}
	resp, err := s.do(ctx, http.MethodGet, "blobs", d.Digest.String(), nil, http.StatusOK)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}
