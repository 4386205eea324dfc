// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// stall is the time for which a registry may send nothing before a download is aborted and
	// tried again.
	stall = 2 * time.Minute
	// attempts is the number of tries of a download.
	attempts = 3
)

// registry reads an image from a registry, anonymously.
type registry struct {
	raw    string
	ref    name.Reference
	client *http.Client
	base   url.URL // of the repository, such as http://127.0.0.1:5000/v2/library/busybox
	limits Limits
}

func openRegistry(ctx context.Context, r reference, rt http.RoundTripper, limits Limits) (*registry,
	error,
) {
	repo := r.remote.Context()
	public := &publicHosts{next: rt, registry: (&url.URL{Host: repo.RegistryStr()}).Hostname()}
	authed, err := transport.NewWithContext(ctx, repo.Registry, authn.Anonymous,
		transport.NewRetry(public), []string{repo.Scope(transport.PullScope)})
	if err != nil {
		return nil, registryError(r.raw, "registry "+repo.RegistryStr(), err)
	}
	return &registry{
		raw:    r.raw,
		ref:    r.remote,
		client: &http.Client{Transport: authed, CheckRedirect: checkRedirect},
		base: url.URL{Scheme: repo.Scheme(), Host: repo.RegistryStr(), Path: "/v2/" +
			repo.RepositoryStr()},
		limits: limits,
	}, nil
}

// publicHosts keeps a registry from sending the node to addresses that only the node can reach,
// such as a cloud's metadata service: by a redirect, or by the realm of a WWW-Authenticate header,
// whose answer is the token that the registry gets. nodeDialer refuses names with a link-local
// address.
type publicHosts struct {
	next     http.RoundTripper
	registry string
}

func (p *publicHosts) RoundTrip(req *http.Request) (*http.Response, error) {
	if host := req.URL.Hostname(); host != p.registry && isPrivate(host) {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, fmt.Errorf("registry %s: found a reference to the private address %s; allowed: public addresses",
			p.registry, req.URL.Host)
	}
	return p.next.RoundTrip(req)
}

// isPrivate reports whether a host is an address, or the name of one, that other machines of the
// internet cannot reach.
func isPrivate(host string) bool {
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(name)
	ip = ip.Unmap()
	return err == nil && (ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() ||
		ip.IsUnspecified() || sharedAddresses.Contains(ip))
}

// sharedAddresses is the block of RFC 6598, for addresses between a provider and its customers.
var sharedAddresses = netip.MustParsePrefix("100.64.0.0/10")

// metadataServices lists services of AWS and Alibaba Cloud whose addresses are not link-local.
var metadataServices = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("100.100.100.200"),
}

// nodeDialer returns a dialer that refuses link-local addresses, and those of metadata services, of
// a host that is given by name: clouds have names for these services.
func nodeDialer() func(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	named := *d
	named.Control = refuseNodesOwn
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		host, _, _ := net.SplitHostPort(address)
		if _, err := netip.ParseAddr(host); err == nil {
			return d.DialContext(ctx, network, address)
		}
		return named.DialContext(ctx, network, address)
	}
}

func refuseNodesOwn(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	ip := to.Addr().Unmap()
	if ip.IsLinkLocalUnicast() || slices.Contains(metadataServices, ip) {
		return fmt.Errorf("found the address %s of the node's own network; allowed: others", ip)
	}
	return nil
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

// registryError converts go-containerregistry's errors to this package's.
func registryError(raw, what string, err error) error {
	var te *transport.Error
	if errors.As(err, &te) {
		switch te.StatusCode {
		case http.StatusNotFound:
			return &NotFoundError{Ref: raw, What: what, Err: err}
		case http.StatusUnauthorized, http.StatusForbidden:
			return &AccessError{Ref: raw, Err: err}
		}
	}
	return fmt.Errorf("image %s: %s: %w", raw, what, err)
}

func (s *registry) Close() error {
	s.client.CloseIdleConnections()
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
		return nil, registryError(s.raw, what, err)
	}
	if err := transport.CheckError(resp, codes...); err != nil {
		_ = resp.Body.Close()
		return nil, registryError(s.raw, what, err)
	}
	return resp, nil
}

func manifestHeader() http.Header {
	return http.Header{"Accept": {strings.Join([]string{
		v1.MediaTypeImageIndex,
		v1.MediaTypeImageManifest, dockerManifestList, dockerManifest,
	}, ",")}}
}

// current asks for the digest that the reference has now, without fetching anything; "" when the
// registry does not say.
func (s *registry) current(ctx context.Context) digest.Digest {
	resp, err := s.do(ctx, http.MethodHead, "manifests", s.ref.Identifier(), manifestHeader(),
		http.StatusOK)
	if err != nil {
		return ""
	}
	_ = resp.Body.Close()
	d, err := digest.Parse(resp.Header.Get("Docker-Content-Digest"))
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
	return s.fetch(ctx, s.ref.Identifier())
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

// download fetches a blob into f and verifies it. A broken connection is resumed where it broke.
func (s *registry) download(ctx context.Context, what string, d v1.Descriptor, f *os.File,
	progress func(done int64),
) error {
	h := d.Digest.Algorithm().Hash()
	var done int64
	var err error
	for try := range attempts {
		if try > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Duration(try) * time.Second):
			}
		}
		if done, err = s.downloadFrom(ctx, what, d, f, h, done, progress); err == nil {
			break
		}
		var size *SizeError
		var missing *NotFoundError
		var access *AccessError
		if ctx.Err() != nil || errors.As(err, &size) || errors.As(err, &missing) ||
			errors.As(err, &access) {
			return err
		}
	}
	if err != nil {
		return fmt.Errorf("%s: after %d attempts: %w", what, attempts, err)
	}
	if found := digest.NewDigest(d.Digest.Algorithm(), h); found != d.Digest {
		return &DigestMismatchError{What: what, Expected: d.Digest, Found: found}
	}
	if done != d.Size {
		return &SizeError{What: what, Found: done, Allowed: d.Size, Exact: true}
	}
	return nil
}

func (s *registry) downloadFrom(ctx context.Context, what string, d v1.Descriptor, f *os.File,
	h hash.Hash, done int64, progress func(int64),
) (int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(stall, func() {
		cancel(fmt.Errorf("the registry sent nothing for %s", stall))
	})
	defer watchdog.Stop()
	header := http.Header{}
	if done > 0 {
		header.Set("Range", "bytes="+strconv.FormatInt(done, 10)+"-")
	}
	resp, err := s.do(ctx, http.MethodGet, "blobs", d.Digest.String(), header, http.StatusOK,
		http.StatusPartialContent)
	if err != nil {
		return done, err
	}
	defer resp.Body.Close()
	if done > 0 && resp.StatusCode != http.StatusPartialContent {
		done = 0
		h.Reset()
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := resp.Body.Read(buf)
		watchdog.Reset(stall)
		if done+int64(n) > d.Size {
			return done, &SizeError{What: what, Found: done + int64(n), Allowed: d.Size, Exact: true}
		}
		if _, werr := f.WriteAt(buf[:n], done); werr != nil {
			return done, fmt.Errorf("%s: %w", what, werr)
		}
		_, _ = h.Write(buf[:n]) // never fails
		done += int64(n)
		progress(done)
		if errors.Is(err, io.EOF) {
			return done, nil
		}
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return done, fmt.Errorf("%s: %w", what, err)
		}
	}
}
