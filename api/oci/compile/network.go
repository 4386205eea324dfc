// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/berth-run/berth/api/v1alpha1"
)

// network compiles the network to which the agent connects the container.
func network(d *draft) {
	out := &v1alpha1.BundleNetwork{None: d.in.Network != nil && d.in.Network.None, Ports: hostPorts(d)}
	if out.None && d.in.HostNetwork {
		d.refuse(d.path.Child("network", "none"),
			"a container is in the node's network or in none: remove network.none or hostNetwork")
	}
	networks(d, out)
	if d.in.Network != nil {
		out.Container = d.in.Network.Container
	}
	limitBandwidth(d, out)
	if out.None || out.Container != "" || len(out.Ports) > 0 || len(out.Networks) > 0 ||
		out.Bandwidth != nil {
		d.out.Network = out
	}
}

// Limits of the kubelet for bandwidth, in bits a second (pkg/util/bandwidth).
const (
	minBandwidth = 1_000
	maxBandwidth = 1_000_000_000_000_000
)

// limitBandwidth compiles the annotations of a Pod that limit its traffic.
func limitBandwidth(d *draft, out *v1alpha1.BundleNetwork) {
	limits := &v1alpha1.Bandwidth{}
	for _, a := range []struct {
		name string
		to   *int64
	}{
		{v1alpha1.AnnotationIngressBandwidth, &limits.Ingress},
		{v1alpha1.AnnotationEgressBandwidth, &limits.Egress},
	} {
		text, ok := d.meta.Annotations[a.name]
		if !ok {
			continue
		}
		at := field.NewPath("metadata", "annotations").Key(a.name)
		switch {
		case d.in.HostNetwork:
			d.refuse(at, "a container in the node's network has the node's traffic: remove it or hostNetwork")
		case out.None:
			d.refuse(at, "a container without a network has no traffic: remove it or network.none")
		case out.Container != "":
			d.refuse(at, "traffic belongs to the network of "+out.Container+
				": write it there, or remove network.container")
		}
		q, err := resource.ParseQuantity(text)
		if err != nil {
			d.invalid(at, text, "must be a quantity of bits a second: write 10M for 10 Mbit/s")
			continue
		}
		rate, msg := exact(q, 0, math.MaxInt64)
		switch {
		case q.CmpInt64(maxBandwidth) > 0:
			msg = "must be at most 1P, as under a kubelet: it is in bits a second"
		case msg == "" && rate < minBandwidth:
			msg = "must be at least 1k: it is in bits a second"
		}
		if msg != "" {
			d.invalid(at, text, msg)
			continue
		}
		*a.to, out.Bandwidth = rate, limits
	}
}

// networks compiles spec.networks.
func networks(d *draft, out *v1alpha1.BundleNetwork) {
	at, names := d.path.Child("networks"), map[string]bool{}
	switch {
	case len(d.in.Networks) == 0:
	case d.in.HostNetwork:
		d.refuse(at, "a container in the node's network is in no other: remove networks or hostNetwork")
	case out.None:
		d.refuse(at, "a container without a network is in none: remove networks or network.none")
	case len(d.in.Networks) > v1alpha1.MaxNetworks:
		d.faults = append(d.faults, field.TooMany(at, len(d.in.Networks), v1alpha1.MaxNetworks))
	}
	for i, n := range d.in.Networks {
		at := at.Index(i)
		if n.Name != "" && !networkName.MatchString(n.Name) {
			d.invalid(at.Child("name"), n.Name,
				"must be the name of a CNI configuration: letters, digits, '_', '.' and '-'")
		}
		if names[n.Name] {
			d.faults = append(d.faults, field.Duplicate(at.Child("name"), n.Name))
		}
		names[n.Name] = true
		for j, alias := range n.Aliases {
			for _, msg := range validation.IsDNS1123SubdomainWithUnderscore(alias) {
				d.invalid(at.Child("aliases").Index(j), alias, msg)
			}
		}
		out.Networks = append(out.Networks, *n.DeepCopy())
	}
}

// networkName matches names of networks by the specification of CNI.
var networkName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

// joinedNetwork checks a container that is in the network of another one, and so has its addresses,
// ports and names.
func joinedNetwork(d *draft) {
	if d.in.Network == nil || d.in.Network.Container == "" {
		return
	}
	other, at := d.in.Network.Container, d.path.Child("network", "container")
	if !d.neighbours {
		d.refuse(at, "is honoured by an agent without a cluster only, since the other Container may be on another node: remove it")
		return
	}
	for _, msg := range validation.IsDNS1123Subdomain(other) {
		d.invalid(at, other, msg)
	}
	if other == d.name {
		d.invalid(at, other, "must be the name of another Container")
	}
	for _, f := range []struct {
		path *field.Path
		set  bool
		what string
	}{
		{d.path.Child("network", "none"), d.in.Network.None, "a container is in one network"},
		{d.path.Child("hostNetwork"), d.in.HostNetwork, "a container is in one network"},
		{
			d.path.Child("hostUsers"), d.ownUsers(),
			"a user namespace does not own the network namespace of " + other,
		},
		{
			d.path.Child("networks"), len(d.in.Networks) > 0,
			"the container has the networks of " + other,
		},
		{
			d.path.Child("subdomain"), d.in.Subdomain != "",
			"/etc/hosts is made of the fields of " + other,
		},
		{
			d.path.Child("setHostnameAsFQDN"), d.in.SetHostnameAsFQDN,
			"/etc/hosts is made of the fields of " + other,
		},
		{
			d.path.Child("hostAliases"), len(d.in.HostAliases) > 0,
			"/etc/hosts is made of the fields of " + other,
		},
		{
			d.path.Child("dnsPolicy"), d.in.DNSPolicy != "",
			"/etc/resolv.conf is made of the fields of " + other,
		},
		{
			d.path.Child("dnsConfig"), d.in.DNSConfig != nil,
			"/etc/resolv.conf is made of the fields of " + other,
		},
	} {
		if f.set {
			d.refuse(f.path, fmt.Sprintf("%s: remove it, or network.container", f.what))
		}
	}
	for i, p := range d.in.Ports {
		if p.HostPort != 0 {
			d.refuse(d.path.Child("ports").Index(i).Child("hostPort"), fmt.Sprintf(
				"ports of the node belong to the network of %s: write it there, or remove network.container",
				other))
		}
	}
}

// hostPorts returns those of spec.ports that are ports of the node. In the node's network all are,
// as in a Pod.
func hostPorts(d *draft) []v1alpha1.HostPort {
	var out []v1alpha1.HostPort
	names := map[string]bool{}
	taken := make([]v1alpha1.HostPort, len(d.in.Ports))
	for i, p := range d.in.Ports {
		at := d.path.Child("ports").Index(i)
		portName(d, at.Child("name"), p.Name, names)
		for _, msg := range validation.IsValidPortNum(int(p.ContainerPort)) {
			d.invalid(at.Child("containerPort"), p.ContainerPort, msg)
		}
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		oneOf(d, at.Child("protocol"), p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP,
			corev1.ProtocolSCTP)
		hostIP(d, at, p)
		if d.in.HostNetwork {
			if p.HostPort != 0 && p.HostPort != p.ContainerPort {
				d.invalid(at.Child("hostPort"), p.HostPort, fmt.Sprintf(
					"must be %d, as containerPort: a container in the node's network listens on the node's own ports", p.ContainerPort))
			}
			p.HostPort = p.ContainerPort
		}
		if p.HostPort == 0 {
			continue
		}
		for _, msg := range validation.IsValidPortNum(int(p.HostPort)) {
			d.invalid(at.Child("hostPort"), p.HostPort, msg)
		}
		if d.in.Network != nil && d.in.Network.None {
			d.refuse(at.Child("hostPort"),
				"a container without a network cannot have a port of the node: remove hostPort or network.none")
		}
		port := v1alpha1.HostPort{
			HostPort: p.HostPort, HostIP: p.HostIP, ContainerPort: p.ContainerPort, Protocol: p.Protocol,
		}
		same := func(other v1alpha1.HostPort) bool {
			return other.HostPort == p.HostPort && other.Protocol == p.Protocol &&
				sameAddress(other.HostIP, p.HostIP)
		}
		if j := slices.IndexFunc(taken[:i], same); j >= 0 && taken[j].HostIP == p.HostIP {
			d.faults = append(d.faults, field.Duplicate(at.Child("hostPort"), p.HostPort))
		} else if j >= 0 {
			d.invalid(at.Child("hostPort"), p.HostPort, fmt.Sprintf(
				"must be another one than that of ports[%d], as hostIP %q and %q have an address in common: remove one of the ports",
				j, taken[j].HostIP, p.HostIP))
		}
		taken[i] = port
		out = append(out, port)
	}
	return out
}

// sameAddress reports whether a packet can be for both of two values of hostIP: "" is all addresses
// of the node, "0.0.0.0" all of IPv4 and "::" all of IPv6.
func sameAddress(a, b string) bool {
	if a == b || a == "" || b == "" {
		return true
	}
	x, err1 := netip.ParseAddr(a)
	y, err2 := netip.ParseAddr(b)
	if err1 != nil || err2 != nil { // which is a fault of its own
		return false
	}
	x, y = x.Unmap(), y.Unmap()
	return x == y || x.Is4() == y.Is4() && (x.IsUnspecified() || y.IsUnspecified())
}

func portName(d *draft, at *field.Path, name string, seen map[string]bool) {
	if name == "" {
		return
	}
	for _, msg := range validation.IsValidPortName(name) {
		d.invalid(at, name, msg)
	}
	if seen[name] {
		d.faults = append(d.faults, field.Duplicate(at, name))
	}
	seen[name] = true
}

func hostIP(d *draft, at *field.Path, p corev1.ContainerPort) {
	if p.HostIP == "" {
		return
	}
	if a, err := netip.ParseAddr(p.HostIP); err != nil || a.Zone() != "" {
		d.invalid(at.Child("hostIP"), p.HostIP, "must be an address of the node, such as 127.0.0.1")
	}
	if p.HostPort == 0 && !d.in.HostNetwork {
		d.invalid(at.Child("hostIP"), p.HostIP,
			"is the address of a hostPort, which is absent: add hostPort or remove hostIP")
	}
}
