// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"errors"
	"path/filepath"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/oci/merge"
	"github.com/berth-run/berth/node-agent/userns"
)

// usersStage gives a container with a user namespace its range of the node's ids. The container has
// the range until it is removed, also while it runs with the node's own ids: an earlier user
// namespace may still be pinned.
type usersStage struct{ ranges *userns.Ranges }

func (usersStage) Name() string { return "users" }
func (usersStage) Scope() Scope { return PerContainer }

func (s usersStage) Ensure(_ context.Context, c *Container) error {
	if !c.Bundle.Spec.UserNamespace {
		return nil
	}
	if s.ranges == nil {
		return errors.New("spec.hostUsers: found false; allowed: true, since this agent has no ids to give")
	}
	first, err := s.ranges.Ensure(c.ID)
	if err != nil {
		return ownFiles(err)
	}
	c.Users = first
	return nil
}

func (s usersStage) Release(_ context.Context, c *Container) error {
	if s.ranges == nil {
		return nil
	}
	return s.ranges.Release(c.ID)
}

// mappedStage adds the user namespace to the document, after all others have added their mounts.
// Each file of a bind mount has the same ids in the container as on the node.
type mappedStage struct{}

func (mappedStage) Name() string { return "mapped" }
func (mappedStage) Scope() Scope { return PerRun }

func (mappedStage) Ensure(_ context.Context, c *Container) error {
	if c.Users == 0 {
		return nil
	}
	if filepath.IsAbs(c.Spec.Root.Path) {
		c.Spec.Root.Path = c.Rootfs // rootfsStage has mounted it there
	}
	mappings := userns.Mappings(c.Users)
	c.Spec.Linux.UIDMappings, c.Spec.Linux.GIDMappings = mappings, mappings
	c.Spec.Linux.Namespaces = append(c.Spec.Linux.Namespaces, specs.LinuxNamespace{
		Type: specs.UserNamespace, Path: c.UserNamespace,
	})
	for i := range c.Spec.Mounts {
		m := &c.Spec.Mounts[i]
		if m.Type != "bind" || merge.OfImageVolume(m.Source, c.Bundle.Spec.SubPaths) {
			continue // or its layers are mapped already
		}
		m.UIDMappings, m.GIDMappings = mappings, mappings
		m.Options = append(slices.Clone(m.Options), "ridmap")
	}
	return nil
}

func (mappedStage) Release(context.Context, *Container) error { return nil }
