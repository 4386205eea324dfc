// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// get returns the body of a page, or nothing as long as nobody answers.
func get(url string) string {
	r, err := (&http.Client{Timeout: limit}).Get(url)
	if err != nil {
		return ""
	}
	defer r.Body.Close()
	body, _ := io.ReadAll(r.Body)
	return string(body)
}

// serve returns a command that serves one page over HTTP.
func serve(page string) []string {
	return []string{"sh", "-c", "mkdir /tmp/www; echo " + page +
		" >/tmp/www/index.html; exec httpd -f -p 80 -h /tmp/www"}
}

// TestPodmanBridge: containers on a bridge of podman's, which hands their network namespaces to the
// runtime by path.
func TestPodmanBridge(t *testing.T) {
	p := newPodman(t)
	start := func(t *testing.T, args ...string) (*client, string) {
		t.Helper()
		p := p.with(t)
		id := p.must(append([]string{"run", "-d"}, args...)...)
		t.Cleanup(func() { p.must("rm", "-f", "-t", "0", id) })
		return p, id
	}
	t.Run("a port of the host", func(t *testing.T) {
		p, id := start(t, append([]string{"-p", "127.0.0.1:8081:80", busybox}, serve("published")...)...)
		eventually(t, "the page is served", func() bool {
			return get("http://127.0.0.1:8081/") == "published\n"
		})
		mine, err := os.Readlink("/proc/self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		theirs := p.must("exec", id, "readlink", "/proc/self/ns/net")
		if theirs == mine {
			t.Errorf("the container has the network namespace %s of this test", theirs)
		}
		equal(t, "network namespace of exec and of the first process", theirs,
			p.must("exec", id, "readlink", "/proc/1/ns/net"))
		// After a restart it has a new one, at a new path.
		p.must("restart", "-t", "0", id)
		eventually(t, "the page is served again", func() bool {
			return get("http://127.0.0.1:8081/") == "published\n"
		})
	})
	t.Run("container to container", func(t *testing.T) {
		p, id := start(t, append([]string{busybox}, serve("from a neighbour")...)...)
		ip := p.must("inspect", "-f", "{{.NetworkSettings.IPAddress}}", id)
		if net.ParseIP(ip) == nil {
			t.Fatalf("address: %q", ip)
		}
		eventually(t, "the neighbour's page is served", func() bool {
			return p.run("run", "--rm", busybox, "wget", "-q", "-O", "-", "http://"+ip+
				"/").out == "from a neighbour\n"
		})
		own := p.must("exec", id, "ip", "-o", "-4", "addr", "show", "dev", "eth0")
		if !strings.Contains(own, " "+ip+"/") {
			t.Errorf("address of eth0: %q, want %s", own, ip)
		}
	})
}

// podNetwork gives the pods of containerd a bridge.
func podNetwork(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("/usr/lib/cni/bridge"); err != nil {
		t.Fatalf("%v: run hack/deps.sh clients", err)
	}
	write(t, "/etc/cni/net.d/10-pods.conflist", `{
  "cniVersion": "0.4.0", "name": "pods",
  "plugins": [
    {"type": "bridge", "bridge": "pods0", "isGateway": true, "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.99.0.0/24"}]]}},
    {"type": "loopback"}
  ]
}`)
	t.Cleanup(func() {
		if err := os.RemoveAll("/etc/cni/net.d"); err != nil {
			t.Error(err)
		}
	})
}

// ownNetwork gives the pod of newPod a network namespace of its own.
func ownNetwork(c *cri.PodSandboxConfig) {
	c.Linux.SecurityContext.NamespaceOptions.Network = cri.NamespaceMode_POD
	c.Hostname = "a-pod"
}
