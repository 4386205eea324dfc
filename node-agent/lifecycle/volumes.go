// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/node-agent/bundle"
)

// volumesStage checks hostPath volumes, takes the volumes of other containers that sharesStage has
// found, and gives volumes to the group of the container.
type volumesStage struct{ shares *shares }

func (volumesStage) Name() string { return "volumes" }
func (volumesStage) Scope() Scope { return PerRun }

func (s volumesStage) Ensure(ctx context.Context, c *Container) error {
	if err := bundle.CheckHostPaths(c.Bundle.Spec.Volumes); err != nil {
		return err
	}
	if err := s.shares.take(c); err != nil {
		return err
	}
	security := c.Bundle.Spec.Security
	if security == nil || security.FSGroup == nil {
		return nil
	}
	for _, v := range c.Bundle.Spec.Volumes {
		var path string
		directory, found := c.Directories[v.Name]
		switch {
		case v.EmptyDir != nil:
			path = c.Dir.Volume(v.Name)
		case found && !directory.ReadOnly:
			path = directory.Path
		default:
			continue
		}
		onMismatch := v.PersistentVolumeClaim != nil &&
			security.FSGroupChangePolicy == corev1.FSGroupChangeOnRootMismatch
		if err := bundle.GiveToGroup(ctx, path, uint32(*security.FSGroup), onMismatch); err != nil {
			return ownFiles(fmt.Errorf("spec.securityContext.fsGroup: volume %s: %w", v.Name, err))
		}
	}
	return nil
}

// Release does nothing: sharesStage and emptyDirsStage release the volumes.
func (volumesStage) Release(context.Context, *Container) error { return nil }
