// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/needs"
	"github.com/berth-run/berth/node-agent/network"
)

// netns returns the number of a process's network namespace, or 0 if there is no process.
func netns(pid int64) uint64 {
	var st unix.Stat_t
	if pid == 0 || unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st) != nil {
		return 0
	}
	return st.Ino
}

// A container keeps its network namespace when its process ends and when the agent is killed, and
// loses it with its Container.
func TestStandaloneNetworkNamespace(t *testing.T) {
	h := newHost(t)
	h.start()
	spec := "  archive: {path: " + programs + "/busybox.tar}\n" +
		"  command: [/bin/sh, -c, 'ip -o link; trap exit TERM; while true; do sleep 0.1; done']\n"
	h.write("own.yaml", spec)
	h.write("none.yaml", spec+"  network: {none: true}\n")
	h.write("host.yaml", spec+"  hostNetwork: true\n")
	pids := map[string]int64{}
	running := func(name string) {
		h.until(name+" runs", func() bool {
			c := h.get(name)
			if c == nil || c.Status.PID == 0 || c.Status.PID == pids[name] || netns(c.Status.PID) == 0 {
				return false
			}
			pids[name] = c.Status.PID
			return true
		})
	}
	for _, name := range []string{"own", "none", "host"} {
		running(name)
	}
	own, none := netns(pids["own"]), netns(pids["none"])
	if node := netns(int64(os.Getpid())); netns(pids["host"]) != node || own == node || none == node ||
		own == none {
		t.Errorf("found the namespaces own %d, none %d, host %d, node %d; want the node's for host alone",
			own, none, netns(pids["host"]), node)
	}
	if pinned, _ := filepath.Glob(h.path("r/netns/*")); len(pinned) != 2 {
		t.Errorf("found the pinned namespaces %v; want those of own and none", pinned)
	}

	h.signal(unix.SIGKILL)
	if err := unix.Kill(int(pids["own"]), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// Somebody else's container, whose bundle is gone.
	orphan := h.path("r/netns/default_gone_0")
	if err := os.WriteFile(orphan, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
	running("own")
	if now := netns(pids["own"]); now != own {
		t.Errorf("after a restart of the process: found the namespace %d; want %d as before", now, own)
	}
	h.until("the namespace of a container without a bundle is gone", func() bool {
		_, err := os.Stat(orphan)
		return os.IsNotExist(err)
	})

	// Into the node's network and back: another container, and so another namespace.
	h.write("own.yaml", spec+"  hostNetwork: true\n")
	running("own")
	pinned, _ := filepath.Glob(h.path("r/netns/*_own_*"))
	if netns(pids["own"]) != netns(int64(os.Getpid())) || len(pinned) > 0 {
		t.Errorf("in the node's network: found the namespace %d, pinned %v", netns(pids["own"]), pinned)
	}
	h.write("own.yaml", spec)
	running("own")
	if now := netns(pids["own"]); now == netns(int64(os.Getpid())) {
		t.Error("out of the node's network again: found the node's namespace")
	}

	h.removeAll("own.yaml", "none.yaml", "host.yaml")
	if left := h.leftovers(); left != (counts{}) {
		t.Errorf("found %+v left", left)
	}
	h.signal(unix.SIGTERM)
}

// cniPlugins is the directory of Debian's containernetworking-plugins.
const cniPlugins = "/usr/lib/cni"

// ownNetwork gives the host a network namespace of its own, so that bridges, routes and rules of
// iptables stay in it.
func (h *host) ownNetwork() {
	h.t.Helper()
	for _, plugin := range []string{"bridge", "host-local", "portmap", "firewall"} {
		if _, err := os.Stat(filepath.Join(cniPlugins, plugin)); err != nil {
			needs.Skip(h.t, fmt.Sprintf("apt-get install containernetworking-plugins: %v", err))
		}
	}
	nsenter := needs.Program(h.t, "nsenter")
	needs.Program(h.t, "iptables")
	node := network.Namespaces{Dir: h.t.TempDir()}
	path, err := node.Ensure("node", 0)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := node.Remove("node"); err != nil {
			h.t.Error(err)
		}
	})
	h.network, h.tracer = path, []string{nsenter, "--net=" + path}
	if err := os.MkdirAll(h.path("cni"), 0o700); err != nil {
		h.t.Fatal(err)
	}
}

// onNode runs a program in the host's network and returns what it prints.
func (h *host) onNode(args ...string) string {
	h.t.Helper()
	out, err := exec.Command("nsenter", append([]string{"--net=" + h.network},
		args...)...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

// networkLeft returns the devices, addresses and rules of containers in the host's network.
func (h *host) networkLeft() []string {
	h.t.Helper()
	var left []string
	for line := range strings.Lines(h.onNode("ip", "-o", "link", "show", "type", "veth")) {
		left = append(left, line)
	}
	leases, _ := filepath.Glob(h.path("r/cni/*/*.*")) // but the lock
	leases6, _ := filepath.Glob(h.path("r/cni/*/*:*"))
	for _, lease := range append(leases, leases6...) {
		if !strings.HasPrefix(filepath.Base(lease), "last_reserved_ip") {
			left = append(left, lease)
		}
	}
	pinned, _ := filepath.Glob(h.path("r/netns/*"))
	left = append(left, pinned...)
	for _, save := range []string{"iptables-save", "ip6tables-save"} {
		for line := range strings.Lines(h.onNode(save)) {
			// Rules name the container in a comment, or its address alone. Chains of a container have
			// a hash in their names.
			container := strings.Contains(line, "default_") || strings.Contains(line, "/32 ") ||
				strings.Contains(line, "/128 ") ||
				regexp.MustCompile(`^:CNI-(DN-)?[0-9a-f]{16}`).MatchString(line)
			if container && !strings.Contains(line, "127.0.0.1/32") && !strings.Contains(line, "::1/128") {
				left = append(left, line)
			}
		}
	}
	return left
}

func (h *host) checkNetworkIsClean() {
	h.t.Helper()
	if left := h.networkLeft(); len(left) > 0 {
		h.t.Errorf("found %q left of networks", left)
	}
}

// endClean removes all manifests and ends the agent. Nothing of the containers may be left.
func (h *host) endClean(files ...string) {
	h.t.Helper()
	h.removeAll(files...)
	h.checkNetworkIsClean()
	if left := h.leftovers(); left != (counts{}) {
		h.t.Errorf("found %+v left", left)
	}
	h.signal(unix.SIGTERM)
}

// ips returns the addresses of a Container once its program runs with another pid than before.
func (h *host) ips(name string, before int64) (ips []netip.Addr, pid int64) {
	h.t.Helper()
	h.until(name+" runs", func() bool {
		c := h.get(name)
		if c == nil || c.Status.PID == 0 || c.Status.PID == before || netns(c.Status.PID) == 0 {
			return false
		}
		pid, ips = c.Status.PID, nil
		for _, ip := range c.Status.IPs {
			ips = append(ips, netip.MustParseAddr(ip.IP))
		}
		return true
	})
	return ips, pid
}

// pinging is the spec of a Container that waits, and whose pings others may ask for.
func pinging() string {
	return "  archive: {path: " + programs +
		"/busybox.tar}\n  command: [/bin/sh, -c, 'trap exit TERM; while true; do sleep 0.1; done']\n"
}

// Containers reach each other and the node over the bridge, by IPv4 and IPv6, and keep their
// addresses when the process or the agent is killed.
func TestStandaloneBridge(t *testing.T) {
	h := newHost(t)
	h.ownNetwork()
	h.start()
	h.write("a.yaml", pinging())
	h.write("b.yaml", pinging())
	a, pid := h.ips("a", 0)
	b, _ := h.ips("b", 0)
	subnet := netip.MustParsePrefix("10.89.0.0/16")
	if len(a) != 2 || !subnet.Contains(a[0]) || !a[1].Is6() || !a[1].IsPrivate() {
		t.Fatalf("found the addresses %v; want one of %s and one of fd00::/8", a, subnet)
	}
	gateway := subnet.Addr().Next()
	for _, to := range []netip.Addr{b[0], b[1], gateway} {
		out := h.does("exec", "a", "--", "ping", "-c", "1", "-w", "10", to.String())
		if !strings.Contains(out, "1 packets received") {
			t.Errorf("ping from a to %s: found %s", to, out)
		}
	}
	if out := h.does("status"); !strings.Contains(out, a[0].String()) {
		t.Errorf("berth-agent status: found no address of a:\n%s", out)
	}
	hosts := h.does("exec", "a", "--", "cat", "/etc/hosts")
	if !strings.Contains(hosts, a[0].String()+"\ta\n") || !strings.Contains(hosts, a[1].String()+
		"\ta\n") {
		t.Errorf("/etc/hosts: found %q; want a's addresses", hosts)
	}

	h.signal(unix.SIGKILL)
	if err := unix.Kill(int(pid), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.start()
	again, pid := h.ips("a", pid)
	if !slices.Equal(again, a) {
		t.Errorf("after a restart: found the addresses %v; want %v as before", again, a)
	}

	// Somebody has removed the device: the container is connected anew.
	h.onNode("nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", pid), "ip", "link", "del", "eth0")
	if err := unix.Kill(int(pid), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	again, pid = h.ips("a", pid)
	out := h.onNode("nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", pid), "ip", "-o", "addr")
	if !strings.Contains(out, again[0].String()+"/") {
		t.Errorf("after its device was removed: found %s; want %s", out, again[0])
	}

	h.endClean("a.yaml", "b.yaml")
}

// waiting returns the message of a Container that could not be connected.
func (h *host) unconnected(name, want string) {
	h.t.Helper()
	h.until(name+" is refused: "+want, func() bool {
		c := h.get(name)
		return c != nil && c.Status.State.Waiting != nil &&
			c.Status.State.Waiting.Reason == v1alpha1.ReasonNetworkFailed &&
			strings.Contains(c.Status.State.Waiting.Message, want)
	})
}

// A published port is reachable from the node, from outside and from the container itself, and
// nobody else has it.
func TestStandalonePorts(t *testing.T) {
	h := newHost(t)
	h.ownNetwork()
	outside := network.Namespaces{Dir: t.TempDir()}
	far, err := outside.Ensure("outside", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = outside.Remove("outside") }()
	for _, args := range []string{
		"link add in0 type veth peer name out0", "addr add 198.51.100.1/24 dev in0", "link set in0 up",
		"link set out0 netns " + far,
	} {
		h.onNode(append([]string{"ip"}, strings.Fields(args)...)...)
	}
	for _, args := range []string{"addr add 198.51.100.2/24 dev out0", "link set out0 up"} {
		h.onNode(append([]string{"nsenter", "--net=" + far, "ip"}, strings.Fields(args)...)...)
	}
	server := func(ports string) string {
		return "  archive: {path: " + programs +
			"/busybox.tar}\n  command: [/bin/busybox, httpd, -f, -p, '80', -h, /etc]\n  ports: [" +
			ports + "]\n"
	}
	h.start()
	h.write("web.yaml",
		server("{name: http, containerPort: 80, hostPort: 8080}, {containerPort: 80, hostPort: 8443, hostIP: 127.0.0.1}"))
	_, pid := h.ips("web", 0)
	get := func(url string, prefix ...string) string {
		out, _ := exec.Command("nsenter", append(append([]string{"--net=" + h.network}, prefix...),
			"curl", "-m", "60", "-s", url)...).CombinedOutput()
		return strings.TrimSpace(string(out))
	}
	reachable := func(when string) {
		t.Helper()
		h.until("the server listens", func() bool {
			return get("http://127.0.0.1:8080/hostname") == "web"
		})
		inside := fmt.Sprintf("--net=/proc/%d/ns/net", pid)
		for from, got := range map[string]string{
			"the node's loopback": get("http://127.0.0.1:8080/hostname"),
			"the node's address":  get("http://198.51.100.1:8080/hostname"),
			"outside": get("http://198.51.100.1:8080/hostname", "nsenter",
				"--net="+far),
			"the container itself":          get("http://198.51.100.1:8080/hostname", "nsenter", inside),
			"the node's loopback, its port": get("http://127.0.0.1:8443/hostname"),
		} {
			if got != "web" {
				t.Errorf("%s, from %s: found %q; want the server's answer", when, from, got)
			}
		}
		if got := get("http://198.51.100.1:8443/hostname", "nsenter", "--net="+far); got == "web" {
			t.Errorf("%s: the port of 127.0.0.1 is reachable from outside", when)
		}
	}
	reachable("at first")

	busy := exec.Command("nsenter", "--net="+h.network, "busybox", "nc", "-l", "-p", "8081")
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = busy.Process.Kill(); _ = busy.Wait() }()
	h.until("nc listens", func() bool {
		return strings.Contains(h.onNode("cat", "/proc/thread-self/net/tcp6",
			"/proc/thread-self/net/tcp"), ":1F91 ")
	})
	h.write("second.yaml", server("{containerPort: 80, hostPort: 8080}"))
	h.write("third.yaml", server("{containerPort: 80, hostPort: 8081}"))
	h.write("fourth.yaml", "  hostNetwork: true\n"+server("{containerPort: 8080}"))
	const taken = "spec.ports: found hostPort 8080/TCP, which is Container default/web's; allowed: a free port"
	h.unconnected("second", taken)
	h.unconnected("fourth", taken)
	h.unconnected("third",
		fmt.Sprintf("spec.ports: found hostPort 8081/TCP, which process busybox (pid %d) has",
			busy.Process.Pid))

	// Another agent knows what its predecessor has given to whom.
	h.signal(unix.SIGKILL)
	if err := unix.Kill(int(pid), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.start()
	_, pid = h.ips("web", pid)
	reachable("after a restart")
	h.write("second.yaml",
		server("{containerPort: 80, hostPort: 8080, protocol: TCP, hostIP: 198.51.100.1}"))
	h.unconnected("second", taken)
	h.does("restart", "second", "--no-wait")
	h.unconnected("second", taken)

	h.remove("web.yaml")
	h.until("web is gone", func() bool { return h.get("web") == nil })
	h.does("restart", "second", "--no-wait")
	h.ips("second", 0)
	h.until("second has the port", func() bool {
		return get("http://198.51.100.1:8080/hostname") == "second"
	})

	h.removeAll("second.yaml", "third.yaml", "fourth.yaml")
	h.onNode("ip", "link", "del", "in0")
	h.checkNetworkIsClean()
	h.signal(unix.SIGTERM)
}

// The sample of a web server answers as its comment says.
func TestStandaloneSampleWeb(t *testing.T) {
	h := newHost(t)
	h.ownNetwork()
	h.start()
	h.raw("web.yaml", sample(t, "standalone/web.yaml"))
	h.ips("web", 0)
	h.until("the server answers", func() bool {
		out, _ := exec.Command("nsenter", "--net="+h.network, "curl", "-s", "-m", "5",
			"http://127.0.0.1:8080/hostname").Output()
		return string(out) == "web\n"
	})
	h.endClean("web.yaml")
}
