// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"fmt"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/unixsignal"
	"github.com/berth-run/berth/node-agent/source"
)

// imageStage has the images of the container and its volumes pulled. A pull that takes its time
// goes on without the caller.
type imageStage struct {
	pulls  *Pulls
	wake   func(source.Key)
	values environmentStage
}

func (imageStage) Name() string { return "image" }
func (imageStage) Scope() Scope { return PerRun }

func (s imageStage) Ensure(ctx context.Context, c *Container) error {
	wanted, err := s.wanted(c)
	if err != nil {
		return err
	}
	if len(wanted) == 0 {
		s.pulls.leave(c.ID)
		c.VolumeImages = map[string]*Image{}
		return nil
	}
	images, err := s.pulls.get(ctx, c.ID, wanted, func() { s.wake(c.Key) })
	if err != nil {
		return err
	}
	if c.Bundle.Spec.Image != nil {
		c.Image, images = images[0], images[1:]
	}
	c.VolumeImages = map[string]*Image{}
	for _, v := range c.Bundle.Spec.Volumes {
		if v.Image != nil {
			c.VolumeImages[v.Name], images = images[0], images[1:]
		}
	}
	if c.Image == nil {
		return nil
	}
	if sig := c.Image.Config.StopSignal; sig != "" {
		if _, err := unixsignal.Parse(sig); err != nil {
			return &StageError{Reason: v1alpha1.ReasonCreateFailed, Err: fmt.Errorf(
				"%s: StopSignal of the image's config: %w", c.Bundle.Spec.Image.Reference, err)}
		}
	}
	return nil
}

// wanted returns the image of the container, if it has one, and the images of its volumes in order.
func (s imageStage) wanted(c *Container) (out []WantedImage, err error) {
	spec := &c.Bundle.Spec
	if i := spec.Image; i != nil {
		secrets, err := s.values.pullSecrets(c, "image.pullSecrets", i.PullSecrets)
		if err != nil {
			return nil, err
		}
		out = append(out, WantedImage{PullRequest: PullRequest{i.Reference, i.PullPolicy, secrets}})
	}
	secrets, err := s.values.pullSecrets(c, "volumePullSecrets", spec.VolumePullSecrets)
	if err != nil {
		return nil, err
	}
	for i, v := range spec.Volumes {
		if v.Image != nil {
			out = append(out, WantedImage{
				PullRequest{v.Image.Reference, v.Image.PullPolicy, secrets}, imageField(i),
			})
		}
	}
	return out, nil
}

// imageField returns the path of the image of a volume below spec.
func imageField(volume int) string { return fmt.Sprintf("volumes[%d].image", volume) }

// Release gives up waiting for the images. The images themselves belong to the node.
func (s imageStage) Release(_ context.Context, c *Container) error {
	s.pulls.leave(c.ID)
	return nil
}
