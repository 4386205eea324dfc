// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"fmt"
	"os"

	"github.com/berth-run/berth/node-agent/bundle"
)

// namesStage writes /etc/hosts, /etc/hostname and /etc/resolv.conf and adds their mounts to the
// document. They are written at each start, and removed with the container.
type namesStage struct {
	cluster bundle.ClusterDNS
	joins   *joins
}

func (namesStage) Name() string { return "names" }
func (namesStage) Scope() Scope { return PerContainer }

func (s namesStage) Ensure(ctx context.Context, c *Container) error {
	names := bundle.Names{
		Container: c.Bundle.Name, Namespace: c.Bundle.Owner().Namespace, Wanted: c.Bundle.Spec.Names,
		Addresses: c.Addresses, Host: os.DirFS("/"), Cluster: s.cluster,
		Joined: s.joins.joinedNames(c),
	}
	server, err := s.joins.nameserver(c)
	if err != nil {
		return err
	}
	names.Nameserver = server
	if err := c.Dir.MountNames(c.Spec, c.Rootfs, names); err != nil {
		return ownFiles(err)
	}
	if label := c.Labels.File; label != "" {
		if err := c.Dir.LabelNames(ctx, label); err != nil {
			return ownFiles(fmt.Errorf("spec.securityContext.seLinuxOptions: /etc/hosts and others: %w", err))
		}
	}
	return nil
}

func (namesStage) Release(_ context.Context, c *Container) error { return c.Dir.RemoveNames() }
