// SPDX-License-Identifier: Apache-2.0

package nameserver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of what questions take. No resolver sends a longer message by UDP.
const (
	maxDatagram    = 4096
	maxConnections = 128 // of one listener
	maxOfClient    = 16  // of one container: connections, and questions that are forwarded
	tcpPatience    = 5 * time.Second
)

// Port is the port of DNS.
const Port = 53

// listener listens on an address in a network.
type listener struct {
	network string
	udp     *net.UDPConn
	tcp     *net.TCPListener

	mu          sync.Mutex
	connections map[net.Conn]bool
	limiter     limiter
}

// listen has the server listen in a network, on the first address of the node that the attachment
// has. s.mu is held.
func (s *Server) listen(a Attachment, z *zone) error {
	if len(a.Gateways) == 0 {
		return errors.New("the network has no gateway to listen on")
	}
	if s.ctx.Err() != nil {
		return net.ErrClosed
	}
	var errs error
	for _, address := range a.Gateways {
		l := s.listeners[address]
		if l == nil {
			var err error
			if l, err = s.open(address); err != nil {
				errs = errors.Join(errs, err)
				continue
			}
			l.network = a.Network
			s.listeners[address] = l
			s.running.Go(func() { s.serveUDP(l) })
			s.running.Go(func() { s.serveTCP(l) })
			s.log.Info("answering DNS questions of containers", "network", a.Network, "address", address)
		}
		if l.network != a.Network {
			errs = errors.Join(errs, fmt.Errorf("%s is the gateway of network %s, too", address, l.network))
			continue
		}
		z.address = address
		return nil
	}
	return errs
}

// open binds an address. The socket of an agent that has just been killed may be closing, so the
// first call for an address waits a moment for it. Later ones do not: another server has the
// address, and a wait holds up all answers. s.mu is held.
func (s *Server) open(address netip.Addr) (l *listener, err error) {
	for range 10 {
		l, err = bind(address)
		if !errors.Is(err, unix.EADDRINUSE) || s.occupied[address] {
			return l, err
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.occupied[address] = true
	return nil, err
}

func bind(address netip.Addr) (*listener, error) {
	config := net.ListenConfig{}
	if address.Is6() && local(address) {
		// The kernel still looks for who else has the address.
		config.Control = func(_, _ string, c syscall.RawConn) error {
			var set error
			err := c.Control(func(fd uintptr) {
				set = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
			})
			return errors.Join(err, set)
		}
	}
	at := netip.AddrPortFrom(address, Port).String()
	udp, err := config.ListenPacket(context.Background(), "udp", at)
	if err != nil {
		return nil, err
	}
	tcp, err := config.Listen(context.Background(), "tcp", at)
	if err != nil {
		return nil, errors.Join(err, udp.Close())
	}
	return &listener{
		udp: udp.(*net.UDPConn), tcp: tcp.(*net.TCPListener), connections: map[net.Conn]bool{},
		limiter: limiter{all: maxConnections},
	}, nil
}

// local reports whether a device of the node has an address.
func local(address netip.Addr) bool {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == address {
			return true
		}
	}
	return false
}

func (l *listener) close() {
	_ = l.udp.Close()
	_ = l.tcp.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.connections {
		c.Close()
	}
	l.connections = nil
}

// serveUDP answers datagrams. Only a question that is forwarded has a goroutine of its own.
func (s *Server) serveUDP(l *listener) {
	buffer := make([]byte, maxDatagram)
	for {
		n, from, err := l.udp.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // of an earlier answer, that nobody waits for
		}
		client := s.client(l.network, from.Addr())
		if client == nil {
			continue
		}
		reply := func(message []byte) {
			_, _ = l.udp.WriteToUDPAddrPort(message, from) // the client asks again
		}
		q, answer := s.answer(client, buffer[:n], maxPlain)
		if answer != nil {
			reply(answer)
			continue
		}
		if q == nil {
			continue
		}
		if !s.forwards.take(from.Addr()) {
			reply(q.fail())
			continue
		}
		s.running.Go(func() {
			defer s.forwards.give(from.Addr())
			reply(s.forward(q, "udp"))
		})
	}
}

// serveTCP accepts the connections of containers.
func (s *Server) serveTCP(l *listener) {
	for {
		conn, err := l.tcp.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // no descriptor is free
			continue
		}
		from := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
		if s.client(l.network, from) == nil || !l.limiter.take(from) {
			conn.Close()
			continue
		}
		if !l.keep(conn) {
			return
		}
		s.running.Go(func() {
			defer l.limiter.give(from)
			defer l.drop(conn)
			s.serveConnection(l, conn, from)
		})
	}
}

// keep notes a connection, so that close ends it; false if the listener is closed.
func (l *listener) keep(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.connections == nil {
		c.Close()
		return false
	}
	l.connections[c] = true
	return true
}

func (l *listener) drop(c net.Conn) {
	c.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.connections, c)
}

// serveConnection answers the questions of a connection, one after the other.
func (s *Server) serveConnection(l *listener, conn net.Conn, from netip.Addr) {
	for {
		_ = conn.SetDeadline(time.Now().Add(tcpPatience))
		message, err := readMessage(conn)
		if err != nil {
			return
		}
		client := s.client(l.network, from)
		if client == nil {
			return
		}
		q, answer := s.answer(client, message, maxMessage)
		if answer == nil {
			if q == nil {
				return
			}
			if !s.forwards.take(from) {
				answer = q.fail()
			} else {
				answer = s.forward(q, "tcp")
				s.forwards.give(from)
			}
		}
		_ = conn.SetDeadline(time.Now().Add(tcpPatience))
		if err := writeMessage(conn, answer); err != nil {
			return
		}
	}
}

// readMessage reads a message with its length before it (RFC 1035, 4.2.2).
func readMessage(r io.Reader) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	message := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(r, message)
	return message, err
}

func writeMessage(w io.Writer, message []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...))
	return err
}

// limiter bounds how much goes on at the same time. The zero value has the limits of questions that
// are forwarded.
type limiter struct {
	all int // 0 means maxForwards

	mu    sync.Mutex
	total int
	of    map[netip.Addr]int
}

// take returns whether one more may go on for a client.
func (l *limiter) take(client netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	most := l.all
	if most == 0 {
		most = maxForwards
	}
	if l.total >= most || l.of[client] >= maxOfClient {
		return false
	}
	if l.of == nil {
		l.of = map[netip.Addr]int{}
	}
	l.total++
	l.of[client]++
	return true
}

// give ends what take has begun.
func (l *limiter) give(client netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.of[client]--; l.of[client] == 0 {
		delete(l.of, client)
	}
}
