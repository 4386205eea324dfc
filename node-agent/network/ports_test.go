// SPDX-License-Identifier: Apache-2.0

package network

import (
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/berth-run/berth/internal/leaktest"
)

// A port of UDP leads to the container, and one of SCTP, for which not every kernel has sockets, by
// the same rules. Both go with the container.
func TestPortsOfUDPAndSCTP(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	n.attach("c", Wanted{Ports: []PortMapping{
		{HostPort: 8053, ContainerPort: 53, Protocol: "udp"},
		{HostPort: 8054, ContainerPort: 54, Protocol: "sctp"},
	}})
	listens, ended := make(chan net.PacketConn, 1), make(chan bool)
	go func() {
		defer close(ended)
		lockInto(t, n.Namespaces.Path("c"))
		l, err := net.ListenPacket("udp4", ":53")
		if err != nil {
			t.Error(err)
			close(listens)
			return
		}
		listens <- l
		buffer := make([]byte, 16)
		for {
			size, from, err := l.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = l.WriteTo(buffer[:size], from)
		}
	}()
	server, ok := <-listens
	if !ok {
		return
	}
	conn, err := net.Dial("udp4", "127.0.0.1:8053")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got := ""
	for end := time.Now().Add(2 * time.Minute); got != "ping" && time.Now().Before(end); {
		if _, err := conn.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		buffer := make([]byte, 16)
		size, _ := conn.Read(buffer) // or the datagram is sent again
		got = string(buffer[:size])
	}
	if got != "ping" {
		t.Errorf("found %q by UDP; want the echo", got)
	}
	_ = server.Close()
	<-ended
	out, err := exec.Command("iptables-save", "-t", "nat").Output()
	if err != nil || !strings.Contains(string(out), "-p sctp -m sctp --dport 8054 -j DNAT") {
		t.Errorf("found the rules %s, %v; want one of SCTP", out, err)
	}
	n.detach("c")
}

// The agent's own sockets for names keep no container from publishing port 53, but a container in
// the node's network, and another process's keep both.
func TestPortOfNames(t *testing.T) {
	leaktest.Check(t)
	n := newNode(t)
	n.withNames()
	n.attach("first", Wanted{})
	if _, ok := n.Nameserver("first"); !ok {
		t.Fatal("found no nameserver")
	}
	want := Wanted{Name: "default/dns", Ports: []PortMapping{
		{HostPort: 53, ContainerPort: 53, Protocol: "udp"}, {HostPort: 53, ContainerPort: 53, Protocol: "tcp"},
	}}
	n.attach("dns", want)
	n.detach("dns")
	err := n.AttachToNode(t.Context(), "dns", n.container("dns"), want)
	if err == nil || !strings.Contains(err.Error(), "spec.ports: found hostPort 53/UDP, which process ") {
		t.Errorf("in the node's network: found %v; want who has the port", err)
	}
	other := exec.Command("busybox", "httpd", "-f", "-p", "127.0.0.1:53")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Wait() }()
	defer func() { _ = other.Process.Kill() }()
	for end := time.Now().Add(2 * time.Minute); len(sockets(want.Ports[1])) < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("httpd does not listen")
		}
	}
	_, err = n.Attach(t.Context(), "dns", n.container("dns"), want)
	if err == nil || !strings.Contains(err.Error(), "spec.ports: found hostPort 53/TCP, which process busybox ") {
		t.Errorf("beside another process: found %v; want who has the port", err)
	}
	n.detach("dns")
	n.detach("first")
}
