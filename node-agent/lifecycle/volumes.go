// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/node-agent/bundle"
)

// volumesStage checks hostPath volumes, takes the volumes of other containers that sharesStage has
// found, and gives volumes to the group of the container and the label of its files.
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
	if err := giveVolumes(ctx, c); err != nil {
		return err
	}
	return labelVolumes(ctx, c)
}

// labelVolumes gives emptyDir volumes and claims the label of the container's files. A hostPath is
// not the agent's, and the volume of another container has that one's label.
func labelVolumes(ctx context.Context, c *Container) error {
	if c.Labels.File == "" {
		return nil
	}
	for _, v := range c.Bundle.Spec.Volumes {
		var path string
		switch {
		case v.EmptyDir != nil:
			path = c.Dir.Volume(v.Name)
		case v.PersistentVolumeClaim != nil:
			path = c.Directories[v.Name].Path
		default:
			continue
		}
		if err := bundle.Relabel(ctx, path, c.Labels.File); err != nil {
			return ownFiles(fmt.Errorf("spec.securityContext.seLinuxOptions: volume %s: %w", v.Name, err))
		}
	}
	return nil
}

// giveVolumes gives volumes to the container's group.
func giveVolumes(ctx context.Context, c *Container) error {
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
		case found && !directory.ReadOnly && !directory.KeepsGroup:
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
