// SPDX-License-Identifier: Apache-2.0

package nameserver

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// Host describes a container that may ask, and that others ask for.
type Host struct {
	// Namespace and Name are the Container's.
	Namespace, Name string
	// Hostname of the container; optional.
	Hostname string
	// Networks that it is in.
	Networks []Attachment
}

// Attachment describes a container in one network.
type Attachment struct {
	Network   string
	Aliases   []string
	Addresses []netip.Addr
	// Gateways are addresses of the network that may be the node's: the server listens on the first
	// that is.
	Gateways []netip.Addr
}

// Zone is the domain of all containers of a node: NAME.NAMESPACE.berth.internal. The domain
// internal is for private use (ICANN, 2024).
const Zone = "berth.internal"

// Server knows the names of the node's containers, and answers questions.
type Server struct {
	upstreams func() ([]netip.Addr, error)
	log       *slog.Logger
	forwards  limiter

	mu        sync.RWMutex
	hosts     map[string]*Host
	networks  map[string]*zone
	listeners map[netip.Addr]*listener
	occupied  map[netip.Addr]bool // addresses that another server had, whose end was waited for
	running   sync.WaitGroup
	// ctx ends with the server.
	ctx context.Context //nolint:containedctx // questions have no context of their own
	end context.CancelFunc
}

// zone has the names of one network.
type zone struct {
	address netip.Addr // on which the server listens; the zero value if on none
	names   map[string][]member
	clients map[netip.Addr]*Host
}

// member is a container that has a name.
type member struct {
	host      *Host
	addresses []netip.Addr
}

// New returns a server that listens nowhere yet. It asks the servers that upstreams returns for
// what it does not know.
func New(upstreams func() ([]netip.Addr, error), log *slog.Logger) *Server {
	ctx, end := context.WithCancel(context.Background())
	return &Server{
		ctx: ctx, end: end, upstreams: upstreams, log: log, hosts: map[string]*Host{},
		networks:  map[string]*zone{},
		listeners: map[netip.Addr]*listener{},
		occupied:  map[netip.Addr]bool{},
	}
}

// Put adds a container, or replaces what is known of it, and listens in its networks. It returns
// the faults of networks in which the server cannot listen, by their names.
func (s *Server) Put(id string, h Host) map[string]error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(id)
	s.hosts[id] = &h
	faults := map[string]error{}
	for _, a := range h.Networks {
		z := s.networks[a.Network]
		if z == nil {
			z = &zone{names: map[string][]member{}, clients: map[netip.Addr]*Host{}}
			s.networks[a.Network] = z
		}
		for _, name := range h.names(a) {
			z.names[name] = append(z.names[name], member{&h, a.Addresses})
		}
		for _, address := range a.Addresses {
			z.clients[address] = &h
		}
		if err := s.listen(a, z); err != nil {
			faults[a.Network] = err
		}
	}
	return faults
}

// names returns the names of a container in a network.
func (h *Host) names(a Attachment) []string {
	var out []string
	for _, name := range append([]string{h.Name, h.Hostname}, a.Aliases...) {
		name = strings.ToLower(name)
		if name != "" && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// Remove forgets a container. It is no error if there is none.
func (s *Server) Remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(id)
}

// remove is Remove for who holds s.mu.
func (s *Server) remove(id string) {
	h := s.hosts[id]
	if h == nil {
		return
	}
	delete(s.hosts, id)
	for _, a := range h.Networks {
		z := s.networks[a.Network]
		for _, name := range h.names(a) {
			z.names[name] = slices.DeleteFunc(z.names[name], func(m member) bool { return m.host == h })
			if len(z.names[name]) == 0 {
				delete(z.names, name)
			}
		}
		for _, address := range a.Addresses {
			if z.clients[address] == h {
				delete(z.clients, address)
			}
		}
	}
}

// Address returns the address at which a container can ask; false if it can at none.
func (s *Server) Address(id string) (netip.Addr, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	h := s.hosts[id]
	if h == nil {
		return netip.Addr{}, false
	}
	for _, a := range h.Networks {
		if z := s.networks[a.Network]; z.address.IsValid() {
			return z.address, true
		}
	}
	return netip.Addr{}, false
}

// client returns the container of a network that has an address; nil if none has.
func (s *Server) client(network string, source netip.Addr) *Host {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if z := s.networks[network]; z != nil {
		return z.clients[source.Unmap().WithZone("")]
	}
	return nil
}

// find returns the addresses of a name for a container. authoritative says that nobody else knows
// more about the name.
func (s *Server) find(client *Host, name string) (addresses []netip.Addr, authoritative bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if name == Zone {
		return nil, true
	}
	if qualified, ok := strings.CutSuffix(name, "."+Zone); ok {
		return s.inNamespace(client, qualified), true
	}
	of := func(own bool) []netip.Addr {
		return s.first(client, name, func(h *Host) bool {
			return (h.Namespace == client.Namespace) == own
		})
	}
	if addresses = of(true); addresses == nil {
		addresses = of(false)
	}
	if addresses == nil {
		addresses = s.inNamespace(client, name)
	}
	return addresses, addresses != nil
}

// inNamespace returns the addresses of NAME.NAMESPACE. s.mu is held.
func (s *Server) inNamespace(client *Host, qualified string) []netip.Addr {
	i := strings.LastIndexByte(qualified, '.')
	if i < 0 {
		return nil
	}
	return s.first(client, qualified[:i], func(h *Host) bool { return h.Namespace == qualified[i+1:] })
}

// first returns the addresses that a name has in the first network of a container in which it has
// any. s.mu is held.
func (s *Server) first(client *Host, name string, wanted func(*Host) bool) []netip.Addr {
	for _, a := range client.Networks {
		var out []netip.Addr
		for _, m := range s.networks[a.Network].names[name] {
			if wanted(m.host) {
				out = append(out, m.addresses...)
			}
		}
		if len(out) > 0 {
			return out
		}
	}
	return nil
}

// nameOf returns the name of the container that has an address in a network of another; "" if none
// has.
func (s *Server) nameOf(client *Host, address netip.Addr) string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, a := range client.Networks {
		if h := s.networks[a.Network].clients[address]; h != nil {
			return h.Name + "." + h.Namespace + "." + Zone
		}
	}
	return ""
}

// Close ends all answers.
func (s *Server) Close() {
	s.mu.Lock()
	s.end()
	for _, l := range s.listeners {
		l.close()
	}
	s.mu.Unlock()
	s.running.Wait()
}
