// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/oci/merge"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/userns"
)

// usersStage gives a container with a user namespace its range of the node's ids. The container has
// the range until it is removed, also while it runs with the node's own ids: an earlier user
// namespace may still be pinned.
type usersStage struct{ ranges *userns.Ranges }

func (usersStage) Name() string { return "users" }
func (usersStage) Scope() Scope { return PerContainer }

func (s usersStage) Ensure(_ context.Context, c *Container) error {
	own, err := ownUsers(c)
	if err != nil || !own {
		return err
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

// ownUsers reports whether the container is to have a user namespace: if its bundle says so or, by
// the agent's default, if nothing of it is the node's.
func ownUsers(c *Container) (bool, error) {
	b := &c.Bundle.Spec
	if b.UserNamespace || !c.OwnUsers || b.HostUsers || b.AllDevices ||
		b.Network != nil && b.Network.Container != "" {
		return b.UserNamespace, nil
	}
	var spec specs.Spec
	if err := json.Unmarshal(b.Config.Raw, &spec); err != nil {
		return false, fmt.Errorf("config: %w", err)
	}
	for _, own := range []specs.LinuxNamespaceType{
		specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace,
	} {
		if spec.Linux == nil || !slices.ContainsFunc(spec.Linux.Namespaces,
			func(n specs.LinuxNamespace) bool { return n.Type == own }) {
			return false, nil
		}
	}
	return true, checkOwnIDs(b, &spec)
}

// checkOwnIDs refuses ids that a user namespace does not have. The compiler has refused them for a
// bundle that asks for one.
func checkOwnIDs(b *v1alpha1.OCIBundleSpec, spec *specs.Spec) error {
	type id struct {
		field string
		value *int64
	}
	ids := []id{{"runAsUser", b.Process.RunAsUser}, {"runAsGroup", b.Process.RunAsGroup}}
	if b.Security != nil {
		ids = append(ids, id{"fsGroup", b.Security.FSGroup})
	}
	if spec.Process != nil {
		for _, g := range spec.Process.User.AdditionalGids {
			ids = append(ids, id{"supplementalGroups", new(int64(g))})
		}
	}
	for _, id := range ids {
		if id.value != nil && *id.value >= userns.Size {
			return fmt.Errorf("spec.securityContext.%s: found %d; allowed: at most %d in a user namespace,"+
				" which this agent gives by default (--host-users-default): lower it, or set hostUsers: true",
				id.field, *id.value, userns.Size-1)
		}
	}
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
