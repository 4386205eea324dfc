// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"fmt"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/unixsignal"
	"github.com/berth-run/berth/node-agent/source"
)

// imageStage has the image pulled. A pull that takes its time goes on without the caller.
type imageStage struct {
	pulls  *Pulls
	wake   func(source.Key)
	values environmentStage
}

func (imageStage) Name() string { return "image" }
func (imageStage) Scope() Scope { return PerRun }

func (s imageStage) Ensure(ctx context.Context, c *Container) error {
	wanted := c.Bundle.Spec.Image
	if wanted == nil {
		s.pulls.leave(c.ID)
		return nil
	}
	request := PullRequest{Reference: wanted.Reference, Policy: wanted.PullPolicy}
	if len(wanted.PullSecrets) > 0 {
		var err error
		if request.Secrets, err = s.values.pullSecrets(c); err != nil {
			return err
		}
	}
	img, err := s.pulls.get(ctx, c.ID, request, func() { s.wake(c.Key) })
	if err != nil {
		return err
	}
	c.Image = img
	if sig := img.Config.StopSignal; sig != "" {
		if _, err := unixsignal.Parse(sig); err != nil {
			return &StageError{Reason: v1alpha1.ReasonCreateFailed, Err: fmt.Errorf(
				"%s: StopSignal of the image's config: %w", wanted.Reference, err)}
		}
	}
	return nil
}

// Release gives up waiting for the image. The image itself belongs to the node.
func (s imageStage) Release(_ context.Context, c *Container) error {
	s.pulls.leave(c.ID)
	return nil
}
