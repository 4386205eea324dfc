// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"github.com/berth-run/berth/node-agent/nameserver"
)

// announce has other containers find a container by its names. It returns the faults of networks in
// which they do not, by their names.
func (n *Networks) announce(id string, r *record) map[string]error {
	if n.Names == nil || len(r.List) == 0 {
		return nil
	}
	h := nameserver.Host{
		Namespace: r.Host.Namespace, Name: r.Host.Name, Hostname: r.Host.Hostname,
	}
	if h.Name == "" { // the record is of an agent that knew no names
		h.Namespace, h.Name, _ = strings.Cut(r.Name, "/")
	}
	for _, c := range r.connections() {
		list, err := libcni.NetworkConfFromBytes(c.List)
		if err != nil || len(c.Result) == 0 {
			continue
		}
		ips, err := c.ips()
		if err != nil {
			continue
		}
		a := nameserver.Attachment{Network: list.Name}
		if c.Asked != nil {
			a.Aliases = c.Asked.Aliases
		}
		for _, ip := range ips {
			if address, ok := netip.AddrFromSlice(ip.Address.IP); ok {
				a.Addresses = append(a.Addresses, address.Unmap())
			}
			if gateway, ok := netip.AddrFromSlice(ip.Gateway); ok {
				a.Gateways = append(a.Gateways, gateway.Unmap())
			}
		}
		h.Networks = append(h.Networks, a)
	}
	faults := n.Names.Put(id, h)
	for network, err := range faults {
		n.Log.Debug("containers of a network do not find each other by name", "network", network,
			"error", err)
	}
	return faults
}

// rename gives a connected container its names of today. It returns which aliases nobody finds now.
func (op *operation) rename(r *record, names HostNames) error {
	if r.Host != names {
		r.Host = names
		if err := r.write(op.files); err != nil {
			return err
		}
	}
	return op.refuseAliases(r, op.announce(op.id, r))
}

// refuseAliases returns which aliases nobody would find.
func (op *operation) refuseAliases(r *record, faults map[string]error) error {
	for i, c := range r.connections() {
		if c.Asked == nil || len(c.Asked.Aliases) == 0 {
			continue
		}
		list, err := libcni.NetworkConfFromBytes(c.List)
		if err != nil {
			return err
		}
		if faults[list.Name] != nil && !capable(list, aliases) {
			return noAliases(i, *c.Asked, list, faults[list.Name])
		}
	}
	return nil
}

func noAliases(i int, asked Attachment, list *libcni.NetworkConfigList, why error) error {
	return fmt.Errorf(
		"spec.networks[%d].aliases: found %q; allowed: none, as nobody answers for network %s: %w", i,
		asked.Aliases[0], list.Name, why)
}

// Nameserver returns the address at which a container asks for the names of others; false if it has
// none.
func (n *Networks) Nameserver(id string) (netip.Addr, bool) {
	if n.Names == nil {
		return netip.Addr{}, false
	}
	return n.Names.Address(id)
}
