// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"fmt"
	"os"
	"path"

	imagev1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/oci/merge"
	"github.com/berth-run/berth/node-agent/bundle"
)

// documentStage merges what the image and the node say under what the user said.
type documentStage struct{ cgroupParent string }

func (documentStage) Name() string { return "document" }
func (documentStage) Scope() Scope { return PerRun }

func (s documentStage) Ensure(_ context.Context, c *Container) (err error) {
	if c.Spec, err = s.merged(c); err != nil {
		return err
	}
	return bundle.CheckShared(c.Spec.Mounts)
}

// merged returns the document with the variables that the container has now.
func (s documentStage) merged(c *Container) (spec *specs.Spec, err error) {
	options := merge.Options{
		CgroupsPath: path.Join(s.cgroupParent, c.ID), NoSwapLimit: !bundle.SwapLimit(os.DirFS("/")),
		Environment: c.Environment, Directories: c.Directories,
	}
	if options.Accounts, err = bundle.ReadAccounts(c.Rootfs); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if options.Devices, err = bundle.Devices(&c.Bundle.Spec); err != nil {
		return nil, err
	}
	var image *imagev1.ImageConfig
	if c.Image != nil {
		image = &c.Image.Config
	}
	if spec, err = merge.Document(&c.Bundle.Spec, image, options); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return spec, nil
}

func (documentStage) Release(context.Context, *Container) error { return nil }
