// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"errors"

	"github.com/berth-run/berth/api/v1alpha1"
)

// emptyDirsStage creates emptyDir volumes. It is before all stages that wait for something, such as
// another container that is to fill a volume.
//
// Volumes are kept from run to run, also after a start that failed, and removed with the container.
// A volume that other containers use is removed after they have ended.
type emptyDirsStage struct{ shares *shares }

func (emptyDirsStage) Name() string { return "emptydirs" }
func (emptyDirsStage) Scope() Scope { return PerContainer }

func (s emptyDirsStage) Ensure(_ context.Context, c *Container) error {
	emptied := c.Emptied
	if emptied != "" && c.Dir.WasEmptied(c.Restarts) {
		emptied = "" // an earlier try; others may have written to it since
	}
	volumes := c.Bundle.Spec.Volumes
	doomed, err := c.Dir.Doomed(volumes, emptied)
	if err != nil {
		return err
	}
	err = s.shares.leave(c, doomed)
	if errors.Is(err, errShared) {
		return &Pending{
			Condition: v1alpha1.ConditionRunning, Reason: v1alpha1.ReasonVolumeNotReady,
			Message: "spec.volumes: waits to make anew " + err.Error(),
		}
	}
	if err != nil {
		return err
	}
	made, err := c.Dir.PrepareVolumes(volumes, emptied)
	if err == nil && emptied != "" {
		err = c.Dir.NoteEmptied(c.Restarts)
	}
	if err != nil {
		return err
	}
	s.shares.stay(c)
	if made {
		s.shares.followers.Changed(c.Key)
	}
	return nil
}

func (s emptyDirsStage) Release(_ context.Context, c *Container) error {
	volumes, err := c.Dir.Doomed(nil, "")
	if err != nil {
		return err
	}
	if err := s.shares.leave(c, volumes); err != nil {
		return err
	}
	if err := c.Dir.RemoveVolumes(); err != nil {
		return err
	}
	s.shares.stay(c)
	return nil
}
