// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"fmt"
	"os"
)

// namesStage writes /etc/hosts, /etc/hostname and /etc/resolv.conf and adds their mounts to the
// document. They are written at each start, and removed with the container.
type namesStage struct{}

func (namesStage) Name() string { return "names" }
func (namesStage) Scope() Scope { return PerContainer }

func (namesStage) Ensure(_ context.Context, c *Container) error {
	err := c.Dir.MountNames(c.Spec, c.Rootfs, c.Bundle.Name, c.Addresses, os.DirFS("/"))
	if err != nil {
		return ownFiles(fmt.Errorf("config: %w", err))
	}
	return nil
}

func (namesStage) Release(_ context.Context, c *Container) error { return c.Dir.RemoveNames() }
