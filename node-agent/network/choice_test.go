// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-run/berth/internal/leaktest"
)

// twoNetworks gives the node two bridges, front and back, of which the second maps ports, and a
// plugin that writes down what it gets.
func (n *node) twoNetworks() (noted string) {
	n.t.Helper()
	noted = filepath.Join(n.dir, "noted")
	n.plugin("note", versionReply+`text=$(cat)
echo "$CNI_COMMAND $CNI_IFNAME $text" >>`+noted+`
echo "$text" | sed 's/.*"prevResult"://; s/,"type":"note".*//; s/}$//'`)
	for i, name := range []string{"front", "back"} {
		more := ""
		if name == "back" {
			more = `,{"type":"portmap","capabilities":{"portMappings":true},"snat":true}`
		}
		n.conf(name+".conflist", fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"plugins":[
			{"type":"bridge","bridge":"%s0","isGateway":true,"ipam":{"type":"host-local","dataDir":%q,
			 "ranges":[[{"subnet":"10.9%d.0.0/24"}]]}},{"type":"firewall"}%s]}`,
			name, name, n.dir+"/leases", 5+i, more))
		n.t.Cleanup(func() { _ = exec.Command("ip", "link", "del", name+"0").Run() })
	}
	n.t.Cleanup(func() {
		if files, _ := filepath.Glob(n.dir + "/leases/*/10.*"); len(files) > 0 {
			n.t.Errorf("found the addresses %v left", files)
		}
	})
	return noted
}

// inside runs ip in the namespace of a container.
func (n *node) inside(id string, args ...string) string {
	n.t.Helper()
	out, err := exec.Command("nsenter", append([]string{"--net=" + n.Namespaces.Path(id), "ip"},
		args...)...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("ip %v: %v: %s", args, err, out)
	}
	return string(out)
}

// A container is in several networks by name, and each device and address goes with it.
func TestSeveralNetworks(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	n.twoNetworks()
	want := Wanted{
		Networks: []Attachment{{Network: "front"}, {Network: "back"}, {Network: n.Bridge.Name()}},
		Ports:    []PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}},
	}
	got := n.attach("c", want)
	if len(got) < 3 || got[0].String() != "10.95.0.2" || got[1].String() != "10.96.0.2" {
		t.Fatalf("found the addresses %v; want those of front, back and the bridge, in this order", got)
	}
	for device, address := range map[string]netip.Addr{"eth0": got[0], "eth1": got[1], "eth2": got[2]} {
		if out := n.inside("c", "-o", "addr", "show", "dev", device); !strings.Contains(out, address.String()+"/") {
			t.Errorf("%s: found %s; want %s", device, out, address)
		}
	}
	rules, err := exec.Command("iptables-save", "-t", "nat").Output()
	if err != nil || !strings.Contains(string(rules), "--to-destination 10.96.0.2:80") {
		t.Errorf("found the rules %s; want the port to lead to back, which is the first that can", rules)
	}
	// A device that somebody has removed is missed, whichever it is.
	n.inside("c", "link", "del", "eth1")
	n.boot()
	if got = n.attach("c", want); !strings.Contains(n.inside("c", "-o", "addr", "show", "dev", "eth1"),
		got[1].String()) {
		t.Errorf("found no eth1 with %s after it was removed", got[1])
	}
	// One network less: the container is connected anew, to that alone.
	want.Networks = want.Networks[1:2]
	if got = n.attach("c", want); len(got) != 1 || !netip.MustParsePrefix("10.96.0.0/24").Contains(got[0]) {
		t.Errorf("found the addresses %v; want one of back", got)
	}
	n.detach("c")
}

// An agent is killed between the first and the second network: the next one undoes both, also what
// it cannot know of.
func TestKilledBetweenTwoNetworks(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	n.twoNetworks()
	n.conf("back.conflist", fmt.Sprintf(`{"cniVersion":"1.0.0","name":"back","plugins":[
		{"type":"bridge","bridge":"back0","ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.96.0.0/24"}]]}}]}`,
		n.dir+"/leases"))
	want := Wanted{Networks: []Attachment{{Network: "front"}, {Network: "back"}}}
	for _, step := range []string{"before the second", "before the result of the second"} {
		n.attach("c", want)
		f := n.container("c")
		r, err := readRecord(f.File(recordFile))
		if err != nil {
			t.Fatal(err)
		}
		r.Done, r.More[0].Result = false, nil
		if err := r.write(f); err != nil {
			t.Fatal(err)
		}
		if step == "before the second" {
			n.inside("c", "link", "del", "eth1")
			if err := os.RemoveAll(n.dir + "/leases/back"); err != nil {
				t.Fatal(err)
			}
		}
		n.boot()
		if got := n.attach("c", want); len(got) != 2 {
			t.Errorf("killed %s: found the addresses %v; want two", step, got)
		}
		links, err := exec.Command("ip", "-o", "link", "show", "type", "veth").Output()
		if err != nil || strings.Count(string(links), "\n") != 2 {
			t.Errorf("killed %s: found the devices %s (%v); want two", step, links, err)
		}
		n.detach("c")
	}
}

// Networks that a node does not have, and what they cannot do, are refused.
func TestNetworksAreRefused(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	n.twoNetworks()
	for _, tc := range []struct {
		want Wanted
		says string
	}{
		{
			Wanted{Networks: []Attachment{{Network: "front"}, {Network: "rear"}}},
			"spec.networks[1].name: found rear; allowed on this node: back, front, " + n.Bridge.Name(),
		},
		{
			Wanted{Networks: []Attachment{{Network: "back"}, {}}},
			"spec.networks[1].name: found network back, which networks[0] has too",
		},
		{
			Wanted{
				Networks: []Attachment{{Network: "front"}},
				Ports:    []PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}},
			},
			"no plugin of its network front has the capability portMappings",
		},
		{
			Wanted{Networks: []Attachment{{Network: "front", Aliases: []string{"db"}}}},
			`spec.networks[0].aliases: found "db"; allowed: none`,
		},
	} {
		_, err := n.Attach(t.Context(), "c", n.container("c"), tc.want)
		if err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%+v: found %v; want %s", tc.want.Networks, err, tc.says)
		}
	}
	n.detach("c")
}

// Aliases reach a plugin that has the capability, in the form of podman's plugin dnsname.
func TestAliasesOfAPlugin(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	noted := n.twoNetworks()
	n.conf("front.conflist", `{"cniVersion":"1.0.0","name":"front","plugins":[{"type":"note","capabilities":{"aliases":true}}]}`)
	f, want := n.container("c"), Wanted{Networks: []Attachment{{Network: "front", Aliases: []string{"db", "sql"}}}}
	_, _ = n.Attach(t.Context(), "c", f, want)
	n.detach("c")
	text, err := os.ReadFile(noted)
	if err != nil {
		t.Fatal(err)
	}
	lines := slices.Collect(strings.Lines(string(text)))
	if len(lines) == 0 || !strings.HasPrefix(lines[0], "ADD eth0") ||
		!strings.Contains(lines[0], `"runtimeConfig":{"aliases":{"front":["db","sql"]}}`) {
		t.Errorf("found %s; want the aliases in runtimeConfig", text)
	}
}
