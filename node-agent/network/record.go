// SPDX-License-Identifier: Apache-2.0

package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
)

// files of a container's directory. lockFile is held by every plugin that runs for the container.
const (
	recordFile = "network.json"
	lockFile   = "network.lock"
	cacheDir   = "cni"
)

// RecordFile is the name of the file of a container's directory that must survive a loss of power.
const RecordFile = recordFile

// versions of the format of record. An agent that knows the first alone would forget all networks
// but one.
const (
	recordVersion        = 1
	recordVersionSeveral = 2 // for more than one network
)

// record describes how a container is connected, or is being.
type record struct {
	Version int `json:"version"`
	// Name of the Container.
	Name string `json:"name,omitempty"`
	// Host is for others to find it by.
	Host HostNames `json:"host,omitzero"`
	// The connection of eth0. It is empty for a container in the node's network that has ports.
	connection
	// More are the connections of eth1, eth2 and so on.
	More []connection `json:"more,omitempty"`
	// Ports lead to the first network that can map them.
	Ports []PortMapping `json:"ports,omitempty"`
	// Bandwidth limits the traffic in each network.
	Bandwidth Bandwidth `json:"bandwidth,omitzero"`
	// Done says that all plugins of all networks have succeeded.
	Done bool `json:"done,omitempty"`
	// Joined is the membership of a container in the namespace of another one, which has nothing else.
	Joined *join `json:"joined,omitempty"`
}

// connection describes one device of a container, and its network.
type connection struct {
	// Asked holds what the container has asked for.
	Asked *Attachment `json:"asked,omitempty"`
	// List is the configuration list, with all plugins in it.
	List json.RawMessage `json:"list,omitempty"`
	// Result of the last plugin that has succeeded; empty if none has.
	Result json.RawMessage `json:"result,omitempty"`
	// Device of a container that has no record; "" stands for the one of the connection's place.
	Device string `json:"-"`
}

// connections returns those to all networks, in the order of their devices.
func (r *record) connections() []*connection {
	if len(r.List) == 0 {
		return nil
	}
	out := []*connection{&r.connection}
	for i := range r.More {
		out = append(out, &r.More[i])
	}
	return out
}

// asks returns whether the container is connected to what it asks for now.
func (r *record) asks(want Wanted) bool {
	var asked []Attachment
	for _, c := range r.connections() {
		if c.Asked != nil {
			asked = append(asked, *c.Asked)
		}
	}
	return len(r.List) > 0 && !want.None && slices.Equal(r.Ports, want.Ports) &&
		r.Bandwidth == want.Bandwidth &&
		slices.EqualFunc(asked, want.Networks, func(a, b Attachment) bool {
			return a.Network == b.Network && slices.Equal(a.Aliases, b.Aliases)
		})
}

// errUnreadable is for a record that this agent cannot read.
var errUnreadable = errors.New("cannot read how the container is connected to its network")

// readRecord returns nil if there is no record.
func readRecord(path string) (*record, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreadable, err)
	}
	r := &record{}
	err = json.Unmarshal(data, r)
	if r.Version > recordVersionSeveral {
		return nil, fmt.Errorf("%w: %s: found version %d; this agent knows up to %d", errUnreadable, path,
			r.Version, recordVersionSeveral)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errUnreadable, path, err)
	}
	return r, nil
}

func (r *record) write(f Files) error {
	r.Version = recordVersion
	if len(r.More) > 0 {
		r.Version = recordVersionSeveral
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return f.Replace(recordFile, data)
}

// Addresses returns the addresses of the container whose directory has those files, beginning with
// eth0.
func Addresses(f Files) ([]netip.Addr, error) {
	r, err := readRecord(f.File(recordFile))
	if err == nil && r != nil && r.Joined != nil {
		return r.Joined.Addresses, nil
	}
	if err != nil || r == nil || !r.Done {
		return nil, err
	}
	var out []netip.Addr
	for _, c := range r.connections() {
		addresses, err := c.addresses()
		if err != nil {
			return nil, err
		}
		out = append(out, addresses...)
	}
	return out, nil
}

// addresses returns those that the result assigns to devices of the container.
func (c *connection) addresses() ([]netip.Addr, error) {
	ips, err := c.ips()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, ip := range ips {
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			out = append(out, a.Unmap())
		}
	}
	return out, nil
}

func (c *connection) ips() ([]*current.IPConfig, error) {
	parsed, err := create.CreateFromBytes(c.Result)
	if err != nil {
		return nil, fmt.Errorf("result of the network plugins: %w", err)
	}
	result, err := current.NewResultFromResult(parsed)
	if err != nil {
		return nil, fmt.Errorf("result of the network plugins: %w", err)
	}
	return slices.DeleteFunc(result.IPs, func(ip *current.IPConfig) bool {
		i := ip.Interface // maybe of a device of the node
		return i != nil && *i >= 0 && *i < len(result.Interfaces) && result.Interfaces[*i].Sandbox == ""
	}), nil
}
