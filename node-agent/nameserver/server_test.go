// SPDX-License-Identifier: Apache-2.0

package nameserver

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
)

// The tests have one network namespace, in which loopback has these addresses of two networks.
var (
	gateway = netip.MustParseAddr("127.1.0.1")
	client  = netip.MustParseAddr("127.1.0.2")
	db      = netip.MustParseAddr("127.1.0.3")
	db6     = netip.MustParseAddr("fd00::3")
	far     = netip.MustParseAddr("127.2.0.2")
	farGate = netip.MustParseAddr("127.2.0.1")
)

// TestMain has the tests run in a network namespace of their own, in which port 53 is free.
func TestMain(m *testing.M) {
	const inside = "BERTH_TEST_NETWORK_NAMESPACE"
	if os.Geteuid() != 0 || os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	runtime.LockOSThread()
	err := unix.Unshare(unix.CLONE_NEWNET)
	if err == nil {
		err = unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), inside+"=1"))
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// upLoopback brings lo up, which has all addresses of 127.0.0.0/8.
func upLoopback(t *testing.T) {
	t.Helper()
	needs.Root(t)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err == nil {
		lo.SetUint16(unix.IFF_UP)
		err = unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// newServer returns a server that knows two networks: near has web, which is the client, and db; far
// has other.
func newServer(t *testing.T, upstreams ...netip.Addr) *Server {
	t.Helper()
	upLoopback(t)
	s := New(func() ([]netip.Addr, error) { return upstreams, nil }, slog.New(slog.DiscardHandler))
	t.Cleanup(s.Close)
	for id, h := range map[string]Host{
		"web": {Namespace: "default", Name: "web", Networks: []Attachment{
			{Network: "near", Addresses: []netip.Addr{client}, Gateways: []netip.Addr{gateway}},
		}},
		"db": {Namespace: "default", Name: "db", Hostname: "db-1.example", Networks: []Attachment{{
			Network: "near", Aliases: []string{"sql", "sql.internal"},
			Addresses: []netip.Addr{db, db6}, Gateways: []netip.Addr{gateway},
		}}},
		"other": {Namespace: "team", Name: "other", Networks: []Attachment{
			{Network: "far", Addresses: []netip.Addr{far}, Gateways: []netip.Addr{farGate}},
		}},
	} {
		if faults := s.Put(id, h); len(faults) > 0 {
			t.Fatal(faults)
		}
	}
	return s
}

// ask returns the records and the code that a client gets from a server, or its error.
func ask(from, server netip.Addr, network, name string, kind dnsmessage.Type) (string, error) {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: 7, RecursionDesired: true})
	full, err := dnsmessage.NewName(name + ".")
	if err != nil {
		return "", err
	}
	_ = b.StartQuestions()
	_ = b.Question(dnsmessage.Question{Name: full, Type: kind, Class: dnsmessage.ClassINET})
	message, err := b.Finish()
	if err != nil {
		return "", err
	}
	d := net.Dialer{LocalAddr: &net.UDPAddr{IP: from.AsSlice()}}
	if network == "tcp" {
		d.LocalAddr = &net.TCPAddr{IP: from.AsSlice()}
	}
	conn, err := d.Dial(network, netip.AddrPortFrom(server, Port).String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	answer := make([]byte, 1<<16)
	if network == "tcp" {
		if err := writeMessage(conn, message); err != nil {
			return "", err
		}
		answer, err = readMessage(conn)
	} else {
		if _, err := conn.Write(message); err != nil {
			return "", err
		}
		var n int
		n, err = conn.Read(answer)
		answer = answer[:n]
	}
	if err != nil {
		return "", err
	}
	return text(answer)
}

// text returns an answer for people.
func text(message []byte) (string, error) {
	var m dnsmessage.Message
	if err := m.Unpack(message); err != nil {
		return "", err
	}
	out := []string{strings.TrimPrefix(m.RCode.String(), "RCode")}
	if m.Truncated {
		out = append(out, "cut")
	}
	var records []string
	for _, r := range m.Answers {
		switch b := r.Body.(type) {
		case *dnsmessage.AResource:
			records = append(records, netip.AddrFrom4(b.A).String())
		case *dnsmessage.AAAAResource:
			records = append(records, netip.AddrFrom16(b.AAAA).String())
		case *dnsmessage.PTRResource:
			records = append(records, b.PTR.String())
		}
	}
	slices.Sort(records)
	return strings.Join(append(out, records...), " "), nil
}

// A container finds the others of its network by each of their names, and by their addresses.
func TestNames(t *testing.T) {
	leaktest.Check(t)
	s := newServer(t)
	for _, network := range []string{"udp", "tcp"} {
		for _, tc := range []struct {
			name string
			kind dnsmessage.Type
			want string
		}{
			{"db", dnsmessage.TypeA, "Success 127.1.0.3"},
			{"DB", dnsmessage.TypeAAAA, "Success fd00::3"},
			{"web", dnsmessage.TypeAAAA, "Success"},
			{"db", dnsmessage.TypeMX, "Success"},
			{"db.default", dnsmessage.TypeA, "Success 127.1.0.3"},
			{"db.default.berth.internal", dnsmessage.TypeA, "Success 127.1.0.3"},
			{"db-1.example", dnsmessage.TypeA, "Success 127.1.0.3"},
			{"sql", dnsmessage.TypeA, "Success 127.1.0.3"},
			{"sql.internal", dnsmessage.TypeA, "Success 127.1.0.3"},
			{"sql.internal.default.berth.internal", dnsmessage.TypeA, "Success 127.1.0.3"},
			{"db.team.berth.internal", dnsmessage.TypeA, "NameError"},
			{"other", dnsmessage.TypeA, "ServerFailure"}, // of another network: nobody is there to ask
			{"other.team.berth.internal", dnsmessage.TypeA, "NameError"},
			{"berth.internal", dnsmessage.TypeA, "Success"},
			{"3.0.1.127.in-addr.arpa", dnsmessage.TypePTR, "Success db.default.berth.internal."},
			{"2.0.2.127.in-addr.arpa", dnsmessage.TypePTR, "ServerFailure"},
			{
				"3" + strings.Repeat(".0", 27) + ".0.0.d.f.ip6.arpa", dnsmessage.TypePTR,
				"Success db.default.berth.internal.",
			},
		} {
			got, err := ask(client, gateway, network, tc.name, tc.kind)
			if err != nil || got != tc.want {
				t.Errorf("%s: %s %s: found %s, %v; want %s", network, tc.name, tc.kind, got, err, tc.want)
			}
		}
	}
	s.Remove("db")
	if got, err := ask(client, gateway, "udp", "db.default.berth.internal", dnsmessage.TypeA); err != nil ||
		got != "NameError" {
		t.Errorf("a name of a container that is gone: found %s, %v", got, err)
	}
	if address, ok := s.Address("web"); !ok || address != gateway {
		t.Errorf("found the server %v of web; want %v", address, gateway)
	}
}

// A name of a container's own namespace comes before one of another namespace.
func TestNamesOfNamespaces(t *testing.T) {
	leaktest.Check(t)
	s := newServer(t)
	twin := netip.MustParseAddr("127.1.0.9")
	s.Put("twin", Host{Namespace: "team", Name: "db", Networks: []Attachment{
		{Network: "near", Addresses: []netip.Addr{twin}, Gateways: []netip.Addr{gateway}},
	}})
	for _, tc := range []struct {
		from       netip.Addr
		name, want string
	}{
		{client, "db", "Success 127.1.0.3"},
		{twin, "db", "Success 127.1.0.9"},
		{client, "db.team", "Success 127.1.0.9"},
		{twin, "web", "Success 127.1.0.2"}, // which its namespace does not have
	} {
		if got, err := ask(tc.from, gateway, "udp", tc.name, dnsmessage.TypeA); err != nil || got != tc.want {
			t.Errorf("%s from %s: found %s, %v; want %s", tc.name, tc.from, got, err, tc.want)
		}
	}
}

// Who is not in the network gets no answer: neither the node nor a container of another network.
func TestStrangers(t *testing.T) {
	leaktest.Check(t)
	newServer(t)
	for _, from := range []netip.Addr{far, netip.MustParseAddr("127.0.0.1")} {
		if got, err := ask(from, gateway, "tcp", "db", dnsmessage.TypeA); err == nil {
			t.Errorf("from %s: found the answer %s", from, got)
		}
	}
	// By UDP such a question is passed over: the next one has the first answer.
	conn, err := net.DialUDP("udp", &net.UDPAddr{IP: far.AsSlice()}, &net.UDPAddr{IP: gateway.AsSlice(), Port: Port})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("any")); err != nil {
		t.Fatal(err)
	}
	if got, err := ask(client, gateway, "udp", "db", dnsmessage.TypeA); err != nil || got != "Success 127.1.0.3" {
		t.Errorf("found %s, %v", got, err)
	}
	_ = conn.SetReadDeadline(time.Now())
	if n, err := conn.Read(make([]byte, 512)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("found an answer of %d bytes, %v; want none", n, err)
	}
}

// upstream answers each question on an address by UDP and TCP with one address, or not at all.
func upstream(t *testing.T, at netip.Addr, answers bool) {
	t.Helper()
	upLoopback(t)
	l, err := bind(at)
	if err != nil {
		t.Fatal(err)
	}
	answer := func(message []byte) []byte {
		return parse(message).reply(dnsmessage.RCodeSuccess, []netip.Addr{at}, maxPlain)
	}
	ended := make(chan bool, 2)
	go func() {
		defer func() { ended <- true }()
		buffer := make([]byte, 512)
		for {
			n, from, err := l.udp.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			if answers { // after two that somebody else may have sent
				forged := parse(buffer[:n]).reply(dnsmessage.RCodeSuccess, []netip.Addr{far}, maxPlain)
				forged[1]++
				_, _ = l.udp.WriteToUDPAddrPort(forged, from)
				forged[1]--
				forged[13]++ // the first letter of the name
				_, _ = l.udp.WriteToUDPAddrPort(forged, from)
				_, _ = l.udp.WriteToUDPAddrPort(answer(buffer[:n]), from)
			}
		}
	}()
	go func() {
		defer func() { ended <- true }()
		for {
			conn, err := l.tcp.Accept()
			if err != nil {
				return
			}
			if message, err := readMessage(conn); err == nil && answers {
				_ = writeMessage(conn, answer(message))
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		l.close()
		<-ended
		<-ended
	})
}

// A name that no container has is asked of the node's servers, in their order, but not of itself.
func TestForward(t *testing.T) {
	leaktest.Check(t)
	up := netip.MustParseAddr("127.3.0.1")
	upstream(t, up, true)
	newServer(t, gateway, netip.MustParseAddr("127.3.0.9"), up)
	for _, network := range []string{"udp", "tcp"} {
		got, err := ask(client, gateway, network, "example.com", dnsmessage.TypeA)
		if err != nil || got != "Success 127.3.0.1" {
			t.Errorf("%s: found %s, %v; want the answer of the node's server", network, got, err)
		}
	}
}

// A container that asks more than a server answers gets failures at once, and holds up no other.
func TestForwardIsBounded(t *testing.T) {
	leaktest.Check(t)
	up := netip.MustParseAddr("127.3.0.1")
	upstream(t, up, false)
	s := newServer(t, up)
	for range maxOfClient {
		if !s.forwards.take(client) {
			t.Fatal("found no place for a question")
		}
	}
	if got, err := ask(client, gateway, "udp", "example.com", dnsmessage.TypeA); err != nil ||
		got != "ServerFailure" {
		t.Errorf("one question too many: found %s, %v; want a failure", got, err)
	}
	if !s.forwards.take(db) {
		t.Error("found no place for a question of another container")
	}
	if got, err := ask(client, gateway, "udp", "db", dnsmessage.TypeA); err != nil || got != "Success 127.1.0.3" {
		t.Errorf("a container's name: found %s, %v; want its address", got, err)
	}
}

// An answer that is too long for UDP is cut, and whole by TCP.
func TestManyAddresses(t *testing.T) {
	leaktest.Check(t)
	s := newServer(t)
	for i := range 60 {
		s.Put(fmt.Sprint(i), Host{Namespace: "default", Name: fmt.Sprint("many-", i), Networks: []Attachment{{
			Network: "near", Aliases: []string{"many"}, Gateways: []netip.Addr{gateway},
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{127, 1, 1, byte(i)})},
		}}})
	}
	if got, err := ask(client, gateway, "udp", "many", dnsmessage.TypeA); err != nil || got != "Success cut" {
		t.Errorf("by UDP: found %s, %v; want a cut answer", got, err)
	}
	if got, err := ask(client, gateway, "tcp", "many", dnsmessage.TypeA); err != nil ||
		len(strings.Fields(got)) != 61 {
		t.Errorf("by TCP: found %s, %v; want 60 addresses", got, err)
	}
}

// A network without an address of the node has no server, and says why.
func TestNoAddressToListenOn(t *testing.T) {
	leaktest.Check(t)
	s := newServer(t)
	faults := s.Put("x", Host{Namespace: "default", Name: "x", Networks: []Attachment{{
		Network: "lan", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.2")},
		Gateways: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
	}}})
	if _, ok := s.Address("x"); ok || faults["lan"] == nil {
		t.Errorf("found a server, or no fault: %v", faults)
	}
}

// A port that another server has delays the first container only, and is listened on once it is
// free.
func TestPortOfAnotherServer(t *testing.T) {
	leaktest.Check(t)
	upLoopback(t)
	other, err := bind(farGate)
	if err != nil {
		t.Fatal(err)
	}
	defer other.close()
	synctest.Test(t, func(t *testing.T) { // whose clock goes on only while all wait for it
		s := New(func() ([]netip.Addr, error) { return nil, nil }, slog.New(slog.DiscardHandler))
		defer s.Close()
		put := func() error {
			return s.Put("other", Host{Namespace: "team", Name: "other", Networks: []Attachment{
				{Network: "far", Addresses: []netip.Addr{far}, Gateways: []netip.Addr{farGate}},
			}})["far"]
		}
		if err := put(); !errors.Is(err, unix.EADDRINUSE) {
			t.Fatalf("found %v; want that the port is taken", err)
		}
		began := time.Now()
		for range 3 {
			if err := put(); !errors.Is(err, unix.EADDRINUSE) {
				t.Errorf("found %v; want that the port is taken", err)
			}
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("found a wait of %s for a port that is known to be taken", took)
		}
		other.close()
		if err := put(); err != nil {
			t.Errorf("the port is free: found %v", err)
		}
	})
}

// FuzzAnswer: no message has the server panic, or gets an answer of another id.
func FuzzAnswer(f *testing.F) {
	s := New(func() ([]netip.Addr, error) { return nil, nil }, slog.New(slog.DiscardHandler))
	h := &Host{Namespace: "default", Name: "web", Networks: []Attachment{{Network: "near"}}}
	s.networks["near"] = &zone{names: map[string][]member{"web": {{h, []netip.Addr{client}}}}}
	f.Add([]byte("\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x00\x00\x01\x00\x01"))
	f.Add([]byte("\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x011\x07in-addr\x04arpa\x00\x00\x0c\x00\x01"))
	f.Fuzz(func(t *testing.T, message []byte) {
		_, answer := s.answer(h, message, maxPlain)
		if answer != nil && (len(answer) < 12 || string(answer[:2]) != string(message[:2])) {
			t.Errorf("found the answer %x", answer)
		}
	})
}
