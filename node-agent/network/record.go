// SPDX-License-Identifier: Apache-2.0

package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

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

// recordVersion is the version of the format of record.
const recordVersion = 1

// record describes how a container is connected, or is being.
type record struct {
	Version int `json:"version"`
	// Name of the Container.
	Name string `json:"name,omitempty"`
	// List is the configuration list, with all plugins in it; empty for a container in the node's
	// network that has ports.
	List  json.RawMessage `json:"list,omitempty"`
	Ports []PortMapping   `json:"ports,omitempty"`
	// Result of the last plugin that has succeeded; empty if none has.
	Result json.RawMessage `json:"result,omitempty"`
	// Done says that all have.
	Done bool `json:"done,omitempty"`
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
	if r.Version > recordVersion {
		return nil, fmt.Errorf("%w: %s: found version %d; this agent knows up to %d", errUnreadable, path,
			r.Version, recordVersion)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errUnreadable, path, err)
	}
	return r, nil
}

func (r *record) write(f Files) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return f.Replace(recordFile, data)
}

// Addresses returns the addresses of the container whose directory has those files.
func Addresses(f Files) ([]netip.Addr, error) {
	r, err := readRecord(f.File(recordFile))
	if err != nil || r == nil || !r.Done || len(r.List) == 0 {
		return nil, err
	}
	return r.addresses()
}

// addresses returns those that the result assigns to devices of the container.
func (r *record) addresses() ([]netip.Addr, error) {
	parsed, err := create.CreateFromBytes(r.Result)
	if err != nil {
		return nil, fmt.Errorf("result of the network plugins: %w", err)
	}
	result, err := current.NewResultFromResult(parsed)
	if err != nil {
		return nil, fmt.Errorf("result of the network plugins: %w", err)
	}
	var out []netip.Addr
	for _, ip := range result.IPs {
		if i := ip.Interface; i != nil && *i >= 0 && *i < len(result.Interfaces) &&
			result.Interfaces[*i].Sandbox == "" {
			continue // of a device of the node
		}
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			out = append(out, a.Unmap())
		}
	}
	return out, nil
}
