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
	"github.com/berth-run/berth/node-agent/source"
)

// networkStage connects the container to its network, in a pinned network namespace whose path it
// writes into the document for the runtime to join. Both are kept from run to run.
//
// A container that joins another one's network has that one's namespace alone.
//
// Without networks, the runtime creates a namespace for each run.
type networkStage struct {
	networks *network.Networks
	joins    *joins
}

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
	path, err := s.connect(ctx, c, i >= 0)
	if err == nil && i >= 0 {
		c.Addresses, err = network.Addresses(c.Dir)
		c.Spec.Linux.Namespaces[i].Path = path
	}
	if c.Users != 0 && i >= 0 {
		c.UserNamespace = s.networks.Namespaces.UsersPath(c.ID)
	}
	return networkFault(s.wakeMembers(c, err))
}

// connect connects a container, and returns the path of its namespace if it has one of its own or
// another container's.
func (s networkStage) connect(ctx context.Context, c *Container, own bool) (string, error) {
	want := wantedNetwork(c)
	path := ""
	var err error
	switch {
	case own && joinedKey(c) != (source.Key{}):
		return s.joins.join(ctx, c)
	case own:
		path, err = s.networks.Attach(ctx, c.ID, c.Dir, want)
	default:
		err = s.networks.AttachToNode(ctx, c.ID, c.Dir, want)
	}
	if err == nil {
		s.joins.followers.Changed(c.Key)
	}
	return path, err
}

// wakeMembers returns the error. If others are in the network of the container and keep it from
// losing that, they are woken, and find that they have to leave.
func (s networkStage) wakeMembers(c *Container, err error) error {
	if errors.Is(err, network.ErrJoined) {
		s.joins.followers.Changed(c.Key)
	}
	return err
}

// networkFault returns why a container is not connected.
func networkFault(err error) error {
	if err == nil || StorageFailed(err) {
		return ownFiles(err)
	}
	if e := (*StageError)(nil); errors.As(err, &e) {
		return err
	}
	class := ContainerFault
	if errors.Is(err, network.ErrBusy) || errors.Is(err, network.ErrJoined) ||
		errors.Is(err, network.ErrNotReady) {
		class = NodeFault
	}
	return &StageError{Reason: v1alpha1.ReasonNetworkFailed, Class: class, Err: err}
}

// wantedNetwork returns what a bundle asks of its network.
func wantedNetwork(c *Container) network.Wanted {
	want := network.Wanted{Name: c.Key.String(), Users: c.Users, Host: network.HostNames{
		Namespace: c.Bundle.Owner().Namespace, Name: c.Bundle.Name, Hostname: c.Spec.Hostname,
	}}
	if b := c.Bundle.Spec.Network; b != nil {
		want.None = b.None
		if b.Bandwidth != nil {
			want.Bandwidth = network.Bandwidth{Ingress: b.Bandwidth.Ingress, Egress: b.Bandwidth.Egress}
		}
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
	return s.wakeMembers(c, s.networks.Detach(ctx, c.ID, c.Dir))
}
