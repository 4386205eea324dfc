// SPDX-License-Identifier: Apache-2.0

package v1alpha1

// Network says which network a container is in.
type Network struct {
	// none leaves the container with loopback alone, in a network namespace of its own.
	// +optional
	None bool `json:"none,omitempty"`
	// container is the name of another Container of the namespace, in whose network namespace the
	// container is. Honoured by an agent without a cluster.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Container string `json:"container,omitempty"`
}

// NetworkAttachment is a network of the node that a container is in.
type NetworkAttachment struct {
	// name of a CNI configuration of the node. Absent, the node's network for containers.
	// +optional
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-zA-Z0-9][a-zA-Z0-9_.-]*$')",message="networks name CNI configurations: correct the name to letters, digits, '_', '.' and '-'"
	Name string `json:"name,omitempty"`
	// aliases are further names of the container in this network.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.all(a, a.matches('^[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?([.][a-z0-9_]([-a-z0-9_]*[a-z0-9_])?)*$'))",message="aliases are names in lower case, such as db or db.example.com"
	Aliases []string `json:"aliases,omitempty"`
}

// MaxNetworks is the number of networks that a container may be in.
const MaxNetworks = 8

// HostAlias is a line of /etc/hosts.
type HostAlias struct {
	// ip is the address of the line.
	// +kubebuilder:validation:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="isIP(self)",message="ip of a host alias is an address, such as 192.0.2.1 or 2001:db8::1"
	IP string `json:"ip"`
	// hostnames are the names of the address.
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.all(n, n.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$'))",message="hostnames of a host alias have lower case letters, digits, '-' and '.', and each part begins and ends with a letter or digit"
	Hostnames []string `json:"hostnames"`
}

// Limits of resolv.conf, which are those of the kubelet and of the C library.
const (
	// MaxNameservers is MAXNS of resolv.h: the C library reads no further server.
	MaxNameservers = 3
	// MaxSearchDomains and MaxSearchLength limit the search list.
	MaxSearchDomains = 32
	MaxSearchLength  = 2048
)

// DNSConfig is a Pod's dnsConfig. What it has is added to what dnsPolicy gives.
type DNSConfig struct {
	// nameservers are addresses of DNS servers, after those of dnsPolicy. At most 3 servers are used.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=3
	// +kubebuilder:validation:items:MaxLength=45
	// +kubebuilder:validation:XValidation:rule="self.all(a, isIP(a))",message="nameservers are addresses, such as 192.0.2.53 or 2001:db8::53"
	Nameservers []string `json:"nameservers,omitempty"`
	// searches are search domains, after those of dnsPolicy.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=254
	// +kubebuilder:validation:XValidation:rule="self.all(d, d.matches('^([.]|_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?([.]_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*[.]?)$'))",message="searches are domains such as example.com, with lower case letters, digits, '-', '_' and '.'"
	// +kubebuilder:validation:XValidation:rule="self.join(' ').size() <= 2048",message="searches may have 2048 characters together, with one between two of them: remove some"
	Searches []string `json:"searches,omitempty"`
	// options of the resolver. One that dnsPolicy gives, too, has this value.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	Options []DNSOption `json:"options,omitempty"`
}

// DNSOption is a word of the line options of resolv.conf(5): NAME, or NAME:VALUE.
type DNSOption struct {
	// name of the option, such as ndots.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^[!-~]+$')",message="the name of an option is a word without spaces, such as ndots"
	Name string `json:"name"`
	// value of the option, such as 5.
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^[!-~]*$')",message="the value of an option is a word without spaces, such as 5"
	Value *string `json:"value,omitempty"`
}
