// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/node-agent/image"
	"github.com/berth-run/berth/node-agent/lifecycle"
)

// imageStore is the image store as package lifecycle wants it.
type imageStore struct {
	store   *image.Store
	pulling *image.PullProgress
}

// Ensure is part of lifecycle.Images.
func (s imageStore) Ensure(ctx context.Context, reference string,
	policy corev1.PullPolicy,
) (*lifecycle.Image, error) {
	defer s.pulling.Forget(reference)
	img, err := s.store.Ensure(ctx, reference, image.PullPolicy(policy))
	if err != nil {
		return nil, err
	}
	return &lifecycle.Image{ID: img.ID(), Config: img.Config, Layers: img.Layers}, nil
}
