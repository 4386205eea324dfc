// SPDX-License-Identifier: Apache-2.0

package nameserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Limits of questions to other servers.
const (
	maxForwards      = 256
	maxUpstreams     = 3 // as MAXNS of resolv.h
	upstreamPatience = 2 * time.Second
)

// forward returns the answer of the node's servers to a question. They are asked one after the
// other until one answers.
func (s *Server) forward(q *query, network string) []byte {
	servers, err := s.upstreams()
	if err != nil {
		s.log.Warn("cannot read which DNS servers the node has", "error", err)
	}
	if len(servers) > maxUpstreams {
		servers = servers[:maxUpstreams]
	}
	for _, server := range servers {
		if s.listensOn(server) {
			continue // it would ask itself
		}
		answer, err := q.ask(s.ctx, netip.AddrPortFrom(server, Port).String(), network)
		if err == nil {
			return answer
		}
		s.log.Debug("a DNS server of the node does not answer", "server", server, "error", err)
	}
	return q.fail()
}

func (s *Server) listensOn(address netip.Addr) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.listeners[address] != nil
}

// ask sends the question to another server, as the client has sent it but for the id, and returns
// the answer with the client's id.
func (q *query) ask(ctx context.Context, server, network string) ([]byte, error) {
	dialer := net.Dialer{Timeout: upstreamPatience}
	conn, err := dialer.DialContext(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := conn.SetDeadline(time.Now().Add(upstreamPatience)); err != nil {
		return nil, err
	}
	id := uint16(rand.Uint32())
	sent := bytes.Clone(q.message)
	binary.BigEndian.PutUint16(sent, id)
	if network == "tcp" {
		err = writeMessage(conn, sent)
	} else {
		_, err = conn.Write(sent)
	}
	if err != nil {
		return nil, err
	}
	buffer := make([]byte, maxDatagram)
	for {
		var answer []byte
		if network == "tcp" {
			answer, err = readMessage(conn)
		} else {
			var n int
			n, err = conn.Read(buffer)
			answer = buffer[:n]
		}
		if err != nil {
			return nil, err
		}
		if q.answeredBy(answer, id) {
			binary.BigEndian.PutUint16(answer, q.header.ID)
			return answer, nil
		}
	}
}

// answeredBy reports whether a message is an answer to the question: anybody may send one.
func (q *query) answeredBy(answer []byte, id uint16) bool {
	var p dnsmessage.Parser
	h, err := p.Start(answer)
	if err != nil || !h.Response || h.ID != id {
		return false
	}
	asked, err := p.Question()
	return err == nil && asked.Type == q.asked.Type && asked.Class == q.asked.Class &&
		bytes.EqualFold([]byte(asked.Name.String()), []byte(q.asked.Name.String()))
}
