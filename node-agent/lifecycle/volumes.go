// SPDX-License-Identifier: Apache-2.0

package lifecycle

import "context"

// volumesStage checks hostPath volumes and makes emptyDir volumes. The latter are kept from run to
// run; one that was made for a start that failed is there for the next one, and is removed with
// the container.
type volumesStage struct{}

func (volumesStage) Name() string { return "volumes" }
func (volumesStage) Scope() Scope { return PerContainer }

func (volumesStage) Ensure(_ context.Context, c *Container) error {
	return c.Dir.PrepareVolumes(c.Bundle.Spec.Volumes, c.Emptied)
}

func (volumesStage) Release(_ context.Context, c *Container) error { return c.Dir.RemoveVolumes() }
