// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/node-agent/nameserver"
)

// ClusterDNS holds the kubelet's clusterDNS and clusterDomain.
type ClusterDNS struct {
	// Servers are the DNS servers of the cluster; none if they are not known.
	Servers []netip.Addr
	// Domain of the cluster, such as cluster.local; optional.
	Domain string
}

// DNSNotice says which DNS settings of the Container its resolv.conf lacks.
type DNSNotice struct {
	// Reason is one of api/v1alpha1, and a reason of the kubelet's events.
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// noticeFile has the DNSNotice of the container's resolv.conf. It is not mounted.
const noticeFile = "etc/notice.json"

// writeNotice writes the notice for another agent to find, or removes that of an earlier start.
func (d Dir) writeNotice(n *DNSNotice) error {
	if n == nil {
		if err := os.Remove(d.File(noticeFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove a notice of an earlier start: %w", err)
		}
		return nil
	}
	data, err := json.Marshal(n)
	if err == nil {
		err = durable.Replace(d.File(noticeFile), data, durable.Options{Mode: 0o600})
	}
	if err != nil {
		return fmt.Errorf("write the notice about resolv.conf: %w", err)
	}
	return nil
}

// DNSNotice returns the notice of the container's resolv.conf; nil if that lacks nothing.
func (d Dir) DNSNotice() (*DNSNotice, error) {
	data, err := os.ReadFile(d.File(noticeFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	n := &DNSNotice{}
	if err == nil {
		err = json.Unmarshal(data, n)
	}
	if err != nil {
		return nil, fmt.Errorf("read the notice about resolv.conf: %w", err)
	}
	return n, nil
}

// resolver is the content of resolv.conf(5).
type resolver struct{ servers, searches, options []string }

// resolv returns resolv.conf of a container: a copy of the node's, or what dnsPolicy and dnsConfig
// make of it, by the rules of the kubelet (pkg/kubelet/network/dns). hasNetwork says that the
// container has a network namespace of its own.
func (n Names) resolv(hasNetwork bool) ([]byte, *DNSNotice, error) {
	node, err := n.nodeResolv(hasNetwork)
	if err != nil {
		return nil, nil, err
	}
	policy := corev1.DNSPolicy("")
	if n.Wanted != nil {
		policy = n.Wanted.DNSPolicy
	}
	byName := n.Nameserver.IsValid() && hasNetwork &&
		(policy == "" || policy == corev1.DNSClusterFirst && len(n.Cluster.Servers) == 0)
	if !byName && (n.Wanted == nil || policy == "" && n.Wanted.DNSConfig == nil) {
		return node, nil, nil
	}
	r, notice := parseResolv(node), (*DNSNotice)(nil)
	switch {
	case byName:
		r = n.byName(r)
	case policy == corev1.DNSNone:
		r = resolver{}
	case policy == corev1.DNSClusterFirst && hasNetwork || policy == corev1.DNSClusterFirstWithHostNet:
		if len(n.Cluster.Servers) == 0 {
			notice = &DNSNotice{v1alpha1.ReasonMissingClusterDNS, fmt.Sprintf(
				"the agent of the node has no --cluster-dns, which dnsPolicy %s needs; the container has the servers of dnsPolicy Default",
				policy)}
			break
		}
		r = n.Cluster.resolver(n.Namespace, r.searches)
	}
	if n.Wanted != nil && n.Wanted.DNSConfig != nil {
		c := n.Wanted.DNSConfig
		r.servers = withoutDuplicates(append(r.servers, c.Nameservers...))
		r.searches = withoutDuplicates(append(r.searches, c.Searches...))
		for _, o := range c.Options {
			word := o.Name
			if o.Value != nil && *o.Value != "" {
				word += ":" + *o.Value
			}
			r.options = setOption(r.options, word)
		}
	}
	if left := r.limit(); left != "" {
		if notice == nil {
			notice = &DNSNotice{Reason: v1alpha1.ReasonDNSConfigForming}
		} else {
			notice.Message += "; "
		}
		notice.Message += left
	}
	return r.bytes(), notice, nil
}

// byName returns the settings by which the container finds others by name. While the agent is away
// nobody answers: the C library then gives up after a second.
func (n Names) byName(node resolver) resolver {
	out := resolver{
		servers:  []string{n.Nameserver.String()},
		searches: withoutDuplicates(append([]string{n.Namespace + "." + nameserver.Zone}, node.searches...)),
		options:  node.options,
	}
	for _, o := range []string{"timeout:1", "attempts:2"} {
		out.options = setOption(out.options, o)
	}
	return out
}

// NodeServers returns the DNS servers of the node, of which root directory is host: those that
// systemd-resolved asks, if it is the only one.
func NodeServers(host fs.FS) ([]netip.Addr, error) {
	resolv, err := readHost(host, "etc/resolv.conf")
	if err != nil {
		return nil, err
	}
	if behind, err := readHost(host, resolvedFile); err == nil && onlyLoopback(resolv) &&
		!onlyLoopback(behind) && len(behind) > 0 {
		resolv = behind
	}
	var out []netip.Addr
	for line := range strings.Lines(string(resolv)) {
		if a, ok := server(line); ok {
			out = append(out, a)
		}
	}
	return out, nil
}

// resolvedFile has the servers that systemd-resolved asks, which answers on the node's loopback
// alone.
const resolvedFile = "run/systemd/resolve/resolv.conf"

// nodeResolv returns the node's resolv.conf, for a network of its own without servers that it does
// not reach.
func (n Names) nodeResolv(hasNetwork bool) ([]byte, error) {
	resolv, err := readHost(n.Host, "etc/resolv.conf")
	if err != nil || !hasNetwork {
		return resolv, err
	}
	if onlyLoopback(resolv) {
		if behind, err := readHost(n.Host, resolvedFile); err == nil && len(behind) > 0 {
			resolv = behind
		}
	}
	return withoutLoopback(resolv), nil
}

// resolver returns the servers of the cluster, with the search domains of a namespace before those
// of the node.
func (c ClusterDNS) resolver(namespace string, searches []string) resolver {
	out := resolver{searches: searches, options: []string{"ndots:5"}}
	for _, s := range c.Servers {
		out.servers = append(out.servers, s.String())
	}
	if d := c.Domain; d != "" {
		out.searches = withoutDuplicates(append([]string{namespace + ".svc." + d, "svc." + d, d},
			searches...))
	}
	return out
}

// parseResolv reads resolv.conf as the kubelet does: the last line search counts, and the last one
// of each option.
func parseResolv(text []byte) resolver {
	var r resolver
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			r.servers = append(r.servers, fields[1])
		case "search":
			r.searches = nil
			for _, domain := range fields[1:] {
				if domain != "." {
					r.searches = append(r.searches, strings.TrimSuffix(domain, "."))
				}
			}
		case "options":
			for _, word := range fields[1:] {
				r.options = setOption(r.options, word)
			}
		}
	}
	return r
}

// setOption replaces the option of the same name, or adds it.
func setOption(options []string, word string) []string {
	name, _, _ := strings.Cut(word, ":")
	i := slices.IndexFunc(options, func(o string) bool {
		have, _, _ := strings.Cut(o, ":")
		return have == name
	})
	if i < 0 {
		return append(options, word)
	}
	options[i] = word
	return options
}

// limit leaves out what the C library would not read, or would fail by, and returns a text about
// it; "" if nothing is left out. The limits are the kubelet's.
func (r *resolver) limit() string {
	var left []string
	note := func(what string) { left = append(left, what) }
	if n := len(r.servers); n > v1alpha1.MaxNameservers {
		r.servers = r.servers[:v1alpha1.MaxNameservers]
		note(fmt.Sprintf("found %d nameservers; allowed: %d: the container has %s", n,
			v1alpha1.MaxNameservers, strings.Join(r.servers, " ")))
	}
	all := len(r.searches)
	if all > v1alpha1.MaxSearchDomains {
		r.searches = r.searches[:v1alpha1.MaxSearchDomains]
	}
	// Some versions of glibc abort the program on a longer name.
	r.searches = slices.DeleteFunc(r.searches, func(domain string) bool {
		return len(domain) > validation.DNS1123SubdomainMaxLength
	})
	for len(strings.Join(r.searches, " ")) > v1alpha1.MaxSearchLength {
		r.searches = r.searches[:len(r.searches)-1]
	}
	if n := len(r.searches); n < all {
		note(fmt.Sprintf(
			"found %d search domains; allowed: %d of at most %d characters, %d together: the container has %d",
			all, v1alpha1.MaxSearchDomains, validation.DNS1123SubdomainMaxLength,
			v1alpha1.MaxSearchLength, n))
	}
	return strings.Join(left, "; ")
}

// bytes returns resolv.conf in the layout of containerd.
func (r resolver) bytes() []byte {
	var out []byte
	if len(r.searches) > 0 {
		out = fmt.Appendf(out, "search %s\n", strings.Join(r.searches, " "))
	}
	for _, s := range r.servers {
		out = fmt.Appendf(out, "nameserver %s\n", s)
	}
	if len(r.options) > 0 {
		out = fmt.Appendf(out, "options %s\n", strings.Join(r.options, " "))
	}
	return out
}

// withoutDuplicates returns each word once, where it came first.
func withoutDuplicates(words []string) []string {
	var out []string
	for _, w := range words {
		if !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	return out
}

// server returns the address of a nameserver line of resolv.conf(5).
func server(line string) (address netip.Addr, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 2 || fields[0] != "nameserver" {
		return address, false
	}
	address, err := netip.ParseAddr(fields[1])
	return address, err == nil
}

func onlyLoopback(resolv []byte) bool {
	any := false
	for line := range strings.Lines(string(resolv)) {
		if a, ok := server(line); ok {
			if !a.IsLoopback() {
				return false
			}
			any = true
		}
	}
	return any
}

// withoutLoopback leaves out the servers on the node's loopback, which a network of its own does
// not reach.
func withoutLoopback(resolv []byte) []byte {
	var out []byte
	for line := range strings.Lines(string(resolv)) {
		if a, ok := server(line); !ok || !a.IsLoopback() {
			out = append(out, line...)
		}
	}
	return out
}
