// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/needs"
)

// TestResolvByName: a container whose network has a nameserver asks that, unless it asks for other
// servers.
func TestResolvByName(t *testing.T) {
	server, cluster := netip.MustParseAddr("10.89.0.1"), []netip.Addr{netip.MustParseAddr("10.96.0.10")}
	const node = "search lan.example\nnameserver 192.0.2.1\noptions ndots:2\n"
	const byName = "search ns.berth.internal lan.example\nnameserver 10.89.0.1\n" +
		"options ndots:2 timeout:1 attempts:2\n"
	for name, tc := range map[string]struct {
		spec    *specs.Spec
		wanted  *v1alpha1.BundleNames
		cluster []netip.Addr
		want    string
	}{
		"nothing said": {specWith(), nil, cluster, byName},
		"ClusterFirst without servers": {
			specWith(), &v1alpha1.BundleNames{DNSPolicy: corev1.DNSClusterFirst}, nil, byName,
		},
		"ClusterFirst": {
			specWith(), &v1alpha1.BundleNames{DNSPolicy: corev1.DNSClusterFirst}, cluster,
			"search lan.example\nnameserver 10.96.0.10\noptions ndots:5\n",
		},
		"Default": {specWith(), &v1alpha1.BundleNames{DNSPolicy: corev1.DNSDefault}, nil, node},
		"dnsConfig": {
			specWith(), &v1alpha1.BundleNames{DNSConfig: &v1alpha1.DNSConfig{
				Searches: []string{"b.example"}, Options: []v1alpha1.DNSOption{{Name: "rotate"}},
			}}, nil,
			"search ns.berth.internal lan.example b.example\nnameserver 10.89.0.1\n" +
				"options ndots:2 timeout:1 attempts:2 rotate\n",
		},
		"the node's network": {&specs.Spec{Linux: &specs.Linux{}}, nil, nil, node},
	} {
		host := t.TempDir()
		if err := os.MkdirAll(filepath.Join(host, "etc"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(host, "etc/resolv.conf"), []byte(node), 0o600); err != nil {
			t.Fatal(err)
		}
		n := Names{
			Namespace: "ns", Wanted: tc.wanted, Host: os.DirFS(host), Nameserver: server,
			Cluster: ClusterDNS{Servers: tc.cluster},
		}
		got, notice, err := n.resolv(len(tc.spec.Linux.Namespaces) > 0)
		if err != nil || notice != nil || string(got) != tc.want {
			t.Errorf("%s: found %q, %v, %v; want %q", name, got, notice, err, tc.want)
		}
	}
}

// TestNodeServers: behind systemd-resolved are the servers of the node.
func TestNodeServers(t *testing.T) {
	for name, tc := range map[string]struct{ resolv, behind, want string }{
		"its own":           {"nameserver 192.0.2.1\nnameserver fd00::1\n", "nameserver 192.0.2.9\n", "[192.0.2.1 fd00::1]"},
		"behind a resolver": {"nameserver 127.0.0.53\n", "nameserver 192.0.2.9\n", "[192.0.2.9]"},
		"on loopback alone": {"nameserver 127.0.0.1\n", "", "[127.0.0.1]"},
		"none":              {"", "", "[]"},
	} {
		host := fstest.MapFS{
			"etc/resolv.conf": {Data: []byte(tc.resolv)}, "run/systemd/resolve/resolv.conf": {Data: []byte(tc.behind)},
		}
		if got, err := NodeServers(host); err != nil || fmt.Sprint(got) != tc.want {
			t.Errorf("%s: found %v, %v; want %s", name, got, err, tc.want)
		}
	}
}

// TestResolv holds resolv.conf to what kubelet and containerd write for the same fields of a Pod.
func TestResolv(t *testing.T) {
	own, host := specWith(), &specs.Spec{Linux: &specs.Linux{}}
	two, empty := "2", ""
	cluster := ClusterDNS{
		Servers: []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00::a")},
		Domain:  "cluster.local",
	}
	const node = "# node\ndomain ignored.example\nsearch first.example\n search b.example. . svc.cluster.local\n" +
		"nameserver 192.0.2.1\nnameserver 127.0.0.53\nnameserver\noptions ndots:3 rotate\noptions ndots:4\n"
	const clusterFirst = "search ns.svc.cluster.local svc.cluster.local cluster.local b.example\n" +
		"nameserver 10.96.0.10\nnameserver fd00::a\noptions ndots:5\n"
	many := func(n int, name string) []string {
		var out []string
		for i := range n {
			out = append(out, fmt.Sprintf("%s%d", name, i))
		}
		return out
	}
	policy := func(p corev1.DNSPolicy) *v1alpha1.BundleNames { return &v1alpha1.BundleNames{DNSPolicy: p} }
	config := func(c v1alpha1.DNSConfig) *v1alpha1.BundleNames {
		return &v1alpha1.BundleNames{DNSConfig: &c}
	}
	for name, tc := range map[string]struct {
		spec           *specs.Spec
		node           string
		wanted         *v1alpha1.BundleNames
		cluster        ClusterDNS
		want           string
		reason, notice string
	}{
		"nothing said": {own, "nameserver 192.0.2.1\nx y\n", nil, cluster, "nameserver 192.0.2.1\nx y\n", "", ""},
		"hostAliases alone": {
			own, "nameserver 192.0.2.1\nx y\n",
			&v1alpha1.BundleNames{HostAliases: []v1alpha1.HostAlias{{}}}, cluster,
			"nameserver 192.0.2.1\nx y\n", "", "",
		},
		"Default": {
			own, node, policy(corev1.DNSDefault), cluster,
			"search b.example svc.cluster.local\nnameserver 192.0.2.1\noptions ndots:4 rotate\n", "", "",
		},
		"Default in the node's network": {
			host, node, policy(corev1.DNSDefault), cluster,
			"search b.example svc.cluster.local\nnameserver 192.0.2.1\nnameserver 127.0.0.53\noptions ndots:4 rotate\n",
			"", "",
		},
		"Default of a node without": {own, "", policy(corev1.DNSDefault), cluster, "", "", ""},
		"ClusterFirst":              {own, node, policy(corev1.DNSClusterFirst), cluster, clusterFirst, "", ""},
		"ClusterFirst without a domain": {
			own, node, policy(corev1.DNSClusterFirst),
			ClusterDNS{Servers: cluster.Servers},
			"search b.example svc.cluster.local\nnameserver 10.96.0.10\nnameserver fd00::a\noptions ndots:5\n", "", "",
		},
		"ClusterFirst without servers": {
			own, "nameserver 192.0.2.1\n", policy(corev1.DNSClusterFirst),
			ClusterDNS{Domain: "cluster.local"},
			"nameserver 192.0.2.1\n", "MissingClusterDNS", "--cluster-dns, which dnsPolicy ClusterFirst needs",
		},
		"ClusterFirst in the node's network": {
			host, "nameserver 127.0.0.53\n", policy(corev1.DNSClusterFirst), cluster, "nameserver 127.0.0.53\n", "", "",
		},
		"ClusterFirstWithHostNet in the node's network": {
			host, node, policy(corev1.DNSClusterFirstWithHostNet), cluster, clusterFirst, "", "",
		},
		"None": {
			own, node, &v1alpha1.BundleNames{
				DNSPolicy: corev1.DNSNone,
				DNSConfig: &v1alpha1.DNSConfig{Nameservers: []string{"127.0.0.1"}},
			}, cluster, "nameserver 127.0.0.1\n", "", "",
		},
		"dnsConfig is added": {
			own, "nameserver 192.0.2.1\nsearch a b\noptions ndots:1 rotate\n", config(v1alpha1.DNSConfig{
				Nameservers: []string{"192.0.2.1", "192.0.2.2"}, Searches: []string{"b", "c."},
				Options: []v1alpha1.DNSOption{
					{Name: "ndots", Value: &two},
					{Name: "edns0", Value: &empty},
					{Name: "trust-ad"},
				},
			}), cluster,
			"search a b c.\nnameserver 192.0.2.1\nnameserver 192.0.2.2\noptions ndots:2 rotate edns0 trust-ad\n", "", "",
		},
		"dnsConfig over ClusterFirst": {
			own, node, &v1alpha1.BundleNames{
				DNSPolicy: corev1.DNSClusterFirst,
				DNSConfig: &v1alpha1.DNSConfig{Options: []v1alpha1.DNSOption{{Name: "ndots", Value: &two}}},
			}, cluster, strings.Replace(clusterFirst, "ndots:5", "ndots:2", 1), "", "",
		},
		"four servers": {
			own, "nameserver 192.0.2.1\nnameserver 192.0.2.2\n",
			config(v1alpha1.DNSConfig{Nameservers: []string{"192.0.2.3", "192.0.2.4"}}), cluster,
			"nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n",
			"DNSConfigForming", "found 4 nameservers; allowed: 3",
		},
		"33 domains": {
			own, "search a\n", config(v1alpha1.DNSConfig{Searches: many(32, "d")}), cluster,
			"search a " + strings.Join(many(31, "d"), " ") + "\n",
			"DNSConfigForming", "found 33 search domains; allowed: 32",
		},
		"a long domain": {
			own, "search a " + strings.Repeat("b", 254) + " c\n", policy(corev1.DNSDefault), cluster,
			"search a c\n", "DNSConfigForming", "253 characters",
		},
		"long domains": {
			own, "search " + strings.Repeat(strings.Repeat("b", 200)+"1 ", 9) + "c\n", config(v1alpha1.DNSConfig{
				Searches: []string{strings.Repeat("d", 250)},
			}), cluster,
			// without duplicates there is room
			"search " + strings.Repeat("b", 200) + "1 c " + strings.Repeat("d", 250) + "\n", "", "",
		},
		"2048 characters": {
			own, "", config(v1alpha1.DNSConfig{Searches: many(20, strings.Repeat("b", 120))}), cluster,
			"search " + strings.Join(many(16, strings.Repeat("b", 120)), " ") + "\n",
			"DNSConfigForming", "2048 together: the container has 16",
		},
		"nothing there, and too much": {
			own, "nameserver 192.0.2.1\n", &v1alpha1.BundleNames{
				DNSPolicy: corev1.DNSClusterFirst,
				DNSConfig: &v1alpha1.DNSConfig{Nameservers: []string{"::1", "::2", "::3"}},
			},
			ClusterDNS{},
			"nameserver 192.0.2.1\nnameserver ::1\nnameserver ::2\n",
			"MissingClusterDNS", "Default; found 4 nameservers",
		},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{}
			if tc.node != "" {
				files["etc/resolv.conf"] = tc.node
			}
			n := Names{
				Container: "c", Namespace: "ns", Wanted: tc.wanted, Host: hostFS(files), Cluster: tc.cluster,
			}
			out, notice, err := nameFiles(tc.spec, n)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(out[2].content); got != tc.want {
				t.Errorf("found\n%s\nwant\n%s", got, tc.want)
			}
			if notice == nil {
				notice = &DNSNotice{}
			}
			if notice.Reason != tc.reason || !strings.Contains(notice.Message, tc.notice) {
				t.Errorf("found the notice %+v; want %s with %q", notice, tc.reason, tc.notice)
			}
		})
	}
}

// TestHosts holds /etc/hosts and the hostname to what the kubelet writes for the same fields of a
// Pod.
func TestHosts(t *testing.T) {
	node, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	nodeNames := strings.Join(names(node, ""), " ")
	const head = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n" +
		"fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
	const aliases = "\n# Entries added by HostAliases.\n192.0.2.1\tdb\tdb.example\n::1\tme\n"
	addresses := []netip.Addr{netip.MustParseAddr("10.89.0.2"), netip.MustParseAddr("fd00::2")}
	wanted := func(subdomain string, fqdn bool) *v1alpha1.BundleNames {
		return &v1alpha1.BundleNames{Subdomain: subdomain, SetHostnameAsFQDN: fqdn}
	}
	withAliases := &v1alpha1.BundleNames{HostAliases: []v1alpha1.HostAlias{
		{IP: "192.0.2.1", Hostnames: []string{"db", "db.example"}},
		{IP: "::1", Hostnames: []string{"me"}},
	}}
	for name, tc := range map[string]struct {
		hostname, container string
		wanted              *v1alpha1.BundleNames
		addresses           []netip.Addr
		domain              string
		hosts               string
		want, err           string // the hostname
	}{
		"aliases": {
			"web", "web", withAliases, addresses, "",
			head + "10.89.0.2\tweb\nfd00::2\tweb\n" + aliases, "web", "",
		},
		"aliases without a network": {
			"web", "web", withAliases, nil, "", head + "127.0.0.1\tweb\n" + aliases, "web", "",
		},
		"subdomain": {
			"web", "web", wanted("site", false), addresses, "cluster.local",
			head + "10.89.0.2\tweb.site.ns.svc.cluster.local\tweb\n" +
				"fd00::2\tweb.site.ns.svc.cluster.local\tweb\n", "web", "",
		},
		"subdomain, another name": {
			"web", "c", wanted("site", false), addresses[:1], "cluster.local",
			head + "10.89.0.2\tweb.site.ns.svc.cluster.local\tweb c\n", "web", "",
		},
		"subdomain without a cluster": {
			"web", "web", wanted("site", true), addresses[:1], "",
			head + "10.89.0.2\tweb.site.ns.svc\tweb\n", "web.site.ns.svc", "",
		},
		"FQDN": {
			"web", "web", wanted("site", true), addresses[:1], "cluster.local",
			head + "10.89.0.2\tweb.site.ns.svc.cluster.local\tweb\n", "web.site.ns.svc.cluster.local", "",
		},
		"FQDN without a subdomain": {
			"web", "web", wanted("", true), addresses[:1], "cluster.local", head + "10.89.0.2\tweb\n", "web", "",
		},
		"FQDN of 65 bytes": {
			"web", "web", wanted(strings.Repeat("s", 40), true), addresses[:1], "cluster.local", "", "",
			"setHostnameAsFQDN: found",
		},
		"the node's": {
			"", "web", withAliases, nil, "", "# Kubernetes-managed hosts file (host network).\n" +
				"192.0.2.9 " + nodeNames + "\n127.0.1.1\tweb\n" + aliases, node, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			spec := specWith()
			if spec.Hostname = tc.hostname; tc.hostname == "" {
				spec.Linux.Namespaces = nil
			}
			out, _, err := nameFiles(spec, Names{
				Container: tc.container, Namespace: "ns", Wanted: tc.wanted, Addresses: tc.addresses,
				Host:    hostFS(map[string]string{"etc/hosts": "192.0.2.9 " + nodeNames}),
				Cluster: ClusterDNS{Domain: tc.domain},
			})
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("found %v; want an error with %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := string(out[0].content); got != tc.hosts {
				t.Errorf("found hosts\n%s\nwant\n%s", got, tc.hosts)
			}
			if got := string(out[1].content); got != tc.want+"\n" {
				t.Errorf("found /etc/hostname %q; want %q", got, tc.want)
			}
			if tc.hostname != "" && spec.Hostname != tc.want {
				t.Errorf("found the hostname %q; want %q", spec.Hostname, tc.want)
			}
		})
	}
}

// TestMountShowsNewNames: a bind mount of /etc/hosts has the content of the next write, whatever the
// container has done to the file, and a notice is that of the last one.
func TestMountShowsNewNames(t *testing.T) {
	needs.Root(t)
	b, err := Open(filepath.Join(t.TempDir(), "bundles"))
	if err != nil {
		t.Fatal(err)
	}
	dir, rootfs := b.Dir("x"), t.TempDir()
	if err := dir.Make(); err != nil {
		t.Fatal(err)
	}
	mount := func(wanted *v1alpha1.BundleNames, addresses ...netip.Addr) {
		t.Helper()
		if err := dir.MountNames(specWith(), rootfs, Names{
			Container: "web", Host: hostFS(nil), Addresses: addresses, Wanted: wanted,
		}); err != nil {
			t.Fatal(err)
		}
	}
	mount(&v1alpha1.BundleNames{DNSPolicy: corev1.DNSClusterFirst}, netip.MustParseAddr("10.89.0.2"))
	if n, err := dir.DNSNotice(); err != nil || n == nil || n.Reason != v1alpha1.ReasonMissingClusterDNS {
		t.Errorf("found the notice %+v, %v; want MissingClusterDNS", n, err)
	}
	inside := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(inside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(dir.File("etc/hosts"), inside, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(inside, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(inside, []byte(strings.Repeat("x", 5000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(inside, 7, 7); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(inside, 0o4777); err != nil {
		t.Fatal(err)
	}
	mount(nil, netip.MustParseAddr("10.89.0.3"))
	got, err := os.ReadFile(inside)
	if err != nil || !strings.HasSuffix(string(got), "\n10.89.0.3\tweb.example.org web\n") ||
		strings.Contains(string(got), "10.89.0.2") || strings.Contains(string(got), "xx") {
		t.Errorf("found %q, %v; want the new address alone", got, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(inside, &st); err != nil || st.Mode != unix.S_IFREG|0o644 || st.Uid != 0 || st.Gid != 0 {
		t.Errorf("found mode %o of %d:%d, %v; want 0644 of 0:0", st.Mode, st.Uid, st.Gid, err)
	}
	if n, err := dir.DNSNotice(); n != nil || err != nil {
		t.Errorf("found the notice %+v, %v; want none", n, err)
	}
	if err := dir.RemoveNames(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir.File("etc")); !os.IsNotExist(err) {
		t.Errorf("found %v; want no directory", err)
	}
}
