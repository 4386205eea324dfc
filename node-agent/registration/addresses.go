// SPDX-License-Identifier: Apache-2.0

package registration

import (
	"errors"
	"net"
	"net/netip"
)

// Addresses returns the addresses of the node that other hosts use, at most one of IPv4 and one of
// IPv6: the source addresses of the routes to the world, of which the kubelet takes the one of the
// default route. A node without such routes has none, which is an error.
func Addresses() ([]netip.Addr, error) {
	var out []netip.Addr
	// Addresses for documentation, RFC 5737 and RFC 3849. To connect a UDP socket sends nothing.
	for _, far := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} {
		c, err := net.Dial("udp", far)
		if err != nil {
			continue
		}
		local, ok := c.LocalAddr().(*net.UDPAddr)
		_ = c.Close()
		if !ok {
			continue
		}
		if a := local.AddrPort().Addr().Unmap(); a.IsValid() && !a.IsUnspecified() && !a.IsLoopback() {
			out = append(out, a.WithZone(""))
		}
	}
	if len(out) == 0 {
		return nil, errors.New("found no route from this node to other hosts; allowed: a default route")
	}
	return out, nil
}
