// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The first lines of /etc/hosts. Programs take the kubelet's for a sign of Kubernetes, so it is for
// Containers alone that ask for a Pod's names.
const (
	hostsHeader            = "# Written by Berth at each start of the container.\n"
	nodeHostsHeader        = "# The node's /etc/hosts, written by Berth at each start of the container.\n"
	managedHostsHeader     = "# Kubernetes-managed hosts file.\n"
	managedNodeHostsHeader = "# Kubernetes-managed hosts file (host network).\n"
)

// ownHosts returns /etc/hosts of a container with a network namespace of its own, in the layout of
// the kubelet's managedHostsFileContent. Its names have its addresses or, if there is loopback
// alone, the address of loopback. more are names of a container that has joined it.
func (n Names) ownHosts(hostname, domain string, more ...string) []byte {
	var b bytes.Buffer
	if n.Wanted != nil {
		b.WriteString(managedHostsHeader)
	} else {
		b.WriteString(hostsHeader)
	}
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n" +
		"fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
	addresses := n.Addresses
	if len(addresses) == 0 {
		addresses = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	qualified := ""
	if domain != "" {
		qualified = hostname + "." + domain + "\t"
	}
	all := names(hostname, n.Container)
	for _, name := range more {
		if !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	for _, a := range addresses {
		fmt.Fprintf(&b, "%s\t%s%s\n", a, qualified, strings.Join(all, " "))
	}
	return append(b.Bytes(), n.aliases()...)
}

// names returns the names of a container: its hostname, the first label of that, and the name of
// the Container.
func names(hostname, container string) []string {
	out := []string{hostname}
	short, _, _ := strings.Cut(hostname, ".")
	for _, n := range []string{short, container} {
		if n != "" && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// nodeHosts returns /etc/hosts of a container in the node's network: the node's file, and the names
// of node and container that it does not have. Their address is the one that Debian gives a host
// without a permanent address, since a server on a node may be asked on its loopback.
func (n Names) nodeHosts(node []byte, hostname string) []byte {
	missing := names(hostname, n.Container)
	for line := range strings.Lines(string(node)) {
		line, _, _ = strings.Cut(line, "#")
		if fields := strings.Fields(line); len(fields) > 1 {
			missing = slices.DeleteFunc(missing, func(n string) bool {
				return slices.Contains(fields[1:], n)
			})
		}
	}
	out := []byte(nodeHostsHeader)
	if n.Wanted != nil {
		out = []byte(managedNodeHostsHeader)
	}
	out = append(out, node...)
	if out[len(out)-1] != '\n' {
		out = append(out, '\n')
	}
	if len(missing) > 0 {
		out = fmt.Appendf(out, "127.0.1.1\t%s\n", strings.Join(missing, " "))
	}
	return append(out, n.aliases()...)
}

// aliases returns the lines of hostAliases, in the layout of the kubelet's
// hostsEntriesFromHostAliases.
func (n Names) aliases() []byte {
	if n.Wanted == nil || len(n.Wanted.HostAliases) == 0 {
		return nil
	}
	out := []byte("\n# Entries added by HostAliases.\n")
	for _, a := range n.Wanted.HostAliases {
		out = fmt.Appendf(out, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
	}
	return out
}
