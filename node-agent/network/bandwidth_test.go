// SPDX-License-Identifier: Apache-2.0

package network

import (
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
)

// shaped returns the rates of the queues of the node that limit traffic, with the kinds of their
// devices (bwp for what a container sends), and the devices.
func shaped(t *testing.T) (rates, devices []string) {
	t.Helper()
	out, err := exec.Command("tc", "qdisc", "show").CombinedOutput()
	if err != nil {
		t.Fatalf("tc: %v: %s", err, out)
	}
	queue := regexp.MustCompile(`(?m)^qdisc tbf \S+ dev (bwp|veth)(\S*) .*rate (\S+) burst (\S+) `)
	for _, found := range queue.FindAllStringSubmatch(string(out), -1) {
		rates = append(rates, found[1]+" "+found[3]+" "+found[4])
		devices = append(devices, found[1]+found[2])
	}
	slices.Sort(rates)
	slices.Sort(devices)
	return rates, devices
}

// TestBandwidth: the kernel gets the rates that a container asks for, on the bridge and on a network
// with a plugin of the capability. A container that is attached again stays as it is, another rate
// has it connected anew, and nothing is left of it.
func TestBandwidth(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	if err := installed(n.BinDirs, bandwidth); err != nil {
		needs.Skip(t, "apt-get install containernetworking-plugins")
	}
	n.twoNetworks()
	n.conf("limited.conflist", `{"cniVersion":"1.0.0","name":"limited","plugins":[
		{"type":"bridge","bridge":"limited0","ipam":{"type":"host-local","dataDir":"`+n.dir+`/leases",
		 "ranges":[[{"subnet":"10.97.0.0/24"}]]}},{"type":"bandwidth","capabilities":{"bandwidth":true}}]}`)
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "limited0").Run() })
	for _, network := range []string{n.Bridge.Name(), "limited"} {
		want := Wanted{
			Networks:  []Attachment{{Network: network}},
			Bandwidth: Bandwidth{Ingress: 8_000_000, Egress: 40_000_000},
		}
		n.attach("c", want)
		rates, devices := shaped(t)
		if !slices.Equal(rates, []string{"bwp 40Mbit 500000b", "veth 8Mbit 128Kb"}) {
			t.Errorf("%s: found %q; want 8 Mbit/s for what it receives, 40 for what it sends", network, rates)
		}
		n.boot()
		n.attach("c", want)
		if _, again := shaped(t); !slices.Equal(again, devices) {
			t.Errorf("%s: attached again: found %q; want %q as before", network, again, devices)
		}
		want.Bandwidth = Bandwidth{Ingress: 1_000}
		n.attach("c", want)
		if rates, _ := shaped(t); !slices.Equal(rates, []string{"veth 1Kbit 32000b"}) {
			t.Errorf("%s: found %q; want 1 kbit/s for what it receives", network, rates)
		}
		n.detach("c")
		if rates, _ := shaped(t); len(rates) > 0 {
			t.Errorf("%s: found %q left", network, rates)
		}
	}
}

// TestBandwidthIsRefused: where nothing limits the traffic of a network, a container is not connected.
func TestBandwidthIsRefused(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	n.twoNetworks()
	n.conf("limited.conflist",
		`{"cniVersion":"1.0.0","name":"limited","plugins":[{"type":"note","capabilities":{"bandwidth":true}}]}`)
	const ingress = "metadata.annotations[kubernetes.io/ingress-bandwidth]: found 8000 bits a second; "
	limit := Bandwidth{Ingress: 8000, Egress: 9000}
	for _, tc := range []struct {
		want Wanted
		says string
	}{
		{
			Wanted{Networks: []Attachment{{Network: "limited"}, {Network: "front"}}, Bandwidth: limit},
			ingress + "allowed on this node: none, as no plugin of its network front has the capability bandwidth",
		},
		{
			Wanted{Networks: []Attachment{{Network: "front"}}, Bandwidth: Bandwidth{Egress: 9000}},
			"metadata.annotations[kubernetes.io/egress-bandwidth]: found 9000 bits a second; ",
		},
		{Wanted{None: true, Bandwidth: limit}, ingress},
	} {
		_, err := n.Attach(t.Context(), "c", n.container("c"), tc.want)
		if err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%+v: found %v; want %s", tc.want, err, tc.says)
		}
	}
	if err := n.AttachToNode(t.Context(), "c", n.container("c"), Wanted{Bandwidth: limit}); err == nil ||
		!strings.Contains(err.Error(), ingress) {
		t.Errorf("in the node's network: found %v; want %s", err, ingress)
	}
	if err := os.RemoveAll(n.ConfDir); err != nil {
		t.Fatal(err)
	}
	n.BinDirs = nil
	if _, err := n.Attach(t.Context(), "c", n.container("c"), Wanted{Bandwidth: limit}); err == nil ||
		!strings.Contains(err.Error(), ingress) {
		t.Errorf("without plugins: found %v; want %s", err, ingress)
	}
	n.detach("c")
}

// TestBurst: what may pass at once is in proportion to the rate, and its time fits the kernel's
// counters.
func TestBurst(t *testing.T) {
	leaktest.Check(t)
	for rate, want := range map[int64]int64{
		1_000: 256_000, 8_000_000: 1 << 20, 40_000_000: 4_000_000, 1_000_000_000_000_000: 1<<32 - 1,
	} {
		if got := burst(rate); got != want {
			t.Errorf("%d bits a second: found a burst of %d; want %d", rate, got, want)
		}
	}
	want := map[string]int64{"egressRate": 1_000, "egressBurst": 256_000}
	if got := (Bandwidth{Egress: 1_000}).arguments(); !maps.Equal(got, want) {
		t.Errorf("found %v; want %v", got, want)
	}
}
