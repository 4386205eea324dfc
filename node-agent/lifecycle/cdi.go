// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"

	"github.com/berth-run/berth/node-agent/cdi"
)

// cdiStage adds the devices to the document that the container has by their names in the node's CDI
// specs. It reads the specs at each start.
type cdiStage struct{ dirs []string }

func (cdiStage) Name() string { return "cdi" }
func (cdiStage) Scope() Scope { return PerRun }

func (s cdiStage) Ensure(_ context.Context, c *Container) error {
	return cdi.Inject(c.Spec, c.Bundle.Spec.Devices, s.dirs)
}

// Release does nothing: what the specs say is in config.json alone.
func (cdiStage) Release(context.Context, *Container) error { return nil }
