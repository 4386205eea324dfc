// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"
)

// publicHosts keeps a registry from sending the node to addresses that only the node can reach,
// such as a cloud's metadata service: by a redirect, or by the realm of a WWW-Authenticate header,
// whose answer is the token that the registry gets. nodeDialer refuses names with a link-local
// address.
type publicHosts struct {
	next     http.RoundTripper
	registry string
	// credentials says that requests carry some, which go over plain HTTP to loopback only.
	credentials bool
	// host is the host and port of the registry.
	host string
	// scheme is the only one of the host that is allowed; "" for any.
	scheme string
	// header is sent to the host.
	header http.Header
	// first is asked in place of /v2/ for the authentication, if the API is elsewhere.
	first *url.URL
}

// RoundTrip is part of http.RoundTripper.
func (p *publicHosts) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := p.check(req); err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, fmt.Errorf("registry %s: %w", p.registry, err)
	}
	if req.URL.Host == p.host && (len(p.header) > 0 || p.first != nil) {
		req = p.configure(req)
	}
	return p.next.RoundTrip(req)
}

// configure returns a request to the host with what its configuration says.
func (p *publicHosts) configure(req *http.Request) *http.Request {
	req = req.Clone(req.Context())
	for key, values := range p.header {
		req.Header[key] = values
	}
	if p.first != nil && req.URL.Path == "/v2/" {
		at := *p.first
		at.Scheme = req.URL.Scheme
		req.URL, req.Method = &at, http.MethodHead
		req.Header["Accept"] = manifestHeader()["Accept"]
	}
	return req
}

func (p *publicHosts) check(req *http.Request) error {
	host := req.URL.Hostname()
	if host != p.registry && isPrivate(host) {
		return fmt.Errorf("found a reference to the private address %s; allowed: public addresses",
			req.URL.Host)
	}
	// Of requests for an image, only the one that exchanges an identity token has a body, which holds
	// that token. A redirect would repeat it.
	if req.Body != nil && req.Response != nil {
		return fmt.Errorf("found a redirect of a token to %s; allowed: the host of the realm",
			req.URL.Host)
	}
	if req.URL.Host == p.host && p.scheme != "" && req.URL.Scheme != p.scheme {
		return fmt.Errorf("found %s; allowed: %s, as hosts.toml says", req.URL.Scheme, p.scheme)
	}
	secret := req.Body != nil || req.Header.Get("Authorization") != ""
	if p.credentials && secret && req.URL.Scheme != "https" && !isLoopback(host) &&
		(p.scheme == "" || req.URL.Host != p.host) {
		return fmt.Errorf("found plain HTTP at %s; allowed: HTTPS, as there are credentials for it",
			req.URL.Host)
	}
	return nil
}

// isLoopback reports whether a host is an address of the node's loopback, or its name.
func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
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
