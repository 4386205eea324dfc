// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/node-agent/network"
)

// networkStage pins the container's network namespace, and writes its path into the document for
// the runtime to join. The namespace is kept from run to run.
//
// Without namespaces, the runtime creates one for each run.
type networkStage struct{ namespaces *network.Namespaces }

func (networkStage) Name() string { return "network" }
func (networkStage) Scope() Scope { return PerContainer }

func (s networkStage) Ensure(ctx context.Context, c *Container) error {
	if s.namespaces == nil {
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
	path, err := s.namespaces.Ensure(c.ID)
	if err != nil {
		return ownFiles(err)
	}
	c.Spec.Linux.Namespaces[i].Path = path
	return nil
}

func (s networkStage) Release(_ context.Context, c *Container) error {
	if s.namespaces == nil {
		return nil
	}
	return s.namespaces.Remove(c.ID)
}
