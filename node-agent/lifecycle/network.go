// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/network"
)

// networkStage connects the container to its network, in a pinned network namespace whose path it
// writes into the document for the runtime to join. Both are kept from run to run.
//
// Without networks, the runtime creates a namespace for each run.
type networkStage struct{ networks *network.Networks }

func (networkStage) Name() string { return "network" }
func (networkStage) Scope() Scope { return PerContainer }

func (s networkStage) Ensure(ctx context.Context, c *Container) error {
	c.Connected = true // or the error is returned
	if s.networks == nil {
		return nil
	}
	i := -1
	if c.Spec.Linux != nil {
		i = slices.IndexFunc(c.Spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
			return n.Type == specs.NetworkNamespace && n.Path == ""
		})
	}
	want := wantedNetwork(c)
	if i < 0 {
		return networkFault(s.networks.AttachToNode(ctx, c.ID, c.Dir, want))
	}
	path, err := s.networks.Attach(ctx, c.ID, c.Dir, want)
	if err == nil {
		c.Addresses, err = network.Addresses(c.Dir)
	}
	c.Spec.Linux.Namespaces[i].Path = path
	return networkFault(err)
}

// networkFault returns why a container is not connected.
func networkFault(err error) error {
	if err == nil || StorageFailed(err) {
		return ownFiles(err)
	}
	class := ContainerFault
	if errors.Is(err, network.ErrBusy) {
		class = NodeFault
	}
	return &StageError{Reason: v1alpha1.ReasonNetworkFailed, Class: class, Err: err}
}

// wantedNetwork returns what a bundle asks of its network.
func wantedNetwork(c *Container) network.Wanted {
	want := network.Wanted{Name: c.Key.String()}
	if b := c.Bundle.Spec.Network; b != nil {
		want.None = b.None
		for _, a := range b.Networks {
			want.Networks = append(want.Networks, network.Attachment{Network: a.Name, Aliases: a.Aliases})
		}
		for _, p := range b.Ports {
			want.Ports = append(want.Ports, network.PortMapping{
				HostPort: p.HostPort, ContainerPort: p.ContainerPort,
				Protocol: strings.ToLower(string(p.Protocol)), HostIP: p.HostIP,
			})
		}
	}
	return want
}

// Release disconnects the container, and is repeated until that succeeds: the addresses and rules
// of the node that it has would be lost to others.
func (s networkStage) Release(ctx context.Context, c *Container) error {
	if s.networks == nil {
		return nil
	}
	return s.networks.Detach(ctx, c.ID, c.Dir)
}
