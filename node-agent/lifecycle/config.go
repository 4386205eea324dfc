// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"fmt"
	"os"

	"github.com/berth-run/berth/api/oci/validate"
)

// configStage validates the document that all stages before have added to, and writes config.json.
// The agent trusts neither who compiled the document nor the image that was merged into it.
type configStage struct{}

func (configStage) Name() string { return "config" }
func (configStage) Scope() Scope { return PerContainer }

func (configStage) Ensure(_ context.Context, c *Container) error {
	options := validate.Options{Bundle: c.Dir.Path()}
	if err := validate.Spec(c.Spec, options).Err(); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	if err := validate.OnHost(c.Spec, os.DirFS("/"), options).Err(); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	write := c.Dir.WriteConfig
	if c.Secret {
		write = c.Dir.WriteSecretConfig
	}
	if err := write(c.Spec); err != nil {
		return ownFiles(fmt.Errorf("config: %w", err))
	}
	if c.ObjectsDigest != "" {
		if err := c.Dir.KeepObjectsDigest(c.ObjectsDigest); err != nil {
			return ownFiles(fmt.Errorf("config: %w", err))
		}
	}
	// Many containers may wait to be created, and config.json has it.
	c.Spec, c.Environment = nil, nil
	return nil
}

func (configStage) Release(_ context.Context, c *Container) error { return c.Dir.RemoveConfig() }
