// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
	"github.com/berth-run/berth/node-agent/nameserver"
)

// withNames gives the agent a name server, as an agent that works alone has.
func (n *node) withNames() {
	n.Names = nameserver.New(func() ([]netip.Addr, error) { return nil, nil },
		slog.New(slog.DiscardHandler))
	n.t.Cleanup(n.Names.Close)
}

// lookup asks the container's nameserver from within its network.
func (n *node) lookup(id, name string) string {
	n.t.Helper()
	server, ok := n.Nameserver(id)
	if !ok {
		n.t.Fatalf("found no nameserver of %s", id)
	}
	out, _ := exec.Command("nsenter", "--net="+n.Namespaces.Path(id), needs.Program(n.t, "busybox"),
		"nslookup", name, server.String()).CombinedOutput()
	return string(out)
}

// In a network of IPv6 alone containers find each other, also after the agent was killed; a name
// goes with its container.
func TestNamesOverIPv6(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	n.withNames()
	n.conf("six.conflist", fmt.Sprintf(`{"cniVersion":"1.0.0","name":"six","plugins":[
		{"type":"bridge","bridge":"six0","isGateway":true,"ipam":{"type":"host-local","dataDir":%q,
		 "ranges":[[{"subnet":"fd00:6::/64"}]]}}]}`, n.dir+"/leases"))
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "six0").Run() })
	named := func(name string, aliases ...string) Wanted {
		return Wanted{
			Host:     HostNames{Namespace: "default", Name: name, Hostname: name + "-host"},
			Networks: []Attachment{{Network: "six", Aliases: aliases}},
		}
	}
	db := n.attach("1", named("db", "sql"))
	n.attach("2", named("web"))
	finds := func(when string, names ...string) {
		t.Helper()
		for _, name := range names {
			if out := n.lookup("2", name); !strings.Contains(out, "Address: "+db[0].String()+"\n") {
				t.Errorf("%s: %s: found %s; want %s", when, name, out, db[0])
			}
		}
	}
	finds("at first", "db", "db-host", "sql", "db.default.berth.internal")

	n.Names.Close()
	n.boot()
	n.withNames()
	for _, id := range []string{"1", "2"} {
		n.Recover(id, n.container(id))
	}
	finds("after the agent was killed", "db", "sql")
	// A record of an agent that knew no names has the Container's alone.
	f := n.container("1")
	r, err := readRecord(f.File(recordFile))
	if err != nil {
		t.Fatal(err)
	}
	r.Name, r.Host = "default/db", HostNames{}
	if err := r.write(f); err != nil {
		t.Fatal(err)
	}
	n.Names.Remove("1")
	n.Recover("1", f)
	finds("by the record of an older agent", "db", "db.default")
	// Another hostname counts from the next start on, with the same address.
	want := named("db", "sql")
	want.Host.Hostname = "later"
	if again := n.attach("1", want); again[0] != db[0] {
		t.Errorf("found the address %v; want %v as before", again, db)
	}
	finds("after another start", "later")

	n.detach("1")
	if out := n.lookup("2", "db.default.berth.internal"); strings.Contains(out, db[0].String()) {
		t.Errorf("a container that is gone: found %s", out)
	}
	n.detach("2")
}

// Aliases are refused at the next start, too, if another server has the port by then. The container
// stays connected, and has its names back once the port is free.
func TestAliasesThatNobodyFindsAnyMore(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	n.withNames()
	want := Wanted{
		Host:     HostNames{Namespace: "default", Name: "db"},
		Networks: []Attachment{{Network: n.Bridge.Name(), Aliases: []string{"sql"}}},
	}
	before := n.attach("c", want)
	n.Names.Close()
	other, err := net.ListenPacket("udp", ":53")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	n.boot()
	n.withNames()
	f := n.container("c")
	n.Recover("c", f)
	if _, err := n.Attach(t.Context(), "c", f, want); err == nil ||
		!strings.Contains(err.Error(), `spec.networks[0].aliases: found "sql"`) {
		t.Errorf("found %v; want the alias that is refused", err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if after := n.attach("c", want); !slices.Equal(after, before) {
		t.Errorf("found the addresses %v; want %v", after, before)
	}
	if out := n.lookup("c", "sql"); !strings.Contains(out, "Address: "+before[0].String()+"\n") {
		t.Errorf("found %s; want %s", out, before[0])
	}
	n.detach("c")
}

// Aliases are refused in a network in which the node has no address to listen on, and nothing is
// left of the container.
func TestAliasesThatNobodyFinds(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	n.withNames()
	n.conf("flat.conflist", fmt.Sprintf(`{"cniVersion":"1.0.0","name":"flat","plugins":[
		{"type":"bridge","bridge":"flat0","ipam":{"type":"host-local","dataDir":%q,
		 "ranges":[[{"subnet":"10.93.0.0/24"}]]}}]}`, n.dir+"/leases"))
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "flat0").Run() })
	_, err := n.Attach(t.Context(), "c", n.container("c"), Wanted{
		Networks: []Attachment{{Network: "flat", Aliases: []string{"db"}}},
	})
	if err == nil || !strings.Contains(err.Error(), `spec.networks[0].aliases: found "db"`) {
		t.Errorf("found %v; want the alias that is refused", err)
	}
	if left := n.left(); len(left) > 0 {
		t.Errorf("found %q left", left)
	}
	n.detach("c")
}
