// SPDX-License-Identifier: Apache-2.0

package nameserver

import (
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// Sizes of answers: over UDP without EDNS (RFC 1035, 4.2.1), and over TCP.
const (
	maxPlain   = 512
	maxMessage = 65535
)

// ttl of an answer, in seconds. A container may be gone, or have another address, after it.
const ttl = 5

// query is a question of a container.
type query struct {
	message []byte // as it was sent
	header  dnsmessage.Header
	asked   dnsmessage.Question
}

// answer returns the answer to a message, or the question if another server has to answer it. It
// returns neither for a message that is not a question.
func (s *Server) answer(client *Host, message []byte, size int) (*query, []byte) {
	q := parse(message)
	if q == nil {
		return nil, nil
	}
	if q.header.OpCode != 0 {
		return nil, q.reply(dnsmessage.RCodeNotImplemented, nil, size)
	}
	name := strings.ToLower(strings.TrimSuffix(q.asked.Name.String(), "."))
	if q.asked.Class != dnsmessage.ClassINET {
		return q, nil
	}
	if q.asked.Type == dnsmessage.TypePTR {
		if address, ok := reverse(name); ok {
			if name := s.nameOf(client, address); name != "" {
				return nil, q.pointer(name, size)
			}
			return q, nil
		}
	}
	addresses, authoritative := s.find(client, name)
	switch {
	case !authoritative:
		return q, nil
	case len(addresses) == 0 && name != Zone:
		return nil, q.reply(dnsmessage.RCodeNameError, nil, size)
	}
	rand.Shuffle(len(addresses), func(i, j int) {
		addresses[i], addresses[j] = addresses[j], addresses[i]
	})
	return nil, q.reply(dnsmessage.RCodeSuccess, addresses, size)
}

// parse returns the question of a message, or nil if the message is not a question.
func parse(message []byte) *query {
	var p dnsmessage.Parser
	h, err := p.Start(message)
	if err != nil || h.Response {
		return nil
	}
	asked, err := p.AllQuestions()
	if err != nil || len(asked) != 1 {
		return nil
	}
	// It is kept for longer than the buffer.
	return &query{slices.Clone(message), h, asked[0]}
}

// fail returns the answer that the question cannot be answered now.
func (q *query) fail() []byte { return q.reply(dnsmessage.RCodeServerFailure, nil, maxPlain) }

// reply returns an answer with the addresses of the kind that is asked for. An answer without room
// for all is marked as truncated, so that the client asks by TCP.
func (q *query) reply(code dnsmessage.RCode, addresses []netip.Addr, size int) []byte {
	return q.build(code, size, func(b *dnsmessage.Builder) error {
		h := dnsmessage.ResourceHeader{Name: q.asked.Name, Class: dnsmessage.ClassINET, TTL: ttl}
		for _, a := range addresses {
			var err error
			switch {
			case a.Is4() && q.asked.Type == dnsmessage.TypeA:
				err = b.AResource(h, dnsmessage.AResource{A: a.As4()})
			case a.Is6() && q.asked.Type == dnsmessage.TypeAAAA:
				err = b.AAAAResource(h, dnsmessage.AAAAResource{AAAA: a.As16()})
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// pointer returns an answer with a name.
func (q *query) pointer(name string, size int) []byte {
	return q.build(dnsmessage.RCodeSuccess, size, func(b *dnsmessage.Builder) error {
		h := dnsmessage.ResourceHeader{Name: q.asked.Name, Class: dnsmessage.ClassINET, TTL: ttl}
		to, err := dnsmessage.NewName(name + ".")
		if err != nil {
			return err
		}
		return b.PTRResource(h, dnsmessage.PTRResource{PTR: to})
	})
}

// build returns an answer with the records that add gives it.
func (q *query) build(code dnsmessage.RCode, size int, add func(*dnsmessage.Builder) error) []byte {
	h := dnsmessage.Header{
		ID: q.header.ID, Response: true, OpCode: q.header.OpCode, RCode: code,
		Authoritative: code != dnsmessage.RCodeServerFailure, RecursionDesired: q.header.RecursionDesired,
		RecursionAvailable: true,
	}
	for {
		b := dnsmessage.NewBuilder(nil, h)
		b.EnableCompression()
		err := b.StartQuestions()
		if err == nil {
			err = b.Question(q.asked)
		}
		if err == nil {
			err = b.StartAnswers()
		}
		if err == nil && !h.Truncated {
			err = add(&b)
		}
		message, ferr := b.Finish()
		if err == nil && ferr == nil && (len(message) <= size || h.Truncated) {
			return message
		}
		if h.Truncated {
			return nil
		}
		h.Truncated = true
		if err != nil || ferr != nil {
			h.Truncated, h.RCode = true, dnsmessage.RCodeServerFailure
		}
	}
}

// reverse returns the address of a name below in-addr.arpa or ip6.arpa.
func reverse(name string) (netip.Addr, bool) {
	if labels, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		parts := strings.Split(labels, ".")
		slices.Reverse(parts)
		a, err := netip.ParseAddr(strings.Join(parts, "."))
		return a, err == nil && a.Is4()
	}
	labels, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok {
		return netip.Addr{}, false
	}
	digits := strings.Split(labels, ".")
	slices.Reverse(digits)
	text, err := hex.DecodeString(strings.Join(digits, ""))
	a, ok := netip.AddrFromSlice(text)
	return a, err == nil && ok && len(digits) == 32
}
