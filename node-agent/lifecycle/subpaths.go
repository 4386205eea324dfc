// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"slices"

	"github.com/berth-run/berth/api/oci/merge"
)

// subPathsStage mounts the paths in volumes that volumeMounts name. Its place is behind the stages
// of volumes and of variables.
type subPathsStage struct{}

func (subPathsStage) Name() string { return "subpaths" }
func (subPathsStage) Scope() Scope { return PerRun }

func (subPathsStage) Ensure(_ context.Context, c *Container) error {
	paths := slices.Clone(c.Bundle.Spec.SubPaths)
	for i := range paths {
		for volume, claim := range c.Directories {
			if paths[i].Source == merge.NodeSource(volume) {
				paths[i].Source = claim.Path
			}
		}
	}
	return c.Dir.MountSubPaths(paths, c.Environment)
}

func (subPathsStage) Release(_ context.Context, c *Container) error {
	return c.Dir.UnmountSubPaths()
}
