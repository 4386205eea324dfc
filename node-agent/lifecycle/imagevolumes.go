// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"

	"github.com/berth-run/berth/node-agent/bundle"
)

// imageVolumesStage mounts the images of volumes, read-only. Their layers are in the image store,
// which the record of the container keeps there.
type imageVolumesStage struct{}

func (imageVolumesStage) Name() string { return "image volumes" }
func (imageVolumesStage) Scope() Scope { return PerRun }

func (imageVolumesStage) Ensure(_ context.Context, c *Container) error {
	var volumes []bundle.ImageVolume
	for i, v := range c.Bundle.Spec.Volumes {
		if v.Image != nil {
			volumes = append(volumes, bundle.ImageVolume{
				Name: v.Name, Field: imageField(i), Layers: c.VolumeImages[v.Name].Layers,
			})
		}
	}
	users, err := fileUsers(c)
	if err != nil {
		return err
	}
	defer users.Close()
	return ownFiles(c.Dir.MountImageVolumes(volumes, users, c.Labels.File))
}

func (imageVolumesStage) Release(_ context.Context, c *Container) error {
	return c.Dir.UnmountImageVolumes()
}
