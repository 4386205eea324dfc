// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// shop is a web server whose page is in a ConfigMap, and whose password is in a Secret.
const shop = `apiVersion: v1
kind: ConfigMap
metadata: {name: pages}
data: {index.html: "Open until six\n"}
---
apiVersion: v1
kind: Secret
metadata: {name: shop-password}
stringData: {password: correct horse}
---
apiVersion: berth.run/v1alpha1
kind: Container
metadata: {name: shop}
spec:
  archive: {path: /var/lib/berth/archives/hello.tar}
  command: [/bin/busybox, sh, -c, 'test ${#PASSWORD} = 13 && exec /bin/busybox httpd -f -p 80 -h /pages']
  env:
  - name: PASSWORD
    valueFrom: {secretKeyRef: {name: shop-password, key: password}}
  ports:
  - {name: http, containerPort: 80, hostPort: 18080}
  volumes:
  - {name: pages, configMap: {name: pages}}
  volumeMounts:
  - {name: pages, mountPath: /pages}
  terminationGracePeriodSeconds: 1
`

// TestNetwork: with a CNI configuration on the node, a published server is reached by the node's
// port, has its address in its status, keeps it when it is started again, and leaves nothing.
func TestNetwork(t *testing.T) {
	cleanAfter(t, "shop")
	t.Cleanup(func() { kube(t, "delete", "configmap/pages", "secret/shop-password", "--ignore-not-found") })
	addresses := t.TempDir()
	conf := filepath.Join(state, "agent/cni/10-cluster.conflist")
	if err := os.MkdirAll(filepath.Dir(conf), 0o700); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "cluster", "plugins": [
{"type": "bridge", "bridge": "cluster0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
 "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.231.0.0/24"}]]}},
{"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}]}`, addresses)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(conf); err != nil {
			t.Error(err)
		}
	})

	apply(t, shop)
	condition(t, "shop", "Ready", "Started", "")
	before := get(t, "shop").Status
	if len(before.IPs) != 1 || !strings.HasPrefix(before.IPs[0].IP, "10.231.0.") {
		t.Fatalf("found the addresses %v; want one of 10.231.0.0/24", before.IPs)
	}
	if wide := kube(t, "get", "container", "shop", "-o", "wide"); !strings.Contains(wide, before.IPs[0].IP) {
		t.Errorf("found %q; want %s", wide, before.IPs[0].IP)
	}
	answers(t, "127.0.0.1:18080", "Open until six\n")
	answers(t, before.IPs[0].IP+":80", "Open until six\n")

	if err := unix.Kill(int(before.PID), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, 2*time.Minute, func() error {
		if now := get(t, "shop").Status; now.RestartCount != 1 || now.PID == 0 {
			return fmt.Errorf("found %d restarts and the process %d", now.RestartCount, now.PID)
		}
		return nil
	})
	if now := get(t, "shop").Status; len(now.IPs) != 1 || now.IPs[0] != before.IPs[0] {
		t.Errorf("found the addresses %v after a restart; want %v", now.IPs, before.IPs)
	}
	answers(t, "127.0.0.1:18080", "Open until six\n")

	kube(t, "delete", "container", "shop", "--timeout=3m")
	leases, err := filepath.Glob(addresses + "/cluster/10.231.*")
	if err != nil || len(leases) > 0 {
		t.Errorf("found the addresses %q left, %v", leases, err)
	}
	if out, err := exec.Command("ip", "-o", "link", "show", "type", "veth").Output(); err != nil || len(out) > 0 {
		t.Errorf("found the devices %q left, %v", out, err)
	}
	if out, err := exec.Command("iptables-save", "-t", "nat").Output(); err != nil ||
		strings.Contains(string(out), before.IPs[0].IP) {
		t.Errorf("found rules of %s left: %s, %v", before.IPs[0].IP, out, err)
	}
}

// answers waits until a web server at that address answers with a page.
func answers(t *testing.T, address, page string) {
	t.Helper()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	eventually(t, 2*time.Minute, func() error {
		r, err := client.Get("http://" + address + "/index.html")
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if text, err := io.ReadAll(r.Body); err != nil || string(text) != page {
			return fmt.Errorf("%s answered %q, %v; want %q", address, text, err, page)
		}
		return nil
	})
}
