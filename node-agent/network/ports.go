// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/nameserver"
)

// PortMapping is a port of the node that leads to one of a container, as the capability
// portMappings of CNI has it.
type PortMapping struct {
	HostPort      int32  `json:"hostPort"`
	ContainerPort int32  `json:"containerPort"`
	Protocol      string `json:"protocol"` // tcp, udp or sctp
	HostIP        string `json:"hostIP,omitempty"`
}

const portMappings = "portMappings"

func (p PortMapping) String() string {
	return fmt.Sprintf("%d/%s", p.HostPort, strings.ToUpper(p.Protocol))
}

// address returns that of HostIP; the zero value stands for all addresses of the node.
func (p PortMapping) address() netip.Addr {
	a, err := netip.ParseAddr(p.HostIP)
	if err != nil || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a.Unmap()
}

// collides returns whether a packet can be for both.
func (p PortMapping) collides(other PortMapping) bool {
	a, b := p.address(), other.address()
	return p.HostPort == other.HostPort && p.Protocol == other.Protocol &&
		(a == b || a == netip.Addr{} || b == netip.Addr{})
}

// portTable has the ports of the node that containers have, by id, also of containers that do not
// run at the moment. A port stays a container's until the container is disconnected.
type portTable struct {
	mu   sync.Mutex
	held map[string]holder
}

// holder is a container that has ports.
type holder struct {
	name  string
	ports []PortMapping
}

// reserve gives a container its ports, in place of those that it has, or returns which other
// container has one of them.
func (t *portTable) reserve(id, name string, ports []PortMapping) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for other, h := range t.held {
		if other == id {
			continue
		}
		for _, p := range ports {
			if slices.ContainsFunc(h.ports, p.collides) {
				return fmt.Errorf(
					"spec.ports: found hostPort %s, which is Container %s's; allowed: a free port", p, h.name)
			}
		}
	}
	t.put(id, name, ports)
	return nil
}

// put is reserve for ports that the container has already. t.mu is held.
func (t *portTable) put(id, name string, ports []PortMapping) {
	if t.held == nil {
		t.held = map[string]holder{}
	}
	delete(t.held, id)
	if len(ports) > 0 {
		t.held[id] = holder{name, ports}
	}
}

// recovered notes the ports of a container of an earlier agent.
func (t *portTable) recovered(id, name string, ports []PortMapping) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.put(id, name, ports)
}

func (t *portTable) release(id string) { t.recovered(id, "", nil) }

// checkFree returns which process has one of the ports, or nil. mapped says that rules lead the
// ports to the container, so that the agent's own sockets for names do not matter.
func checkFree(ports []PortMapping, mapped bool) error {
	for _, p := range ports {
		err := tryPort(p)
		switch {
		case errors.Is(err, unix.EADDRINUSE) && mapped &&
			p.HostPort == nameserver.Port && onlyOwn(p):
		case errors.Is(err, unix.EADDRINUSE):
			return fmt.Errorf("spec.ports: found hostPort %s, which %s has; allowed: a free port", p,
				listener(p))
		case errors.Is(err, unix.EADDRNOTAVAIL):
			return fmt.Errorf("spec.ports: found hostIP %s; allowed: an address of this node", p.HostIP)
		}
	}
	return nil
}

// tryPort binds a port for a moment. There is no such call for SCTP.
func tryPort(p PortMapping) error {
	host := ""
	if a := p.address(); a.IsValid() {
		host = a.String()
	}
	address := net.JoinHostPort(host, strconv.Itoa(int(p.HostPort)))
	var socket io.Closer
	var err error
	switch p.Protocol {
	case "tcp":
		socket, err = net.Listen("tcp", address)
	case "udp":
		socket, err = net.ListenPacket("udp", address)
	default:
		return nil
	}
	if err != nil {
		return err
	}
	return socket.Close()
}

// listener returns which process has a port, for people: rather another one than the agent.
func listener(p PortMapping) string {
	for _, socket := range append(foreign(sockets(p)), sockets(p)...) {
		if process := ownerOf(socket); process != "" {
			return process
		}
	}
	return "another process"
}

// onlyOwn returns whether all sockets with a port are the agent's own, on the gateways of networks.
// The plugin's rules come before them.
func onlyOwn(p PortMapping) bool {
	all := sockets(p)
	return len(all) > 0 && len(foreign(all)) == 0
}

// foreign returns the sockets that the agent does not have.
func foreign(sockets []string) (out []string) {
	own := map[string]bool{}
	descriptors, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range descriptors {
		if target, err := os.Readlink(fd); err == nil {
			own[target] = true
		}
	}
	for _, s := range sockets {
		if !own[s] {
			out = append(out, s)
		}
	}
	return out
}

// sockets returns those that have a port, as links of /proc/PID/fd name them.
func sockets(p PortMapping) (out []string) {
	for _, suffix := range []string{"", "6"} {
		text, err := os.ReadFile("/proc/thread-self/net/" + p.Protocol + suffix)
		if err != nil {
			continue
		}
		for s := bufio.NewScanner(bytes.NewReader(text)); s.Scan(); {
			columns := strings.Fields(s.Text())
			if len(columns) < 10 || !strings.HasSuffix(columns[1], fmt.Sprintf(":%04X", p.HostPort)) {
				continue
			}
			const listening = "0A" // TCP_LISTEN, include/net/tcp_states.h
			if p.Protocol == "tcp" && columns[3] != listening {
				continue
			}
			out = append(out, "socket:["+columns[9]+"]")
		}
	}
	return out
}

// ownerOf returns the name and pid of a process that has a socket open; "" if none is found.
func ownerOf(socket string) string {
	descriptors, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range descriptors {
		if target, err := os.Readlink(fd); err == nil && target == socket {
			process := filepath.Dir(filepath.Dir(fd))
			name, _ := os.ReadFile(filepath.Join(process, "comm"))
			return fmt.Sprintf("process %s (pid %s)", strings.TrimSpace(string(name)),
				filepath.Base(process))
		}
	}
	return ""
}
