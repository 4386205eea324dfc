// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/image/dockerconfig"
	"github.com/berth-run/berth/node-agent/image/hostsdir"
)

// endpoint is a server from which an image is pulled: its registry, or a mirror of that.
type endpoint struct {
	hostsdir.Host
	registry name.Registry
	// configured says that the scheme of the URL is the only one that is allowed.
	configured bool
}

// endpoints returns the servers of a reference in the order in which they are to be tried.
func (s *Store) endpoints(r reference) ([]endpoint, error) {
	repo := r.remote.Context()
	own := endpoint{
		Host: hostsdir.Host{
			URL:  url.URL{Scheme: repo.Scheme(), Host: repo.RegistryStr(), Path: "/v2"},
			Pull: true, Resolve: true,
		},
		registry: repo.Registry,
	}
	hosts, err := s.hosts.Hosts(registryName(repo))
	if err != nil {
		return nil, fmt.Errorf("image %s: registry hosts: %w", r.raw, err)
	}
	if hosts == nil {
		return []endpoint{own}, nil
	}
	var out []endpoint
	for _, h := range hosts {
		e := endpoint{Host: h, registry: own.registry}
		if h.URL.Host == "" {
			e.URL = own.URL
		} else {
			var opts []name.Option
			if e.configured = true; h.URL.Scheme == "http" {
				opts = append(opts, name.Insecure)
			}
			if e.registry, err = name.NewRegistry(h.URL.Host, opts...); err != nil {
				return nil, fmt.Errorf("image %s: registry hosts: %w", r.raw, err)
			}
		}
		out = append(out, e)
	}
	return out, nil
}

// repository returns the name under which credentials for the endpoint are looked up.
func (e *endpoint) repository(r reference) string {
	return e.registry.RegistryStr() + "/" + r.remote.Context().RepositoryStr()
}

// base returns the URL of the repository. As containerd does, a mirror is told of which registry.
func (e *endpoint) base(r reference) url.URL {
	repo := r.remote.Context()
	base := *e.URL.JoinPath(repo.RepositoryStr())
	mirrored := registryName(repo)
	// Docker Hub's own server has another name.
	hub := mirrored == "docker.io" && e.URL.Host == "registry-1.docker.io"
	if e.URL.Host != repo.RegistryStr() && !hub {
		base.RawQuery = url.Values{"ns": {mirrored}}.Encode()
	}
	return base
}

// transport returns a transport with the TLS settings of the endpoint, and a function that closes
// it.
func (e *endpoint) transport(rt http.RoundTripper) (http.RoundTripper, func()) {
	shared, ok := rt.(*http.Transport)
	if e.TLS == nil || !ok {
		return rt, func() {}
	}
	own := shared.Clone()
	own.TLSClientConfig = e.TLS
	own.ForceAttemptHTTP2 = true
	return own, own.CloseIdleConnections
}

// pullFrom pulls the image of a registry from the first endpoint that has it.
func (s *Store) pullFrom(ctx context.Context, r reference, own []*dockerconfig.Config) (*Image,
	error,
) {
	all, err := s.endpoints(r)
	if err != nil {
		return nil, err
	}
	var failed []string
	err = fmt.Errorf("image %s: found no host with the capability pull; allowed: one or more", r.raw)
	for i := range all {
		e := &all[i]
		if !e.Pull {
			continue
		}
		var img *Image
		if img, err = s.pullFromEndpoint(ctx, r, e, all, own); err == nil {
			return img, nil
		}
		if ctx.Err() != nil || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			return nil, err
		}
		failed = append(failed, e.URL.String()+": "+err.Error())
	}
	if len(failed) > 1 {
		return nil, fmt.Errorf("%w (before, from the mirror %s)", err,
			strings.Join(failed[:len(failed)-1], ", from the mirror "))
	}
	return nil, err
}

func (s *Store) pullFromEndpoint(ctx context.Context, r reference, e *endpoint, all []endpoint,
	own []*dockerconfig.Config,
) (*Image, error) {
	identifier := r.remote.Identifier()
	var resolved *dockerconfig.Credential
	if !e.Resolve && !r.isPinned() {
		var err error
		if identifier, resolved, err = s.resolveTag(ctx, r, all, own); err != nil {
			return nil, err
		}
	}
	reg, err := s.openRegistry(ctx, r, e, identifier, own)
	if err != nil {
		return nil, err
	}
	if resolved != nil {
		reg.own = resolved // the endpoint may show a digest to everybody
	}
	defer func() { _ = reg.Close() }()
	return s.read(ctx, r, reg)
}

// resolveTag returns the digest of a tag, as the first endpoint says that knows tags, and
// registry.own of that endpoint.
func (s *Store) resolveTag(ctx context.Context, r reference, all []endpoint,
	own []*dockerconfig.Config,
) (string, *dockerconfig.Credential, error) {
	err := fmt.Errorf("image %s: found no host with the capability resolve; allowed: one or more",
		r.raw)
	for i := range all {
		if !all[i].Resolve {
			continue
		}
		var reg *registry
		if reg, err = s.openRegistry(ctx, r, &all[i], r.remote.Identifier(), own); err != nil {
			continue
		}
		var top document
		top, err = reg.top(ctx)
		_ = reg.Close()
		if err == nil {
			return top.digest.String(), reg.own, nil
		}
	}
	return "", nil, err
}
