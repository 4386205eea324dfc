// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"strings"
	"testing"

	"github.com/berth-run/berth/api/v1alpha1"
)

// An agent without a cluster has a container in the network of another one. What belongs to that
// network is refused, with where to write it.
func TestJoinedNetwork(t *testing.T) {
	const join = "image: busybox\nnetwork: {container: web}\n"
	b, faults := Bundle(parse(t, join+"ports: [{containerPort: 80}]\nhostname: own"), Neighbours())
	if len(faults) > 0 {
		t.Fatal(faults.ToAggregate())
	}
	found := flatten(t, b)
	if found["network.container"] != `"web"` || MinAgentRevision(b) != 3 {
		t.Errorf("found network.container %s, the revision %d; want web, 3", found["network.container"],
			MinAgentRevision(b))
	}
	for name, tc := range map[string]struct{ spec, path, want string }{
		"name":           {"image: busybox\nnetwork: {container: A_b}", "network.container", "RFC 1123"},
		"itself":         {"image: busybox\nnetwork: {container: x}", "network.container", "another Container"},
		"none":           {"image: busybox\nnetwork: {container: web, none: true}", "network.none", "one network"},
		"node's network": {join + "hostNetwork: true", "hostNetwork", "one network"},
		"networks":       {join + "networks: [{name: a}]", "networks", "networks of web"},
		"hostPort": {
			join + "ports: [{containerPort: 80}, {containerPort: 81, hostPort: 81}]", "ports[1].hostPort",
			"network of web: write it there",
		},
		"sysctl": {
			join + "securityContext: {sysctls: [{name: net.ipv4.tcp_rmem, value: '1'}]}",
			"securityContext.sysctls[0].name", "network of web: write it there",
		},
		"subdomain":         {join + "subdomain: a", "subdomain", "/etc/hosts"},
		"setHostnameAsFQDN": {join + "setHostnameAsFQDN: true", "setHostnameAsFQDN", "/etc/hosts"},
		"hostAliases": {
			join + "hostAliases: [{ip: 192.0.2.1, hostnames: [a]}]", "hostAliases", "/etc/hosts",
		},
		"dnsPolicy": {join + "dnsPolicy: Default", "dnsPolicy", "/etc/resolv.conf"},
		"dnsConfig": {join + "dnsConfig: {searches: [a]}", "dnsConfig", "/etc/resolv.conf"},
	} {
		c := parse(t, tc.spec)
		c.Name = "x"
		_, faults := Bundle(c, Neighbours(), UnsafeSysctls())
		if len(faults) != 1 || faults[0].Field != "spec."+tc.path ||
			!strings.Contains(faults[0].Error(), tc.want) {
			t.Errorf("%s: found %v; want one fault at spec.%s with %q", name, faults, tc.path, tc.want)
		}
	}
}

// TestBandwidth: the annotations of a Pod limit the traffic of a container. A limit that cannot be is
// refused by the path of its annotation.
func TestBandwidth(t *testing.T) {
	const ingress, egress = "kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"
	c := parse(t, "image: busybox")
	c.Annotations = map[string]string{ingress: "10M", egress: "1500"}
	b, faults := Bundle(c)
	if len(faults) > 0 || b.Network == nil || b.Network.Bandwidth == nil ||
		*b.Network.Bandwidth != (v1alpha1.Bandwidth{Ingress: 10_000_000, Egress: 1500}) ||
		MinAgentRevision(b) != 3 {
		t.Errorf("found %+v, %v; want 10 Mbit/s and 1500 bit/s", b.Network, faults)
	}
	for name, tc := range map[string]struct{ spec, annotation, value, want string }{
		"no quantity":      {"", ingress, "fast", "write 10M for 10 Mbit/s"},
		"too little":       {"", egress, "999", "at least 1k"},
		"too much":         {"", ingress, "2P", "at most 1P, as under a kubelet"},
		"far too much":     {"", ingress, "1e30", "at most 1P, as under a kubelet"},
		"a part of a bit":  {"", egress, "1000500m", "whole number"},
		"the node's":       {"hostNetwork: true", ingress, "10M", "remove it or hostNetwork"},
		"none":             {"network: {none: true}", egress, "10M", "remove it or network.none"},
		"another's":        {"network: {container: web}", ingress, "10M", "network of web: write it there"},
		"a quantity of -1": {"", ingress, "-1", "negative"},
	} {
		c := parse(t, "image: busybox\n"+tc.spec)
		c.Annotations = map[string]string{tc.annotation: tc.value}
		_, faults := Bundle(c, Neighbours())
		if len(faults) != 1 || faults[0].Field != "metadata.annotations["+tc.annotation+"]" ||
			!strings.Contains(faults[0].Error(), tc.want) {
			t.Errorf("%s: found %v; want one fault of the annotation with %q", name, faults, tc.want)
		}
	}
}

// TestSameAddress compares values of hostIP in both orders.
func TestSameAddress(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{"", "", true},
		{"", "0.0.0.0", true},
		{"", "::", true},
		{"", "192.0.2.1", true},
		{"0.0.0.0", "192.0.2.1", true},
		{"0.0.0.0", "::ffff:192.0.2.1", true},
		{"::", "2001:db8::1", true},
		{"2001:db8::1", "2001:db8:0::1", true},
		{"0.0.0.0", "::", false},
		{"0.0.0.0", "2001:db8::1", false},
		{"::", "192.0.2.1", false},
		{"127.0.0.1", "192.0.2.1", false},
		{"0.0.0.0", "localhost", false},
	} {
		if sameAddress(tc.a, tc.b) != tc.want || sameAddress(tc.b, tc.a) != tc.want {
			t.Errorf("%q and %q: want %v", tc.a, tc.b, tc.want)
		}
	}
}

// An agent without a cluster has a container wait for others. A change of that is no edit of what
// runs.
func TestDependsOn(t *testing.T) {
	c := parse(t, "image: x\ndependsOn: [{name: db, condition: Started}, {name: job, condition: Completed}]")
	b, faults := Bundle(c, Neighbours())
	if len(faults) > 0 || len(b.DependsOn) != 2 || b.DependsOn[1] != c.Spec.DependsOn[1] ||
		MinAgentRevision(b) != 3 {
		t.Fatalf("found %v, %v", b, faults)
	}
	if RunDigest(c.Spec) != RunDigest(parse(t, "image: x").Spec) {
		t.Error("found another digest of what runs")
	}
	c = parse(t, "image: x\ndependsOn: [{name: A_b, condition: Ready}, {name: x}, {name: x, condition: Started}]")
	c.Name = "x"
	_, faults = Bundle(c, Neighbours())
	var found []string
	for _, f := range faults {
		found = append(found, strings.TrimPrefix(f.Field, "spec.dependsOn"))
	}
	want := "[0].name [0].condition [1].name [1].condition [2].name [2].name"
	if got := strings.Join(found, " "); got != want {
		t.Errorf("found faults of %s; want %s", got, want)
	}
}
