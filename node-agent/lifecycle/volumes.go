// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"fmt"
	"path/filepath"

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
	return s.label(ctx, c)
}

// label gives emptyDir volumes and claims the label of the container's files. A hostPath, also one
// that a claim is bound to, is not the agent's, and a claim that is read-only keeps the label that
// its writers have given it. The volume of another container has that one's label: it gets it here
// as well, since the other one may wait for this one before it starts.
func (s volumesStage) label(ctx context.Context, c *Container) error {
	if c.Labels.File == "" {
		return nil
	}
	for _, v := range c.Bundle.Spec.Volumes {
		path := c.Dir.Volume(v.Name)
		var err error
		directory := c.Directories[v.Name]
		switch {
		case v.EmptyDir != nil:
		case v.PersistentVolumeClaim != nil && !directory.Untouched && !directory.ReadOnly:
			path, err = filepath.EvalSymlinks(directory.Path)
		case v.Container != nil && s.shares.labelledAlike(c, v.Container):
			path = directory.Path
		default:
			continue
		}
		if err == nil {
			err = bundle.Relabel(ctx, path, c.Labels.File)
		}
		if err != nil {
			return ownFiles(fmt.Errorf("spec.securityContext.seLinuxOptions: volume %s: %w", v.Name, err))
		}
	}
	return nil
}

// giveVolumes gives volumes to the container's group. The path of a claim may be a link that an
// administrator has made; no link in a volume is followed.
func giveVolumes(ctx context.Context, c *Container) error {
	security := c.Bundle.Spec.Security
	if security == nil || security.FSGroup == nil {
		return nil
	}
	for _, v := range c.Bundle.Spec.Volumes {
		path := c.Dir.Volume(v.Name)
		var err error
		directory, found := c.Directories[v.Name]
		switch {
		case v.EmptyDir != nil:
		case found && !directory.ReadOnly && !directory.Untouched:
			path, err = filepath.EvalSymlinks(directory.Path)
		default:
			continue
		}
		onMismatch := v.PersistentVolumeClaim != nil &&
			security.FSGroupChangePolicy == corev1.FSGroupChangeOnRootMismatch
		if err == nil {
			err = bundle.GiveToGroup(ctx, path, uint32(*security.FSGroup), onMismatch)
		}
		if err != nil {
			return ownFiles(fmt.Errorf("spec.securityContext.fsGroup: volume %s: %w", v.Name, err))
		}
	}
	return nil
}

// Release does nothing: sharesStage and emptyDirsStage release the volumes.
func (volumesStage) Release(context.Context, *Container) error { return nil }
