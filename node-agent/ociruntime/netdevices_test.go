// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"fmt"
	"os/exec"
	goruntime "runtime"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// inNetwork gives the test's goroutine a network namespace of its own in place of the host's. Its
// thread ends with it.
func (w *world) inNetwork() {
	w.t.Helper()
	goruntime.LockOSThread()
	w.must(unix.Unshare(unix.CLONE_NEWNET))
}

// ip runs busybox's ip in the goroutine's network namespace.
func (w *world) ip(args ...string) string {
	w.t.Helper()
	out, err := exec.Command(busybox, append([]string{"ip"}, args...)...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("ip %v: %v: %s", args, err, out)
	}
	return string(out)
}

// veth makes a pair; peer stays on the host.
func (w *world) veth(name string) (peer string) {
	w.t.Helper()
	w.ip("link", "add", "name", name, "type", "veth")
	_, rest, _ := strings.Cut(w.ip("-o", "link", "show", name), "@")
	peer, _, _ = strings.Cut(rest, ":")
	return peer
}

// inContainer returns the output of ip in a network namespace.
func (w *world) inContainer(pid int, args ...string) string {
	w.t.Helper()
	out, err := exec.Command(busybox,
		append([]string{"nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", pid), busybox, "ip"},
			args...)...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("ip %v: %v: %s", args, err, out)
	}
	return string(out)
}

func lacksAny(text string, words ...string) (missing []string) {
	for _, word := range words {
		if !strings.Contains(text, word) {
			missing = append(missing, word)
		}
	}
	return missing
}

func TestNetDevices(t *testing.T) {
	for name, change := range map[string]func(*world, *specs.Spec){
		"":     func(*world, *specs.Spec) {},
		"user": (*world).mapUsers,
	} {
		t.Run("new"+name, func(t *testing.T) {
			w := newWorld(t)
			w.inNetwork()
			peer := w.veth("v0")
			w.ip("link", "set", "v0", "mtu", "1400", "address", "02:00:00:00:00:07")
			w.ip("addr", "add", "192.0.2.7/24", "broadcast", "+", "dev", "v0", "label", "v0:one")
			w.ip("addr", "add", "2001:db8::7/64", "dev", "v0")
			w.ip("addr", "add", "198.51.100.9/32", "scope", "link", "dev", "v0")
			w.veth("plain")
			spec := w.spec("/bin/sleep", "1000")
			change(w, spec)
			spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"v0": {Name: "data"}, "plain": {}}
			spec.Linux.Sysctl = map[string]string{"net.ipv4.conf.data.forwarding": "1"}
			s := w.start(spec)
			link, addr := w.inContainer(s.PID, "link", "show", "data"), w.inContainer(s.PID, "addr", "show",
				"data")
			if m := lacksAny(link, ",UP", "mtu 1400", "02:00:00:00:00:07"); m != nil {
				t.Errorf("it lacks %q:\n%s", m, link)
			}
			m := lacksAny(addr, "192.0.2.7/24", "data:one", "brd 192.0.2.255", "2001:db8::7/64")
			if m != nil {
				t.Errorf("it lacks %q:\n%s", m, addr)
			}
			if strings.Contains(addr, "198.51.100.9") {
				t.Errorf("an address of the link's scope has come with it:\n%s", addr)
			}
			if link := w.inContainer(s.PID, "link", "show", "plain"); !strings.Contains(link, ",UP") {
				t.Errorf("it is not up:\n%s", link)
			}
			if links := w.ip("-o", "link"); strings.Contains(links, " v0") ||
				strings.Contains(links, " plain") {
				t.Errorf("still on the host:\n%s", links)
			}
			w.end(w.id, s.PID)
			// The namespace takes its virtual devices with it (network_namespaces(7)), and that is
			// for the kernel to do.
			w.await("the end of the other end", func() bool {
				return !strings.Contains(w.ip("-o", "link"), " "+peer)
			})
		})
	}
}

func TestNetDeviceTemplate(t *testing.T) {
	w := newWorld(t)
	w.inNetwork()
	w.veth("v0")
	w.veth("v1")
	spec := w.sh(`ls /sys/class/net | grep -v -e lo -e tun -e sit -e gre -e vti -e ip6`)
	spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{
		"v0": {Name: "data%d"},
		"v1": {Name: "data%d"},
	}
	w.prints(spec, "data0\ndata1\n")
}

// TestNetDevicesUndone: where the container fails, its devices are on the host as they were.
func TestNetDevicesUndone(t *testing.T) {
	w := newWorld(t)
	w.inNetwork()
	w.veth("v0")
	w.veth("v1")
	w.ip("addr", "add", "192.0.2.7/24", "dev", "v0", "label", "v0:one")
	w.ip("addr", "add", "2001:db8::7/64", "dev", "v0")
	w.ip("link", "set", "v0", "up")
	// without the state of the link and of duplicate address detection, which take their time
	as := func() string {
		out := w.ip("-o", "addr", "show", "v0") + w.ip("-o", "link", "show", "v1")
		var lines []string
		for line := range strings.Lines(out) {
			if !strings.Contains(line, "fe80::") {
				lines = append(lines, strings.ReplaceAll(line, "tentative", ""))
			}
		}
		return strings.Join(strings.Fields(strings.Join(lines, "")), " ")
	}
	before := as()
	two := map[string]specs.LinuxNetDevice{"v0": {Name: "data"}, "v1": {}}
	spec := w.spec("/does/not/exist")
	spec.Linux.NetDevices = two
	w.fails(spec, "/does/not/exist")
	if after := as(); after != before {
		t.Errorf("after a program that does not exist:\n%s\nbefore:\n%s", after, before)
	}
	// The second of two cannot be moved: the first comes back.
	spec = w.spec("/bin/true")
	spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"v0": {Name: "data"}, "v1": {Name: "lo"}}
	w.fails(spec,
		`linux.netDevices.v1: name "lo": found a device of that name in the container's network namespace`)
	if after := as(); after != before {
		t.Errorf("after a name that is taken:\n%s\nbefore:\n%s", after, before)
	}
	spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"v0": {}, "v9": {}}
	w.fails(spec, "linux.netDevices.v9: found no such device")
	spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"lo": {Name: "lo1"}}
	w.fails(spec, "linux.netDevices.lo: found a loopback device")
	if after := as(); after != before {
		t.Errorf("in the end:\n%s\nbefore:\n%s", after, before)
	}
}

// TestNetDevicesJoined: a namespace that is joined gets them as well, and keeps them after the
// container.
func TestNetDevicesJoined(t *testing.T) {
	w := newWorld(t)
	w.inNetwork()
	w.veth("v0")
	w.ip("addr", "add", "192.0.2.7/24", "dev", "v0")
	first := w.start(w.spec("/bin/sleep", "1000"))
	second := &world{t: t, dir: w.dir, rt: w.rt, id: w.id + "-2", cgroup: w.cgroup + "-2"}
	spec := w.spec("/bin/busybox", "ip", "addr", "show", "v0")
	spec.Linux.CgroupsPath += "-2"
	for i, n := range spec.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			spec.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/net", first.PID)
		}
	}
	spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"v0": {}}
	if out := second.run(spec); !strings.Contains(out, "192.0.2.7/24") {
		t.Errorf("it has printed: %s", out)
	}
	if out := w.inContainer(first.PID, "addr", "show", "v0"); !strings.Contains(out, "192.0.2.7/24") {
		t.Errorf("afterwards: %s", out)
	}
}
