// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/node-agent/bundle"
)

// volumesStage checks hostPath volumes and makes emptyDir volumes. The latter are kept from run to
// run; one that was made for a start that failed is there for the next one, and is removed with
// the container.
type volumesStage struct{}

func (volumesStage) Name() string { return "volumes" }
func (volumesStage) Scope() Scope { return PerContainer }

func (volumesStage) Ensure(ctx context.Context, c *Container) error {
	if err := c.Dir.PrepareVolumes(c.Bundle.Spec.Volumes, c.Emptied); err != nil {
		return err
	}
	security := c.Bundle.Spec.Security
	if security == nil || security.FSGroup == nil {
		return nil
	}
	for _, v := range c.Bundle.Spec.Volumes {
		var path string
		claim, named := c.Claims[v.Name]
		switch {
		case v.EmptyDir != nil:
			path = c.Dir.Volume(v.Name)
		case named && !claim.ReadOnly:
			path = claim.Path
		default:
			continue
		}
		onMismatch := named && security.FSGroupChangePolicy == corev1.FSGroupChangeOnRootMismatch
		if err := bundle.GiveToGroup(ctx, path, uint32(*security.FSGroup), onMismatch); err != nil {
			return ownFiles(fmt.Errorf("spec.securityContext.fsGroup: volume %s: %w", v.Name, err))
		}
	}
	return nil
}

func (volumesStage) Release(_ context.Context, c *Container) error { return c.Dir.RemoveVolumes() }
