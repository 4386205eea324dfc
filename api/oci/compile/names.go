// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/berth-run/berth/api/v1alpha1"
)

// names compiles what the agent needs for /etc/hosts, /etc/hostname and /etc/resolv.conf. The rules
// are those of a Pod (k8s.io/kubernetes/pkg/apis/core/validation), and words of resolv.conf have no
// spaces.
func names(d *draft) {
	domainName(d)
	hostAliases(d)
	dnsPolicy(d)
	dnsConfig(d)
	hiddenNames(d)
	in := &d.in
	out := &v1alpha1.BundleNames{
		Subdomain: in.Subdomain, SetHostnameAsFQDN: in.SetHostnameAsFQDN, DNSPolicy: in.DNSPolicy,
	}
	for _, a := range in.HostAliases {
		out.HostAliases = append(out.HostAliases, *a.DeepCopy())
	}
	if in.DNSConfig != nil {
		out.DNSConfig = in.DNSConfig.DeepCopy()
	}
	if out.Subdomain != "" || out.SetHostnameAsFQDN || out.HostAliases != nil ||
		out.DNSPolicy != "" || out.DNSConfig != nil {
		d.out.Names = out
	}
}

// hiddenNames refuses fields whose file a volume of the user replaces.
func hiddenNames(d *draft) {
	hides := func(file string) int {
		return slices.IndexFunc(d.in.VolumeMounts, func(m corev1.VolumeMount) bool {
			p := path.Clean(m.MountPath)
			return p == file || p == path.Dir(file)
		})
	}
	for _, f := range []struct {
		name, file string
		set        bool
	}{
		{"hostAliases", "/etc/hosts", len(d.in.HostAliases) > 0},
		{"subdomain", "/etc/hosts", d.in.Subdomain != ""},
		{"dnsPolicy", "/etc/resolv.conf", d.in.DNSPolicy != ""},
		{"dnsConfig", "/etc/resolv.conf", d.in.DNSConfig != nil},
	} {
		if i := hides(f.file); f.set && i >= 0 {
			d.refuse(d.path.Child(f.name), fmt.Sprintf(
				"is for %s, which volumeMounts[%d] replaces: remove %s or that volumeMount", f.file, i, f.name))
		}
	}
}

func domainName(d *draft) {
	if d.in.Subdomain != "" {
		at := d.path.Child("subdomain")
		for _, msg := range validation.IsDNS1123Label(d.in.Subdomain) {
			d.invalid(at, d.in.Subdomain, msg)
		}
		if d.in.HostNetwork {
			d.refuse(at,
				"is part of a hostname, which a container on the host's network does not have: remove subdomain or hostNetwork")
		}
	}
	if d.in.SetHostnameAsFQDN && d.in.HostNetwork {
		d.refuse(d.path.Child("setHostnameAsFQDN"),
			"needs a UTS namespace, which a container on the host's network does not have: remove setHostnameAsFQDN or hostNetwork")
	}
}

func hostAliases(d *draft) {
	for i, a := range d.in.HostAliases {
		at := d.path.Child("hostAliases").Index(i)
		address(d, at.Child("ip"), a.IP)
		if len(a.Hostnames) == 0 {
			d.faults = append(d.faults, field.Required(at.Child("hostnames"),
				"name at least one host that has the address"))
		}
		for j, name := range a.Hostnames {
			for _, msg := range validation.IsDNS1123Subdomain(name) {
				d.invalid(at.Child("hostnames").Index(j), name, msg)
			}
		}
	}
}

// address checks an address of another host.
func address(d *draft, at *field.Path, text string) {
	if a, err := netip.ParseAddr(text); err != nil || a.Zone() != "" {
		d.invalid(at, text, "must be an address, such as 192.0.2.1 or 2001:db8::1")
	}
}

func dnsPolicy(d *draft) {
	at := d.path.Child("dnsPolicy")
	if d.in.DNSPolicy == "" {
		return
	}
	oneOf(d, at, d.in.DNSPolicy, corev1.DNSClusterFirst, corev1.DNSClusterFirstWithHostNet,
		corev1.DNSDefault, corev1.DNSNone)
	if d.in.DNSPolicy == corev1.DNSNone &&
		(d.in.DNSConfig == nil || len(d.in.DNSConfig.Nameservers) == 0) {
		d.faults = append(d.faults, field.Required(d.path.Child("dnsConfig", "nameservers"),
			"dnsPolicy None takes no servers from the node: add dnsConfig.nameservers, or set another dnsPolicy"))
	}
}

func dnsConfig(d *draft) {
	c := d.in.DNSConfig
	if c == nil {
		return
	}
	at := d.path.Child("dnsConfig")
	if n := len(c.Nameservers); n > v1alpha1.MaxNameservers {
		d.faults = append(d.faults, field.TooMany(at.Child("nameservers"), n,
			v1alpha1.MaxNameservers))
	}
	for i, server := range c.Nameservers {
		address(d, at.Child("nameservers").Index(i), server)
	}
	if n := len(c.Searches); n > v1alpha1.MaxSearchDomains {
		d.faults = append(d.faults, field.TooMany(at.Child("searches"), n, v1alpha1.MaxSearchDomains))
	}
	if n := len(strings.Join(c.Searches, " ")); n > v1alpha1.MaxSearchLength {
		d.invalid(at.Child("searches"), fmt.Sprintf("%d characters", n), fmt.Sprintf(
			"must have at most %d characters together, with one between two of them: remove some",
			v1alpha1.MaxSearchLength))
	}
	for i, domain := range c.Searches {
		if domain == "." {
			continue
		}
		for _, msg := range validation.IsDNS1123SubdomainWithUnderscore(
			strings.TrimSuffix(domain, ".")) {
			d.invalid(at.Child("searches").Index(i), domain, msg)
		}
	}
	for i, option := range c.Options {
		at := at.Child("options").Index(i)
		if option.Name == "" {
			d.faults = append(d.faults, field.Required(at.Child("name"), "name an option, such as ndots"))
		}
		dnsWord(d, at.Child("name"), option.Name)
		if option.Value != nil {
			dnsWord(d, at.Child("value"), *option.Value)
		}
	}
}

// dnsWord refuses what would be more than one word of resolv.conf.
func dnsWord(d *draft, at *field.Path, word string) {
	if strings.ContainsFunc(word, func(c rune) bool { return c <= ' ' || c > '~' }) {
		d.invalid(at, word, "must be a word of ASCII without spaces")
	}
}
