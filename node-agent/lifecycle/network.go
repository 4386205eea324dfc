// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"fmt"
	"slices"

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
	if s.networks == nil {
		return nil
	}
	i := -1
	if c.Spec.Linux != nil {
		i = slices.IndexFunc(c.Spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
			return n.Type == specs.NetworkNamespace && n.Path == ""
		})
	}
	if i < 0 { // it is in the node's network, and may have been in one of its own before
		return s.Release(ctx, c)
	}
	path, err := s.networks.Attach(ctx, c.ID, c.Dir, wantedNetwork(c.Bundle.Spec.Network))
	if err == nil {
		c.Addresses, err = network.Addresses(c.Dir)
	}
	if err != nil {
		if StorageFailed(err) {
			return ownFiles(err)
		}
		return &StageError{Reason: v1alpha1.ReasonNetworkFailed, Err: fmt.Errorf("network: %w", err)}
	}
	c.Spec.Linux.Namespaces[i].Path = path
	return nil
}

// wantedNetwork returns what a bundle asks of its network.
func wantedNetwork(b *v1alpha1.BundleNetwork) network.Wanted {
	if b == nil {
		return network.Wanted{}
	}
	return network.Wanted{None: b.None}
}

// Release disconnects the container, and is repeated until that succeeds: the addresses and rules
// of the node that it has would be lost to others.
func (s networkStage) Release(ctx context.Context, c *Container) error {
	if s.networks == nil {
		return nil
	}
	return s.networks.Detach(ctx, c.ID, c.Dir)
}
