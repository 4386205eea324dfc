// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/berth-run/berth/node-agent/nameserver"
)

// Networks connects containers to the node's network by CNI plugins.
//
// All that is done to connect a container is recorded in its directory before it is begun, and the
// result of each plugin before the next one is executed. An agent that finds a record without an
// end cannot know how far its predecessor came: it disconnects the container and connects it anew.
type Networks struct {
	Namespaces Namespaces
	// BinDirs hold the plugins. Without any, containers have loopback alone.
	BinDirs []string
	// ConfDir holds the node's configuration lists.
	ConfDir string
	// Bridge is for a node without a configuration list; nil leaves its containers with loopback
	// alone.
	Bridge *Bridge
	// Names answers DNS questions of containers about each other; nil for a node whose containers do
	// not find each other.
	Names *nameserver.Server
	Log   *slog.Logger

	patience time.Duration // of a wait for plugins; 0 means orphanPatience
	every    time.Duration // between looks at the network; 0 means lookEvery
	asking   time.Duration // of a wait for STATUS of one plugin; 0 means statusPatience
	ready    readiness

	ports portTable
	used  usedNetworks
	joins joinTable
	slots chan struct{} // a token for each container that is being connected or disconnected
	// first and firstPorts are of any container and of one with ports, for which more is created.
	first, firstPorts first
}

// parallel bounds the containers that are connected or disconnected concurrently. Plugins wait for
// each other's locks, of addresses and of iptables, so that more at a time are not faster.
const parallel = 4

// New returns Networks with the settings of another.
func New(n *Networks) *Networks {
	return &Networks{
		Namespaces: n.Namespaces, BinDirs: n.BinDirs, ConfDir: n.ConfDir, Bridge: n.Bridge, Log: n.Log,
		Names: n.Names,
		slots: make(chan struct{}, parallel),
	}
}

// Files gives access to a container's directory, which exists for as long as the container has a
// network.
type Files interface {
	// File returns the path of a file.
	File(name string) string
	// Replace replaces a file, whole or not at all.
	Replace(name string, data []byte) error
}

// Wanted describes the network that a container asks for.
type Wanted struct {
	// Name of the Container, for people.
	Name string
	// Host holds the names by which other containers find it.
	Host HostNames
	// None leaves it with loopback alone.
	None bool
	// Networks that it is in; none stands for the node's network for containers.
	Networks []Attachment
	// Users is the first id of the container's range of ids; 0 for the node's own.
	Users uint32
	// Ports of the node that lead to the container or, in the node's network, that it listens on.
	Ports []PortMapping
	// Bandwidth limits its traffic in each of its networks.
	Bandwidth Bandwidth
}

// HostNames holds the names of a container.
type HostNames struct {
	// Namespace and Name are the Container's.
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	Hostname  string `json:"hostname,omitempty"`
}

// Attachment is a network that a container asks for.
type Attachment struct {
	// Network is the name of a configuration list; "" stands for the node's network for containers.
	Network string `json:"network,omitempty"`
	// Aliases are further names of the container in that network.
	Aliases []string `json:"aliases,omitempty"`
}

// MaxNetworks is the number of networks that a container may be in.
const MaxNetworks = 8

// device returns the name of a container's network device.
func device(i int) string { return fmt.Sprintf("eth%d", i) }

// Attach gives a container its namespace and connects it to its network, unless it has that. It
// returns the path of the namespace.
func (n *Networks) Attach(ctx context.Context, id string, f Files, want Wanted) (string, error) {
	// The owner of a namespace never changes.
	if same, err := n.Namespaces.SameUsers(id, want.Users != 0); err != nil {
		return "", err
	} else if !same {
		if err := n.Detach(ctx, id, f); err != nil {
			return "", err
		}
	}
	if want.None && want.Bandwidth != (Bandwidth{}) {
		return "", want.Bandwidth.refuse("the container has no network")
	}
	r, err := readRecord(f.File(recordFile))
	if err != nil {
		return "", err
	}
	if r != nil && r.Joined != nil {
		if _, err := n.Leave(id, f); err != nil {
			return "", err
		}
		r = nil
	}
	nothing := len(n.BinDirs) == 0 && len(want.Ports) == 0 && len(want.Networks) == 0 &&
		want.Bandwidth == Bandwidth{}
	if r == nil && (want.None || nothing) {
		n.ports.release(id)
		n.joins.stay(id)
		return n.Namespaces.Ensure(id, want.Users)
	}
	op, err := n.begin(ctx, id, f)
	if err != nil {
		return "", err
	}
	defer op.end()
	if err := op.attach(r, want); err != nil {
		return "", err
	}
	n.joins.stay(id)
	return n.Namespaces.Path(id), nil
}

// attach connects the container, whose record that is; nil if it has none.
func (op *operation) attach(r *record, want Wanted) error {
	pinned, err := op.Namespaces.Exists(op.id)
	if err != nil {
		return err
	}
	if err := op.ports.reserve(op.id, want.Name, want.Ports); err != nil {
		return err
	}
	if r != nil && pinned && r.Done && r.asks(want) && op.check(r) {
		return op.rename(r, want.Host)
	}
	if err := op.joins.leave(op.id); err != nil {
		return err
	}
	if r != nil {
		if err := op.remove(r); err != nil {
			return op.explain(want, err)
		}
	}
	if err := checkFree(want.Ports, true); err != nil {
		return err
	}
	if want.None {
		_, err := op.Namespaces.Ensure(op.id, want.Users)
		return err
	}
	if err := op.refuseUnready(want); err != nil {
		return err
	}
	if err := op.add(want); err != nil {
		return op.explain(want, err)
	}
	return nil
}

// Recover notes the ports, networks and membership of a container of an earlier agent. It is called
// for all containers before Attach is for any.
func (n *Networks) Recover(id string, f Files) {
	r, err := readRecord(f.File(recordFile))
	if err != nil {
		n.Log.Error("the ports of a container are not known", "id", id, "error", err)
	}
	if r != nil {
		n.ports.recovered(id, r.Name, r.Ports)
		n.used.note(r)
		n.announce(id, r)
	}
	if r != nil && r.Joined != nil {
		n.recoverJoin(id, r.Name, r.Joined)
	}
}

// AttachToNode disconnects a container that is in the node's network from any other, and reserves
// its ports.
func (n *Networks) AttachToNode(ctx context.Context, id string, f Files, want Wanted) error {
	if want.Bandwidth != (Bandwidth{}) {
		return want.Bandwidth.refuse("the container is in the node's network")
	}
	r, err := readRecord(f.File(recordFile))
	if err != nil {
		return err
	}
	if r == nil || len(r.List) > 0 || r.Joined != nil {
		if err := n.Detach(ctx, id, f); err != nil {
			return err
		}
		r = nil
	}
	if err := n.ports.reserve(id, want.Name, want.Ports); err != nil {
		return err
	}
	if err := checkFree(want.Ports, false); err != nil {
		return err
	}
	if r == nil && len(want.Ports) == 0 || r != nil && len(r.List) == 0 &&
		slices.Equal(r.Ports, want.Ports) {
		return nil
	}
	return (&record{Name: want.Name, Ports: want.Ports, Done: true}).write(f)
}

// Detach disconnects a container from its network and removes its namespace. It is no error if
// there is neither. It returns ErrJoined while other containers are in the namespace.
func (n *Networks) Detach(ctx context.Context, id string, f Files) error {
	r, err := readRecord(f.File(recordFile))
	unreadable := err != nil
	if unreadable {
		// There is no way to know what to undo but to take it for what would be done today.
		n.Log.Error("disconnect a container from the node's network of today", "id", id, "error", err)
		r = &record{}
	}
	if r != nil && r.Joined != nil {
		_, err := n.Leave(id, f)
		return err
	}
	if err := n.joins.leave(id); err != nil {
		return err
	}
	if r == nil {
		n.ports.release(id)
		err := n.Namespaces.Remove(id)
		if err == nil {
			n.joins.stay(id)
		}
		return err
	}
	op, err := n.begin(ctx, id, f)
	if err != nil {
		return err
	}
	defer op.end()
	if unreadable {
		list, err := n.list(ctx)
		if err != nil {
			return err
		}
		if list != nil {
			r.List = flatten(list)
		}
	}
	if err := op.remove(r); err != nil {
		return err
	}
	n.ports.release(id)
	n.joins.stay(id)
	return nil
}
