// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/berth-run/berth/api/v1alpha1"
)

// A container finds its own name, with and without a network and a root filesystem of its own, also
// after a restart.
func TestStandaloneNames(t *testing.T) {
	h := newHost(t)
	node, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	rootfs := h.path("rootfs")
	for _, d := range []string{"bin", "proc", "dev", "sys"} {
		if err := os.MkdirAll(filepath.Join(rootfs, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(busybox)
	if err == nil {
		err = os.WriteFile(filepath.Join(rootfs, "bin/busybox"), data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	image, directory := "  archive: {path: "+programs+"/busybox.tar}\n", "  rootfs: {path: "+
		rootfs+"}\n"
	h.start()
	script := func(more string) string {
		return "  command: [/bin/busybox, sh, -c, 'B=/bin/busybox; $B cat /etc/hostname; $B hostname -i; test -f /etc/resolv.conf && echo resolv; " + more + "; exit 1']\n"
	}
	for name, tc := range map[string]struct {
		spec string
		want []string // lines of the first two runs
	}{
		"image": {
			image + script("echo x >> /etc/hosts && echo writable"),
			[]string{"image", "127.0.0.1", "resolv", "writable"},
		},
		"directory": {directory + script("true"), []string{"directory", "127.0.0.1", "resolv"}},
		"hostname": {
			image + "  hostname: other\n" + script("$B ping -c 1 -w 1 hostname | $B head -1"),
			[]string{"other", "127.0.0.1", "PING hostname (127.0.0.1): 56 data bytes"},
		},
		"read-only": {image + "  securityContext: {readOnlyRootFilesystem: true}\n" +
			script("echo x 2>/dev/null >> /etc/hosts || echo read-only"), []string{
			"read-only", "127.0.0.1",
			"resolv", "read-only",
		}},
		"user": {
			image + "  securityContext: {runAsUser: 1000}\n" + script("true"),
			[]string{"user", "127.0.0.1", "resolv"},
		},
		"host": {
			image + "  hostNetwork: true\n" + script("$B ping -c 1 -w 1 host | $B head -1"),
			[]string{node, "PING host (127.0.1.1): 56 data bytes"},
		},
		"own": {image + "  volumes: [{name: h, hostPath: {path: " + h.path("own") +
			"}}]\n  volumeMounts: [{name: h, mountPath: /etc/hosts}]\n" +
			script("$B cat /etc/hosts"), []string{"own", "192.0.2.3"}},
	} {
		if name == "own" {
			if err := os.WriteFile(h.path("own"), []byte("192.0.2.3 own\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		h.write(name+".yaml", tc.spec+longBackOff)
		for _, run := range []string{"first run", "after a restart"} {
			args := []string{name}
			if run == "first run" {
				args = append(args, "--previous")
			}
			h.until(name+" has run twice", func() bool {
				c := h.get(name)
				return c != nil && c.Status.RestartCount >= 1 && c.Status.State.Waiting != nil &&
					c.Status.State.Waiting.Reason == "CrashLoopBackOff"
			})
			lines := strings.Split(h.logs(args...), "\n")
			for _, want := range tc.want {
				if !contains(lines, want) {
					t.Errorf("%s, %s: found %q; want the line %q", name, run, lines, want)
				}
			}
		}
		h.remove(name + ".yaml")
		h.until(name+" is gone", func() bool { return h.get(name) == nil })
	}
	if left := h.leftovers(); left != (counts{}) || h.files() != 0 {
		t.Errorf("found %+v and %d files left", left, h.files())
	}
}

// showNames prints the files for names and the hostname, and waits.
func showNames() string {
	return "  archive: {path: " + programs + "/busybox.tar}\n" +
		"  command: [/bin/sh, -c, 'for f in hosts hostname resolv.conf; do echo == $f; cat /etc/$f; done; echo == hostname; hostname; echo == end; trap exit TERM; while true; do sleep 0.1; done']\n"
}

// names returns what showNames prints, once it has, and the pid of the program.
func (h *host) names(name string, before int64) (out string, pid int64) {
	h.t.Helper()
	h.until(name+" has shown its names", func() bool {
		c := h.get(name)
		if c == nil || c.Status.PID == 0 || c.Status.PID == before {
			return false
		}
		out, pid = h.logs(name), c.Status.PID
		return strings.Contains(out, "== end\n")
	})
	return out, pid
}

// dnsNotice returns the reason of a Container's condition DNSConfigured; "" if it has none.
func (h *host) dnsNotice(name string) string {
	c := h.get(name)
	if c == nil {
		return ""
	}
	if dns := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionDNSConfigured); dns != nil {
		return dns.Reason
	}
	return ""
}

// A container's process finds the names that its Container gives, as in a Pod, also after its own
// end and that of the agent; and what the node cannot give shows as a condition.
func TestStandaloneDNS(t *testing.T) {
	h := newHost(t)
	h.ownNetwork()
	node, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	const aliases = "  hostAliases: [{ip: 192.0.2.1, hostnames: [db, db.example.com]}, {ip: '2001:db8::1', hostnames: [six]}]\n"
	const config = "  dnsConfig: {nameservers: [192.0.2.53], searches: [example.com], options: [{name: ndots, value: '2'}, {name: rotate}]}\n"
	none := showNames() + "  hostname: web\n  subdomain: site\n  setHostnameAsFQDN: true\n" + aliases +
		"  dnsPolicy: None\n" + config
	h.flags = []string{"--cluster-dns=10.96.0.10,fd00::a", "--cluster-domain=cluster.local"}
	h.start()
	h.write("pod.yaml", none)
	h.write("cluster.yaml", showNames()+"  dnsPolicy: ClusterFirst\n"+config)
	h.write("host.yaml", showNames()+"  hostNetwork: true\n  dnsPolicy: ClusterFirstWithHostNet\n"+aliases)
	h.write("long.yaml", showNames()+"  subdomain: "+strings.Repeat("s", 63)+"\n  setHostnameAsFQDN: true\n")

	ips, pid := h.ips("pod", 0)
	const written = "\n# Entries added by HostAliases.\n192.0.2.1\tdb\tdb.example.com\n2001:db8::1\tsix\n== hostname\n"
	fqdn := "web.site.default.svc.cluster.local"
	want := "== hosts\n# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n" +
		ips[0].String() + "\t" + fqdn + "\tweb pod\n" + ips[1].String() + "\t" + fqdn + "\tweb pod\n" + written + fqdn +
		"\n== resolv.conf\nsearch example.com\nnameserver 192.0.2.53\noptions ndots:2 rotate\n== hostname\n" + fqdn + "\n== end\n"
	if got, _ := h.names("pod", 0); got != want {
		t.Errorf("found\n%s\nwant\n%s", got, want)
	}
	clusterLines := []string{
		"search default.svc.cluster.local svc.cluster.local cluster.local",
		"nameserver 10.96.0.10\nnameserver fd00::a\nnameserver 192.0.2.53\noptions ndots:2 rotate\n",
	}
	got, clusterPID := h.names("cluster", 0)
	for _, want := range clusterLines {
		if !strings.Contains(got, want) {
			t.Errorf("cluster: found\n%s\nwant %q", got, want)
		}
	}
	got, hostPID := h.names("host", 0)
	for _, want := range []string{
		"== hosts\n# Kubernetes-managed hosts file (host network).\n", written + node + "\n",
		"nameserver 10.96.0.10\nnameserver fd00::a\noptions ndots:5\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("host: found\n%s\nwant %q", got, want)
		}
	}
	h.until("a hostname that is too long is refused", func() bool {
		c := h.get("long")
		return c != nil && c.Status.State.Waiting != nil && strings.Contains(c.Status.State.Waiting.Message,
			"setHostnameAsFQDN: found \"long.sss") && c.Status.State.Waiting.Reason == v1alpha1.ReasonCreateFailed
	})
	for _, name := range []string{"pod", "cluster", "host", "long"} {
		if reason := h.dnsNotice(name); reason != "" {
			t.Errorf("%s: found DNSConfigured with %s; want none", name, reason)
		}
	}

	// An agent without a cluster: what runs keeps its servers until its next start.
	h.signal(unix.SIGKILL)
	h.flags = nil
	h.start()
	h.until("the agent has started", func() bool { return strings.Contains(h.does("status"), "cluster") })
	if reason := h.dnsNotice("host"); reason != "" {
		t.Errorf("before its next start: found DNSConfigured with %s; want none", reason)
	}
	for _, pid := range []int64{pid, clusterPID, hostPID} {
		if err := unix.Kill(int(pid), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	got, _ = h.names("cluster", clusterPID)
	// What else the file has is the node's.
	if strings.Contains(got, "10.96.0.10") || !regexp.MustCompile(`\noptions (.* )?ndots:2[ \n]`).MatchString(got) {
		t.Errorf("without a cluster: found\n%s", got)
	}
	want = strings.ReplaceAll(want, ".cluster.local", "")
	if got, _ := h.names("pod", pid); got != want {
		t.Errorf("after a restart: found\n%s\nwant\n%s", got, want)
	}
	_, hostPID = h.names("host", hostPID)
	h.until("the condition is there", func() bool {
		return h.dnsNotice("host") == v1alpha1.ReasonMissingClusterDNS
	})
	if out := h.does("status"); !strings.Contains(out, "the agent of the node has no --cluster-dns") {
		t.Errorf("berth-agent status: found\n%s\nwant the notice", out)
	}
	h.signal(unix.SIGKILL)
	h.flags = []string{"--cluster-dns=10.96.0.10"}
	h.start()
	if err := unix.Kill(int(hostPID), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.names("host", hostPID)
	h.until("the condition is gone", func() bool {
		return h.get("host").Status.State.Running != nil && h.dnsNotice("host") == ""
	})

	h.endClean("pod.yaml", "cluster.yaml", "host.yaml", "long.yaml")
}

// The flags of the cluster's DNS are refused by name.
func TestClusterDNSFlags(t *testing.T) {
	for name, tc := range map[string]struct {
		servers []string
		domain  string
		want    string // of the domain
		err     string
	}{
		"absent":         {nil, "", "", ""},
		"both":           {[]string{"10.96.0.10", "fd00::a"}, "cluster.local.", "cluster.local", ""},
		"a name":         {[]string{"dns"}, "", "", `--cluster-dns: found "dns"; allowed: addresses such as 10.96.0.10`},
		"a zone":         {[]string{"fe80::1%eth0"}, "", "", "--cluster-dns: found"},
		"four":           {[]string{"::1", "::2", "::3", "::4"}, "", "", "--cluster-dns: found 4 addresses; allowed: at most 3"},
		"a domain of no": {nil, "Cluster Local", "", `--cluster-domain: found "Cluster Local"; allowed: `},
	} {
		o := &options{clusterDNS: tc.servers}
		o.ClusterDNS.Domain = tc.domain
		err := o.checkClusterDNS()
		if tc.err != "" {
			if err == nil || !strings.HasPrefix(err.Error(), tc.err) {
				t.Errorf("%s: found %v; want %s", name, err, tc.err)
			}
			continue
		}
		if err != nil || o.ClusterDNS.Domain != tc.want || len(o.ClusterDNS.Servers) != len(tc.servers) {
			t.Errorf("%s: found %+v, %v", name, o.ClusterDNS, err)
		}
	}
}

// contains reports whether one of the lines is want, or its first word is.
func contains(lines []string, want string) bool {
	for _, l := range lines {
		if first, _, _ := strings.Cut(l, " "); l == want || first == want {
			return true
		}
	}
	return false
}
